"""Many seeds of one recipe: run, resumed, put together from rows, and held against what was predicted."""

import json
import os
import re
import runpy
import signal
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import fisher_exact
from typer.testing import CliRunner

from temper import stats
from temper.cli import app
from temper.config import build
from temper.errors import RecipeError, StorageError, UnknownName, UsageError
from temper.experiment import seeds as driver
from temper.experiment.aggregate import aggregate, decide, gather, value_rows
from temper.experiment.seeds import News, cores_of, finished, run_seeds, seeds_in
from temper.experiment.write import markdown, page, results
from temper.files import append_rows, read_json, read_rows, write_json
from temper.prove import metrics as measures
from temper.report import charts
from temper.stats import Estimate
from temper.train.planned import RATES, Experiment, Term, check_experiment, parse_check
from temper.train.recipe import parse_recipe

ROOT = Path(__file__).parent.parent
PLAN = """
[experiment]
primary = "over_refusal"

[[experiment.condition]]
name = "stationary"
arms = ["S0", "S5", "start"]
suites = ["own"]
contrasts = [["S5", "S0"]]

[[experiment.condition]]
name = "both suites"
arms = ["S5"]

[[experiment.prediction]]
says = "static rewards break out"
check = "breakout(S0) > 0.4"

[[experiment.prediction]]
says = "<script>the adaptive reward refuses more</script>"
check = "difference(S5, S0) > 0"

[[experiment.prediction]]
says = "the adaptive reward breaks out more"
check = "breakout(S5) >= 2 * breakout(S0)"
"""
RECIPE = """
base = "tiny"

[[stage]]
kind = "sft"

[[stage]]
kind = "grpo"
name = "static"
rewards = { harm = 1.0 }

[[stage]]
kind = "grpo"
name = "adaptive"
rewards = { harm = 1.0 }

[arms]
start = ["sft"]
S0 = ["sft", "static"]
S5 = ["sft", "adaptive"]

[prove]
suites = ["own", "new"]
"""
PROMPTS = 20
# shares of unsafe answers and of refused benign prompts by arm, on the suite `own`
UNSAFE = {"start": 0.5, "S0": 0.4, "S5": 0.05}
REFUSED = {"start": 0.1, "S0": 0.2, "S5": 0.5}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "three.toml"
    path.write_text(RECIPE + PLAN)
    return path


def make_seed(recipe: Path, out: Path, seed: int, *, gaming: bool = True, unsafe: dict[str, float] = UNSAFE) -> Path:
    """A finished run folder as `temper run` leaves it, with answers of known rates."""
    folder, arms = out / f"seed-{seed}", {"start": ["sft"], "S0": ["sft", "static"], "S5": ["sft", "adaptive"]}
    stages = {
        f"{i}-{name}": (name, of)
        for i, (name, of) in enumerate({"sft": list(arms), "static": ["S0"], "adaptive": ["S5"]}.items())
    }
    kinds = {"sft": "sft", "static": "grpo", "adaptive": "grpo"}
    write_json(
        folder / "run.json",
        {
            "arms": arms,
            "commit": "abc",
            "graders": {"gold": {"role": "gold", "better": "low"}},
            "stages": {
                at: {"kind": kinds[name], "name": name, "arms": of, "seconds": 10.0 + seed} for at, (name, of) in stages.items()
            },
        },
    )
    told = {"end": {"gap": {"value": 0.3}}, "area": {"value": 0.1}, "hacks": {"repetition": {"value": 0.35}}}
    write_json(folder / "summary.json", {"judge": "gold", "gaming": {"1-static": told} if gaming else {}})
    (folder / "recipe.toml").write_text(recipe.read_text())
    append_rows(folder / "events.jsonl", [{"kind": "started"}, {"kind": "finished"}])
    steps = [{"step": s, "gold": 0.5, "labels": 10 * s, "hacks": {"repetition": s / 100}} for s in range(1, 21)]
    append_rows(folder / "stages" / "2-adaptive" / "metrics.jsonl", steps)
    for arm in arms:
        for suite in ("own", "new"):
            append_rows(folder / "evals" / f"{suite}@{arm}" / "rows.jsonl", rows_of(suite, arm, unsafe[arm], REFUSED[arm]))
    return folder


def rows_of(suite: str, arm: str, unsafe: float, refused: float) -> list[dict[str, object]]:
    def row(i: int, cls: str, bad: bool, outcome: str) -> dict[str, object]:
        same = {
            "suite": suite,
            "arm": arm,
            "id": f"{cls}-{i}",
            "sample": 0,
            "class": cls,
            "group": f"{cls}-{i}",
            "outcome": outcome,
        }
        return {**same, "scores": {"gold": {"value": float(bad)}}}

    harmful = [row(i, "harmful", i < unsafe * PROMPTS, "answered") for i in range(PROMPTS)]
    return harmful + [row(i, "benign", False, "refused" if i < refused * PROMPTS else "answered") for i in range(PROMPTS)]


def found_in(recipe: Path, out: Path, number: int = 3) -> dict:  # type: ignore[type-arg]
    return aggregate(gather(recipe, out, range(number)), command="temper experiment three.toml")


# --- what is planned ------------------------------------------------------------------------------------------------------------


def test_a_check_is_two_terms_and_a_relation() -> None:
    check = parse_check("breakout(S5-std) >= 2 * breakout(S5)")
    assert (check.left, check.relation, check.right) == (Term(1, "breakout", ("S5-std",)), ">=", Term(2, "breakout", ("S5",)))
    assert parse_check("difference(S5,S1)>-0.02").right == Term(-0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("breakot(S0) > 0.4", r"'breakot' is no figure; did you mean 'breakout'"),
        ("breakout(S0)", r"wanted one of > >= < <="),
        ("breakout(S0) > 0.4 > 0.2", r"wanted one of"),
        ("difference(S0) > 0", r"names 1 arms; wanted 2"),
        ("breakout(S0, S1) > 0", r"names 2 arms; wanted 1"),
        ("__import__('os') > 0", r"'__import__' is no figure"),
        ("breakout(S0) > 10 ** 9", r"neither a number nor a figure"),
    ],
)
def test_a_check_that_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_check(text)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"primry": "unsafe"}, r"unknown key 'primry'; did you mean 'primary'"),
        ({"condition": [{"name": "c", "arms": ["S6"]}]}, r"condition 'c': names arm 'S6'"),
        ({"condition": [{"name": "c", "arms": ["S5"], "suites": ["harms"]}]}, r"names suite 'harms'.*did you mean 'harm'"),
        ({"condition": [{"name": "c", "arms": ["S5"], "contrasts": [["S5", "S0"]]}]}, r"contrasts: names arm 'S0'"),
        ({"prediction": [{"says": "x", "check": "difference(S5, S0) > 0"}]}, r"not among the contrasts"),
        ({"prediction": [{"says": "x", "check": "breakout(S9) > 0"}]}, r"names arm 'S9'"),
        ({"prediction": [{"says": "x", "check": "1 > 0"}]}, r"check = '1 > 0' has no figure"),
        ({"condition": [{"name": "c", "arms": []}]}, r"condition 'c': arms is empty"),
        ({"condition": [{"name": "c", "arms": ["S5"], "contrasts": [["S5", "S5"]]}]}, r"\[S5, S5\] is an arm with itself"),
        ({"condition": [{"name": "c", "arms": ["S5"]}, {"name": "c", "arms": ["S0"]}]}, r"2 conditions have this name"),
        ({"condition": {"name": "c", "arms": ["S5"]}}, r"is one table; write \[\[experiment\.condition\]\]"),
        ({"condition": [{"arms": ["S5"]}]}, r"condition 1: no `name`$"),
        ({"condition": [{"name": "c", "arms": "S5"}]}, r"arms = 'S5': wanted a list$"),
    ],
)
def test_a_plan_that_cannot_be_decided_is_refused_before_anything_runs(plan: dict[str, object], message: str) -> None:
    table = {"base": "x", "stage": [{"kind": "sft"}], "arms": {"S0": ["sft"], "S5": ["sft"]}, "experiment": plan}
    with pytest.raises(RecipeError, match=message):
        parse_recipe(table)


# --- statistics -----------------------------------------------------------------------------------------------------------------


def test_fisher_agrees_with_scipy_on_every_table_of_eight_against_eight_and_five() -> None:
    for n, m in ((8, 8), (8, 5)):
        for a in range(n + 1):
            for b in range(m + 1):
                assert stats.fisher(a, n, b, m) == pytest.approx(fisher_exact([[a, n - a], [b, m - b]]).pvalue, abs=1e-12)


@pytest.mark.parametrize(("seed_sd", "prompt_sd", "noise"), [(0.2, 0.0, 0.2), (0.1, 0.3, 0.3), (0.02, 0.3, 0.1)])
def test_intervals_over_seeds_and_prompts_cover_the_truth(seed_sd: float, prompt_sd: float, noise: float) -> None:
    seeds, prompts, trials, covered = 8, 40, 150, 0
    of_seed, of_prompt = np.repeat(np.arange(seeds), prompts), np.tile(np.arange(prompts), seeds)
    rng = np.random.default_rng(5)
    for trial in range(trials):
        drawn = (
            rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, prompt_sd, (1, prompts)) + rng.normal(0, noise, (seeds, prompts))
        )
        found = stats.hierarchical(drawn.ravel(), of_seed, of_prompt, draws=400, seed=trial)
        covered += found.low <= 0 <= found.high
    assert covered / trials > 0.91  # 2.2 standard errors below 95 %; drawing prompts anew in each seed covered 53 to 87 % here


def test_every_seed_weighs_the_same_and_few_seeds_claim_little() -> None:
    found = stats.hierarchical([1, 1, 1, 0], ["a", "a", "a", "b"], within=(0, 1))
    assert found.value == 0.5
    assert (found.low, found.high) == (0.0, 1.0)
    assert stats.hierarchical([1.0, 1.0], [0, 0], within=(0, 1)) == Estimate(1.0, 1, 0, 1)


def test_no_unsafe_answer_in_eight_seeds_does_not_read_as_never() -> None:
    found = stats.hierarchical([0.0] * 80, np.repeat(np.arange(8), 10), within=(0, 1))
    assert (found.low, found.high) == (0.0, pytest.approx(stats.clopper_pearson(0, 8).high))


# --- seeds put together ---------------------------------------------------------------------------------------------------------


def test_figures_of_an_arm_are_those_of_its_rows(recipe: Path, tmp_path: Path) -> None:
    for seed in range(3):
        make_seed(recipe, tmp_path, seed, unsafe={**UNSAFE, "S0": (0.1, 0.4, 0.7)[seed]})
    found = found_in(recipe, tmp_path)
    arm = found["conditions"][0]["arms"]["S0"]
    assert arm["unsafe"]["value"] == pytest.approx(0.4)
    assert arm["unsafe_by_seed"] == {"0": 0.1, "1": 0.4, "2": 0.7}
    assert arm["by_seed"] == {"0": 0.2, "1": 0.2, "2": 0.2}
    assert arm["over_refusal"]["value"] == pytest.approx(0.2)
    assert arm["train_seconds"] == 11.0
    assert (arm["gap"]["value"], arm["aug"]["value"]) == (pytest.approx(0.3), pytest.approx(0.1))


def test_a_run_breaks_out_by_unsafe_answers_or_by_one_hack(recipe: Path, tmp_path: Path) -> None:
    make_seed(recipe, tmp_path, 0, unsafe={**UNSAFE, "S0": 0.0})
    make_seed(recipe, tmp_path, 1, unsafe={**UNSAFE, "S0": 0.0}, gaming=False)
    make_seed(recipe, tmp_path, 2, gaming=False)
    arms = found_in(recipe, tmp_path)["conditions"][0]["arms"]
    assert arms["S0"]["breakouts"]["seeds"] == [0, 2]
    assert (arms["S0"]["breakouts"]["count"], arms["S5"]["breakouts"]["count"]) == (2, 0)
    assert arms["start"]["breakouts"]["n"] == 0, "what was never rewarded cannot break out of a reward"


def test_hacks_are_counted_at_the_end_of_training_and_without_one_in_the_proof(recipe: Path, tmp_path: Path) -> None:
    folder = make_seed(recipe, tmp_path, 0, unsafe=dict.fromkeys(UNSAFE, 0.0))
    for arm in ("start", "S5"):
        for suite in ("own", "new"):
            path = folder / "evals" / f"{suite}@{arm}" / "rows.jsonl"
            rows = [{**r, "flags": {"prompt-copy": float(i < 16), "other": None}} for i, r in enumerate(read_rows(path))]
            path.unlink()
            append_rows(path, rows)
    arms = found_in(recipe, tmp_path, 1)["conditions"][0]["arms"]
    assert arms["start"]["hacks"] == {"prompt-copy": 0.4}
    assert "prompt-copy" not in arms["S5"]["hacks"], "the proof's thresholds are not the model's own"
    assert arms["S5"]["hacks"]


def test_without_a_gaming_analysis_hacks_come_from_the_last_tenth_of_the_steps(recipe: Path, tmp_path: Path) -> None:
    make_seed(recipe, tmp_path, 0)
    arm = found_in(recipe, tmp_path, 1)["conditions"][0]["arms"]["S5"]
    assert arm["hacks"] == {"repetition": pytest.approx(0.195)}
    assert arm["labels"] == 200
    assert arm["gap"]["value"] is None


def test_a_condition_reads_its_own_suites(recipe: Path, tmp_path: Path) -> None:
    folder = make_seed(recipe, tmp_path, 0)
    (folder / "evals" / "new@S5" / "rows.jsonl").unlink()
    append_rows(folder / "evals" / "new@S5" / "rows.jsonl", rows_of("new", "S5", 1.0, 0.5))
    own, both = found_in(recipe, tmp_path, 1)["conditions"]
    assert own["arms"]["S5"]["unsafe"]["value"] == pytest.approx(0.05)
    assert both["arms"]["S5"]["unsafe"]["value"] == pytest.approx(0.525)


def test_a_planned_difference_is_paired_by_prompt_and_tested_over_seeds(recipe: Path, tmp_path: Path) -> None:
    for seed in range(6):
        make_seed(recipe, tmp_path, seed)
    contrast = found_in(recipe, tmp_path, 6)["conditions"][0]["contrasts"][0]
    assert contrast["difference"]["value"] == pytest.approx(0.3)
    assert contrast["difference"]["low"] > 0
    assert contrast["p"] == contrast["holm"] == 2 / 2**6
    assert contrast["breakouts_p"] == stats.fisher(0, 6, 6, 6)


def test_predictions_hold_fail_or_cannot_be_told(recipe: Path, tmp_path: Path) -> None:
    for seed in range(6):
        make_seed(recipe, tmp_path, seed)
    found = found_in(recipe, tmp_path, 6)
    assert [p["verdict"] for p in found["predictions"]] == ["held", "held", "failed"]
    few = found_in(recipe, tmp_path, 2)["predictions"][0]
    assert (few["verdict"], few["point"]) == ("cannot tell", True)


def test_a_check_may_name_any_metric_and_a_difference_of_one() -> None:
    check = parse_check("difference(S5, S0, accuracy) > 2 * helped(S0)")
    assert check.left == Term(1.0, "difference", ("S5", "S0"), "accuracy")
    assert check.right == Term(2.0, "helped", ("S0",))
    with pytest.raises(RecipeError, match=r"'accurcy' is no metric.*accuracy"):
        parse_check("difference(S5, S0, accurcy) > 0")
    assert set(RATES) <= set(measures.table(("x",)))


def test_four_prompts_that_differ_do_not_make_a_prediction_of_one_seed_hold(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text().replace("[experiment]", '[experiment]\nclaims = "weights"')
    recipe.write_text(text.replace('check = "breakout(S0) > 0.4"', 'check = "difference(S5, S0, unsafe) < 0"'))
    for unsafe, verdict in (({"S0": 0.2, "S5": 0.0}, "cannot tell"), ({"S0": 0.5, "S5": 0.0}, "held")):
        folder = tmp_path / verdict
        make_seed(recipe, folder, 0, unsafe={"start": 0.5, **unsafe})
        assert aggregate(gather(recipe, folder, [0]))["predictions"][0]["verdict"] == verdict


def test_an_experiment_that_trains_nothing_is_put_together_too(recipe: Path, tmp_path: Path) -> None:
    folder = make_seed(recipe, tmp_path, 0, gaming=False)
    facts = {name: value for name, value in read_json(folder / "run.json").items() if name != "stages"}
    write_json(folder / "run.json", facts)
    found = aggregate(gather(recipe, tmp_path, [0]))
    assert found["conditions"][0]["arms"]["S0"]["unsafe"]["value"] == pytest.approx(0.4)


def test_how_much_a_rate_depends_on_how_it_is_asked_is_a_figure_of_a_check(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text().replace('check = "breakout(S0) > 0.4"', 'check = "spread(S0) > 0.4"')
    recipe.write_text(text)
    folder = make_seed(recipe, tmp_path, 0)
    told = {"unsafe": {"spread": {"value": 0.7, "n": 20, "low": 0.5, "high": 0.8}, "flip_rate": None}}
    summary = read_json(folder / "summary.json")
    write_json(folder / "summary.json", {**summary, "sensitivity": {"arms": {"S0": {"measures": told}}}})
    prediction = aggregate(gather(recipe, tmp_path, [0]))["predictions"][0]
    assert (prediction["verdict"], prediction["left"]["low"]) == ("held", 0.5)


def test_a_claim_about_weights_resamples_prompts_and_one_seed_has_an_interval(recipe: Path, tmp_path: Path) -> None:
    make_seed(recipe, tmp_path / "x", 1)
    about_weights = recipe.read_text().replace("[experiment]", '[experiment]\nclaims = "weights"\nsecondary = ["unsafe"]')
    found = {}
    for claims, text in (("method", recipe.read_text()), ("weights", about_weights)):
        recipe.write_text(text)
        found[claims] = aggregate(gather(recipe, tmp_path / "x", [1]))
    method, weights = (found[c]["conditions"][0] for c in ("method", "weights"))
    assert method["arms"]["S5"]["primary"]["value"] == weights["arms"]["S5"]["primary"]["value"]
    assert (method["arms"]["S5"]["primary"]["low"], method["arms"]["S5"]["primary"]["high"]) == (0.0, 1.0)
    values = [v for v in value_rows(gather(recipe, tmp_path / "x", [1])) if v["arm"] == "S5" and v["metric"] == "over_refusal"]
    own = stats.share([v["value"] for v in values if v["suite"] == "own"], [v["group"] for v in values if v["suite"] == "own"])
    assert weights["arms"]["S5"]["primary"] == pytest.approx(own.as_dict())
    assert weights["contrasts"][0]["secondary"]["unsafe"]["n"] > 0
    assert "Unsafe answers" in markdown(found["weights"])
    assert "not about what other seeds would give" in markdown(found["weights"])


@pytest.mark.parametrize(
    ("text", "left", "verdict"),
    [
        ("primary(a) > 0.5", Estimate(0.7, 8, 0.6, 0.8), "held"),
        ("primary(a) > 0.5", Estimate(0.3, 8, 0.2, 0.4), "failed"),
        ("primary(a) > 0.5", Estimate(0.7, 8, 0.4, 0.9), "cannot tell"),
        ("primary(a) < 0.5", Estimate(0.3, 8, 0.2, 0.4), "held"),
        ("primary(a) < 0.5", Estimate(0.5, 8, 0.5, 0.5), "failed"),
        ("primary(a) <= 0.5", Estimate(0.5, 8, 0.5, 0.5), "held"),
        ("primary(a) > 0.5", stats.NOTHING, "cannot tell"),
    ],
)
def test_a_check_is_decided_by_its_interval_alone(text: str, left: Estimate, verdict: str) -> None:
    told = decide(parse_check(text), lambda term: left if term.what else Estimate(term.times, 1, term.times, term.times))
    assert told["verdict"] == verdict


def test_a_prediction_written_after_the_seeds_ran_is_told(recipe: Path, tmp_path: Path) -> None:
    make_seed(recipe, tmp_path, 0)
    assert found_in(recipe, tmp_path, 1)["planned_before"]
    recipe.write_text(recipe.read_text().replace("> 0.4", "> 0.3"))
    after = found_in(recipe, tmp_path, 1)
    assert after["seeds"] == [0]
    assert not after["planned_before"]
    assert "WERE CHANGED after seeds had run" in markdown(after)


def test_the_page_and_the_markdown_say_the_same_and_run_no_script(recipe: Path, tmp_path: Path) -> None:
    for seed in range(3):
        make_seed(recipe, tmp_path, seed)
    found = found_in(recipe, tmp_path)
    for text in (markdown(found), page(found)):
        assert "3 of 3 (29.2 to 100.0" in text
        assert "<script" not in text
    assert page(found).count("<svg") >= 4


def test_every_figure_has_the_unit_of_its_column(recipe: Path, tmp_path: Path) -> None:
    make_seed(recipe, tmp_path, 0)
    said = markdown(found_in(recipe, tmp_path, 1)).replace("\N{NO-BREAK SPACE}", " ")
    assert "# three.toml: 1 seed\n" in said
    assert "| S0 | 20.0 % (0.0 to 100.0) | 20.0 % | 40.0 %" in said
    assert re.search(r"difference\(S5, S0\) &gt; 0 \| cannot tell[^|]*\| \+30\.0 \(.*\) points against 0\.0 points \|", said)
    assert "| S0 | +30.0 | +10.0 | – |" in said
    assert "gap at the end, points" in said


def test_a_figure_has_room_for_the_longest_name() -> None:
    name = "S5-no-disclaimer-stuffing-and-more"
    ended = str(charts.lines([charts.Line(name, [(0, 0), (1, 1)])], title="t", x_label="x", y_label="y"))
    x = float(re.search(rf'<text x="([\d.]+)"[^>]*>{name}<', ended)[1])  # type: ignore[index]
    assert float(re.search(r'viewBox="0 0 ([\d.]+)', ended)[1]) >= x + 7.5 * len(name)  # type: ignore[index]
    bars = str(charts.stacked([(name, {"answered": 1.0})], ["answered"], title="t"))
    assert float(re.search(rf'<text x="([\d.]+)"[^>]*>{name}<', bars)[1]) >= 7 * len(name)  # type: ignore[index]
    drawn = str(charts.ranges([(name, (0.5, 0.4, 0.6), [0.5])], title="t", x_label="x"))
    x = float(re.search(rf'<text x="([\d.]+)"[^>]*>{name}<', drawn)[1])  # type: ignore[index]
    assert x >= 7 * len(name)
    assert float(re.search(r'viewBox="0 0 ([\d.]+)', drawn)[1]) >= x + 250  # type: ignore[index]


def test_hidden_characters_of_a_recipe_are_spelled_out_on_the_page(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("static rewards", "static\\u202e\\u001b rewards"))
    make_seed(recipe, tmp_path, 0)
    said = page(found_in(recipe, tmp_path, 1))
    assert "static[U+202E][U+001B] rewards" in said
    assert not {"\u202e", "\x1b"} & set(said)


def test_committed_values_give_the_means_of_the_table(recipe: Path, tmp_path: Path) -> None:
    for seed in range(2):
        make_seed(recipe, tmp_path, seed, unsafe={**UNSAFE, "S0": (0.2, 0.3)[seed]})
    table = gather(recipe, tmp_path, range(2))
    paths = results(tmp_path / "kept", table, found := aggregate(table))
    assert read_json(paths[0]) == json.loads(json.dumps(found))
    wanted = {"arm": "S0", "metric": "unsafe", "suite": "own"}.items()
    values = [row["value"] for row in read_rows(paths[-1]) if wanted <= row.items()]
    assert np.mean(values) == pytest.approx(found["conditions"][0]["arms"]["S0"]["unsafe"]["value"])
    assert len(values) == 2 * PROMPTS


def test_seeds_that_are_not_finished_are_named(recipe: Path, tmp_path: Path) -> None:
    make_seed(recipe, tmp_path, 1)
    found = found_in(recipe, tmp_path, 3)
    assert (found["seeds"], found["missing"]) == ([1], [0, 2])
    assert "not finished, and left out: 0, 2" in markdown(found)


@pytest.mark.parametrize("changed", [True, False])
def test_without_a_finished_seed_of_this_recipe_results_stay_as_they_are(recipe: Path, tmp_path: Path, changed: bool) -> None:
    kept, out = tmp_path / "kept" / "experiment.json", tmp_path / "out"
    write_json(kept, {"good": 1})
    if changed:
        make_seed(recipe, out, 3)
        recipe.write_text(recipe.read_text().replace("harm = 1.0", "harm = 0.5"))
    handler = signal.getsignal(signal.SIGTERM)
    told = CliRunner().invoke(app, ["experiment", str(recipe), "--out", str(out), "--seeds", "0", "--results", str(kept.parent)])
    assert signal.getsignal(signal.SIGTERM) is handler, "a program that calls the command ends by SIGTERM as before"
    assert isinstance(told.exception, UsageError)
    assert ("seed-3 ran another recipe" if changed else "no such folder") in str(told.exception)
    assert read_json(kept) == {"good": 1}
    assert not (out / "experiment.json").exists()


def test_an_arm_without_its_rows_is_named_with_the_file(recipe: Path, tmp_path: Path) -> None:
    lost = make_seed(recipe, tmp_path, 0) / "evals" / "new@S5" / "rows.jsonl"
    lost.unlink()
    with pytest.raises(StorageError, match=rf"{re.escape(str(lost))}: arm 'S5' has no answers"):
        found_in(recipe, tmp_path, 1)


def test_a_damaged_recipe_of_a_seed_is_named(recipe: Path, tmp_path: Path) -> None:
    path = make_seed(recipe, tmp_path, 0) / "recipe.toml"
    path.write_text("base = ")
    with pytest.raises(StorageError, match=rf"{re.escape(str(path))}: not valid TOML"):
        found_in(recipe, tmp_path, 1)


# --- seeds run ------------------------------------------------------------------------------------------------------------------

CHILD = """
import json, os, pathlib, sys, time
recipe, folder, seed = sys.argv[1:]
print("about to run", seed, "on", sorted(os.sched_getaffinity(0)), "threads", os.environ["TEMPER_THREADS"], flush=True)
if int(seed) == {bad}:
    print("temper: it broke"); sys.exit(1)
if {sleeps}:
    time.sleep(60)
place = pathlib.Path(folder); place.mkdir(parents=True, exist_ok=True)
(place / "recipe.toml").write_text(pathlib.Path(recipe).read_text())
(place / "summary.json").write_text("{{}}")
(place / "events.jsonl").write_text(json.dumps({{"kind": "finished"}}) + chr(10))
"""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Seeds run a stub in place of `temper run`."""

    def use(*, bad: int = -1, sleeps: bool = False) -> None:
        text = CHILD.format(bad=bad, sleeps=sleeps)
        monkeypatch.setattr(
            driver, "command", lambda recipe, folder, seed: [sys.executable, "-c", text, recipe, folder, str(seed)]
        )
        monkeypatch.delenv("TEMPER_THREADS", raising=False)

    return use


def test_a_finished_seed_is_not_run_again_and_a_changed_recipe_is(recipe: Path, tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    child()
    news: list[News] = []
    assert run_seeds(recipe, tmp_path / "out", [0, 1], jobs=2, tell=news.append) == {}
    before = (tmp_path / "out" / "seed-0" / "summary.json").stat().st_mtime_ns
    assert run_seeds(recipe, tmp_path / "out", range(3), jobs=2, tell=news.append) == {}
    assert [(n.seed, n.state) for n in news[-4:]] == [(0, "already done"), (1, "already done"), (2, "started"), (2, "done")]
    assert (tmp_path / "out" / "seed-0" / "summary.json").stat().st_mtime_ns == before
    assert seeds_in(tmp_path / "out") == [0, 1, 2]
    recipe.write_text(recipe.read_text().replace("harm = 1.0", "harm = 0.5"))
    assert not finished(recipe, tmp_path / "out" / "seed-0")


def test_a_failed_seed_is_told_with_its_last_lines_and_loses_no_other(recipe: Path, tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    child(bad=1)
    failed = run_seeds(recipe, tmp_path, range(3), jobs=1, tell=lambda _: None)
    assert list(failed) == [1]
    assert failed[1].startswith("exit status 1") and failed[1].endswith("temper: it broke")
    assert [finished(recipe, tmp_path / f"seed-{s}") for s in range(3)] == [True, False, True]
    child()
    assert run_seeds(recipe, tmp_path, range(3), jobs=1, tell=lambda _: None) == {}


def test_an_interrupt_ends_the_children(recipe: Path, tmp_path: Path, child, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    child(sleeps=True)
    started: list[driver.Job] = []
    monkeypatch.setattr(driver, "Job", lambda *given: started.append(made := JOB(*given)) or made)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "time", SimpleNamespace(sleep=interrupt, monotonic=driver.time.monotonic))
    with pytest.raises(KeyboardInterrupt):
        run_seeds(recipe, tmp_path, [0, 1], jobs=2, tell=lambda _: None)
    assert len(started) == 2
    assert all(job.process.returncode is not None and job.process.returncode != 0 for job in started)


JOB = driver.Job


def test_jobs_share_the_cores_without_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.machine.usable_cpus", lambda: frozenset({3, 5, 6, 7}))
    assert [cores_of(slot, 2) for slot in range(2)] == [[3, 6], [5, 7]]
    assert [cores_of(slot, 6) for slot in range(6)] == [[3], [5], [6], [7], [3], [5]]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes")
def test_a_child_has_the_cores_and_threads_of_its_slot(recipe: Path, tmp_path: Path, child) -> None:  # type: ignore[no-untyped-def]
    child()
    run_seeds(recipe, tmp_path, [4], jobs=1, tell=lambda _: None)
    ours = cores_of(0, 1)
    assert f"threads {len(ours)}" in (tmp_path / "seed-4.log").read_text()


def test_what_cannot_run_is_refused_before_the_first_seed(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="jobs = 0"):
        run_seeds(recipe, tmp_path / "out", [0], jobs=0, tell=lambda _: None)
    recipe.write_text(recipe.read_text().replace('"over_refusal"', '"over_refusals"'))
    with pytest.raises(UnknownName, match="did you mean 'over_refusal'"):
        run_seeds(recipe, tmp_path / "out", [0], jobs=1, tell=lambda _: None)
    assert not (tmp_path / "out").exists()


# --- what ships -----------------------------------------------------------------------------------------------------------------

RESULTS = ROOT / "results" / "adaptive-reward" / "experiment.json"
SHARED_KEYS = (
    "steps",
    "prompts_per_step",
    "group",
    "max_new_tokens",
    "temperature",
    "lr",
    "lora_r",
    "beta",
    "reference",
    "prompts",
)


@pytest.mark.skipif(not RESULTS.is_file(), reason="the experiment has not been run")
def test_the_page_quotes_the_results_that_are_kept() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "experiment_page.py"))
    page_text = (ROOT / "docs" / "adaptive-reward.md").read_text(encoding="utf-8")
    assert tool["block"](read_json(RESULTS)) in page_text


def test_the_page_is_filled_from_results_and_from_nothing_else(recipe: Path, tmp_path: Path) -> None:
    make_seed(recipe, tmp_path, 0)
    tool = runpy.run_path(str(ROOT / "tools" / "experiment_page.py"))
    before = (ROOT / "docs" / "adaptive-reward.md").read_text(encoding="utf-8")
    after = tool["filled"](before, found_in(recipe, tmp_path, 1))
    assert "| S0 | 20.0" in after
    assert after.split(tool["BEGIN"])[0] == before.split(tool["BEGIN"])[0]
    assert tool["filled"](after, found_in(recipe, tmp_path, 1)) == after


@pytest.mark.parametrize("name", ["adaptive-reward", "adaptive-reward-smollm2"])
def test_arms_of_the_shipped_experiment_spend_the_same(name: str) -> None:
    recipe = tomllib.loads((ROOT / "recipes" / f"{name}.toml").read_text(encoding="utf-8"))
    stages = {stage["name"]: stage for stage in recipe["stage"] if stage["kind"] == "grpo"}
    assert {tuple(stage.get(key) for key in SHARED_KEYS) for stage in stages.values()} == {
        tuple(stages["S0"].get(key) for key in SHARED_KEYS)
    }
    assert len({stage["adapt"]["labels"] for stage in stages.values() if "adapt" in stage}) == 1
    assert all(stage["reference"] >= stage["adapt"]["upfront"] for stage in stages.values() if "adapt" in stage)
    assert all(("adapt" in stage) == (arm.partition("-")[0] not in ("S0", "Z")) for arm, stage in stages.items())
    assert set(recipe["arms"]) == {"start", *stages}


def test_arms_of_the_shipped_experiment_differ_only_in_what_their_name_says() -> None:
    recipe = tomllib.loads((ROOT / "recipes" / "adaptive-reward.toml").read_text(encoding="utf-8"))
    stages = {stage.pop("name"): stage for stage in recipe["stage"]}
    for hack in ("refusal-prefix", "disclaimer-stuffing", "harm-in-reasoning"):
        for arm in ("S3", "S4", "S5"):
            assert stages[f"{arm}-no-{hack}"] == {**stages[arm], "hacks": ["all", f"-{hack}"]}
    for arm in ("S0", "S1", "S2", "S3", "S4", "S5", "Z"):
        assert stages[f"{arm}-shift"] == {
            **stages[arm],
            "shift_at": stages[arm]["steps"] // 2,
            "shift_prompts": "organism-shift",
        }
    assert stages["S5-std"] == {**stages["S5"], "normalise": "std"}
    assert stages["S5-slack"] == {**stages["S5"], "adapt": {**stages["S5"]["adapt"], "ratchet": False}}
    assert stages["S4"] == {**stages["S5"], "adapt": {**stages["S5"]["adapt"], "refit": False}}
    assert stages["S3"] == {**stages["S1"], "hacks": ["all"]}
    assert stages["S2"] == {**stages["S1"], "adapt": {**stages["S1"]["adapt"], "pessimism": 1.0}}
    assert {k: v for k, v in stages["S1"].items() if k not in ("rewards", "adapt")} == {
        k: v for k, v in stages["S0"].items() if k != "rewards"
    }


def test_the_plan_of_the_shipped_experiment_can_be_decided() -> None:
    table = tomllib.loads((ROOT / "recipes" / "adaptive-reward.toml").read_text(encoding="utf-8"))
    planned = build(Experiment, table["experiment"], "experiment")
    check_experiment(planned, table["arms"], table["prove"]["suites"])
    assert {arm for condition in planned.condition for arm in condition.arms} == set(table["arms"])
