"""An alarm is raised by the mean of several steps, on the right side of its limit, and never by what was not measured."""

import pytest

from temper.errors import RecipeError
from temper.rewards.alarms import Alarms, raised

QUIET = {"unscored": 0.0, "zero_variance": 0.2, "hack_rate": 0.05, "gap": 0.0, "kl_sequence": 2.0, "entropy": 0.8}


def test_quiet_steps_raise_nothing() -> None:
    assert raised([QUIET] * 9, Alarms()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("unscored", 0.03), ("zero_variance", 0.95), ("hack_rate", 0.4), ("gap", 0.5), ("kl_sequence", 60.0), ("entropy", 0.001)],
)
def test_each_limit_is_crossed_on_its_own_side(name: str, value: float) -> None:
    assert raised([{**QUIET, name: value}] * 5, Alarms()) == [name]


def test_one_wild_step_among_five_is_no_alarm() -> None:
    assert raised([QUIET] * 4 + [{**QUIET, "hack_rate": 1.0}], Alarms()) == []


def test_there_is_no_alarm_before_the_window_is_full() -> None:
    assert raised([{**QUIET, "gap": 1.0}] * 4, Alarms()) == []


def test_what_was_not_measured_raises_nothing() -> None:
    assert raised([{"gap": None}] * 5, Alarms()) == []


def test_a_negative_limit_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match=r"gap = -0\.1"):
        Alarms(gap=-0.1).check("stage 'rl': alarms")
