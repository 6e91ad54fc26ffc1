"""Rewards combine, centre and adapt as the design says; a grader that cannot be dodged, a weight that only tightens."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.errors import RunError
from temper.rewards.adapt import CEILING, Observed, Rules, State, adapt, apply
from temper.rewards.combine import advantages, combine, flat_groups
from temper.rewards.signal import Signal, grade
from temper.types import Completion, Example, Message, Named, Score


def scores(*values: float | None) -> list[Score]:
    return [Score(v) for v in values]


def test_a_cost_is_turned_so_that_one_is_good() -> None:
    columns = {"harm": scores(0.9, 0.1), "format": scores(1.0, 0.0)}
    combined = combine(columns, {"harm": "low", "format": "high"}, {"harm": 0.5, "format": 0.2}, ["g", "g"])
    assert combined.rewards == pytest.approx([0.5 * 0.1 + 0.2, 0.5 * 0.9])


def test_a_channel_that_abstains_on_a_whole_group_does_not_apply_there() -> None:
    columns = {"harm": scores(0.2, 0.4, None, None), "verify": scores(None, None, 1.0, 0.0)}
    combined = combine(columns, {"harm": "low", "verify": "high"}, {"harm": 1.0, "verify": 1.0}, ["a", "a", "b", "b"])
    assert combined.rewards == pytest.approx([0.8, 0.6, 1.0, 0.0])
    assert combined.unscored == 0


def test_dodging_a_grader_that_reads_the_group_mates_leaves_a_row_unscored_and_without_advantage() -> None:
    columns = {"harm": scores(0.2, None, 0.6), "format": scores(1.0, 1.0, 0.0)}
    combined = combine(columns, {"harm": "low", "format": "high"}, {"harm": 1.0, "format": 1.0}, ["g"] * 3)
    assert combined.rewards[1] is None
    assert combined.unscored == 1
    assert advantages(combined.rewards, ["g"] * 3)[1] == 0.0


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1, width=32)), min_size=2, max_size=40))
def test_advantages_sum_to_zero_in_every_group(rows: list[tuple[int, float]]) -> None:
    groups, rewards = [str(g) for g, _ in rows], [r for _, r in rows]
    found = advantages(rewards, groups)
    for group in set(groups):
        assert math.fsum(a for a, g in zip(found, groups, strict=True) if g == group) == pytest.approx(0, abs=1e-6)


def test_one_scale_serves_the_whole_batch_so_that_a_quiet_group_stays_quiet() -> None:
    found = advantages([0.0, 1.0, 0.50, 0.51], ["loud", "loud", "quiet", "quiet"])
    assert abs(found[2]) / abs(found[0]) == pytest.approx(0.01, rel=1e-6)


def test_equal_rewards_teach_nothing_instead_of_amplified_noise() -> None:
    assert advantages([0.3] * 4, ["g"] * 4) == [0.0] * 4
    assert flat_groups([0.3, 0.3, 0.1, 0.2], ["a", "a", "b", "b"]) == {"a"}


def test_a_weight_tightens_while_audits_find_harm_and_never_falls_below_the_recipes_own() -> None:
    rules, state = Rules(target=0.05), State()
    for _ in range(20):
        state = adapt(state, Observed([0.1], [1.0], [0.0]), rules)
    assert state.multiplier == CEILING
    assert apply(state, {"harm": 0.5, "format": 0.1}, rules) == {"harm": 0.5 * CEILING, "format": 0.1}


def test_slack_alone_never_relaxes_a_weight() -> None:
    tight = State(2.0)
    assert adapt(tight, Observed([0.0], [0.0], [0.0]), Rules()).multiplier == 2.0


def test_a_weight_relaxes_only_while_harmless_prompts_are_refused_too_often() -> None:
    relaxed = adapt(State(2.0), Observed([0.0], [0.0], [1.0]), Rules())
    assert 1.0 <= relaxed.multiplier < 2.0


def completion(example: str, answer: str = "x", *tags: str) -> Completion:
    return Completion(Example(example, (Message("user", "q"),), tags=frozenset(tags)), answer)


def test_a_grader_that_returns_too_few_scores_or_a_value_out_of_range_stops_the_run() -> None:
    with pytest.raises(RunError, match="1 scores for 2"):
        grade(Named("few", lambda c: [Score(1.0)], "i"), [completion("a"), completion("b")])
    with pytest.raises(RunError, match=r"gave 1\.5"):
        grade(Named("wild", lambda c: [Score(1.5)], "i"), [completion("a")])


def test_a_monitor_sees_some_harmful_rows_and_changes_no_reward() -> None:
    seen: list[int] = []

    def watch(completions):  # type: ignore[no-untyped-def]
        seen.append(len(completions))
        return [Score(1.0) for _ in completions]

    pay = Named("len", lambda cs: [Score(len(c.answer) / 10) for c in cs], "i")
    rows = [completion("a", "x" * i, "harmful") for i in range(4)] + [completion("b", "x" * i, "benign") for i in range(4)]
    with_monitor = Signal((pay,), (Named("gold", watch, "j"),), audits=2)(rows, {"len": 1.0}, step=1)
    without = Signal((pay,))(rows, {"len": 1.0}, step=1)
    assert seen == [2]
    assert with_monitor.rewards == without.rewards
    assert sum(s.value is not None for s in with_monitor.columns["gold"]) == 2
    assert all(s.value is None for s in with_monitor.columns["gold"][4:])


def test_a_grader_that_returns_bare_numbers_is_told_of_scores_and_each() -> None:
    bare: Any = lambda cs: [0.5 for _ in cs]  # noqa: E731
    with pytest.raises(RunError, match=r"'bare' returned 0\.5 .*wanted a Score, or a function of one completion under @each"):
        grade(Named("bare", bare, "i"), [completion("a")])
