"""How much an answer repeats itself: rep-4, the share of 4-grams that occurred before (Welleck et al., arXiv 1908.04319)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.text.repetition import GRAM, compressed, repeats
from temper.types import Better, Completion, Score


@dataclass(frozen=True, slots=True)
class Repetition:
    """rep-4 of the answer; abstains under four words.

    `parts`: `loop` (1 if it goes in circles), `zlib` (compressed over raw bytes), and the same three of the thought: `reasoning`,
    `reasoning_loop`, `reasoning_zlib`.
    """

    better: ClassVar[Better] = "low"
    scope: ClassVar = "all"  # form, not harm

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_score(c) for c in completions]


def _score(completion: Completion) -> Score:
    answer, thought = repeats(completion.answer), repeats(completion.reasoning)
    parts = {
        "loop": float(answer.loop),
        "zlib": compressed(completion.answer),
        "reasoning": thought.share,
        "reasoning_loop": float(thought.loop) if completion.reasoning else None,
        "reasoning_zlib": compressed(completion.reasoning),
    }
    return Score(answer.share, "" if answer.share is not None else f"under {GRAM} words", parts)
