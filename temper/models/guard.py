"""A guard model on this machine: questions -> replies, their verdicts read from the logits of the token that decides.

A verdict costs one forward pass; only categories, and the thought of a thinking guard, are generated. Leaves out what is asked
and what a reply means (graders.guards), which it is handed as questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from temper.errors import ModelError
from temper.files import read_json
from temper.models.encoder import batches
from temper.models.load import device, eos_ids, precision, quiet
from temper.models.resolve import resolve, weights_digest

BATCH_TOKENS = 4096
SEAM = 64
"""Characters before a label that decide how its first token is written."""
LEAST_MASS = 0.1
"""Probability that all labels together need: with less the model was about to say something else, and there is no verdict."""

Odds = dict[str, dict[str, float]]
Told = tuple[str, Mapping[str, Mapping[str, float]]]


class Stage(Protocol):
    """One verdict of a reply; see `graders.guards.ask.Step`."""

    @property
    def name(self) -> str: ...
    @property
    def lead(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def until(self) -> str: ...
    @property
    def tokens(self) -> int: ...


class Question(Protocol):
    """What is asked; see `graders.guards.ask.Ask`."""

    @property
    def text(self) -> str: ...
    @property
    def steps(self) -> Sequence[Stage]: ...
    @property
    def options(self) -> tuple[tuple[str, object], ...]: ...
    @property
    def tail(self) -> int: ...
    @property
    def tail_after(self) -> tuple[str, ...]: ...

    def chat(self) -> list[dict[str, object]]: ...


@dataclass(slots=True)
class _Said:
    """A reply under way: the rendered question, what was said so far, and whether it left the format."""

    rendered: str
    text: str = ""
    odds: Odds = field(default_factory=dict)
    lost: bool = False


@dataclass(frozen=True, slots=True)
class LocalGuard:
    """A loaded guard: call it with questions.

    `template` says that the tokenizer's own chat template is used, and not the copy that comes with a question. `weights` hashes
    the weight files.
    """

    model: Any
    tokenizer: Any
    template: bool
    weights: str
    least: float = LEAST_MASS

    def __call__(self, asks: Sequence[Question], /) -> list[Told]:
        said = [_Said(self.rendered(ask)) for ask in asks]
        for turn in range(max((len(ask.steps) for ask in asks), default=0)):
            going = [(ask.steps[turn], s) for ask, s in zip(asks, said, strict=True) if turn < len(ask.steps) and not s.lost]
            self._decide(going)
        for ask, s in zip(asks, said, strict=True):
            if ask.tail and not s.lost and _first(s.odds) in ask.tail_after:
                s.text += self._written(s.rendered + s.text, ask.tail)
        return [(s.text, s.odds) for s in said]

    def count(self, text: str, /) -> int:
        """Tokens of a text."""
        return len(self._ids(text))

    def rendered(self, ask: Question) -> str:
        """The question as the model reads it."""
        if not self.template:
            return ask.text
        return str(self.tokenizer.apply_chat_template(ask.chat(), tokenize=False, **dict(ask.options)))

    def _decide(self, going: Sequence[tuple[Stage, _Said]]) -> None:
        """Take each reply through one verdict."""
        for step, said in going:
            if step.until:
                said.text += self._written(said.rendered + said.text, step.tokens, until=step.until)
                said.lost = not said.text.rstrip().endswith(step.until)
        asked = [(step, said) for step, said in going if not said.lost]
        texts = [said.rendered + said.text + _lead(step, said) for step, said in asked]
        for (step, said), text, likely in zip(asked, texts, self._next([self._ids(text) for text in texts]), strict=True):
            self._take(step, said, likely, self.openings(text, step.labels))

    def _take(self, step: Stage, said: _Said, likely: Any, opens: Mapping[int, int]) -> None:
        """Add the likeliest label to a reply; where no label is likely, what the model would have said instead."""
        mass = [0.0] * len(step.labels)
        for token, label in opens.items():
            mass[label] += float(likely[token])
        total = sum(mass)
        if total < max(self.least, 1e-30):
            said.text += _lead(step, said) + str(self.tokenizer.decode([int(likely.argmax())]))
            said.lost, said.odds = True, {}
            return
        said.odds[step.name] = {label.strip().lower(): m / total for label, m in zip(step.labels, mass, strict=True)}
        said.text += _lead(step, said) + step.labels[mass.index(max(mass))]

    def openings(self, text: str, labels: Sequence[str]) -> dict[int, int]:
        """First tokens of the labels after a text, with and without a space, and whose they are; shared ones are left out.

        Raises `ModelError` if a label has none of its own.
        """
        before, owners = self._ids(text[-SEAM:], plain=True), dict[int, set[int]]()
        for index, label in enumerate(labels):
            for form in {label, label.strip(), f" {label.strip()}"}:
                ids = self._ids(text[-SEAM:] + form, plain=True)
                if ids[: len(before)] == before and len(ids) > len(before):
                    owners.setdefault(ids[len(before)], set()).add(index)
        own = {token: whose.pop() for token, whose in owners.items() if len(whose) == 1}
        if set(own.values()) != set(range(len(labels))):
            raise ModelError(f"the tokenizer does not tell {' from '.join(labels)} by the first token; is this the right model?")
        return own

    def _next(self, rows: Sequence[Sequence[int]]) -> list[Any]:
        """The probabilities of the token after each row, in order."""
        found: list[Any] = [None] * len(rows)
        for batch in batches([len(row) for row in rows], BATCH_TOKENS):
            for index, logits in zip(batch, self._logits([rows[i] for i in batch]), strict=True):
                found[index] = logits.float().softmax(-1).cpu()
        return found

    def _logits(self, rows: Sequence[Sequence[int]]) -> Any:
        """Logits at the end of each row, (rows, vocabulary); shorter rows are padded on the left."""
        longest = max(map(len, rows))
        on = self.model.device
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=on)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=on)
        with torch.inference_mode():
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            )
        return output.logits[:, -1]

    def _written(self, text: str, tokens: int, *, until: str = "") -> str:
        """What the model writes after a text, greedily: to its end, `tokens`, or the end of the mark `until`."""
        ids = torch.tensor([self._ids(text)], device=self.model.device)
        ends = sorted(eos_ids(self.model, self.tokenizer))
        stop = {"stop_strings": [until], "tokenizer": self.tokenizer} if until else {}
        with torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=ends,
                pad_token_id=ends[0] if ends else 0, **stop,
            )[0, ids.shape[1] :].tolist()  # fmt: skip
        kept = next((n for n, token in enumerate(out) if token in ends), len(out))
        written = str(self.tokenizer.decode(out[:kept], skip_special_tokens=False))
        return written[: written.index(until) + len(until)] if until and until in written else written

    def _ids(self, text: str, *, plain: bool = False) -> list[int]:
        """Token ids; the token that begins a sequence is put in front once, unless the text has it or `plain` is asked for."""
        begins = self.tokenizer.bos_token
        bare = plain or bool(begins and text.lstrip().startswith(begins))
        return list(self.tokenizer(text, add_special_tokens=not bare)["input_ids"])


def load_guard(model: str, *, shipped: bool = True, least: float = LEAST_MASS) -> LocalGuard:
    """Load a guard by Hugging Face id or folder, in fp32 on a CPU.

    `shipped` says that the family brings a chat template, which is used if the tokenizer has it. Raises `ModelError` if the files
    cannot be read as a language model.
    """
    folder, weights = find(model)
    architectures = read_json(folder / "config.json").get("architectures") or [""]
    kind = AutoModelForImageTextToText if architectures[0].endswith("ForConditionalGeneration") else AutoModelForCausalLM
    on = device()
    try:
        with quiet():
            network = kind.from_pretrained(folder, dtype=precision(on))
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"guard {model}: cannot be loaded ({str(error).splitlines()[0] if str(error) else error!r})") from error
    return LocalGuard(network.eval().to(on), tokenizer, shipped and bool(tokenizer.chat_template), weights, least)


def find(model: str) -> tuple[Path, str]:
    """The folder of a guard, fetched if it is a Hugging Face id, and the hash of its weight files."""
    folder = Path(model)
    if not folder.is_dir():
        source = resolve(model)
        return source.folder, source.sha256
    if not (folder / "config.json").is_file():
        raise ModelError(f"guard {model}: the folder has no config.json, so it is not a Hugging Face model folder")
    return folder, weights_digest(folder)


def _lead(step: Stage, said: _Said) -> str:
    """What is written before a label; a blank that the model's own template already ends with is not written twice."""
    return "" if step.lead.isspace() and (said.rendered + said.text).endswith(step.lead) else step.lead


def _first(odds: Odds) -> str:
    """The label that the first verdict fell on."""
    weighed = next(iter(odds.values()), {})
    return max(weighed, key=weighed.__getitem__, default="")
