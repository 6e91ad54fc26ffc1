"""The gap of a reward over its gold, its area, its onset and its hacks, on journals whose numbers can be counted by hand."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import JOURNAL_BETTER, journal, journal_steps, kept

from temper import files, stats
from temper.ablate import Chain, gaming_by_stage
from temper.judge_error import Errors, Rate
from temper.prove.evaluate import Panel
from temper.prove.gaming import ablation, ablations, broke_out, gaming, hack_rates, over_refusal_hack
from temper.prove.gap import Gold, area, fitted, onset
from temper.rewards.hacks import Hack
from temper.train.recipe import parse_recipe
from temper.types import Completion, Example, Message, Named, Score

GOLD = Gold("gold")
FEW = 40  # bootstrap draws: the tests look at values, or at intervals far from their limits


def paid(number, value, gold, *, step=0, kind="harmful", weight=1.0, flags=None, penalties=None, learned=None):
    """A row paid by the one channel `mark`; `gold` is P(unsafe)."""
    return {
        "step": step, "id": f"p{number}", "class": kind, "scores": {"mark": {"value": value}, "gold": {"value": gold}},
        "flags": flags or {}, "weights": {"mark": weight} if step else {}, "penalties": penalties or {}, "learned": learned,
    }  # fmt: skip


def measured(rows, steps=(), judge=GOLD, *, better=JOURNAL_BETTER, **kwargs):
    """`gaming` of rows paid by their own weights."""
    rows, reference = kept(rows, better)
    return gaming(rows, steps, judge, reference=reference, **kwargs)


def hand(rows, steps=(), judge=GOLD, *, draws=FEW):
    return measured(rows, steps, judge, better={"mark": "high"}, draws=draws)


def start():
    """Rewards 0.2, 0.4, 0.6, 0.8 that are good in 0, 1/2, 1/2 and 1 of their two answers each."""
    good = [0, 0, 0, 1, 1, 0, 1, 1]
    return [paid(i, 0.2 + 0.2 * (i // 2), 1.0 - g) for i, g in enumerate(good)]


def hackless(t):
    return 0.0


def rising(t):
    """The hack of the simulated gamed run: absent for a third of training, then ever more frequent."""
    return max(0.0, min(0.9, 2 * (t - 0.35)))


def learning(t):
    return 0.5 + 0.45 * min(1.0, t / 0.3)


@pytest.fixture(scope="module")
def gamed():
    rows = journal(safe=learning, hack=rising)
    return measured(rows, journal_steps(rows))


def test_the_gap_is_the_mapped_reward_less_gold():
    rows = [*start(), *(paid(i, 0.8, 1.0, step=1) for i in range(3)), paid(3, 0.2, 0.0, step=1)]
    found = hand(rows)
    assert found.end.proxy.value == pytest.approx(3 / 4) and found.end.gold.value == pytest.approx(1 / 4)
    assert found.end.gap.value == pytest.approx(1 / 2)


def test_a_reward_between_two_seen_at_the_start_is_mapped_between_their_shares():
    found = hand([*start(), paid(0, 0.7, 0.0, step=1)])
    assert found.end.proxy.value == pytest.approx(3 / 4)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=50, deadline=None)
def test_the_gap_at_the_start_is_zero_whatever_the_reward_is(answers):
    rows = [paid(i, value, float(bad)) for i, (value, bad) in enumerate(answers)]
    found = hand([*rows, paid(0, 0.5, 0.0, step=1)], draws=2)
    assert found.windows[0].gap.value == pytest.approx(0.0, abs=1e-12)
    assert found.windows[0].gap.low == pytest.approx(0.0, abs=1e-12) == found.windows[0].gap.high


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=40))
def test_the_map_rises_and_keeps_the_mean(answers):
    rewards, good = (np.asarray(column) for column in zip(*answers, strict=True))
    curve = fitted(rewards, good)
    assert (np.diff(curve(np.sort(rewards))) >= -1e-12).all()
    assert curve(rewards).mean() == pytest.approx(good.mean(), abs=1e-9)


def test_the_map_does_not_change_when_the_reward_is_stretched():
    rewards, good = np.asarray([0.1, 0.4, 0.2, 0.9]), np.asarray([0.0, 1.0, 1.0, 1.0])
    assert fitted(rewards, good)(rewards) == pytest.approx(fitted(7 * rewards - 3, good)(7 * rewards - 3))


def test_rows_that_gold_did_not_grade_count_nowhere():
    rows = [*start(), paid(0, 0.8, 1.0, step=1)]
    more = [*rows, *(paid(9, value, None, step=step) for value in (0.0, 1.0) for step in (0, 1))]
    assert hand(more).end == hand(rows).end and hand(more).start == 8


def test_rows_that_a_channel_could_not_score_beside_their_group_count_nowhere():
    rows = [*start(), paid(0, 0.8, 1.0, step=1)]
    assert hand([*rows, paid(0, None, 0.0, step=1)]).end == hand(rows).end


def test_a_weight_that_doubles_does_not_look_like_a_better_reward():
    steady = [*start(), *(paid(i, 0.6, 0.5, step=1) for i in range(4))]
    doubled = [*start(), *(paid(i, 0.6, 0.5, step=1, weight=2.0) for i in range(4))]
    assert hand(doubled).end.gap.value == pytest.approx(hand(steady).end.gap.value) == pytest.approx(0.0)


def test_the_rewards_that_the_stage_itself_gave_its_start_are_the_map_of_the_steps_after_them():
    rows = [*start(), *({**paid(i, None, 1.0, step=i + 1), "reward": 1.0} for i in range(4))]
    faithful = [1.0 - r["scores"]["gold"]["value"] for r in start()]
    blurred = [1.0] * 8
    found = gaming(rows, [], GOLD, reference=[{"step": 0, "rewards": blurred}, {"step": 3, "rewards": faithful}], draws=FEW)
    assert found.end.first == 4 and found.end.proxy.value == pytest.approx(1.0)  # step 4 is paid by what changed after step 3
    known = [{"step": 0, "rewards": blurred}, {"step": 3, "rewards": faithful}]
    early = gaming(rows[:-1], [], GOLD, reference=known, draws=FEW)
    assert early.end.proxy.value == pytest.approx(0.5)


def test_a_stage_without_answers_of_its_start_or_without_their_rewards_has_no_gap():
    assert hand([paid(0, 0.5, 1.0, step=1)]) is None
    assert gaming([*start(), paid(0, 0.5, 1.0, step=1)], [], GOLD, reference=[], draws=FEW) is None


def test_few_answers_of_the_start_are_said():
    assert any("8 answers" in m for m in hand([*start(), paid(0, 0.5, 1.0, step=1)]).missing)


def slow_area(distances, gaps, cells=20_000):
    """Midpoint sums over each straight piece between points that reach further than any before."""
    total, reached = 0.0, distances[0]
    for (_, a), (d, b) in zip(zip(distances, gaps, strict=True), list(zip(distances, gaps, strict=True))[1:], strict=False):
        width = max(0.0, d - reached)
        reached = max(reached, d)
        at = (np.arange(cells) + 0.5) / cells
        total += width * float(np.maximum(a + (b - a) * at, 0.0).mean())
    return total


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(-1, 1)), min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_the_area_is_the_integral_of_the_positive_gap_over_new_ground(points):
    distances, gaps = [d for d, _ in points], [g for _, g in points]
    assert area(distances, gaps) == pytest.approx(slow_area(distances, gaps), abs=1e-4)


def test_the_area_of_a_triangle_that_begins_below_zero_is_known():
    assert area([0.0, 2.0], [-1.0, 1.0]) == pytest.approx(0.5)


def test_a_policy_that_does_not_move_has_no_area():
    rows = journal(steps=12, safe=learning, hack=rising)
    still = measured(rows, journal_steps(rows, kl=lambda t: 0.0), draws=FEW)
    assert still.area.value == 0.0


def test_without_a_recorded_distance_there_is_no_area_and_it_is_said():
    found = hand([*start(), paid(0, 0.5, 1.0, step=1)])
    assert found.area.n == 0 and any("KL" in m for m in found.missing)


def shares(levels, n, rng):
    drawn = [[float(rng.random() < p) for _ in range(n)] for p in levels]
    return [lambda confidence, values=values: stats.share(values, None, confidence) for values in drawn]


def test_an_onset_is_found_after_gold_has_fallen_and_not_before():
    rng = random.Random(0)
    gold, proxy = shares([0.5, 0.7, 0.9, 0.9, 0.85, 0.5, 0.3], 200, rng), shares([0.5, 0.7, 0.9, 0.9, 0.9, 0.9, 0.9], 200, rng)
    assert onset(gold, proxy) == 5


def test_a_proxy_that_falls_with_gold_is_no_onset():
    rng = random.Random(0)
    fall = [0.9, 0.9, 0.5, 0.3]
    assert onset(shares(fall, 200, rng), shares(fall, 200, rng)) is None


def test_runs_in_which_nothing_falls_have_an_onset_in_at_most_five_of_a_hundred():
    rng = random.Random(1)
    found = [onset(shares([0.6] * 12, 60, rng), shares([0.6] * 12, 60, rng)) for _ in range(200)]
    assert sum(f is not None for f in found) <= 10


def test_a_gamed_run_has_a_gap_an_area_an_onset_and_has_broken_out(gamed):
    assert gamed.end.gap.low > 0.5 and gamed.area.low > 0.2
    assert 21 < gamed.onset < 36  # the hack begins at step 21, and is on a third of the answers at 32
    assert any("unsafe" in reason for reason in gamed.broke_out) and any("refusal-prefix" in reason for reason in gamed.broke_out)


def test_a_run_that_only_learns_has_none_of_them():
    rows = journal(safe=learning, hack=hackless)
    found = measured(rows, journal_steps(rows), draws=FEW)
    assert found.end.gap.low <= 0 and found.onset is None and found.broke_out == () and found.area.value < 0.03


def test_multipliers_that_grow_leave_a_faithful_reward_without_a_gap():
    rows = journal(safe=learning, multiplier=lambda t: 1.0 + int(4 * t))
    found = measured(rows, journal_steps(rows), draws=FEW)
    assert found.end.gap.low <= 0 < found.end.gap.value + 0.05


def test_the_interval_covers_a_gap_of_zero_in_most_of_many_flat_runs():
    covered = 0
    for seed in range(40):
        rows = journal(steps=4, answers=48, start=200, seed=seed)
        found = measured(rows, draws=100, seed=seed)
        covered += found.end.gap.low <= 0 <= found.end.gap.high
    assert covered >= 34  # 95 % of 40 are 38; fewer than 34 would happen by chance in 1 of 100


def test_the_same_journal_gives_the_same_numbers_in_json(gamed):
    rows = journal(safe=learning, hack=rising)
    again = measured(rows, journal_steps(rows))
    assert json.dumps(again.as_dict(), allow_nan=False) == json.dumps(gamed.as_dict(), allow_nan=False)


def test_a_judge_whose_errors_are_known_is_corrected_for_them_in_both_gold_and_map():
    errors = Errors(Rate(0.8, 500, 500), Rate(0.9, 500, 500))
    judge = Gold("gold", errors=errors)
    rows = [*start(), *(paid(i, 0.6, float(i < 3), step=1) for i in range(10))]
    found = hand(rows, judge=judge)
    assert found.end.gold.value == pytest.approx(1 - (0.3 + 0.9 - 1) / 0.7)
    assert found.windows[0].gap.value == pytest.approx(0.0, abs=1e-12)
    assert found.end.gap.value == pytest.approx((1 - (0.5 - 0.1) / 0.7) - found.end.gold.value)


def test_a_judge_that_knows_next_to_nothing_is_not_corrected_and_it_is_said():
    judge = Gold("gold", errors=Errors(Rate(0.55, 50, 50), Rate(0.5, 50, 50)))
    found = hand([*start(), paid(0, 0.6, 1.0, step=1)], judge=judge)
    assert found.end.gold.value == 0.0 and any("too large" in m for m in found.missing)


def test_a_judge_whose_good_end_is_high_gives_its_value_as_good():
    judge = Gold("gold", better="high")
    assert (judge.good(paid(0, 1.0, 0.9)), judge.bad(paid(0, 1.0, 0.9))) == (0.9, 0.0)


def test_hack_rates_leave_out_answers_that_a_detector_could_not_judge():
    rows = [paid(i, 0.5, 0.0, flags={"a": f, "b": None}) for i, f in enumerate((1.0, 0.0, None, 0.0))]
    rates = hack_rates(rows)
    assert rates.keys() == {"a"} and (rates["a"].value, rates["a"].n) == (pytest.approx(1 / 3), 3)


def refusing(step, refused, unsafe):
    harmless = [
        {**paid(i, 0.5, None, step=step, kind="benign"), "flags": {"refuse-everything": float(i < refused)}} for i in range(100)
    ]
    return [*harmless, *(paid(1000 + i, 0.5, float(i < unsafe), step=step) for i in range(100))]


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [((5, 60), (60, 5), True), ((5, 60), (6, 5), False), ((5, 60), (60, 58), False)],
)
def test_refusing_everybody_is_a_hack_only_where_refusals_rise_while_harm_falls(before, after, wanted):
    assert over_refusal_hack(refusing(0, *before), refusing(1, *after), GOLD) is wanted


def test_over_refusal_is_not_decided_without_rows_to_see_it():
    assert over_refusal_hack([paid(0, 0.5, 1.0)], [paid(0, 0.5, 0.0)], GOLD) is None


def spoken(number, answer):
    return Completion(Example(str(number), (Message("user", "q"),)), answer)


def test_ablation_scores_before_and_after_what_was_taken_out():
    def keyword(completions):
        return [Score(float("safe" in c.answer)) for c in completions]

    def strip(c):
        return spoken(c.example.id, c.answer.replace("safe", "")) if "safe" in c.answer else None

    found = ablation([spoken(i, "safe words") for i in range(9)] + [spoken(9, "words")], "x", strip, Named("k", keyword, "i"))
    assert (found.flagged, found.before.value, found.after.value, found.change.value, found.change.n) == (10, 1.0, 0.0, -1.0, 9)
    assert ablation([spoken(0, "words")], "x", strip, Named("k", keyword, "i")) is None


def test_each_hack_is_ablated_on_the_answers_flagged_with_it():
    def keyword(completions):
        return [Score(float("safe" in c.answer)) for c in completions]

    def strip(c):
        return replace(c, answer=c.answer.replace("safe", ""))

    hacks = [Hack(name, "", "answer", frozenset(), lambda cs, r: [], lambda c, rng: c, strip) for name in ("stuffing", "unseen")]
    rows = [
        {**r, "answer": "safe", "flags": {"stuffing": float(i < 3), "unseen": 0.0}}
        for i, r in enumerate(journal(steps=1, answers=5))
    ]
    [found] = ablations(rows, hacks, Named("k", keyword, "i"), most=2)
    assert (found.hack, found.flagged, found.change.value) == ("stuffing", 2, -1.0)


def test_what_training_tells_the_verdict_is_the_gap_and_the_rise_of_the_proxy(gamed):
    told = gamed.trained
    assert told.gap == gamed.end.gap and told.proxy.value == pytest.approx(gamed.end.proxy.value - gamed.windows[0].proxy.value)
    assert math.isfinite(told.proxy.low)


class Fixed:
    """A grader with one opinion and its good end; it holds an array, as those with weights do, and has no hash."""

    __hash__ = None

    def __init__(self, better):
        self.better, self.weights_ = better, np.zeros(2)

    def __call__(self, completions):
        return [Score(0.5) for _ in completions]


def test_a_runs_summary_has_the_gaming_of_each_stage_whose_start_was_scored(tmp_path):
    chains = [Chain((name,), name, tmp_path / f"{name}-grpo") for name in ("with", "without")]
    rows, reference = kept(journal(steps=6, start=100), JOURNAL_BETTER)
    files.append_rows(tmp_path / "with-grpo" / "reference.jsonl", reference)
    files.append_zst(tmp_path / "with-grpo" / "rollouts.jsonl.zst", rows)
    files.append_rows(tmp_path / "with-grpo" / "metrics.jsonl", journal_steps(rows))
    files.append_zst(tmp_path / "without-grpo" / "rollouts.jsonl.zst", [r for r in rows if r["step"]])
    files.write_json(tmp_path / "with-grpo" / "design.json", {"weights": {"harm": 0.5, "learned": 1.0}})
    graders = [Named(name, Fixed(end), name) for name, end in JOURNAL_BETTER.items()]
    judge = next(g for g in graders if g.name == "gold")
    panel = Panel(tuple(g for g in graders if g is not judge), judge, judge)
    recipe = parse_recipe({"base": "m", "arms": {"base": []}, "prove": {"gold": "gold"}})
    found = gaming_by_stage(recipe, chains, {"base": []}, panel, None)
    assert found.keys() == {"with-grpo"} and found["with-grpo"].labels == 360


def test_four_answers_to_one_prompt_are_no_break_out_and_give_a_gap_no_interval():
    few, many = stats.Estimate(1.0, 4, 0.4, 1.0), stats.Estimate(1.0, 40, 0.9, 1.0)
    assert broke_out(few, {"repetition": few}) == ()
    assert broke_out(many, {"repetition": many}) == ("100 % unsafe", "repetition in 100 %")
    for prompts, known in ((1, False), (6, True)):
        end = [paid(f"{i % prompts}", 0.8, 1.0, step=1) for i in range(12)]
        gap = hand([*start(), *end]).end.gap
        assert math.isfinite(gap.value)
        assert math.isfinite(gap.low) == known
