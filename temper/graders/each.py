"""`@each`: a grader from a function of one completion."""

import functools
from collections.abc import Callable, Sequence
from typing import overload

from temper.types import Better, Completion, Grader, Score

Opinion = Score | float | bool | None
One = Callable[[Completion], Opinion]


@overload
def each(one: One, /, *, better: Better = "high") -> Grader: ...
@overload
def each(*, better: Better = "high") -> Callable[[One], Grader]: ...
def each(one: One | None = None, /, *, better: Better = "high") -> Grader | Callable[[One], Grader]:
    """Make a grader of a function that takes one completion and returns a number in [0, 1], a bool, None or a `Score`.

    None means *not graded*. `better` says which end of the value is the good one. Raises ValueError if it is neither "high" nor
    "low"; a function that returns anything else, or a number outside [0, 1], is refused where it is called.
    """
    if better not in ("high", "low"):
        raise ValueError(f"each: better={better!r}; wanted 'high' or 'low'")
    if one is None:
        return functools.partial(each, better=better)
    name = getattr(one, "__name__", "a grader")

    @functools.wraps(one)
    def grade(completions: Sequence[Completion], /) -> list[Score]:
        return [_score(one(c), name) for c in completions]

    grade.better = better  # type: ignore[attr-defined]
    return grade


def _score(given: Opinion, name: str) -> Score:
    if isinstance(given, Score):
        return given
    if given is None:
        return Score(None, f"{name} does not apply")
    if isinstance(given, (bool, int, float)):
        return Score(float(given))
    raise TypeError(f"{name} returned {given!r}; wanted a number in [0, 1], a bool, None or a Score")
