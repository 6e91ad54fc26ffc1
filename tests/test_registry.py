"""A name finds its object, or the error names the nearest one."""

from pathlib import Path

import pytest

from temper import catalog, registry
from temper.errors import UnknownName
from temper.types import Completion, Example, Message, Score

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
