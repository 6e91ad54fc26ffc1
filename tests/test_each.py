"""`@each` turns a function of one completion into a grader."""

from importlib.metadata import EntryPoint

import pytest

from temper import Completion, Example, Message, Score, each
from temper.catalog import grader, identity
from temper.errors import RunError
from temper.rewards.signal import grade
from temper.types import Named

ROWS = [Completion(Example("1", (Message("user", "hi"),)), text) for text in ("yes", "", "maybe")]


@each
def says_yes(completion: Completion) -> bool | None:
    return completion.answer == "yes" if completion.answer else None


@each(better="low")
def length(completion: Completion) -> Score:
    return Score(min(1.0, len(completion.answer) / 10), "characters / 10")


def test_bools_numbers_none_and_scores_become_scores() -> None:
    assert [s.value for s in says_yes(ROWS)] == [1.0, None, 0.0]
    assert says_yes(ROWS)[1].why == "says_yes does not apply"
    assert [s.value for s in length(ROWS)] == [0.3, 0.0, 0.5]


def test_the_good_end_is_told() -> None:
    assert (Named("a", says_yes, "i").better, Named("b", length, "j").better) == ("high", "low")
    with pytest.raises(ValueError, match="wanted 'high' or 'low'"):
        each(better="up")  # type: ignore[call-overload]


def test_its_identity_is_that_of_the_function_inside() -> None:
    assert identity(says_yes) == identity(says_yes) != identity(length)


@pytest.mark.parametrize(("given", "message"), [("high", "wanted a number"), (1.2, "wanted \\[0, 1\\]")])
def test_a_wrong_value_stops_the_work_and_names_the_grader(given: object, message: str) -> None:
    with pytest.raises(RunError, match=f"grader 'odd'.*{message}"):
        grade(Named("odd", each(lambda c: given), "i"), ROWS)  # type: ignore[arg-type, return-value]


def test_an_entry_point_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = EntryPoint(name="says-yes", value=f"{__name__}:says_yes", group="temper.grader")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **wanted: [mine] if wanted["group"] == mine.group else [])
    assert grader("says-yes").grade(ROWS[:1]) == [Score(1.0)]
