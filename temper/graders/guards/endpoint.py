"""A guard behind a server that completes text: questions out, replies with the odds of their verdicts back.

Leaves out HTTP: it is handed a function that speaks it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from temper.files import digest
from temper.graders.guards.ask import Ask, Odds, Reply, Step

Token = tuple[str, Mapping[str, float]]
"""A generated token's text, and the log-probabilities of the likeliest tokens in its place (natural logarithm)."""

LIKELIEST = 20
"""How many of them are asked for: the most that servers grant."""
FORMAT_TOKENS = 16
"""Tokens that a reply needs beside its thought and its tail."""
BYTES_PER_TOKEN = 2
"""A server's tokenizer is not here: so many bytes of UTF-8 count as a token. English has four, Chinese two or three."""


class Speaking(Protocol):
    """Sends bodies to an OpenAI-compatible server, with temperature 0, and returns (text, tokens) of each, in order, or why not.

    A body has "prompt" (for /completions) or "messages" (for /chat/completions), "max_tokens", "logprobs" as the number of
    alternatives wanted, and what else the server should get. The tokens are empty where the server gives no log-probabilities.
    Raises `ModelError` if not one reply can be had.
    """

    def __call__(self, bodies: Sequence[Mapping[str, object]], /) -> Sequence[tuple[str, Sequence[Token]] | str]: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Asks a guard served under the name `model`.

    `chat` leaves the template to the server, which needs one that fits the guard; else ours is sent to /completions.
    """

    speak: Speaking
    model: str
    chat: bool = True
    weights: str = field(init=False)
    slow: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", digest(["endpoint", self.model]))

    def __call__(self, asks: Sequence[Ask], /) -> list[Reply | str]:
        replies = self.speak([self._body(ask) for ask in asks])
        return [reply if isinstance(reply, str) else _reply(ask, *reply) for ask, reply in zip(asks, replies, strict=True)]

    def count(self, text: str, /) -> int:
        """Tokens of a text, estimated on the safe side for prose of any script."""
        return -(-len(text.encode()) // BYTES_PER_TOKEN)

    def _body(self, ask: Ask) -> dict[str, object]:
        tokens = FORMAT_TOKENS * len(ask.steps) + ask.tail + sum(step.tokens for step in ask.steps)
        body: dict[str, object] = {"max_tokens": tokens, "temperature": 0.0, "logprobs": LIKELIEST}
        if not self.chat:
            return {**body, "prompt": ask.text}
        options = {name: value for name, value in ask.options if name != "add_generation_prompt"}  # servers add it by themselves
        extra = {"chat_template_kwargs": options} if options else {}
        return {**body, "messages": [{"role": m.role, "content": m.content} for m in ask.messages], **extra}


def _reply(ask: Ask, text: str, tokens: Sequence[Token]) -> Reply | str:
    """The text and its odds; or that there is no reply to trust, where the model computed NaN. Minus infinity is the log of 0."""
    if any(math.isnan(p) or p == math.inf for _, likeliest in tokens for p in likeliest.values()):
        return "the server's log-probabilities are not numbers"
    whole = "".join(token for token, _ in tokens)
    return text, odds(ask.steps, whole, tokens) if whole.strip() else {}


def odds(steps: Sequence[Step], text: str, tokens: Sequence[Token]) -> Odds:
    """The probabilities of each step's labels, read where its label begins; steps that are not found there are left out."""
    found, start = {}, 0
    for step in steps:
        marked = text.rfind(step.mark) if step.until else text.find(step.mark, start)
        if marked < 0:
            break
        start = marked + len(step.mark)
        start += len(text[start:]) - len(text[start:].lstrip())
        weighed = _weighed(step, _alternatives(tokens, start))
        if weighed:
            found[step.name] = weighed
    return found


def _alternatives(tokens: Sequence[Token], position: int) -> Mapping[str, float]:
    """The alternatives to the token that covers a position of the text."""
    end = 0
    for token, likeliest in tokens:
        end += len(token)
        if end > position:
            return likeliest
    return {}


def _weighed(step: Step, likeliest: Mapping[str, float]) -> dict[str, float]:
    """Probability of each label among the labels: of all alternatives that begin one label and no other."""
    labels = [label.strip().lower() for label in step.labels]
    mass = dict.fromkeys(labels, 0.0)
    for token, logarithm in likeliest.items():
        begun = [label for label in labels if token.strip() and label.startswith(token.strip().lower())]
        if len(begun) == 1:
            mass[begun[0]] += math.exp(min(logarithm, 0.0))
    total = sum(mass.values())
    return {label: value / total for label, value in mass.items()} if total > 0 else {}
