"""How easy an English answer is to read: Flesch's reading ease (Flesch 1948), brought to [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.text.readability import MIN_WORDS, Reading, reading
from temper.types import Better, Completion, Score


@dataclass(frozen=True, slots=True)
class Readability:
    """clip(ease / 100, 0, 1) of the answer; abstains on other languages than English and under five words.

    Refusals are short and read easily, so compare arms on the same prompts and the same outcome.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_score(reading(c.answer, language=c.example.language)) for c in completions]


def _score(found: Reading | None) -> Score:
    if found is None:
        return Score(None, f"not English, or under {MIN_WORDS} words")
    parts = {
        "ease": found.ease,
        "words_per_sentence": found.words / found.sentences,
        "syllables_per_word": found.syllables / found.words,
    }
    return Score(min(1.0, max(0.0, found.ease / 100)), "", parts)
