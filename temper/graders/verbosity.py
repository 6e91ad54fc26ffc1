"""Whether a completion is longer than it may be: DAPO's soft overlong punishment (arXiv 2503.14476) in [0, 1]."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from temper.errors import RecipeError
from temper.graders.verify import is_reference
from temper.text.repetition import words
from temper.types import Better, Completion, Score

TAG = "max-words:"


class _Limit(NamedTuple):
    words: int
    whole: bool  # of reasoning and answer together, or of the answer alone
    source: str


@dataclass(frozen=True, slots=True)
class Verbosity:
    """How far the completion overruns its limit of words: 0 up to (1 - soft) of it, 1 at the limit and beyond.

    In between a straight line; DAPO's reward is minus this.
    The limit, in words (Han, kana and Thai characters count as one each): of the answer, by a tag `max-words:N` of the example;
    else of reasoning and answer together, `budget`; else of the answer, `times` the words of a target that is a reference reply.
    Without any of the three it abstains. DAPO punishes the last fifth: 4,096 of 20,480 tokens. `parts`: `answer_words`,
    `reasoning_words`, `ratio` (thought over answer), `limit`. Raises `RecipeError` for an option that is out of range.
    """

    budget: int | None = None
    soft: float = 0.2
    times: float = 2.0
    better: ClassVar[Better] = "low"
    scope: ClassVar = "all"  # form, not harm

    def __post_init__(self) -> None:
        if not (0 <= self.soft <= 1 and self.times > 0 and (self.budget is None or self.budget > 0)):
            given = f"budget = {self.budget}, soft = {self.soft}, times = {self.times}"
            raise RecipeError(f"verbosity: {given}; wanted a budget of at least one word, 0 <= soft <= 1 and times > 0")

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [self._score(c) for c in completions]

    def _score(self, completion: Completion) -> Score:
        answer, thought = len(words(completion.answer)), len(words(completion.reasoning))
        parts: dict[str, float | None] = {
            "answer_words": float(answer),
            "reasoning_words": float(thought),
            "ratio": thought / answer if answer else None,
        }
        limit = self._limit(completion)
        if limit is None:
            return Score(None, f"no budget, no tag {TAG}N and no reference reply", parts)
        length = answer + thought if limit.whole else answer
        value = _overlong(length, limit.words, self.soft)
        why = f"{length} words, {limit.words} allowed by {limit.source}" if value else ""
        return Score(value, why, {**parts, "limit": float(limit.words)})

    def _limit(self, completion: Completion) -> _Limit | None:
        asked = _asked(completion.example.tags)
        if asked is not None:
            return _Limit(asked, False, "the example")
        if self.budget is not None:
            return _Limit(self.budget, True, "the budget")
        target = completion.example.target
        if target is None or not is_reference(target):
            return None
        return _Limit(round(self.times * len(words(target))), False, f"{self.times:g} times the reference reply")


def _asked(tags: Iterable[str]) -> int | None:
    numbers = [t.removeprefix(TAG) for t in tags if t.startswith(TAG)]
    return min((int(n) for n in numbers if n.isascii() and n.isdigit() and len(n) < 10), default=None)


def _overlong(length: int, limit: int, soft: float) -> float:
    free = (1 - soft) * limit
    if length <= free:
        return 0.0
    return 1.0 if length >= limit else (length - free) / (limit - free)
