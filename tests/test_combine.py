"""Channels add up, centre and scale as the design says; a grader that cannot be dodged, a stream that stays with its tokens."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.errors import RunError
from temper.rewards.combine import EPSILON, SIGMA_MIN, Advantages, Channel, Combined, advantages, combine, flat_groups

Better = Literal["high", "low"]
HOWS: list[Any] = ["center", "gdpo", "std"]


def channel(*values: float | None, weight: float = 1.0, better: Better = "high", scope: Any = "all", name: str = "x") -> Channel:
    return Channel(name, list(values), [weight] * len(values), better, scope)


def credit(channels: Sequence[Channel], groups: Sequence[str], how: Any = "center") -> Advantages:
    return advantages(combine(channels, groups), channels, groups, how)


class Batch(NamedTuple):
    """What hypothesis draws: channels over the same rows, with gaps, and the rows' groups."""

    channels: list[Channel]
    groups: list[str]


@st.composite
def batches(draw: Callable[..., Any], scopes: Sequence[str] = ("all", "think", "answer"), gaps: bool = True) -> Batch:
    groups = draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=16))
    size = len(groups)
    grade = st.integers(0, 8).map(lambda n: n / 8)
    value = st.one_of(grade, st.none()) if gaps and draw(st.booleans()) else grade
    channels = [
        Channel(
            f"c{n}",
            draw(st.lists(value, min_size=size, max_size=size)),
            [draw(st.sampled_from([0.25, 0.3, 1.0, 1.7]))] * size,
            draw(st.sampled_from(["high", "low"])),
            draw(st.sampled_from(list(scopes))),
        )
        for n in range(draw(st.integers(1, 4)))
    ]
    return Batch(channels, groups)


def close(a: Advantages, b: Advantages) -> bool:
    pairs = [*zip(a.answer, b.answer, strict=True), *zip(a.think, b.think, strict=True)]
    return all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-6) for x, y in pairs)


# --- what a reward is made of -------------------------------------------------------------------------------------------------


def test_a_cost_is_turned_so_that_one_is_good() -> None:
    channels = [channel(0.9, 0.1, weight=0.5, better="low"), channel(1.0, 0.0, weight=0.2)]
    assert combine(channels, ["g", "g"]).rewards == pytest.approx([0.5 * 0.1 + 0.2, 0.5 * 0.9])


def test_a_weight_may_differ_by_row() -> None:
    multiplied = Channel("harm", [0.5, 0.5], [1.0, 4.0], "low")
    assert combine([multiplied], ["harmful", "benign"]).rewards == [0.5, 2.0]


def test_a_channel_that_abstains_on_a_whole_group_does_not_apply_there() -> None:
    harm, verify = channel(0.2, 0.4, None, None, better="low"), channel(None, None, 1.0, 0.0)
    combined = combine([harm, verify], ["a", "a", "b", "b"])
    assert combined.rewards == pytest.approx([0.8, 0.6, 1.0, 0.0])
    assert combined.unscored == 0


@pytest.mark.parametrize("scope", ["all", "think", "answer"])
@pytest.mark.parametrize("how", HOWS)
def test_dodging_a_grader_that_reads_the_group_mates_leaves_a_row_without_a_reward_in_any_stream(how: Any, scope: Any) -> None:
    detector, form = channel(0.0, None, 1.0, better="low", scope=scope), channel(1.0, 1.0, 0.0)
    combined = combine([detector, form], ["g"] * 3)
    assert combined.rewards[1] is None
    assert [stream[1] for stream in combined.streams.values()] == [None] * 3
    assert combined.unscored == 1
    found = advantages(combined, [detector, form], ["g"] * 3, how)
    assert (found.answer[1], found.think[1]) == (0.0, 0.0)
    mates = credit([channel(0.0, 1.0, better="low", scope=scope), channel(1.0, 0.0)], ["g"] * 2, "std")
    if how == "std":  # and the baseline of the others does not know it
        assert [found.answer[i] for i in (0, 2)] == pytest.approx(mates.answer)


def test_a_row_that_nobody_graded_is_unscored() -> None:
    assert combine([channel(None, None)], ["g", "g"]).unscored == 2
    assert combine([], ["g", "g"]).rewards == [None, None]


@pytest.mark.parametrize("how", HOWS)
def test_a_group_with_one_scored_row_teaches_nothing(how: Any) -> None:
    found = credit([channel(0.0, 1.0, 0.3, None, 0.7)], ["a", "a", "b", "b", "c"], how)
    assert found.answer[2:] == found.think[2:] == [0.0] * 3
    assert found.answer[1] > 0


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: channel(0.5, 1.5, name="wild"), r"'wild': the value 1\.5; wanted \[0, 1\]"),
        (lambda: channel(math.nan), "the value nan"),
        (lambda: channel(0.5, weight=-1.0), r"the weight -1\.0; wanted a number, 0 or more"),
        (lambda: channel(0.5, weight=math.inf), "the weight inf"),
        (lambda: Channel("x", [0.5], [1.0, 1.0], "high"), "1 values and 2 weights"),
        (lambda: channel(0.5, scope="thinks"), "'thinks'; did you mean 'think'"),
        (lambda: combine([channel(0.5)], ["a", "b"]), "1 values for 2 rows"),
        (lambda: credit([channel(0.5)], ["a"], "centre"), "how = 'centre'; did you mean 'center'"),
    ],
)
def test_what_no_channel_may_be_is_refused_by_name(made: Callable[[], object], said: str) -> None:
    with pytest.raises(RunError, match=said):
        made()


# --- centring -----------------------------------------------------------------------------------------------------------------


def earlier(channels: Sequence[Channel], groups: Sequence[str]) -> tuple[list[float | None], list[float]]:
    """Rewards and advantages as they were computed before there were streams, operation by operation."""
    rows = range(len(groups))
    values = [[v if v is None or c.better == "high" else 1.0 - v for v in c.values] for c in channels]
    applies = [{groups[i] for i in rows if column[i] is not None} for column in values]

    def reward(row: int) -> float | None:
        total, any_channel = 0.0, False
        for c, column, known in zip(channels, values, applies, strict=True):
            if groups[row] not in known:
                continue
            value = column[row]
            if value is None:
                return None
            total, any_channel = total + c.weights[row] * value, True
        return total if any_channel else None

    rewards = [reward(i) for i in rows]
    members: dict[str, list[float]] = defaultdict(list)
    for r, group in zip(rewards, groups, strict=True):
        if r is not None:
            members[group].append(r)
    centred = [
        0.0 if r is None or len(members[g]) < 2 else r - sum(members[g]) / len(members[g])
        for r, g in zip(rewards, groups, strict=True)
    ]
    scale = (sum(c * c for c in centred) / max(1, len(centred))) ** 0.5
    return rewards, [c / scale for c in centred] if scale > 1e-8 else [0.0] * len(centred)


@given(batches(scopes=("all",)))
def test_where_every_channel_reaches_all_tokens_nothing_has_changed_to_the_bit(batch: Batch) -> None:
    rewards, wanted = earlier(*batch)
    assert combine(*batch).rewards == rewards
    found = credit(*batch)
    assert found.answer == found.think == wanted


@given(batches())
def test_advantages_sum_to_zero_in_every_group(batch: Batch) -> None:
    found = credit(*batch)
    for column in (found.answer, found.think):
        for group in set(batch.groups):
            assert math.fsum(a for a, g in zip(column, batch.groups, strict=True) if g == group) == pytest.approx(0, abs=1e-6)


@given(batches())
def test_the_mean_square_of_the_batch_is_one_or_zero(batch: Batch) -> None:
    found = credit(*batch)
    square = math.fsum(a * a for a in (*found.answer, *found.think)) / (2 * len(batch.groups))
    assert square == pytest.approx(1.0) or square == 0.0


@pytest.mark.parametrize("how", ["center", "gdpo"])
@given(batch=batches(), factor=st.sampled_from([0.01, 3.0, 50.0]))
def test_scaling_all_weights_changes_no_advantage(how: Any, batch: Batch, factor: float) -> None:
    scaled = [Channel(c.name, c.values, [factor * w for w in c.weights], c.better, c.scope) for c in batch.channels]
    assert close(credit(scaled, batch.groups, how), credit(*batch, how))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("scope", ["all", "think", "answer"])
@given(batch=batches())
def test_a_channel_that_says_the_same_of_every_row_changes_no_advantage(how: Any, scope: Any, batch: Batch) -> None:
    before = combine(*batch)
    if before.unscored:  # a row nobody graded would be graded by it
        return
    more = [*batch.channels, channel(*[0.25] * len(batch.groups), weight=0.25, scope=scope)]
    assert close(credit(more, batch.groups, how), credit(*batch, how))


@pytest.mark.parametrize("how", HOWS)
@given(batch=batches())
def test_unscored_rows_get_exactly_nothing(how: Any, batch: Batch) -> None:
    found = credit(*batch, how)
    for row, reward in enumerate(combine(*batch).rewards):
        assert reward is not None or (found.answer[row], found.think[row]) == (0.0, 0.0)


@pytest.mark.parametrize("how", HOWS)
@given(batch=batches(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(how: Any, batch: Batch, order: Any) -> None:
    places = list(range(len(batch.groups)))
    order.shuffle(places)
    moved = [
        Channel(c.name, [c.values[i] for i in places], [c.weights[i] for i in places], c.better, c.scope) for c in batch.channels
    ]
    found, wanted = credit(moved, [batch.groups[i] for i in places], how), credit(*batch, how)
    assert close(found, Advantages([wanted.answer[i] for i in places], [wanted.think[i] for i in places]))


def test_one_scale_serves_the_whole_batch_so_that_a_quiet_group_stays_quiet() -> None:
    found = credit([channel(0.0, 1.0, 0.50, 0.51)], ["loud", "loud", "quiet", "quiet"]).answer
    assert abs(found[2]) / abs(found[0]) == pytest.approx(0.01, rel=1e-6)


def test_equal_rewards_teach_nothing_instead_of_amplified_noise() -> None:
    assert credit([channel(*[0.3] * 4)], ["g"] * 4).answer == [0.0] * 4
    assert flat_groups(combine([channel(0.3, 0.3, 0.1, 0.2)], ["a", "a", "b", "b"]), ["a", "a", "b", "b"]) == {"a"}


# --- streams ------------------------------------------------------------------------------------------------------------------


def test_a_channel_reaches_the_tokens_of_its_scope_and_no_others() -> None:
    rows = (0.0, 1.0)
    alone = {scope: credit([channel(*rows, scope=scope)], ["g", "g"]) for scope in ("all", "think", "answer")}
    assert alone["think"].answer == alone["answer"].think == [0.0, 0.0]
    assert alone["think"].think == alone["answer"].answer == pytest.approx([-math.sqrt(2), math.sqrt(2)])
    assert alone["all"].answer == alone["all"].think == [-1.0, 1.0]


@given(batches())
def test_every_stream_is_centred_by_itself_and_added(batch: Batch) -> None:
    combined = combine(*batch)
    if all(r is not None for r in combined.rewards):
        found = credit(*batch)
        parts = {s: [1.0 * (v or 0.0) for v in values] for s, values in combined.streams.items()}
        for own, column in (("answer", found.answer), ("think", found.think)):
            plain = [a + b for a, b in zip(parts["all"], parts[own], strict=True)]  # type: ignore[index]
            apart = [
                value - sum(v for v, h in zip(plain, batch.groups, strict=True) if h == g) / batch.groups.count(g)
                if batch.groups.count(g) > 1
                else 0.0
                for value, g in zip(plain, batch.groups, strict=True)
            ]
            ratios = {round(a / c, 6) for a, c in zip(column, apart, strict=True) if abs(c) > 1e-6}
            assert len(ratios) <= 1  # the same one scale everywhere


def test_a_group_is_flat_only_if_it_is_flat_in_every_stream() -> None:
    thought, answered = channel(0.0, 1.0, scope="think"), channel(1.0, 0.0, scope="answer")
    combined = combine([thought, answered], ["g", "g"])
    assert combined.rewards == [1.0, 1.0]
    assert flat_groups(combined, ["g", "g"]) == set()


# --- the other two ways -------------------------------------------------------------------------------------------------------


def test_std_is_stock_grpo() -> None:
    draw = [0.1, 0.5, 0.9, 0.4, 0.30, 0.31, 0.30, 0.33]
    groups = ["a"] * 4 + ["b"] * 4
    found = credit([channel(*draw)], groups, "std").answer
    for start in (0, 4):
        group = draw[start : start + 4]
        mean = sum(group) / 4
        sd = math.sqrt(sum((r - mean) ** 2 for r in group) / 3)
        assert found[start : start + 4] == pytest.approx([(r - mean) / (sd + EPSILON) for r in group])


def test_std_makes_a_groups_noise_as_loud_as_a_signal() -> None:
    found = credit([channel(0.0, 1.0, 0.50, 0.51)], ["loud", "loud", "quiet", "quiet"], "std").answer
    assert abs(found[2]) / abs(found[0]) == pytest.approx(1.0, abs=0.02)


def test_gdpo_tells_apart_what_a_sum_confuses() -> None:
    # arXiv 2601.05242, figure 2: two binary rewards; (0, 1) and (0, 2) are the same to a group's own deviation
    def spread(first: tuple[float, float], second: tuple[float, float], how: Any) -> float:
        still = ((0.0, 1.0), (0.0, 1.0))
        left, right = (channel(*pair, *quiet, scope="all") for pair, quiet in zip((first, second), still, strict=True))
        found = credit([left, right], ["g", "g", "h", "h"], how).answer
        return found[1] / found[3]

    one, both = ((0.0, 1.0), (0.0, 0.0)), ((0.0, 1.0), (0.0, 1.0))
    assert spread(*one, "std") == pytest.approx(spread(*both, "std"), rel=1e-3)
    assert spread(*one, "gdpo") == pytest.approx(0.5 * spread(*both, "gdpo"))


@given(batches(gaps=False))
def test_gdpo_is_the_papers_formula_with_every_deviation_floored(batch: Batch) -> None:
    rows = [i for i, g in enumerate(batch.groups) if batch.groups.count(g) > 1]
    wanted: dict[str, list[float]] = {}
    for own in ("answer", "think"):
        sums = [0.0] * len(batch.groups)
        for c in (c for c in batch.channels if c.scope in ("all", own)):
            values = [(v or 0.0) if c.better == "high" else 1 - (v or 0.0) for v in c.values]
            for i in rows:
                mates = [values[j] for j in rows if batch.groups[j] == batch.groups[i]]
                mean = math.fsum(mates) / len(mates)
                sd = math.sqrt(math.fsum((m - mean) ** 2 for m in mates) / (len(mates) - 1))
                sums[i] += c.weights[i] * (values[i] - mean) / max(sd, SIGMA_MIN)
        wanted[own] = sums
    rms = math.sqrt(math.fsum(s * s for column in wanted.values() for s in column) / (2 * len(batch.groups)))
    scale = max(rms, SIGMA_MIN * max(c.weights[0] for c in batch.channels))
    found = credit(*batch, "gdpo")
    assert found.answer == pytest.approx([s / scale for s in wanted["answer"]], abs=1e-9)
    assert found.think == pytest.approx([s / scale for s in wanted["think"]], abs=1e-9)


def test_the_floor_keeps_a_nearly_constant_channel_quiet() -> None:
    # language consistency between 0.98 and 1 beside a clear signal: a tenth to a fifth of its voice, not as loud
    language, accuracy = channel(0.98, 1.0, 0.98, 1.0), channel(0.0, 0.0, 1.0, 1.0)
    found = credit([language, accuracy], ["g"] * 4, "gdpo").answer
    by_language, by_accuracy = found[1] - found[0], found[2] - found[0]
    assert by_language / by_accuracy == pytest.approx((0.02 / SIGMA_MIN) / (1 / math.sqrt(1 / 3)))


def test_rewards_are_the_sum_of_the_streams() -> None:
    made: Combined = combine([channel(0.5, 1.0), channel(0.2, 0.4, scope="think"), channel(1.0, 0.0, scope="answer")], ["g", "g"])
    assert made.rewards == pytest.approx([sum(made.streams[s][i] or 0.0 for s in made.streams) for i in range(2)])
