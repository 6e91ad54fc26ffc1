"""A text cut at the edges of its findings, so that a template can mark each stretch with the numbers of what was found there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MOST = 500  # findings that are marked in one text; all are listed


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text, the numbers of the findings it lies in, and of those that end with it. `quiet`: all are shadows."""

    text: str
    numbers: tuple[int, ...] = ()
    ends: frozenset[int] = frozenset()
    quiet: bool = False


def pieces(text: str, findings: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Piece]:
    """The text in pieces. `findings` are numbered rows of this very text; one without a place marks nothing."""
    spans = [(n, f) for n, f in findings if 0 <= _at(f, "start") < _at(f, "end") <= len(text)][:MOST]
    if not spans:
        return [Piece(text)]
    edges = sorted({0, len(text), *(_at(f, k) for _, f in spans for k in ("start", "end"))})
    made = []
    for start, end in pairwise(edges):
        here = [(n, f) for n, f in spans if _at(f, "start") <= start and end <= _at(f, "end")]
        ends = frozenset(n for n, f in here if _at(f, "end") == end)
        quiet = bool(here) and all(f.get("shadow") for _, f in here)
        made.append(Piece(text[start:end], tuple(n for n, _ in here), ends, quiet))
    return made


def of(findings: Sequence[Mapping[str, Any]], **where: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """The findings of one text, numbered from 1 as in the table: those whose row agrees with `where`, a missing key being 0."""
    return [(n, f) for n, f in enumerate(findings, 1) if all((f.get(k) or 0) == (v or 0) for k, v in where.items())]


def _at(finding: Mapping[str, Any], key: str) -> int:
    return int(finding.get(key) or 0)
