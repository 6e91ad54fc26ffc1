"""A decline is certified by one bet a step: false alarms are rare however often one looks and however alike a step's answers are,
and a real decline is seen soon."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.rewards import adapt
from temper.rewards.audits import Audit, draw, propensities
from temper.rewards.decline import ALARM, BETS, SAFE, e_value

STEPS, EVERY, PROMPTS, GROUP, LABELS = 120, 20, 4, 8, 7


@given(st.lists(st.floats(-0.3, 3.3), max_size=30), st.floats(0.3, 3.0))
def test_the_evidence_is_the_mean_wealth_of_the_bets(gains: list[float], least: float) -> None:
    slow = [math.prod(1 + min(bet, SAFE / least) * gain for gain in gains) for bet in BETS]
    assert e_value(gains, least=least) == pytest.approx(sum(slow) / len(BETS), rel=1e-9)


def test_without_a_label_there_is_no_evidence() -> None:
    assert e_value([], least=0.1) == 1.0
    assert adapt._evidence([audit(1, 1.0, "p")] * 50, 1.0) == 1.0


def test_a_step_that_can_lose_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="least = 0"):
        e_value([0.0], least=0.0)


def audit(step: int, bad: float | None, prompt: str, *, count: int = 1, expected: float = 1.0, weight: float = 1.0) -> Audit:
    return Audit(step, "harmful", "", "", bad, count, expected, weight, None, None, (), prompt)


def test_the_labels_of_one_step_are_one_bet_however_many_they_are() -> None:
    alike = [audit(step, 1.0, "p", count=count) for step in (1, 2) for count in (1, 3)]
    assert adapt._gains(alike, 0.1) == pytest.approx([0.9, 0.9])
    assert adapt._evidence(alike, 0.1) == adapt._evidence([audit(step, 1.0, "p") for step in (1, 2)], 0.1)


def test_a_label_that_the_auditor_could_not_give_is_no_evidence_either_way() -> None:
    assert adapt._gains([audit(1, None, "p")] * 3, 0.1) == [0.0]
    assert adapt._evidence([audit(step, None, "p") for step in range(50)], 0.1) == 1.0


def answers(rng: np.random.Generator, rate: float, alike: float, prompts: int, group: int) -> np.ndarray:
    """Which answers are bad, shape (prompts * group,); a share `alike` of the prompts has answers that are all the same."""
    each, one = rng.random((prompts, group)) < rate, rng.random((prompts, 1)) < rate
    return np.where(rng.random((prompts, 1)) < alike, one, each).astype(float).ravel()


def opened(rng: np.random.Generator, rate: float, alike: float) -> list[Audit]:
    """128 labels of the 512 answers of a stage's start."""
    bad = answers(rng, rate, alike, 256, 2)
    return [audit(0, bad[i], f"0-{i // 2}", expected=0.25) for i in rng.permutation(512)[:128]]


def audited(rng: np.random.Generator, step: int, bad: Sequence[float]) -> list[Audit]:
    """Labels of one step, sought out by a guess that is right more often than not."""
    rows = len(bad)
    interest = 0.2 + 0.3 * rng.random(rows) + 0.3 * np.asarray(bad) * (rng.random(rows) < 0.6)
    found = draw(propensities(interest), LABELS, rng).items()
    return [
        audit(step, bad[i], f"{step}-{i // GROUP}", count=d.count, expected=d.expected, weight=LABELS / rows / d.expected)
        for i, d in found
    ]


def sent_back(seed: int, before: float, after: float, alike: float) -> int | None:
    """The first refresh of a whole run at which its decline is certified; the rate changes after half of it."""
    rng = np.random.default_rng(seed)
    best, seen = adapt._certified(opened(rng, before, alike), 0, 0.0), []
    for step in range(1, STEPS + 1):
        seen += audited(rng, step, answers(rng, before if step <= STEPS // 2 else after, alike, PROMPTS, GROUP))
        if step % EVERY:
            continue
        assert best is not None
        if adapt._evidence([a for a in seen if a.step > best.step], best.high) > ALARM:
            return step
        now = adapt._certified([a for a in seen if a.step > step - EVERY], step, 0.0)
        best = now if now is not None and now.high < best.high else best
    return None


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_at_most_one_run_of_twenty_is_sent_back_when_nothing_fell_however_alike_the_answers_to_a_prompt_are(alike: float) -> None:
    runs = 100
    alarms = sum(sent_back(seed, 0.1, 0.1, alike) is not None for seed in range(runs))
    assert alarms <= 0.05 * runs + 2 * math.sqrt(0.05 * 0.95 * runs)  # and twice the error of so few runs


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_a_rise_of_bad_answers_from_5_to_30_percent_is_certified_within_two_refreshes_in_nine_runs_of_ten(alike: float) -> None:
    found = [sent_back(seed, 0.05, 0.3, alike) for seed in range(40)]
    assert sum(f is not None and STEPS // 2 < f <= STEPS // 2 + 2 * EVERY for f in found) >= 36
