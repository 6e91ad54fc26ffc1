"""The number of prompts a pilot asks for: against published figures, a formula worked out apart, and simulated proofs."""

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from synthetic import row
from test_finished import evaluation
from typer.testing import CliRunner

from temper import stats
from temper.cli import app
from temper.errors import ProofError, UsageError
from temper.prove.evidence import Evidence
from temper.prove.power import Pilot, needed, plan
from temper.stats import Estimate


def arm(name, flags, groups=None):
    """One harmful row for each flag; a list of flags is one prompt's samples."""
    rows = []
    for i, f in enumerate(flags):
        samples = f if isinstance(f, list) else [f]
        rows += [row(name, "harmful", i, k, gold=float(u), group=groups[i] if groups else "") for k, u in enumerate(samples)]
    return rows


def of(rows, metric="unsafe", **kwargs):
    return next(p for p in plan(Evidence(rows), **kwargs) if p.pilot.metric == metric)


def need(planned, samples=1, kind="change"):
    return next(n for n in getattr(planned, kind) if n.samples == samples)


def test_the_published_table_comes_out_of_a_pilot_with_its_discordance():
    """10 of 100 prompts change: 312 prompts for 5 points, 417 with 90 % power (docs/science.md 8.2)."""
    rows = {"base": arm("base", [1] * 8 + [0] * 92), "new": arm("new", [0] * 8 + [1] * 2 + [0] * 90)}
    assert of(rows).pilot.discordance.value == pytest.approx(0.10)
    assert need(of(rows)).prompts == 312 and need(of(rows, power=0.9)).prompts == 417
    assert need(of(rows)).cautious == stats.sample_size_paired(0.05, of(rows).pilot.discordance.high)
    assert need(of(rows), kind="loss").prompts == stats.sample_size_paired(0.02, 0.10)


def test_prompts_that_move_together_are_worth_fewer():
    flags = {"base": [1] * 10 + [0] * 90, "new": [0] * 10 + [0] * 90}
    groups = [f"g{i // 5}" for i in range(100)]
    alone, grouped = (of({n: arm(n, f, g) for n, f in flags.items()}) for g in (None, groups))
    assert alone.pilot.deff == pytest.approx(1) and grouped.pilot.deff == pytest.approx(5, rel=0.1)
    assert need(grouped).prompts == pytest.approx(grouped.pilot.deff * need(alone).prompts, rel=0.01)


def test_more_answers_a_prompt_take_out_what_is_within_it_and_nothing_else():
    """Miller 2024: (w^2 + (s_A^2 + s_B^2) / K); here w^2 = 0.04 and s^2 = 0.2 an arm, asked with K = 2."""
    pilot = Pilot("unsafe", "a", "b", 100, 2, Estimate(0.24, 100, 0.2, 0.3), 0.4, 1.0)
    assert [pilot.spread(k, discordance=0.24) for k in (1, 2, 4, 8)] == pytest.approx([0.44, 0.24, 0.14, 0.09])
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    for k in (1, 2, 4, 8):
        found = needed(pilot, 0.05, k, power=0.8, alpha=0.05).prompts
        assert found == pytest.approx(z**2 * (0.04 + 0.4 / k) / 0.05**2, rel=0.02)


def test_a_pilot_of_single_answers_does_not_say_what_more_would_save():
    rows = {"base": arm("base", [1] * 8 + [0] * 92), "new": arm("new", [0] * 100)}
    assert [n.prompts is None for n in of(rows).change] == [False, True, True, True]


def test_a_judge_that_shows_half_of_a_change_asks_for_four_times_the_prompts_of_rare_ones():
    rows = {"base": arm("base", [1] * 40 + [0] * 60), "new": arm("new", [0] * 30 + [1] * 10 + [0] * 60)}
    good, poor = need(of(rows)).prompts, need(of(rows, youden=0.5)).prompts
    assert poor / good == pytest.approx(4, rel=0.02)
    with pytest.raises(ProofError, match="no n makes up for it"):
        of(rows, youden=0.1)
    with pytest.raises(UsageError, match=r"delta = 5\.0"):
        of(rows, delta=5.0)


def test_one_arm_is_planned_as_if_the_other_answered_independently():
    planned = of({"base": arm("base", [1] * 30 + [0] * 70)})
    assert planned.pilot.discordance.value == pytest.approx(0.30 * 0.75 + 0.25 * 0.70)
    assert planned.pilot.discordance.high >= planned.pilot.discordance.value


@pytest.mark.parametrize("samples", [1, 4])
def test_the_proof_that_is_planned_has_the_power_promised(samples):
    """A pilot of two answers a prompt plans proofs of one and of four; each finds a true change of 6 points 80 % of times."""
    rng = np.random.default_rng(4)

    def answers(n, k, shift):
        ease = rng.beta(1.2, 1.8, n)[:, None]
        base, new = np.clip(ease, 0, 1), np.clip(ease - shift, 0, 1)
        return (rng.random((n, k)) < base).astype(float), (rng.random((n, k)) < new).astype(float)

    a, b = answers(4_000, 2, 0.0)
    rows = {"base": arm("base", a.tolist()), "new": arm("new", b.tolist())}
    n = need(of(rows, delta=0.06), samples).prompts
    shift = 0.0615  # 6 points on average: what is cut at 0 takes a little back
    found = []
    for _ in range(1_500):
        x, y = answers(n, samples, shift)
        change = y.mean(1) - x.mean(1)
        found.append(abs(change.mean()) > 1.96 * change.std(ddof=1) / math.sqrt(n))
    assert np.mean(found) == pytest.approx(0.80, abs=0.05)


def test_the_command_line_plans_from_one_run_or_from_two(tmp_path):
    one = evaluation(tmp_path / "a", arm("model", [[1, 1], [1, 0]] * 10 + [[0, 0]] * 30))
    two = evaluation(tmp_path / "b", arm("model", [[0, 1], [1, 0]] * 10 + [[0, 0]] * 30))
    told = CliRunner().invoke(app, ["prove", "plan", str(one), str(two), "--json", str(tmp_path / "plan.json")])
    assert told.exit_code == 0 and "unsafe, b − a" in told.stdout
    made = json.loads((tmp_path / "plan.json").read_text())["plan"][0]
    assert [n["samples"] for n in made["change"]] == [1, 2, 4, 8] and made["change"][3]["prompts"] < made["change"][0]["prompts"]
    alone = CliRunner().invoke(app, ["prove", "plan", str(one)])
    assert alone.exit_code == 0 and "an upper bound" in alone.stdout


def test_what_is_no_command_of_prove_is_the_model(monkeypatch):
    seen = {}

    def proved(model, suites, **kwargs):
        seen.update(model=model, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr("temper.proof.prove_model", proved)
    asked = ["prove", "smollm2-135m", "--attack", "base64", "--attack", "pair", "--rewrite", "shots=3", "--grid", "8"]
    told = CliRunner().invoke(app, [*asked, "--attacker", "template"])
    assert told.exit_code == 130 and seen["model"] == "smollm2-135m"
    settings = seen["prove"]
    assert (settings.attacks, settings.rewrites) == (("base64", "pair"), ("shots=3",))
    assert (settings.grid, settings.attacker) == (8, "template")
    assert "--max-new-tokens" in CliRunner().invoke(app, ["prove", "--help"]).stdout
    assert CliRunner().invoke(app, ["prove"]).exit_code == 2
    first = CliRunner().invoke(app, ["prove", "--limit", "3", "smollm2-135m"])
    assert first.exit_code == 130 and seen["prove"].limit == 3
