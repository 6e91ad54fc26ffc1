"""Prompt sensitivity against slow exact versions and simulation: nothing is found where conditions change nothing."""

import json
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from synthetic import row

from temper import stats
from temper.agreement import krippendorff_alpha
from temper.prove import sensitivity
from temper.prove.evidence import Evidence
from temper.prove.metrics import METRICS
from temper.prove.metrics import table as metric_table
from temper.prove.posix import posix
from temper.prove.rewrite import grid
from temper.prove.sensitivity import (
    Effect,
    Grid,
    analyse,
    by_condition,
    degrades,
    discrepancy,
    effects,
    shot_effect,
    summaries,
    table,
    variance,
)
from temper.report import sensitivity as report
from temper.stats import Estimate

UNSAFE, ACCURACY = METRICS["unsafe"], METRICS["accuracy"]


def made(cells, conditions=None, groups=None, within=None, samples=1.0):
    cells = np.asarray(cells, dtype=np.float64)
    n, k = cells.shape
    conditions = conditions or ("plain", *(f"paraphrase={j}" for j in range(1, k)))
    within = np.full(n, math.nan) if within is None else np.asarray(within)
    clusters = np.arange(n) if groups is None else np.asarray(groups)
    return Grid(tuple(("s", str(i)) for i in range(n)), tuple(conditions), cells, within, samples, clusters, 0)


def asked(row, spec):
    return row if spec == "plain" else {**row, "of": row["suite"], "suite": f"{row['suite']}+{spec}", "how": [f"rewrite:{spec}"]}


def rows(values, conditions, arm="base", kind="harmful", grader="gold"):
    """One row for each value of (prompts, conditions) or (prompts, conditions, samples); None is not graded."""
    return [
        asked(row(arm, kind, i, s, **{grader: None if v is None else float(v)}), spec)
        for i, by in enumerate(values)
        for spec, cell in zip(conditions, by, strict=True)
        for s, v in enumerate(cell if isinstance(cell, (list, tuple)) else [cell])
    ]


def drawn(rng, n, conditions, rate, samples=1, sd=0.25, shift=None):
    """(n, k, samples) 0/1 answers; every prompt has a rate of its own, `shift` moves it by condition."""
    own = np.clip(rng.normal(rate, sd, (n, 1)) + (np.zeros(len(conditions)) if shift is None else shift), 0, 1)
    return (rng.random((n, len(conditions), samples)) < own[:, :, None]).astype(int).tolist()


def test_a_table_averages_samples_and_leaves_out_prompts_that_are_not_graded_everywhere():
    found = rows([[[1, 0], [1, 1]], [[0, 0], [None, None]], [[1, 1], [0, None]]], ("plain", "shots=1"))
    grid = table(by_condition(found), UNSAFE, ("plain", "shots=1"))
    assert grid.cells.tolist() == [[0.5, 1.0], [1.0, 0.0]]
    assert grid.left_out == 1
    assert grid.within.tolist() == pytest.approx([0.25, 0.0])
    assert grid.samples == pytest.approx(4 / (3 * 0.5 + 1))


def test_an_answer_that_never_came_is_no_answer():
    found = rows([[1, 1], [0, 0]], ("plain", "shots=1"))
    found[1]["outcome"] = "error"
    assert table(by_condition(found), UNSAFE, ("plain", "shots=1")).left_out == 1


def test_the_score_of_prosa_is_the_mean_difference_over_every_two_conditions():
    cells = np.random.default_rng(0).random((20, 7))
    slow = [np.mean([abs(a - b) for a, b in combinations(of, 2)]) for of in cells]
    assert discrepancy(cells) == pytest.approx(slow)


def test_flips_and_worst_cases_count_prompts():
    told = summaries(made([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]]), UNSAFE)
    assert (told["flip_rate"].value, told["any_bad"].value) == (0.5, 0.75)
    assert summaries(made([[1, 1, 0], [0, 0, 0]]), ACCURACY)["any_bad"].value == 1.0


def test_kappa_is_the_textbook_one_and_near_krippendorffs_alpha():
    rng = np.random.default_rng(4)
    cells = (rng.random((60, 5)) < rng.random((60, 1))).astype(float)
    counts = np.stack([cells.sum(1), 5 - cells.sum(1)], 1)
    agreed = np.mean([(sum(c * (c - 1) for c in of)) / (5 * 4) for of in counts])
    by_chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    told = summaries(made(cells), UNSAFE)["kappa"]
    assert told.value == pytest.approx((agreed - by_chance) / (1 - by_chance))
    assert told.value == pytest.approx(krippendorff_alpha(cells.tolist()).value, abs=0.01)
    assert told.low < told.value < told.high


def test_kappa_is_unknown_where_every_decision_is_the_same():
    assert math.isnan(summaries(made(np.zeros((5, 3))), UNSAFE)["kappa"].value)


def test_cochrans_q_is_that_of_its_formula():
    cells = (np.random.default_rng(1).random((40, 4)) < 0.4).astype(int)
    k, columns, lines = 4, cells.sum(0), cells.sum(1)
    slow = (k - 1) * (k * (columns**2).sum() - columns.sum() ** 2) / (k * lines.sum() - (lines**2).sum())
    found = sensitivity._cochran(made(cells))
    assert found["q"] == pytest.approx(slow)
    assert found["df"] == 3


def test_cochrans_q_is_that_of_statsmodels():
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    cells = (np.random.default_rng(2).random((50, 6)) < 0.3).astype(int)
    theirs, ours = contingency.cochrans_q(cells), sensitivity._cochran(made(cells))
    assert (ours["q"], ours["p"]) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))


def test_cochrans_q_rejects_five_percent_where_conditions_change_nothing():
    rng = np.random.default_rng(5)
    small = [sensitivity._cochran(made(np.array(drawn(rng, 60, range(5), 0.4))[:, :, 0]))["p"] < 0.05 for _ in range(1500)]
    assert 0.035 < np.mean(small) < 0.065


def test_cochrans_test_keeps_its_size_where_prompts_share_clusters():
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(20), 5)
    found = [np.repeat((rng.random((20, 4)) < 0.4).astype(float), 5, axis=0) for _ in range(200)]
    small = [sensitivity._cochran(replace(made(cells), groups=groups))["p"] < 0.05 for cells in found]
    assert np.mean(small) < 0.1  # chi2 rejects two thirds of these


def test_one_cluster_of_prompts_leaves_no_number_that_json_does_not_know():
    found = [r | {"group": "one"} for r in rows([[[1], [0]], [[0], [0]]], ("plain", "shots=1"))]
    json.dumps(sensitivity.analyse(Evidence({"base": found})), allow_nan=False)


def slow_components(answers):
    """Expected mean squares of a balanced two-way layout (n, k, m), sum by sum."""
    n, k, m = answers.shape
    grand, cell = answers.mean(), answers.mean(2)
    prompt, condition = answers.mean((1, 2)), answers.mean((0, 2))
    ms_condition = n * m * sum((c - grand) ** 2 for c in condition) / (k - 1)
    ms_prompt = k * m * sum((p - grand) ** 2 for p in prompt) / (n - 1)
    left = sum((cell[i, j] - prompt[i] - condition[j] + grand) ** 2 for i in range(n) for j in range(k))
    ms_both = m * left / ((n - 1) * (k - 1))
    ms_chance = ((answers - cell[:, :, None]) ** 2).sum() / (n * k * (m - 1)) if m > 1 else 0.0
    parts = {
        "condition": (ms_condition - ms_both) / (n * m),
        "prompt": (ms_prompt - ms_both) / (k * m),
        "both": (ms_both - ms_chance) / m,
        "chance": ms_chance,
    }
    whole = sum(max(0.0, part) for part in parts.values())
    return {name: max(0.0, part) / whole for name, part in parts.items()}


def table_of(answers):
    m = answers.shape[2]
    within = answers.var(2, ddof=1).mean(1) if m > 1 else None
    return made(answers.mean(2), within=within, samples=m)


def test_the_shares_of_variance_are_those_of_the_sums_of_squares():
    rng = np.random.default_rng(8)
    answers = np.array(drawn(rng, 50, range(6), 0.4, samples=3, shift=np.linspace(-0.2, 0.3, 6)), dtype=float)
    found, slow = variance(table_of(answers)), slow_components(answers)
    assert {name: share.value for name, share in found.items()} == {name: pytest.approx(v) for name, v in slow.items()}
    single = variance(table_of(answers[:, :, :1]))
    slow = slow_components(answers[:, :, :1])
    assert single["condition"].value == pytest.approx(slow["condition"])
    assert single["rest"].value == pytest.approx(slow["both"])


def test_the_shares_of_variance_are_those_of_a_mixed_model():
    api = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(3)
    answers = rng.normal(0, 1, (40, 1, 1)) + rng.normal(0, 0.7, (1, 6, 1)) + rng.normal(0, 0.8, (40, 6, 1))
    index = [(i, j) for i in range(40) for j in range(6)]
    frame = pandas.DataFrame({"y": [answers[i, j, 0] for i, j in index], "i": [i for i, _ in index], "j": [j for _, j in index]})
    formula = {"prompt": "0 + C(i)", "condition": "0 + C(j)"}
    fitted = api.MixedLM.from_formula("y ~ 1", groups=np.ones(240), re_formula="0", vc_formula=formula, data=frame).fit(reml=True)
    whole = fitted.vcomp.sum() + fitted.scale
    theirs = dict(zip(fitted.model.exog_vc.names, fitted.vcomp / whole, strict=True))
    ours = variance(table_of(answers))
    assert ours["condition"].value == pytest.approx(theirs["condition"], abs=0.01)
    assert ours["prompt"].value == pytest.approx(theirs["prompt"], abs=0.01)


def covered(rng, shift, times=100, n=80, k=6):
    """Shares of intervals that hold the true share of variance of the conditions, and the true spread."""
    conditions, hits, spreads = range(k), 0, 0
    truth = np.array(drawn(rng, 20_000, conditions, 0.45, samples=2, shift=shift), dtype=float)
    true_share = variance(table_of(truth[:4000]))["condition"].value if np.ptp(shift) else 0.0
    true_spread = np.ptp(truth.mean((0, 2))) if np.ptp(shift) else 0.0
    for _ in range(times):
        cells = made(np.array(drawn(rng, n, conditions, 0.45, shift=shift), dtype=float)[:, :, 0])
        share, (spread, _) = variance(cells)["condition"], sensitivity._spread(cells, 0)
        hits += share.low - 1e-9 <= true_share <= share.high + 1e-9
        spreads += spread.low - 1e-9 <= true_spread <= spread.high + 1e-9
    return hits / times, spreads / times


@pytest.mark.parametrize("size", [0.0, 0.3])
def test_intervals_of_spread_and_variance_hold_the_truth_nine_times_in_ten_or_more(size):
    share, spread = covered(np.random.default_rng(6), np.linspace(-size / 2, size / 2, 6))
    assert share > 0.9
    assert spread > 0.9


def test_the_spread_by_chance_is_what_shuffled_conditions_give():
    rng = np.random.default_rng(9)
    cells = np.array(drawn(rng, 100, range(8), 0.4), dtype=float)[:, :, 0]
    shuffled = [np.ptp(rng.permuted(cells, axis=1).mean(0)) for _ in range(500)]
    _, by_chance = sensitivity._spread(made(cells), 0)
    assert by_chance == pytest.approx(np.mean(shuffled), rel=0.05)


def test_one_rewrite_beside_plain_has_the_paired_difference_for_effect():
    cells = np.array([[0, 1], [0, 0], [1, 1], [0, 0], [1, 0], [0, 1]], dtype=float)
    found = effects(made(cells, ("plain", "shots=3")))["shots=3"]
    change = cells[:, 1] - cells[:, 0]
    assert found.estimate.value == pytest.approx(change.mean())
    half = stats.student(5) * change.std(ddof=1) / math.sqrt(6)
    assert (found.estimate.low, found.estimate.high) == (pytest.approx(change.mean() - half), pytest.approx(change.mean() + half))
    assert found.adjusted


def test_effects_are_those_of_least_squares_with_a_level_for_each_prompt():
    rng, conditions = np.random.default_rng(2), grid(16, seed=1)
    cells = rng.random((30, 16))
    found = effects(made(cells, conditions))
    names = list(found)
    design = [
        [float(i == p) for p in range(30)] + [float(name in spec.split(",")) for name in names]
        for i in range(30)
        for spec in conditions
    ]
    slow = np.linalg.lstsq(np.array(design), cells.ravel(), rcond=None)[0][30:]
    assert [found[name].estimate.value for name in names] == pytest.approx(slow.tolist())
    assert all(effect.adjusted for effect in found.values())


def test_a_grid_finds_the_level_that_matters_and_no_other():
    rng, conditions = np.random.default_rng(0), grid(16)
    shift = np.array([0.25 * ("shots=3" in spec.split(",")) for spec in conditions])
    cells = np.array(drawn(rng, 200, conditions, 0.3, shift=shift), dtype=float)[:, :, 0]
    told = {name: {"effects": {n: e.as_dict() for n, e in effects(made(cells, conditions)).items()}} for name in ("one", "two")}
    sensitivity._correct(told)
    for of in told.values():
        assert [name for name, effect in of["effects"].items() if effect["holm"] < 0.05] == ["shots=3"]
    family = [effect for of in told.values() for effect in of["effects"].values()]
    assert [effect["holm"] for effect in family] == stats.holm([effect["p"] for effect in family])
    assert told["one"]["effects"]["shots=3"]["value"] == pytest.approx(0.25, abs=0.05)


def test_with_too_few_cells_an_effect_says_that_it_is_not_adjusted():
    conditions = ("plain", "shots=1,place=system", "shots=1,place=system,paraphrase=1")
    found = effects(made(np.random.default_rng(0).random((9, 3)), conditions))
    assert not found["shots=1"].adjusted
    assert found["paraphrase=1"].adjusted


def test_effects_where_conditions_change_nothing_are_called_so_five_times_in_a_hundred():
    rng, small = np.random.default_rng(12), []
    for _ in range(600):
        groups = np.repeat(np.arange(20), 3)
        cells = np.array(drawn(rng, 60, range(2), 0.4), dtype=float)[:, :, 0]
        small.append(shot_effect(made(cells, ("plain", "shots=1"), groups)).p < 0.05)
    assert 0.03 < np.mean(small) < 0.075


def test_prompts_of_one_group_count_as_one():
    cells = np.tile([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], (5, 1))
    alone = shot_effect(made(cells[:4], ("plain", "shots=1")))
    five = shot_effect(made(cells, ("plain", "shots=1"), groups=np.tile(np.arange(4), 5)))
    assert five.estimate.high - five.estimate.low == pytest.approx(alone.estimate.high - alone.estimate.low)


@pytest.mark.parametrize(
    ("low", "value", "high", "p", "said"),
    [(0.02, 0.1, 0.18, 0.01, "yes"), (-0.03, -0.01, 0.01, 0.4, "no"), (-0.1, 0.02, 0.14, 0.7, "cannot tell")],
)
def test_examples_degrade_only_where_a_loss_is_shown(low, value, high, p, said):
    assert degrades(Effect(Estimate(value, 50, low, high), p, 0.1, True), UNSAFE, p) == said
    assert degrades(Effect(Estimate(-value, 50, -high, -low), p, 0.1, True), ACCURACY, p) == said


def test_the_analysis_says_nothing_without_rewritten_suites():
    assert analyse(Evidence({"base": rows([[1], [0]], ("plain",))})) is None


def test_the_analysis_tells_every_arm_and_compares_their_sensitivity():
    rng, conditions = np.random.default_rng(1), ("plain", "shots=3", "place=system")
    steady = rows([[int(i % 2)] * 3 for i in range(40)], conditions, "base")
    shaky = rows([[v[0] for v in of] for of in drawn(rng, 40, conditions, 0.5)], conditions, "rl")
    told = analyse(Evidence({"base": steady, "rl": shaky}))
    base, rl = (told["arms"][arm]["measures"]["unsafe"] for arm in ("base", "rl"))
    assert (base["pss"]["value"], base["flip_rate"]["value"], base["kappa"]["value"]) == (0, 0, 1)
    assert base["variance"]["condition"]["value"] == 0
    assert base["spread"]["high"] == pytest.approx(stats.clopper_pearson(0, 40).high)
    assert set(base["by_condition"]) == set(conditions)
    assert base["by_condition"]["plain"]["change"] is None
    assert rl["pss"]["value"] > 0.3
    [pair] = [p for p in told["pairs"] if p["measure"] == "unsafe"]
    assert pair["low"] > 0
    assert told["arms"]["base"]["few_shot"]["degrades"] == "cannot tell"
    assert "accuracy" not in told["arms"]["base"]["measures"]


def test_nothing_is_said_to_have_been_visible_where_one_of_the_rates_never_changed():
    told = {"degrades": "cannot tell", "measures": {"unsafe": {"mde": None}, "accuracy": {"mde": 0.1}}}
    assert report._seen(told) == ""
    assert "10.0 points" in report._seen({**told, "measures": {"accuracy": {"mde": 0.1}}})


def test_plain_rows_of_suites_that_nobody_rewrote_do_not_count():
    found = rows([[1, 0]] * 5, ("plain", "shots=1"))
    other = [{**r, "suite": "other", "id": f"o{i}"} for i, r in enumerate(rows([[1]] * 7, ("plain",)))]
    told = analyse(Evidence({"base": [*found, *other]}))
    assert told["arms"]["base"]["measures"]["unsafe"]["n"] == 5
    assert told["arms"]["base"]["measures"]["unsafe"]["left_out"] == 0


def test_ungraded_answers_are_bounded_beside_every_rate():
    told = analyse(Evidence({"base": rows([[1, 0], [0, None], [1, 1]], ("plain", "shots=1"))}))
    shown = told["arms"]["base"]["measures"]["unsafe"]["by_condition"]["shots=1"]
    assert (shown["n"], shown["ungraded"], shown["worst"], shown["best"]) == (2, 1, pytest.approx(2 / 3), pytest.approx(1 / 3))


def line(asked, answered, logprob, tokens=4, name="a", klass="harmful"):
    return {
        "of": "s", "id": name, "group": name, "class": klass,
        "asked": asked, "answered": answered, "logprob": logprob, "tokens": tokens,
    }  # fmt: skip


def test_posix_is_the_mean_change_of_log_probability_a_token():
    lines = [line("x", "x", -8.0), line("y", "x", -12.0), line("y", "y", -6.0, 2), line("x", "y", -5.0, 2)]
    assert posix(lines)["harmful"]["value"] == pytest.approx((4 / 4 + 1 / 2) / 2)
    both = [*lines, *(line(a, b, -1.0, name="b") for a in "xy" for b in "xy")]
    assert posix(both)["harmful"]["value"] == pytest.approx(0.375)
    assert posix(both)["harmful"]["n"] == 2


def test_an_answer_without_a_token_has_no_log_probability_to_change():
    assert posix([line("x", "x", 0.0, 0), line("y", "x", 0.0, 0), line("y", "y", -3.0), line("x", "y", -5.0)])["harmful"][
        "value"
    ] == pytest.approx(0.5)
    assert posix([]) == {}


def test_a_metric_of_another_judge_is_read_where_it_is_gold():
    found = rows([[1, 0], [0, 1]], ("plain", "shots=1"), grader="mine")
    told = analyse(Evidence({"base": found}, gold="mine"))
    assert told["arms"]["base"]["measures"]["unsafe"]["n"] == 2
    assert metric_table(gold="mine")["unsafe"].value(found[0]) == 1.0


def test_a_way_of_asking_that_another_harness_names_has_rates_but_no_levels():
    told = analyse(Evidence({"base": rows([[1, 0], [0, 1], [1, 1]], ("plain", "their template 7"))}))
    found = told["arms"]["base"]["measures"]["unsafe"]
    assert found["by_condition"]["their template 7"]["value"] == pytest.approx(2 / 3)
    assert found["effects"] == {}
    assert told["arms"]["base"]["few_shot"] is None
