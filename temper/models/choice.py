"""A local model chooses among a few strings: the exact log-probability of each as its reply, nothing sampled.

What a judge asks (graders.judge.Asker). Leaves out thinking: a template that opens a thought gets it closed at once.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from transformers import DynamicCache

from temper.files import digest
from temper.models.load import Loaded, load
from temper.models.packed import unshareable
from temper.models.products import effective, sampled
from temper.models.resolve import resolve
from temper.types import Checkpoint, Message

Asked = tuple[tuple[Message, ...], tuple[str, ...], int]
Chosen = tuple[Mapping[str, float] | None, str, Mapping[str, float]]

_CLOSED_THOUGHT = "\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Choice:
    """A loaded model that chooses; `weights` is the hash of its weights.

    For each ask P(string | prompt) of every choice, over all that the model could say, so they sum to at most 1. No reply is
    given where the prompt is longer than the model's context, or where a message would hold one of its control tokens.
    """

    loaded: Loaded
    weights: str
    control: frozenset[int] = field(default=frozenset(), repr=False)
    # made at the first call: the weights as the faster products read them
    ready: dict[Any, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def settings(self) -> str:
        """Hash of what decides a reply beyond weights and messages: the template."""
        return digest(["choice", 1, str(self.loaded.tokenizer.chat_template)])

    def __call__(self, asked: Sequence[Asked], /, *, told: Callable[[int, Chosen], None] | None = None) -> list[Chosen]:
        """Replies in the order of `asked`; `told(i, reply)` hears of each as soon as it is there."""
        model = self.loaded.model
        prompts = [self._prompt(messages, choices) for messages, choices, _ in asked]
        reader = _Reader(model, reuses=unshareable(model) is None)
        replies: dict[int, Chosen] = {}
        with sampled(model, self._ready()), torch.inference_mode():
            # neighbours in this order have the longest beginnings in common, and those are computed once
            for index in sorted(range(len(asked)), key=lambda i: prompts[i].ids):
                replies[index] = self._choose(reader, prompts[index])
                if told is not None:
                    told(index, replies[index])
        return [replies[index] for index in range(len(asked))]

    def _ready(self) -> dict[Any, torch.Tensor]:
        if not self.ready:
            self.ready.update(effective(self.loaded.model))
        return self.ready

    def _prompt(self, messages: Sequence[Message], choices: Sequence[str]) -> "_Prompt":
        for message in messages:
            if held := self.control & set(self._ids(message.content)):
                return _Prompt((), {}, f"a message holds the model's control token {self.loaded.tokenizer.decode([min(held)])!r}")
        text = written(self.loaded, messages)
        ids = self._ids(text)
        longest = getattr(self.loaded.model.config, "max_position_embeddings", None)
        if longest is not None and len(ids) + max(map(len, choices)) > longest:
            return _Prompt((), {}, f"the prompt is {len(ids)} tokens, and the model reads {longest}")
        return _Prompt(ids, {choice: self._continued(text, ids, choice) for choice in choices})

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _continued(self, text: str, prompt: tuple[int, ...], choice: str) -> tuple[int, ...]:
        """The tokens of a choice behind the prompt: as both are tokenised together, or apart where a token would span both."""
        together = self._ids(text + choice)
        return together[len(prompt) :] if together[: len(prompt)] == prompt else self._ids(choice)

    def _choose(self, reader: "_Reader", prompt: "_Prompt") -> Chosen:
        """One pass for each way in which choices begin: all that differ in their last token share it."""
        if prompt.why:
            return None, prompt.why, {}
        began = time.perf_counter()
        begun: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for choice, ids in prompt.choices.items():
            begun[ids[:-1]].append(choice)
        found = {}
        for start, names in begun.items():
            logprobs = reader.logprobs(prompt.ids + start, len(start) + 1)
            before = sum(float(logprobs[place, token]) for place, token in enumerate(start))
            found.update({name: float(torch.exp(before + logprobs[-1, prompt.choices[name][-1]])) for name in names})
        spent = {"calls": 1, "prompt_tokens": len(prompt.ids), "seconds": time.perf_counter() - began}
        return {choice: found[choice] for choice in prompt.choices}, "", spent


class _Prompt(NamedTuple):
    """Token ids of a prompt and of each choice behind it, or why there is none."""

    ids: tuple[int, ...]
    choices: dict[str, tuple[int, ...]]
    why: str = ""


class _Reader:
    """Reads one sequence after another; what a sequence has in common with the one before is not computed again."""

    def __init__(self, model: Any, *, reuses: bool) -> None:
        self.model, self.reuses = model, reuses
        self.read: tuple[int, ...] = ()
        self.cache = DynamicCache(config=model.config) if reuses else None

    def logprobs(self, ids: tuple[int, ...], last: int) -> torch.Tensor:
        """Log-probabilities (last, V) of what follows each of the `last` last tokens, fp32."""
        known = 0
        if self.cache is not None:
            known = min(_common(self.read, ids), len(ids) - last)
            if known < len(self.read):
                self.cache.crop(known - len(self.read))
        self.read = ids
        row = torch.tensor([ids[known:]], device=self.model.device)
        logits = self.model(input_ids=row, past_key_values=self.cache, use_cache=self.reuses, logits_to_keep=last).logits
        return torch.log_softmax(logits[0].float(), -1)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def written(loaded: Loaded, messages: Sequence[Message]) -> str:
    """The chat in the model's template, ready for a reply; a template without a system turn gets it before the user's words."""
    try:
        text = _templated(loaded.tokenizer, messages)
    except TemplateError:
        text = _templated(loaded.tokenizer, [Message("user", "\n\n".join(m.content for m in messages))])
    return text + _CLOSED_THOUGHT if text.rstrip().endswith("<think>") else text


def _templated(tokenizer: Any, messages: Sequence[Message]) -> str:
    chat = [{"role": m.role, "content": m.content} for m in messages]
    # enable_thinking is Qwen3's and other hybrids' switch; templates that do not know it ignore it
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False))


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Every token that was added to the vocabulary for markup: special ones, and those such as <think> that are not called so."""
    added = {token: str(word) for token, word in tokenizer.added_tokens_decoder.items()}
    return frozenset([*tokenizer.all_special_ids, *(token for token, word in added.items() if word.strip())])


def load_choice(name: str) -> Choice:
    """A model by alias, folder or Hugging Face id. Raises `ModelError` as `resolve` and `load` do."""
    source = resolve(name)
    loaded = load(Checkpoint(source.folder))
    return Choice(loaded, source.sha256, control_ids(loaded.tokenizer))
