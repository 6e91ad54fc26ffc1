"""Whether a sampler really goes on from the beginning of a reply it is handed: asked before it is relied on.

A local model is given the tokens and cannot do otherwise (`continues`). A server may ignore the fields, close the turn and let
the model begin anew, and nothing in its reply says so; so an endpoint is asked canaries first, whose next words are plain
(“1, 2, 3, 4, 5,” goes on with 6).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from temper.errors import ProofError
from temper.types import Completion, Example, Message, Sampler

Told = Literal["continued", "restarted", "unclear"]


class Canary(NamedTuple):
    """A question, the beginning of its reply, and how a reply that goes on from there begins."""

    ask: str
    begun: str
    goes_on: re.Pattern[str]


CANARIES = (
    Canary("Count from 1 to 10, with commas between the numbers.", "1, 2, 3, 4, 5,", re.compile(r"\s*6\b")),
    Canary("Say the alphabet in capital letters with spaces between them.", "A B C D E F", re.compile(r"\s*G\b")),
    Canary("Name the days of the week in order, beginning with Monday.", "Monday, Tuesday, Wednesday,", re.compile(r"\s*Thu")),
    Canary("Count down from 9 to 1, with commas between the numbers.", "9, 8, 7, 6,", re.compile(r"\s*5\b")),
)


def prefilling(sampler: Sampler, examples: Sequence[Example]) -> Sampler:
    """The sampler, checked before its first reply if any example begins the reply and nothing vouches for it."""
    if getattr(sampler, "continues", False) or not any(e.prefill for e in examples):
        return sampler
    return Prefilling(sampler)


@dataclass(frozen=True, slots=True)
class Prefilling:
    """A sampler that answers canaries before anything that rests on a prefill; `facts["prefill"]` says how they were met.

    Raises `ProofError` where replies begin anew. Where no canary is clear, as with a model that cannot count, rows carry
    `unclear` and are kept: the analysis shows it.
    """

    sampler: Sampler
    found: list[Told] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        if not self.found and any(e.prefill for e in examples):
            self.found.append(check(self.sampler))
        return [[self._told(c) for c in answers] for answers in self.sampler(examples, n=n)]

    def _told(self, completion: Completion) -> Completion:
        return replace(completion, facts={**completion.facts, "prefill": self.found[0]}) if self.found else completion


def check(sampler: Sampler) -> Told:
    """Ask the canaries: `continued` if more replies go on than begin anew. Raises `ProofError` if more begin anew."""
    asked = [
        Example(f"prefill-canary-{i}", (Message("user", c.ask), Message("assistant", c.begun))) for i, c in enumerate(CANARIES)
    ]
    told = [read(c, answers[0]) for c, answers in zip(CANARIES, sampler(asked), strict=True)]
    continued, restarted = told.count("continued"), told.count("restarted")
    if restarted > continued:
        raise ProofError(
            f"the endpoint does not go on from the beginning of a reply: {restarted} of {len(CANARIES)} canaries began anew. "
            "Prefill needs continue_final_message (vLLM, SGLang) or a server that continues a last assistant turn; "
            "leave out answer-prefill, thought-prefill and think=prefilled for this model"
        )
    return "continued" if continued > restarted else "unclear"


def read(canary: Canary, reply: Completion) -> Told:
    """How a reply to a canary begins: where its prefill ends, or with the prefill's own first words."""
    if canary.goes_on.match(reply.answer):
        return "continued"
    first = canary.begun.split()[0].rstrip(",")
    begins_anew = re.search(rf"(?:^|[\s:*]){re.escape(first)}\b", reply.answer[:120])
    return "restarted" if begins_anew else "unclear"
