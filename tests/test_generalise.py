"""The gap out of distribution: what belongs where, what is refused, and numbers that can be counted by hand."""

import math

import numpy as np
import pytest
from speed import cpu_seconds, slowness
from synthetic import row

from temper import stats
from temper.prove.evidence import Evidence
from temper.prove.generalise import generalisation
from temper.report.generalisation import section
from temper.report.read import Run

CLEAN = {"n": 0, "ids": []}


def prompts(arm, unsafe, n=40, *, suite="harm", start=0, **fields):
    rows = [row(arm, "harmful", start + i, gold=float(i < unsafe), category="fraud") for i in range(n)]
    return [r | {"suite": suite} | fields for r in rows]


def attacked(arm, unsafe, n=40):
    return prompts(arm, unsafe, n, suite="harm+base64", of="harm", how=["attack:base64"])


def evidence(**arms):
    suites = {r["suite"] for rows in arms.values() for r in rows}
    return Evidence(arms, held_out=("privacy",), overlap=dict.fromkeys(suites, CLEAN))


def one(found, kind="gaps", **wanted):
    (only,) = [g for g in found[kind] if all(g[k] == v for k, v in wanted.items())]
    return only


def test_every_row_has_its_split_and_what_is_out_of_distribution_twice_has_none():
    rows = [
        *prompts("m", 4),
        *prompts("m", 8, start=40, category="privacy"),
        *prompts("m", 12, suite="other"),
        *prompts("m", 16, suite="french", language="fr"),
        *attacked("m", 20),
        *prompts("m", 40, suite="harm+shots", of="harm", how=["rewrite:shots=3"]),
        *prompts("m", 40, suite="other+base64", of="other", how=["attack:base64"]),
    ]
    found = generalisation(evidence(m=rows))
    rates = {r["split"]: r["value"] for r in found["rates"]}
    assert rates == {
        "in distribution": 0.1, "held-out category": 0.2, "other source": 0.3, "attacked": 0.5, "other language": 0.4
    }  # fmt: skip
    assert {g["split"]: g["value"] for g in found["gaps"]} == pytest.approx(
        {"held-out category": 0.1, "other source": 0.2, "attacked": 0.4, "other language": 0.3}
    )


def test_a_split_without_an_overlap_check_or_with_shared_prompts_is_refused_with_the_reason():
    rows = [*prompts("m", 4), *prompts("m", 30, suite="unchecked"), *attacked("m", 20)]
    found = generalisation(Evidence({"m": rows}, overlap={"harm": CLEAN}))
    assert [g["split"] for g in found["gaps"]] == ["attacked"]
    assert one(found, "refused")["why"].startswith("no check of training data against the suite unchecked was run")
    assert not [r for r in found["rates"] if r["split"] == "other source"]
    shared = generalisation(Evidence({"m": rows}, overlap={"harm": CLEAN, "unchecked": {"n": 3, "ids": ["harmful-0001"] * 1}}))
    assert "3 prompts of the suite unchecked also stand in the training data" in one(shared, "refused")["why"]


def test_an_attack_does_not_hide_that_its_prompt_was_trained_on():
    rows = [*prompts("m", 4), *attacked("m", 20)]
    overlap = {"harm": {"n": 1, "ids": ["harmful-0007"]}, "harm+base64": CLEAN}
    assert [r["split"] for r in generalisation(Evidence({"m": rows}, overlap=overlap))["refused"]] == ["attacked"]


def test_shared_prompts_that_are_all_named_refuse_only_the_split_they_are_in():
    rows = [*prompts("m", 4), *prompts("m", 8, start=40, category="privacy")]
    trained = Evidence({"m": rows}, held_out=("privacy",), overlap={"harm": {"n": 1, "ids": ["harmful-0003"]}})
    leaked = Evidence({"m": rows}, held_out=("privacy",), overlap={"harm": {"n": 1, "ids": ["harmful-0041"]}})
    assert generalisation(trained)["gaps"] and not generalisation(trained)["refused"]
    assert generalisation(leaked)["refused"] and not generalisation(leaked)["gaps"]


def test_a_proof_of_one_kind_of_prompt_has_nothing_to_tell():
    assert generalisation(evidence(m=prompts("m", 4))) is None
    assert generalisation(evidence(m=[])) is None


def test_the_difference_of_differences_is_between_arms():
    found = generalisation(
        evidence(sft=[*prompts("sft", 2, 100), *attacked("sft", 60, 100)], rl=[*prompts("rl", 2, 100), *attacked("rl", 10, 100)])
    )
    assert one(found, arm="sft")["finding"] == "worse" and one(found, arm="sft")["value"] == pytest.approx(0.58)
    did = one(found, "differences")
    assert (did["base"], did["arm"], did["finding"]) == ("sft", "rl", "better")
    assert did["value"] == pytest.approx(-0.50) and did["high"] < 0


def test_what_cannot_be_told_says_what_would_have_been_seen():
    gap = one(generalisation(evidence(m=[*prompts("m", 4), *prompts("m", 5, suite="other")])))
    assert gap["finding"] == "cannot tell" and gap["low"] < 0 < gap["high"] and 0.1 < gap["mde"] < 0.3


def test_the_worst_group_is_named_with_an_interval_for_all_groups_at_once():
    rows = [*prompts("m", 4), *prompts("m", 20, start=40, category="privacy"), *prompts("m", 9, 9, suite="tiny")]
    (worst,) = generalisation(evidence(m=rows))["worst_group"]
    assert (worst["group"], worst["value"], worst["n"]) == ("category privacy", 0.5, 40)
    assert worst["groups"] == 4  # suite harm, two categories, English; the tiny suite is too small to be named
    alone = stats.proportion(20, 40)
    assert worst["low"] < alone.low and worst["high"] > alone.high


def test_a_contrast_resamples_shared_clusters_through_all_cells():
    """The same prompts in both cells: with values that move together the gap is sharper than of independent prompts."""
    rng = np.random.default_rng(0)
    luck, n = rng.random(300), 300
    values = [*(luck < 0.3).astype(float), *(luck < 0.4).astype(float)]
    cells = ["home"] * n + ["away"] * n
    weights = {"away": 1.0, "home": -1.0}
    shared = stats.linear_contrast(values, cells, weights, [*range(n), *range(n)], seed=1)
    apart = stats.linear_contrast(values, cells, weights, [*range(2 * n)], seed=1)
    assert shared.value == apart.value
    assert shared.high - shared.low < 0.6 * (apart.high - apart.low)


def test_a_contrast_of_two_cells_of_the_same_units_is_the_paired_difference():
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, 2, 200).astype(float) for _ in range(2))
    paired = stats.paired_difference(x, y, seed=3)
    found = stats.linear_contrast([*x, *y], ["x"] * 200 + ["y"] * 200, {"x": 1.0, "y": -1.0}, [*range(200), *range(200)], seed=3)
    assert found.value == pytest.approx(paired.value)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=0.01)


def test_a_contrast_agrees_with_one_that_resamples_groups_one_by_one():
    """Against a plain loop over resamples of group ids, on values that are no shares, in groups of uneven size."""
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 40, 300)
    cells = rng.choice(["a", "b", "c"], 300)
    values = rng.normal(size=300) + groups / 40
    weights = {"a": 1.0, "b": -0.5, "c": -0.5}
    found = stats.linear_contrast(values, list(cells), weights, groups, draws=20_000, seed=5)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    slow = []
    for _ in range(8000):
        rows = np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])
        slow.append(sum(w * values[rows][cells[rows] == c].mean() for c, w in weights.items()))
    assert found.value == pytest.approx(sum(w * values[cells == c].mean() for c, w in weights.items()))
    # Student's quantiles of the cell with the fewest groups are a little wider than the percentiles
    fewest = min(len(set(groups[cells == c])) for c in weights)
    wider = math.sqrt(fewest / (fewest - 1)) * stats.student(fewest - 1) / stats.normal()
    assert (found.high - found.low) / np.ptp(np.quantile(slow, (0.025, 0.975))) == pytest.approx(wider, rel=0.06)


def test_a_cell_whose_values_all_agree_keeps_its_uncertainty():
    found = stats.linear_contrast([0.0] * 50 + [1.0] * 5 + [0.0] * 45, ["a"] * 50 + ["b"] * 50, {"b": 1.0, "a": -1.0})
    wilson = stats.contrast(stats.proportion(5, 50), stats.proportion(0, 50))
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))
    assert stats.linear_contrast([1.0], ["a"], {"a": 1.0, "b": -1.0}).n == 0


def test_twenty_thousand_rows_a_second_are_compared():
    arms = {arm: [*prompts(arm, 225, 1_250), *attacked(arm, 375, 1_250)] for arm in ("base", "sft", "rl", "hybrid")}
    given = evidence(**arms)
    assert len(generalisation(given)["differences"]) == 6
    assert 10_000 / cpu_seconds(lambda: generalisation(given)) > 20_000 / slowness()


def test_the_report_shows_gaps_refusals_and_the_worst_group(tmp_path):
    rows = [*prompts("m", 4), *prompts("m", 30, suite="unchecked"), *attacked("m", 30)]
    summary = {"generalisation": generalisation(Evidence({"m": rows}, overlap={"harm": CLEAN}))}
    shown = section(Run(tmp_path, {}, summary, "", {}, {"m": rows}, {}))
    assert "1 of 1 gaps are worse" in shown.lead and "m, attacked: +65.0" in shown.lead
    assert "no check of training data against the suite unchecked" in shown.blocks[0].text
    captions = [block.caption for block in shown.blocks[1:]]
    assert captions[0] == "Unsafe answers by kind of prompt" and captions[-1] == "Worst group of harmful prompts"
    assert section(Run(tmp_path, {}, {}, "", {}, {}, {})) is None
