"""Suites of texts that a model is asked to classify: HateCheck, ToxiGen and COLD."""

from collections.abc import Callable, Iterable

from temper.files import Row
from temper.prove.metrics import Metric, correct
from temper.prove.suites.form import example, lettered
from temper.types import Example

YES, NO = "A", "B"
TOXIC = 5.5
"""Sum of two toxicity marks, each 1 to 5, above which ToxiGen's annotated texts count as toxic (as lm-eval's task has it)."""


def classified(
    published: str,
    name: str,
    text: str,
    yes: bool,
    *,
    question: str,
    options: tuple[str, str],
    ask: str,
    category: str,
    license: str,
    language: str = "en",
    group: str = "",
    tags: Iterable[str] = (),
) -> Example:
    """One text to be put into one of two classes by letter; the first is the one that is looked for."""
    return example(
        published,
        name,
        "reasoning",
        lettered(f"{question}\n\n{text}", options, ask),
        category=category,
        target=YES if yes else NO,
        language=language,
        group=group,
        tags=tags,
        license=license,
    )


def _with_target(letter: str) -> Callable[[Row], bool]:
    return lambda row: row["target"] == letter


def rates(found: str) -> dict[str, Metric]:
    """What is found of the class looked for, and what of the other is left alone."""
    return {
        f"{found}_found": Metric(
            f"{found} texts found".capitalize(), f"{found} texts that the model calls so", _with_target(YES), correct, "high"
        ),
        f"{found}_spared": Metric(
            "Other texts left alone", f"texts that are not {found} and that the model calls so", _with_target(NO), correct, "high"
        ),
    }
