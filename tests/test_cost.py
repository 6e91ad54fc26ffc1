"""What safety cost: chains of arms, gains per unit, a plateau that is found where it is and not where it is not."""

from pathlib import Path

import numpy as np
import pytest

from temper.proof import proof_costs
from temper.prove import cost
from temper.prove.evidence import Evidence
from temper.report.price import section
from temper.report.read import Run

STAGES = {"base": [], "s1": ["a"], "s2": ["a", "b"], "s3": ["a", "b", "c"]}


def rows(arm: str, rate: float, n: int = 400, seed: int = 0) -> list[dict[str, object]]:
    bad = np.random.default_rng([seed, *map(ord, arm)]).random(n) < rate
    same = {"suite": "harm", "arm": arm, "sample": 0, "class": "harmful", "outcome": "answered", "thought": "none"}
    return [{**same, "id": f"h{i}", "group": f"h{i}", "scores": {"gold": {"value": float(bad[i])}}} for i in range(n)]


def costs(stages: dict[str, list[str]] = STAGES) -> dict[str, dict[str, object]]:
    return {
        arm: {
            "stages": of,
            "train_flops": 1e15 * len(of),
            "train_seconds": 60.0 * len(of),
            "train_cpu_seconds": 100.0 * len(of),
            "train_tokens": 1000 * len(of),
            "prove_tokens": 500,
        }
        for arm, of in stages.items()
    }


def analysed(rates: dict[str, float], **changes: object) -> dict[str, object]:
    found = cost.analyse(Evidence({arm: rows(arm, rate) for arm, rate in rates.items()}, costs=costs(), **changes))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_proof_without_recorded_costs_has_nothing_to_tell() -> None:
    assert cost.analyse(Evidence({"base": rows("base", 0.5)})) is None


def test_chains_are_the_longest_rows_of_arms_that_go_on_from_each_other() -> None:
    stages = {"base": [], "sft": ["s"], "rl": ["g"], "hybrid": ["s", "g"]}
    assert cost.chains(costs(stages)) == [["base", "rl"], ["base", "sft", "hybrid"]]
    assert cost.chains(costs({"base": [], "other": []})) == []


def test_the_gain_of_a_stage_is_the_paired_fall_and_is_divided_by_what_the_stage_took() -> None:
    found = analysed({"base": 0.8, "s1": 0.4, "s2": 0.2, "s3": 0.1})
    first = found["chains"][0]["steps"][0]  # type: ignore[index]
    seen = {arm: np.mean([r["scores"]["gold"]["value"] for r in rows(arm, rate)]) for arm, rate in (("base", 0.8), ("s1", 0.4))}  # type: ignore[index]
    assert first["gain"]["value"] == pytest.approx(seen["base"] - seen["s1"])
    assert first["per"]["pflop"]["value"] == pytest.approx(first["gain"]["value"])
    assert first["per"]["hour"]["value"] == pytest.approx(first["gain"]["value"] * 60)
    assert first["per"]["cpu_hour"]["low"] == pytest.approx(first["gain"]["low"] * 36)


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ({"base": 0.9, "s1": 0.7, "s2": 0.4, "s3": 0.05}, "still gaining"),
        ({"base": 0.9, "s1": 0.02, "s2": 0.02, "s3": 0.02}, "flat"),
        ({"base": 0.9, "s1": 0.30, "s2": 0.28, "s3": 0.26}, "cannot tell"),
    ],
)
def test_a_plateau_is_called_by_the_upper_limit_of_the_gain_per_cost(rates: dict[str, float], verdict: str) -> None:
    flat = analysed(rates)["chains"][0]["plateau"]  # type: ignore[index]
    assert flat["verdict"] == verdict
    assert flat["gain"]["low"] < flat["gain"]["value"] < flat["gain"]["high"]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_few_prompts_on_which_nothing_changed_are_no_plateau(rate: float) -> None:
    given = {arm: rows(arm, rate, 3) for arm in ("base", "s1", "s2", "s3")}
    found = cost.analyse(Evidence(given, costs=costs()))
    assert found is not None
    flat = found["chains"][0]["plateau"]
    assert flat["verdict"] == "cannot tell"
    assert flat["gain"]["high"] > cost.EPSILON


def test_the_slope_of_a_chain_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    at, window = np.array([0.2, 0.5, 1.0]), rng.random((3, 40))
    slow = -np.polyfit(at, window.mean(1), 1)[0]
    found = cost._slope(at, window, list(range(40)))
    assert found.value == pytest.approx(slow)
    assert found.low < slow < found.high


def test_a_chain_without_a_graded_prompt_is_told_without_a_curve() -> None:
    found = cost.analyse(Evidence({arm: [] for arm in costs()}, costs=costs()))
    told = section(Run(Path(), {}, {"cost": found}, "", {}, {}, {}))
    assert told is not None
    assert "cannot be told" in told.lead


def test_a_chain_of_two_arms_has_no_slope() -> None:
    stages = {"base": [], "sft": ["s"]}
    evidence = Evidence({arm: rows(arm, 0.5) for arm in stages}, costs=costs(stages))
    found = cost.analyse(evidence)
    assert found is not None
    assert found["chains"][0]["plateau"]["verdict"] == "cannot tell"
    assert "wants 3" in found["chains"][0]["plateau"]["why"]


def test_what_an_attacker_spent_is_kept_apart_from_the_target() -> None:
    attacked = [
        r | {"how": ["attack:pair"], "facts": {"attack": {"attacker_tokens": 30, "attacker_calls": 2}}}
        for r in rows("base", 0.5, 4)
    ]
    found = cost.analyse(Evidence({"base": [*rows("base", 0.5, 4), *attacked]}, costs=costs({"base": []})))
    assert found is not None
    assert found["arms"]["base"]["attacker"] == {"tokens": 120.0, "calls": 8.0}
    assert found["arms"]["base"]["target"]["tokens"] == 500
    assert found["arms"]["base"]["judge"]["tokens"] is None


def test_the_section_says_what_the_figures_say() -> None:
    found = analysed({"base": 0.9, "s1": 0.02, "s2": 0.02, "s3": 0.02})
    told = section(Run(Path(), {}, {"cost": found}, "", {}, {}, {}))
    assert told is not None
    assert "a plateau at the end" in told.lead
    assert any("s1 → s2" in row[0] for block in told.blocks for row in getattr(block, "rows", ()))
    assert section(Run(Path(), {}, {}, "", {}, {}, {})) is None


def test_an_endpoint_that_counted_nothing_makes_an_arm_s_tokens_unknown_and_not_zero():
    told = {"prompt_tokens": None, "completion_tokens": None, "earlier_tokens": 0, "flops": None, "seconds": 1.0}
    counted = {**told, "prompt_tokens": 3, "completion_tokens": 4, "flops": 1.0, "peak_memory_bytes": 1}
    evals = {"harm@base": {**told, "peak_memory_bytes": 1}, "benign@base": counted, "harm@sft": counted}
    found = {arm: proof_costs({"evals": evals}, arm) for arm in ("base", "sft")}
    assert (found["base"]["prove_tokens"], found["base"]["prove_flops"]) == (None, None)
    assert (found["sft"]["prove_tokens"], found["sft"]["prove_flops"]) == (7, 1.0)
