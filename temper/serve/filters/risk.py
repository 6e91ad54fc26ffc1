"""Requests for a decision in medicine, law, finance, or about hurting oneself: what R1's authors advise not to leave to a model.

Told from requests for information by phrases: somebody asks what they themselves should do, near a term of the domain. The lists
are in risk.toml, to be read and corrected by people. Leaves out what is asked in other words: docs/policy.md has the figures.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import re2

from temper.errors import PolicyError, nearest
from temper.serve.fold import fold
from temper.serve.notice import DISCLAIMER
from temper.serve.verdict import ACTIONS, Action, Canary, Channel, Finding, Pace, View, canary_turn

DOMAINS = ("medicine", "law", "finance", "self_harm")
NEAR = 240
"""Folded characters between the question and the term, at most."""
_DATA = Path(__file__).with_suffix(".toml")
_QUOTES = str.maketrans({"’": "'", "‘": "'"})

Answer = Literal["allow", "disclaimer", "review", "block"]


@dataclass(frozen=True, slots=True)
class Risk:
    """One finding for each domain a decision is asked in. Per domain: `allow` (no finding), `disclaimer` (the request passes, and
    the answer carries the domain's notice), `review`, `block`. `notices` puts other words in the place of a shipped notice.

    Raises `PolicyError` for a notice about no domain.
    """

    name: ClassVar[str] = "risk"
    pace: ClassVar[Pace] = "sentence"
    heavy: ClassVar[bool] = True
    reach: ClassVar[int] = 0
    default_channels: ClassVar[tuple[Channel, ...]] = (Channel.INPUT,)
    default_action: ClassVar[Action] = Action.REVIEW

    medicine: Answer = "review"
    law: Answer = "review"
    finance: Answer = "review"
    self_harm: Answer = "review"
    notices: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for domain in self.notices:
            if domain not in DOMAINS:
                raise PolicyError(f"notices.{domain}: no such domain; {nearest(domain, DOMAINS)}")

    def __call__(self, view: View, /) -> Sequence[Finding]:
        folded = fold(view.text)
        text = folded.text.translate(_QUOTES)
        found = []
        for domain in DOMAINS:
            answer: Answer = getattr(self, domain)
            place = None if answer == "allow" else asked(text, domain)
            if place is not None:
                start, end = folded.span(*place)
                found.append(self._finding(domain, answer, start, end))
        return found

    def _finding(self, domain: str, answer: Answer, start: int, end: int) -> Finding:
        why = f"asks for a decision ({domain.replace('_', '-')}) that a person answers for"
        if answer == "disclaimer":
            notice = self.notices.get(domain) or _table()["notice"][domain]
            return Finding(self.name, DISCLAIMER, domain, Action.ALLOW, start, end, notice, why=why)
        return Finding(self.name, domain, domain, ACTIONS[answer], start, end, why=why)

    def canary(self, channel: Channel, /) -> Canary:
        planted = {
            "medicine": "How many mg of ibuprofen should I take?",
            "law": "Should I sue my landlord?",
            "finance": "Should I sell my stocks?",
            "self_harm": "I want to hurt myself.",
        }
        domain = next((d for d in DOMAINS if getattr(self, d) != "allow"), "medicine")
        others = tuple(
            (d if getattr(self, d) != "disclaimer" else DISCLAIMER, planted[d]) for d in DOMAINS if getattr(self, d) != "allow"
        )
        return Canary(planted[domain], canary_turn(), others)


class Lists(NamedTuple):
    """The patterns of one domain in one language, each list as one alternation; None for an empty one."""

    decides: Any
    terms: Any
    asks: Any


def asked(text: str, domain: str) -> tuple[int, int] | None:
    """Where a folded text asks for a decision of a domain, None where it does not."""
    for lists in _lists()[domain]:
        said = next(_places(lists.asks, text), None)
        near = said or _near(_places(lists.decides, text), _places(lists.terms, text))
        if near is not None:
            return near
    return None


def _places(pattern: Any, text: str) -> Iterator[tuple[int, int]]:
    return (m.span() for m in pattern.finditer(text)) if pattern is not None else iter(())


def _near(questions: Iterable[tuple[int, int]], terms: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The first question that has a term near it; both come in order, and each is looked at once."""
    ahead = iter(terms)
    term = next(ahead, None)
    for question in questions:
        while term is not None and term[1] < question[0] - NEAR:
            term = next(ahead, None)
        if term is None:
            return None
        if term[0] <= question[1] + NEAR:
            return question
    return None


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_DATA.read_text(encoding="utf-8"))


@cache
def _lists() -> Mapping[str, Sequence[Lists]]:
    languages = [held for name, held in _table().items() if name not in ("version", "notice")]
    return {domain: [_compiled(held, held[domain]) for held in languages if domain in held] for domain in DOMAINS}


def _compiled(language: Mapping[str, Any], domain: Mapping[str, Any]) -> Lists:
    return Lists(*(_one(found) for found in (language["decides"], domain.get("terms", ()), domain.get("asks", ()))))


def _one(patterns: Sequence[str]) -> Any:
    return re2.compile("|".join(f"(?:{p})" for p in patterns)) if patterns else None
