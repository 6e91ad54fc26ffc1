"""A name finds its object, or the error names the nearest one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from temper import catalog, registry
from temper.errors import UnknownName
from temper.types import Completion, Example, Message, Named, Score

CODE = """
from temper import Score

def short(completions):
    return [Score(float(len(c.answer) < 20)) for c in completions]

class Shouting:
    better = "low"
    def __call__(self, completions):
        return [Score(float(c.answer.isupper())) for c in completions]
"""


def test_a_misspelt_grader_names_its_nearest_neighbour() -> None:
    with pytest.raises(UnknownName, match="did you mean 'refusal'"):
        registry.find("grader", "refusel")


def test_a_function_in_a_file_is_a_grader(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    named = catalog.grader(f"{tmp_path}/mine.py:short")
    completion = Completion(Example("1", (Message("user", "hi"),)), "hello")
    assert named.name == "short"
    assert named.better == "high"
    assert named.grade([completion]) == [Score(1.0)]


def test_a_class_in_a_file_is_made_and_says_which_end_is_good(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    assert catalog.grader(f"{tmp_path}/mine.py:Shouting").better == "low"


def test_a_missing_file_and_a_missing_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    with pytest.raises(UnknownName, match="there is no file"):
        registry.find("grader", f"{tmp_path}/other.py:short")
    with pytest.raises(UnknownName, match="did you mean 'short'"):
        registry.find("grader", f"{tmp_path}/mine.py:shot")


def test_identity_follows_code_and_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "b.py").write_text(CODE)
    (tmp_path / "c.py").write_text(CODE.replace("< 20", "< 30"))
    a, b, c = (catalog.grader(f"{tmp_path}/{x}.py:short") for x in "abc")
    assert a.identity == b.identity
    assert a.identity != c.identity


@dataclass(frozen=True)
class Model:
    weights: str


@dataclass(frozen=True)
class Judging:
    model: Model
    note: str = field(default="", compare=False)
    better: ClassVar[str] = "low"

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        return [Score(0.0) for _ in completions]


@dataclass(frozen=True)
class Wrapping:
    members: tuple[Named | Judging, ...]

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        return [Score(None, "nobody asked") for _ in completions]


def test_what_is_inside_a_grader_is_known_however_deep_it_is_wrapped() -> None:
    judging = Judging(Model("w1"))
    named = Named("j", judging, catalog.identity(judging), "w1")
    for wrapped in (Wrapping((judging,)), Wrapping((named,)), Wrapping((Named("w", Wrapping((judging,)), "x"),))):
        assert {"w1", catalog.identity(judging)} <= catalog.inside(wrapped)
        assert catalog.weights(Wrapping((judging,))) == "w1"


def test_identity_follows_members_and_skips_what_decides_nothing() -> None:
    one, other = Judging(Model("w1")), Judging(Model("w2"))
    assert catalog.identity(one) == catalog.identity(Judging(Model("w1"), note="a cache folder"))
    assert catalog.identity(Wrapping((one,))) == catalog.identity(Wrapping((Judging(Model("w1")),)))
    assert catalog.identity(Wrapping((one,))) != catalog.identity(Wrapping((other,)))


def strict(inner: Judging, times: float) -> Callable[[Sequence[Completion]], list[Score]]:
    def grade(completions: Sequence[Completion]) -> list[Score]:
        return [Score(times) for _ in inner(completions)]

    return grade


class Plain:
    def __init__(self, inner: object) -> None:
        self.inner = [inner]

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        return []


def test_a_judge_in_a_closure_or_in_a_list_of_a_plain_class_is_seen() -> None:
    judging = Judging(Model("w1"))
    for hidden in (strict(judging, 1.0), Plain(judging), Wrapping((Named("n", strict(judging, 1.0), "x"),))):
        assert "w1" in catalog.inside(hidden) | {catalog.weights(hidden)}


def test_identity_follows_what_a_function_captured() -> None:
    judging = Judging(Model("w1"))
    assert catalog.identity(strict(judging, 1.0)) == catalog.identity(strict(Judging(Model("w1")), 1.0))
    assert catalog.identity(strict(judging, 1.0)) != catalog.identity(strict(judging, 0.5))


def test_a_function_that_calls_itself_has_an_identity() -> None:
    def deep(completions: Sequence[Completion]) -> list[Score]:
        return deep(completions[1:]) if completions else []

    assert catalog.identity(deep) and catalog.inside(deep) == set()
