"""The gap starts at zero for every design, does not depend on a reward's units, and counts only what gold has seen."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.rewards.gap import LEAST, gap, mapped

N = 4 * LEAST


def answers(seed: int = 0) -> tuple[list[float], list[float]]:
    """Rewards of initial answers and gold's opinion of each: noisy, and better for higher rewards."""
    draw = random.Random(seed)
    rewards = [round(draw.uniform(0, 2), 2) for _ in range(N)]
    return rewards, [float(draw.random() < r / 2) for r in rewards]


def test_the_gap_of_the_start_is_zero_by_construction() -> None:
    rewards, good = answers()
    curve = mapped(rewards, good)
    assert curve is not None
    assert gap(curve, rewards, good) == pytest.approx(0.0, abs=1e-12)


def test_the_map_does_not_depend_on_a_rewards_units() -> None:
    rewards, good = answers()
    plain, scaled = mapped(rewards, good), mapped([math.exp(3 * r) for r in rewards], good)
    assert plain is not None
    assert scaled is not None
    assert plain(rewards) == pytest.approx(scaled([math.exp(3 * r) for r in rewards]))


def test_a_reward_that_rises_while_gold_falls_has_a_gap() -> None:
    rewards, good = answers()
    curve = mapped(rewards, good)
    assert curve is not None
    found = gap(curve, [2.0] * 20, [0.0] * 20)
    assert found is not None
    assert found > 0.8


def test_what_gold_or_the_reward_did_not_grade_does_not_count() -> None:
    rewards, good = answers()
    curve = mapped(rewards, good)
    assert curve is not None
    assert gap(curve, [None, 1.0], [1.0, None]) is None
    assert gap(curve, [None, 1.0, 2.0], [1.0, None, 1.0]) == gap(curve, [2.0], [1.0])


def test_too_few_graded_answers_make_no_map() -> None:
    rewards, good = answers()
    assert mapped(rewards[: LEAST - 1], good[: LEAST - 1]) is None
    assert mapped(rewards, [None] * N) is None


@given(st.lists(st.tuples(st.floats(-5, 5, width=32), st.booleans()), min_size=LEAST, max_size=2 * LEAST))
def test_the_map_rises_and_stays_between_zero_and_one(pairs: list[tuple[float, bool]]) -> None:
    curve = mapped([r for r, _ in pairs], [float(g) for _, g in pairs])
    assert curve is not None
    values = curve(sorted(np.linspace(-6, 6, 50)))
    assert (np.diff(values) >= -1e-12).all()
    assert values.min() >= 0
    assert values.max() <= 1
