"""Whether reasoning and answer keep to the language of the prompt: R1's language consistency reward (arXiv 2501.12948)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.text.language import SCRIPTS, WordCount, count_words
from temper.types import Better, Completion, Score


@dataclass(frozen=True, slots=True)
class LanguageConsistency:
    """Words in the example's language over all words that bear a language, reasoning and answer together.

    `parts` holds the share of each apart, None where it has no such word. Words quoted from the prompt do not count.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_score(c) for c in completions]


def _score(completion: Completion) -> Score:
    example = completion.example
    counts = {
        "reasoning": count_words(completion.reasoning, example.language, exclude=example.prompt),
        "answer": count_words(completion.answer, example.language, exclude=example.prompt),
    }
    known = [c for c in counts.values() if c is not None]
    if not known:
        return Score(None, f"language {example.language!r} not covered; covered: {', '.join(sorted(SCRIPTS))}")
    parts = {name: _share(count) for name, count in counts.items()}
    whole = WordCount(sum(c.target for c in known), sum(c.total for c in known))
    share = _share(whole)
    return Score(share, "" if share is not None else "no word bears a language", parts)


def _share(count: WordCount | None) -> float | None:
    return count.target / count.total if count is not None and count.total else None
