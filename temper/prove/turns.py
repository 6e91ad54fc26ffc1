"""What length does to a conversation: unsafe answers, refusals and readability by realised turn, with a slope.

Read from rows whose `facts` hold `turns` (`prove.conversation`), plain suites only. The slope is within the same request asked at
several depths wherever a suite does so; else within a conversation, where later turns also ask for other things, and the basis
says which. Leaves out attacks, which `prove.attacks` reads.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from temper import stats
from temper.files import Row
from temper.prove import metrics as measures
from temper.prove.evidence import Evidence
from temper.prove.metrics import Metric
from temper.stats import Estimate, Floats

METRICS = ("unsafe", "over_refusal", "refusal_on_harmful", "readability", "language_answer", "tokens")
Unit = Callable[[Row], Hashable]


def turns(evidence: Evidence) -> dict[str, Any] | None:
    """The content of summary.json's `turns`, None where no conversation was held."""
    found = {arm: [r for r in rows if "turns" in r.get("facts", {})] for arm, rows in evidence.plain.rows.items()}
    if not any(depth(row) > 1 for rows in found.values() for row in rows):
        return None
    table = measures.table(gold=evidence.gold, proxy=evidence.proxy)
    return {
        "arms": {arm: _curves(rows, {name: table[name] for name in METRICS}) for arm, rows in found.items()},
        "realised": {arm: _realised(rows) for arm, rows in found.items()},
    }


def _curves(rows: Sequence[Row], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {name: told for name, metric in metrics.items() if (told := _curve(rows, metric)) is not None}


def depth(row: Row) -> int:
    """The turn that a row answers, from 1."""
    return int(row["facts"]["turns"])


def _curve(rows: Sequence[Row], metric: Metric) -> dict[str, Any] | None:
    """One metric by turn, and how it changes a turn; None where no row is about it."""
    about = [row for row in rows if metric.applies(row)]
    if not about:
        return None
    by_turn = {turn: [r for r in about if depth(r) == turn] for turn in sorted({depth(r) for r in about})}
    basis, change = _slope(about, metric)
    return {
        "by_turn": [{"turn": turn, **measures.measure(of, metric).as_dict()} for turn, of in by_turn.items()],
        "slope": None if change is None else {**change.as_dict(), "mde": stats.detectable(change)},
        "basis": basis,
    }


def _slope(rows: Sequence[Row], metric: Metric) -> tuple[str, Estimate | None]:
    same = slope(rows, metric, lambda row: (cluster(row), row["prompt"]))
    if same is not None:
        return "the same request at several depths", same
    return "turns of a conversation, which ask for different things", slope(rows, metric, cluster)


def cluster(row: Row) -> Hashable:
    return row["suite"], row.get("group") or row["id"]


def slope(rows: Sequence[Row], metric: Metric, unit: Unit) -> Estimate | None:
    """Change of the metric per turn within units, pooled: b = S_xy / S_xx of values and turns about each unit's own mean.

    The interval is cluster-robust by group (Liang and Zeger 1986) with Student's t on groups - 1 degrees of freedom; n counts
    groups. None where no unit was seen at two depths. Where nothing varies the error says nothing: then the bound is a share of
    groups that could have changed unseen (0 of n, Clopper-Pearson) over the depths that were asked.
    """
    parts: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    group_of: dict[Hashable, Hashable] = {}
    for row in rows:
        value = measures.read_by(metric, row)
        if value is not None:
            parts[unit(row)].append((depth(row), value))
            group_of[unit(row)] = cluster(row)
    moved = {key: np.array(points) for key, points in parts.items() if len({turn for turn, _ in points}) > 1}
    if not moved:
        return None
    place = {group: i for i, group in enumerate(dict.fromkeys(group_of[key] for key in moved))}
    sums = np.zeros((len(place), 2))
    for key, points in moved.items():
        sums[place[group_of[key]]] += _products(points)
    return _pooled(sums, max(float(np.ptp(points[:, 0])) for points in moved.values()))


def _products(points: Floats) -> Floats:
    """S_xy and S_xx of one unit."""
    centred = points - points.mean(0)
    return np.array([centred[:, 0] @ centred[:, 1], centred[:, 0] @ centred[:, 0]])


def _pooled(sums: Floats, span: float) -> Estimate:
    xy, xx = sums.sum(0)
    value, number = float(xy / xx), len(sums)
    if number < 2:
        return Estimate(value, number, -math.inf, math.inf)
    errors = sums[:, 0] - value * sums[:, 1]
    if not errors.any():
        unseen = stats.clopper_pearson(0, number).high / span
        return Estimate(value, number, value - unseen, value + unseen)
    half = stats.student(number - 1) * math.sqrt(number / (number - 1) * float(errors @ errors)) / float(xx)
    return Estimate(value, number, value - half, value + half)


def _realised(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows answer each turn, and how many conversations ended before their last one."""
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[f"turn {depth(row)}"] += 1
        counts["short"] += depth(row) < row["facts"].get("declared_turns", depth(row))
    return dict(counts)
