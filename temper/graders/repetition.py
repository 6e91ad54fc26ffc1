"""How much an answer repeats itself: rep-4, the share of 4-grams that occurred before (Welleck et al., arXiv 1908.04319)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.text.repetition import GRAM, compressed, loops, repeated
from temper.types import Better, Completion, Score


@dataclass(frozen=True, slots=True)
class Repetition:
    """rep-4 of the answer; abstains under four words.

    `parts`: `loop` (1 if it goes in circles), `zlib` (compressed over raw bytes), `reasoning` (rep-4 of the thought).
    """

    better: ClassVar[Better] = "low"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_score(c) for c in completions]


def _score(completion: Completion) -> Score:
    share = repeated(completion.answer)
    parts = {
        "loop": float(loops(completion.answer)),
        "zlib": compressed(completion.answer),
        "reasoning": repeated(completion.reasoning),
    }
    return Score(share, "" if share is not None else f"under {GRAM} words", parts)
