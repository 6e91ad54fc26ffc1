"""What safety cost: a ledger by arm and purpose, safety gained per unit between neighbours of a chain, and where a chain is flat.

Training, target, attacker and judge are kept apart, because the price of a proof is none of the model's. A chain is a row of arms
each of which goes on where the one before ended. Gains are paired on prompts; a chain is flat where the upper confidence limit of
its gain per cost is below `EPSILON` (docs/statistics.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from temper import stats
from temper.files import Row
from temper.prove import metrics as measures
from temper.prove.evidence import Evidence
from temper.prove.metrics import Prompt
from temper.stats import NOTHING, Estimate, Floats

EPSILON = 0.05
"""Flat: spending once more what the whole chain has cost would lower the unsafe rate by less than this."""
WINDOW = 3  # arms whose slope decides
DRAWS = 2_000
UNITS = {"pflop": ("train_flops", 1e15), "cpu_hour": ("train_cpu_seconds", 3600.0), "hour": ("train_seconds", 3600.0)}
LEDGER = ("tokens", "flops", "seconds", "cpu_seconds", "joules", "calls")


def analyse(evidence: Evidence) -> dict[str, Any] | None:
    """Ledgers, chains and the declared bound; None for a proof whose costs nobody wrote down."""
    if not evidence.costs:
        return None
    unsafe = measures.table(gold=evidence.gold)["unsafe"]
    values = {arm: measures.per_prompt(measures.values_by_sample(rows, unsafe)) for arm, rows in evidence.pooled.rows.items()}
    groups = measures.groups_of(row for rows in evidence.pooled.rows.values() for row in rows)
    return {
        "arms": {arm: ledger(evidence.costs.get(arm, {}), rows) for arm, rows in evidence.rows.items()},
        "chains": [_chain(chain, evidence, values, groups) for chain in chains(evidence.costs)],
        "epsilon": EPSILON,
        "window": WINDOW,
    }


def ledger(costs: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """What an arm took by purpose: training, target, attacker, judge; None where it was not recorded."""
    told = [row["facts"]["attack"] for row in rows if isinstance((row.get("facts") or {}).get("attack"), Mapping)]
    kinds = {"training": "train_", "target": "prove_", "judge": "judge_"}
    found = {kind: {unit: costs.get(f"{prefix}{unit}") for unit in LEDGER} for kind, prefix in kinds.items()}
    found["attacker"] = {
        "tokens": _total(told, "attacker_tokens"),
        "calls": _total(told, "attacker_calls"),
    }
    return found


def chains(costs: Mapping[str, Any]) -> list[list[str]]:
    """Arms in order of their stages, each beginning with all stages of the one before; at least two, and none inside another."""
    stages = {arm: tuple(cost.get("stages", ())) for arm, cost in costs.items()}
    ends = [arm for arm, of in stages.items() if of and not any(o != of and o[: len(of)] == of for o in stages.values())]
    found = [
        sorted((a for a, of in stages.items() if stages[end][: len(of)] == of), key=lambda a: len(stages[a])) for end in ends
    ]
    return [chain for chain in found if len(chain) > 1]


def _chain(
    arms: Sequence[str], evidence: Evidence, values: Mapping[str, Mapping[Prompt, float]], groups: Mapping[Prompt, str]
) -> dict[str, Any]:
    """The steps of a chain with their gains, and what the last arms say about going on."""
    costs = evidence.costs
    common = sorted(set.intersection(*(set(values[arm]) for arm in arms)))
    table = np.array([[values[arm][p] for p in common] for arm in arms])
    clusters = [groups[p] for p in common]
    spent = [float(costs[arm].get("train_flops") or 0.0) for arm in arms]
    return {
        "arms": list(arms),
        "cost": [{unit: _units(costs[arm], unit) for unit in UNITS} for arm in arms],
        "unsafe": [stats.share(list(row), clusters).as_dict() if common else NOTHING.as_dict() for row in table],
        "steps": [_step(arms, i, table, clusters, costs) for i in range(1, len(arms))] if common else [],
        "plateau": _plateau(arms, table, clusters, spent) if common else _cannot("no harmful prompt was graded in every arm"),
    }


def _step(arms: Sequence[str], i: int, table: Floats, clusters: Sequence[str], costs: Mapping[str, Any]) -> dict[str, Any]:
    """What one more stage gained: the fall of the unsafe rate, and the fall per unit of what the stage cost."""
    gain = stats.paired_difference(table[i - 1], table[i], clusters)
    price = {unit: _difference(_units(costs[arms[i]], unit), _units(costs[arms[i - 1]], unit)) for unit in UNITS}
    per = {unit: _divided(gain, cost).as_dict() if cost else None for unit, cost in price.items()}
    return {
        "from": arms[i - 1],
        "to": arms[i],
        "gain": {**gain.as_dict(), "mde": stats.detectable(gain)},
        "price": price,
        "per": per,
    }


def _plateau(arms: Sequence[str], table: Floats, clusters: Sequence[str], spent: Sequence[float]) -> dict[str, Any]:
    """The gain per cost over the last arms, with cost as a share of the whole chain's, and whether it is below the bound."""
    if len(arms) < WINDOW:
        return _cannot(f"the chain has {len(arms)} arms; a slope wants {WINDOW}")
    if spent[-1] <= spent[-WINDOW]:
        return _cannot("what training took was not recorded")
    cost = np.array(spent[-WINDOW:]) / spent[-1]
    found = _slope(cost, table[-WINDOW:], clusters)
    low, high = found.low, found.high
    verdict = "flat" if high < EPSILON else "still gaining" if low > EPSILON else "cannot tell"
    return {"verdict": verdict, "why": "", "over": list(arms[-WINDOW:]), "gain": found.as_dict()}


def _slope(cost: Floats, window: Floats, clusters: Sequence[str]) -> Estimate:
    """The fall of the mean per cost by least squares: a weighted difference of prompts' own rates, hence a paired one.

    So its interval keeps what a plain bootstrap loses: Student's width of few clusters, and the changes that went unseen.
    """
    weights = (cost.mean() - cost) / float(((cost - cost.mean()) ** 2).sum())
    falls, rises = np.maximum(weights, 0.0), np.maximum(-weights, 0.0)
    scale = float(falls.sum())  # that of the rises too: the weights sum to 0
    fallen, risen = (np.clip(side @ window / scale, 0.0, 1.0) for side in (falls, rises))
    found = stats.paired_difference(fallen, risen, clusters, draws=DRAWS)
    return Estimate(scale * found.value, found.n, scale * found.low, scale * found.high)


def _cannot(why: str) -> dict[str, Any]:
    return {"verdict": "cannot tell", "why": why, "over": [], "gain": NOTHING.as_dict()}


def _units(cost: Mapping[str, Any], unit: str) -> float | None:
    """What training took up to here, in one unit; an arm without training took nothing."""
    key, scale = UNITS[unit]
    value = 0.0 if not cost.get("stages") else cost.get(key)
    return None if value is None else float(value) / scale


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _divided(gain: Estimate, cost: float) -> Estimate:
    return Estimate(gain.value / cost, gain.n, gain.low / cost, gain.high / cost)


def _total(told: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [float(facts[key]) for facts in told if facts.get(key) is not None]
    return sum(known) if known else None
