"""Graders of your own. In a recipe: rewards = { "examples/my_grader.py:asks_back" = 0.2 }."""

from temper import Completion, each


@each
def asks_back(completion: Completion) -> bool | None:
    """Whether the answer ends with a question; not graded if there is no answer."""
    return completion.answer.rstrip().endswith("?") if completion.answer else None


@each(better="low")
def shouting(completion: Completion) -> float | None:
    """Share of the answer's letters that are capitals."""
    letters = [c for c in completion.answer if c.isalpha()]
    return sum(c.isupper() for c in letters) / len(letters) if letters else None
