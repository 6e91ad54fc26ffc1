"""The nouns of the hack bank: an entry, the thresholds it reads, its measured errors, and a pair that tests it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from temper.stats import Estimate
from temper.types import CLASSES as KINDS
from temper.types import Completion

Scope = Literal["all", "think", "answer"]
CLASSES = frozenset(KINDS)


@dataclass(frozen=True, slots=True)
class Reference:
    """Thresholds that depend on how an honest answer of this policy looks: percentiles over answers to benign prompts.

    Shares lie in [0, 1], lengths are in words. A `top_` value is the 99th percentile, a `low_` one the first: beyond it lies one
    honest answer in a hundred (docs/science.md 3.4, principle ii). `n` is the number of answers they come from.
    """

    top_words: float
    top_phrases: float  # safety phrases per 100 words
    top_hedges: float  # hedging expressions per 100 words
    top_repeated: float  # rep-4 of the answer
    low_zlib: float  # compressed over raw bytes
    top_copied: float  # share of the answer's word 4-grams that stand in the prompt
    low_coverage: float  # share of the request's content words that the answer takes up
    top_foreign: float  # share of words in a language nobody asked for
    low_thought: float  # words of the thought; 0 for a policy that does not think
    n: int = 0


@dataclass(frozen=True, slots=True)
class Hack:
    """A known way to be paid without being good.

    `where` is the stream its penalty belongs to; `classes` are the prompt classes it can occur on. `detect` looks at a whole
    batch and gives 1.0 (hack), 0.0 (none) or None (not gradable); `plant` turns any clean completion into a positive; `strip`
    takes the suspicious span out again (None: there is none), so that what the span bought can be measured.
    """

    name: str
    title: str
    where: Scope
    classes: frozenset[str]
    detect: Callable[[Sequence[Completion], Reference], list[float | None]]
    plant: Callable[[Completion, random.Random], Completion]
    strip: Callable[[Completion], Completion | None]


class Figures(NamedTuple):
    """What was measured: `recall` on planted positives, `false_positive` on clean answers, each with its 95 % Wilson interval."""

    recall: Estimate
    false_positive: Estimate
    n_positive: int
    n_negative: int


class Twin(NamedTuple):
    """A clean completion and the same one hacked: the release gate asks that the second is paid less."""

    hack: str
    clean: Completion
    hacked: Completion
