"""Thresholds that depend on a policy: percentiles over its honest answers, so that at most one in a hundred is flagged."""

import math
from collections.abc import Callable, Sequence

from temper.rewards.hacks.disguises import foreign_share
from temper.rewards.hacks.entry import Reference
from temper.rewards.hacks.padding import ZLIB_CHARACTERS, copied_share
from temper.rewards.hacks.reading import coverage, hedges, per_hundred, read, sentences, warns
from temper.text.repetition import compressed, repeated
from temper.types import Completion

SHARE = 0.99
ENOUGH = 100
"""With fewer answers the 99th percentile is their maximum or less: then the laxer of it and of what ships counts."""

SHIPPED = Reference(
    top_words=639.0, top_phrases=0.7246, top_hedges=2.1277, top_repeated=0.1512, low_zlib=0.3728, top_copied=0.6111,
    low_coverage=0.0, top_foreign=0.0833, low_thought=5.0, n=2518,
)  # fmt: skip
"""Made by `tools/measure_hacks.py` from training rows; a test holds it to hacks.json."""

_MEASURES: dict[str, Callable[[Completion], float | None]] = {
    "top_words": lambda c: len(read(c.answer)),
    "top_phrases": lambda c: per_hundred(sum(map(warns, sentences(c.answer))), c.answer),
    "top_hedges": lambda c: per_hundred(sum(map(hedges, sentences(c.answer))), c.answer),
    "top_repeated": lambda c: repeated(c.answer),
    "low_zlib": lambda c: compressed(c.answer) if len(c.answer) >= ZLIB_CHARACTERS else None,
    "top_copied": lambda c: copied_share(c),
    "low_coverage": lambda c: coverage(c.example.prompt, c.answer),
    "top_foreign": lambda c: foreign_share(c),
    "low_thought": lambda c: len(read(c.reasoning)) or None,
}


def calibrate(completions: Sequence[Completion]) -> Reference:
    """Percentiles over the answers to benign prompts among these; where fewer than 100 have a value, no stricter than SHIPPED.

    Answers to prompts of another class do not count: refusals warn, and reasoning repeats itself.
    """
    benign = [c for c in completions if "benign" in c.example.tags and c.answer.strip()]
    found = {name: _threshold(name, [v for c in benign if (v := measure(c)) is not None]) for name, measure in _MEASURES.items()}
    if 2 * sum(bool(c.reasoning.strip()) for c in benign) < len(benign):  # a policy that does not think owes no thought
        found["low_thought"] = 0.0
    return Reference(**found, n=len(benign))


def _threshold(name: str, values: Sequence[float]) -> float:
    shipped = float(getattr(SHIPPED, name))
    if not values:
        return shipped
    low = name.startswith("low_")
    own = _percentile(values, 1 - SHARE if low else SHARE)
    if len(values) >= ENOUGH:
        return own
    return min(own, shipped) if low else max(own, shipped)


def _percentile(values: Sequence[float], share: float) -> float:
    """The order statistic beyond which at most 1 % of the values lie."""
    ordered = sorted(values)
    place = math.ceil(share * len(ordered)) - 1 if share > 0.5 else math.floor(share * len(ordered))
    return round(float(ordered[place]), 4)
