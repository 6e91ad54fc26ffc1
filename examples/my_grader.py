"""A grader of your own. In a recipe: rewards = { "examples/my_grader.py:asks_back" = 0.2 }."""

from collections.abc import Sequence

from temper import Completion, Score


def asks_back(completions: Sequence[Completion]) -> list[Score]:
    """1 if the answer ends with a question; not graded if there is no answer."""
    return [Score(float(c.answer.rstrip().endswith("?"))) if c.answer else Score(None, "no answer") for c in completions]
