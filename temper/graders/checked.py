"""A grader held to its contract: one `Score` a completion, with a value in [0, 1] or None.

A grader that asks another one asks it through here: NaN passes through a minimum, or a comparison, as the good end.
"""

import math
from collections.abc import Sequence
from numbers import Real

from temper.errors import RunError
from temper.types import Completion, Grader, Score


def opinions(grader: Grader, completions: Sequence[Completion], *, name: str = "") -> list[Score]:
    """The scores of `grader`, one a completion; an empty batch asks nobody.

    Raises `RunError`, with `name` (by default the function's or the class's), for another number of scores, for what is no
    `Score`, for a value outside [0, 1] and for a threshold (`parts["threshold"]`) that is no number; NaN is none.
    """
    if not completions:
        return []
    known = name or getattr(grader, "__name__", type(grader).__name__)
    scores = list(grader(completions))
    if len(scores) != len(completions):
        raise RunError(f"grader {known!r} returned {len(scores)} scores for {len(completions)} completions; wanted one each")
    for completion, score in zip(completions, scores, strict=True):
        if problem := _problem(score):
            raise RunError(f"grader {known!r} {problem[0]} for {completion.example.id!r}; wanted {problem[1]}")
    return scores


def _problem(score: object) -> tuple[str, str] | None:
    """What was given and what was wanted, or None."""
    if not isinstance(score, Score):
        return f"returned {score!r}", "a Score, or a function of one completion under @each"
    value: object = score.value
    if value is not None and not 0.0 <= _number(value) <= 1.0:
        return f"gave {value!r}", "[0, 1], or None for not graded"
    threshold: object = score.parts.get("threshold")
    if threshold is not None and not math.isfinite(_number(threshold)):
        return f"gave the threshold {threshold!r}", "a number"
    return None


def _number(given: object) -> float:
    """What was given, as a float; NaN for what is no real number."""
    return float(given) if isinstance(given, Real) else math.nan
