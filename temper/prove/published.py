"""What each published suite measured, by arm: its own outcome rule and figures, how its authors ran it, and how ours differs.

An analysis of plain rows; suites are known by name (`prove.suites`), so that rows alone suffice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from temper.files import Row
from temper.prove import metrics as measures
from temper.prove.compare import compare
from temper.prove.evidence import Evidence
from temper.prove.metrics import Metric
from temper.prove.suites import PUBLISHED
from temper.prove.suites.form import Published

AXES, MOST = ("language", "category"), 60
"""What a headline is also told by, and the number of values beyond which it is not."""
BESIDE = ("closed_thought", "truncated_in_thought", "truncated_in_answer")
"""Metrics that stand beside every suite's own: a cap that cuts changes all of them."""


def analyse(evidence: Evidence) -> dict[str, Any] | None:
    """By suite: its description, its metrics by arm, and the headline compared between arms; None without a published suite."""
    by_suite: dict[str, dict[str, list[Row]]] = defaultdict(lambda: {arm: [] for arm in evidence.rows})
    for arm, rows in evidence.plain.rows.items():
        for row in rows:
            if row["suite"] in PUBLISHED:
                by_suite[row["suite"]][arm].append(row)
    if not by_suite:
        return None
    known = measures.table(evidence.held_out, gold=evidence.gold, proxy=evidence.proxy)
    return {name: _told(PUBLISHED[name], rows, known, evidence.seed) for name, rows in by_suite.items()}


def _told(published: Published, rows: Mapping[str, Sequence[Row]], known: Mapping[str, Metric], seed: int) -> dict[str, Any]:
    table = {name: published.own.get(name) or known[name] for name in (*published.measures, *BESIDE)}
    arms = {arm: _measured(of, table) for arm, of in rows.items()}
    shown = [name for name in published.measures if any(name in found["measures"] for found in arms.values())]
    headline = {name: table[name] for name in shown[:1]}
    return {
        **published.as_dict(),
        "headline": shown[0] if shown else "",
        "metrics": {name: table[name].as_dict() for name in (*shown, *BESIDE)},
        "arms": arms,
        "by": {axis: _parted(rows, axis, headline) for axis in AXES},
        "pairs": [pair.as_dict() for pair in compare(rows, headline, seed=seed)] if len(rows) > 1 else [],
    }


def _parted(rows: Mapping[str, Sequence[Row]], axis: str, headline: Mapping[str, Metric]) -> dict[str, Any]:
    """The headline by each value of an axis and by arm; empty where there is one value, or too many to be read."""
    parts: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for arm, of in rows.items():
        for row in of:
            parts[row.get(axis) or ""][arm].append(row)
    parts.pop("", None)
    if not 1 < len(parts) <= MOST:
        return {}
    return {name: {arm: _headline(of, headline) for arm, of in parts[name].items()} for name in sorted(parts)}


def _headline(rows: Sequence[Row], headline: Mapping[str, Metric]) -> dict[str, Any]:
    return next((measured.as_dict() for measured in measures.measure_all(rows, headline).values()), {})


def _measured(rows: Sequence[Row], table: Mapping[str, Metric]) -> dict[str, Any]:
    found = {name: m.as_dict() for name, m in measures.measure_all(rows, table).items()}
    return {"rows": len(rows), "prompts": len({row["id"] for row in rows}), "measures": found}
