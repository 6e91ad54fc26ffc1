"""How easy an answer is to read, by rules made for its language: Flesch's reading ease for English, a share for Chinese."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.text.readability import LONG_SENTENCE, MIN_HAN, MIN_WORDS, Hanzi, Reading, hanzi, reading
from temper.types import Better, Completion, Score


@dataclass(frozen=True, slots=True)
class Readability:
    """How easily the answer reads. English: clip(ease / 100, 0, 1) of the answer (Flesch 1948); abstains under five words.

    Chinese: the share of its Han characters that are common and stand in a sentence of at most 44 (no formula is agreed on; this
    one is a count); abstains under ten. Other languages are not graded. Values of two languages are not comparable. Refusals are
    short and read easily, so compare arms on the same prompts and the same outcome. `parts["reasoning"]` is the thought's value.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_score(c) for c in completions]


def _score(completion: Completion) -> Score:
    language = completion.example.language
    read = _chinese if language[:2].lower() == "zh" else _english
    answer, thought = read(completion.answer, language), read(completion.reasoning, language)
    return Score(answer.value, answer.why, {**answer.parts, "reasoning": thought.value})


def _english(text: str, language: str) -> Score:
    found = reading(text, language=language)
    if found is None:
        return Score(None, f"neither English nor Chinese, or under {MIN_WORDS} words")
    return Score(min(1.0, max(0.0, found.ease / 100)), "", _english_parts(found))


def _english_parts(found: Reading) -> dict[str, float | None]:
    return {
        "ease": found.ease,
        "grade": found.grade,
        "words_per_sentence": found.words / found.sentences,
        "syllables_per_word": found.syllables / found.words,
    }


def _chinese(text: str, language: str) -> Score:
    found = hanzi(text, language=language)
    if found is None:
        return Score(None, f"not Chinese, or under {MIN_HAN} Han characters")
    hard = found.characters - found.easy
    why = f"{hard} characters are rare or in a sentence of more than {LONG_SENTENCE}" if hard else ""
    return Score(found.easy / found.characters, why, _chinese_parts(found))


def _chinese_parts(found: Hanzi) -> dict[str, float | None]:
    return {"characters_per_sentence": found.characters / found.sentences, "common": found.common / found.characters}
