"""A model in this process, token by token: what the gateway streams when it serves a model by itself."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from temper.errors import UsageError
from temper.models.load import Loaded, eos_ids, load
from temper.models.resolve import resolve
from temper.text.split import OPEN_TAG
from temper.types import Checkpoint


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece of an answer; the last one has a `finish` (stop or length). The counts are those so far."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Speaker:
    """Speaks one answer at a time. Takes `messages` or `prompt`, max_tokens, temperature, top_p, top_k, seed and stop."""

    loaded: Loaded
    max_new_tokens: int = 512

    def __call__(self, body: Mapping[str, Any], index: int, cancelled: Callable[[], bool]) -> Iterator[Spoken]:
        """The pieces of one answer, without a finish if it was cancelled. Raises `UsageError` for a prompt that is too long."""
        ids = self._prompt(body)
        most = min(int(body.get("max_completion_tokens") or body.get("max_tokens") or self.max_new_tokens), self._room(ids))
        draw = _Draw(body, index)
        stops = _Stops(body.get("stop", ()))
        if self.loaded.opened and "messages" in body:
            yield Spoken(f"{OPEN_TAG}\n", "", len(ids), 0)
        count, finish = 0, "length"
        reader = _Reader(self.loaded.tokenizer)
        ends = eos_ids(self.loaded.model, self.loaded.tokenizer)
        for token in _tokens(self.loaded.model, ids, most, draw):
            if cancelled():
                return
            count += 1
            if token in ends:
                finish = "stop"
                break
            text = stops.passed(reader.read(token))
            if stops.hit:
                yield Spoken(text, "stop", len(ids), count)
                return
            if text:
                yield Spoken(text, "", len(ids), count)
        text = stops.passed(reader.rest())
        yield Spoken(text + stops.rest(), "stop" if stops.hit else finish, len(ids), count)

    def _prompt(self, body: Mapping[str, Any]) -> list[int]:
        tokenizer = self.loaded.tokenizer
        if "messages" not in body:
            return list(tokenizer(body["prompt"], add_special_tokens=True)["input_ids"])
        said = [{"role": _ROLES.get(m["role"], m["role"]), "content": m.get("content") or ""} for m in body["messages"]]
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _room(self, ids: Sequence[int]) -> int:
        most = int(getattr(self.loaded.model.config, "max_position_embeddings", 2048))
        if not ids or len(ids) >= most:
            raise UsageError(f"the prompt has {len(ids)} tokens; wanted at least 1 and fewer than {most}")
        return most - len(ids)


_ROLES = {"developer": "system"}


def speaker(name: str) -> Speaker:
    """Load a model by alias, folder or Hugging Face id. Raises `ModelError`."""
    return Speaker(load(Checkpoint(resolve(name).folder)))


@torch.no_grad()
def _tokens(model: Any, prompt: Sequence[int], most: int, draw: "_Draw") -> Iterator[int]:
    past, ids = None, torch.tensor([list(prompt)], device=model.device)
    for _ in range(most):
        out = model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        past, token = out.past_key_values, draw(out.logits[0, -1])
        yield token
        ids = torch.tensor([[token]], device=model.device)


class _Draw:
    """One token from a row of logits, as the request wants it drawn."""

    def __init__(self, body: Mapping[str, Any], index: int) -> None:
        self.temperature = float(body.get("temperature", 1.0))
        self.top_p, self.top_k = float(body.get("top_p", 1.0)), int(body.get("top_k", 0))
        self.random = torch.Generator()
        if "seed" in body:
            self.random.manual_seed(int(body["seed"]) + index)
        else:
            self.random.seed()

    def __call__(self, logits: torch.Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        shares = torch.softmax(logits.float().cpu() / self.temperature, -1)
        shares, order = shares.sort(descending=True)
        if self.top_k > 0:
            shares[self.top_k :] = 0
        shares[1:][shares.cumsum(0)[:-1] >= self.top_p] = 0
        return int(order[torch.multinomial(shares, 1, generator=self.random)])


class _Reader:
    """Tokens -> text, whole characters only: a character may be spread over several tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._decode = functools.partial(tokenizer.decode, skip_special_tokens=True)
        self._ids: list[int] = []
        self._from = self._to = 0  # decoded together with what stands before it, as some tokenizers write spaces by neighbours

    def read(self, token: int) -> str:
        self._ids.append(token)
        text = self._new()
        if text.endswith("\ufffd"):
            return ""
        self._from, self._to = self._to, len(self._ids)
        return text

    def rest(self) -> str:
        return self._new() if self._to < len(self._ids) else ""

    def _new(self) -> str:
        before = self._decode(self._ids[self._from : self._to])
        return str(self._decode(self._ids[self._from :])[len(before) :])


class _Stops:
    """Text up to the first stop sequence; as much is held back as may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = list(stops)
        self._keep = max((len(s) for s in self._stops), default=1) - 1
        self._held = ""
        self.hit = False

    def passed(self, text: str) -> str:
        self._held += text
        found = [at for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            self.hit = True
            out, self._held = self._held[: min(found)], ""
            return out
        cut = max(0, len(self._held) - self._keep)
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def rest(self) -> str:
        return "" if self.hit else self._held
