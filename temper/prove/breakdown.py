"""Where the headline comes from: the metric that matters of each class, by suite, by category and by language of the prompt.

Suites are told with what was done to them; categories and languages read suites as they are.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from temper.files import Row
from temper.prove.evidence import Evidence
from temper.prove.metrics import Metric, measure_all, table

MATTERS = ("unsafe", "over_refusal", "accuracy")
OF_A_SUITE = (
    *("unsafe", "over_refusal", "accuracy", "refusal_on_harmful", "helped"),
    *("closed_thought", "truncated_in_thought", "truncated_in_answer"),
)
MOST = 60  # categories and languages of one metric; the ones with the fewest rows are left out beyond that


def breakdown(evidence: Evidence) -> dict[str, Any] | None:
    """The analysis "breakdown": `suites` in the order in which they were asked, `categories` and `languages` by metric."""
    if not any(evidence.rows.values()):
        return None
    known = table(gold=evidence.gold, proxy=evidence.proxy)
    plain = evidence.plain.rows
    spoken = (*MATTERS, "language_answer")
    return {
        "suites": [_suite(name, rows, known) for name, rows in _parts(evidence.rows, lambda row: row["suite"]).items()],
        "categories": _by(plain, lambda row: row["category"], {m: known[m] for m in MATTERS}),
        "languages": _by(plain, lambda row: row.get("language") or "unknown", {m: known[m] for m in spoken}),
    }


def _suite(name: str, rows: Mapping[str, Sequence[Row]], known: Mapping[str, Metric]) -> dict[str, Any]:
    """One suite: what it was made from, how many rows each arm has, and its metrics; a changed suite only those that matter."""
    first = next(row for of in rows.values() for row in of)
    how = list(first.get("how", ()))
    wanted = {m: known[m] for m in (MATTERS if how else OF_A_SUITE)}
    return {
        "name": name,
        "of": first.get("of", ""),
        "how": how,
        "rows": {arm: len(of) for arm, of in rows.items()},
        "arms": {arm: _measured(of, wanted) for arm, of in rows.items()},
    }


def _by(rows: Mapping[str, Sequence[Row]], part: Callable[[Row], str], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """metric -> part -> arm -> what was measured, for parts of which there is more than one."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    parts = {name: of for name, of in _parts(rows, part).items() if name}
    largest = sorted(parts, key=lambda name: (-sum(map(len, parts[name].values())), name))[:MOST]
    for name in sorted(largest):
        for arm, of in parts[name].items():
            for metric, measured in _measured(of, metrics).items():
                found[metric].setdefault(name, {})[arm] = measured
    return {metric: of for metric, of in found.items() if len(of) > 1}


def _measured(rows: Sequence[Row], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {name: found.as_dict() for name, found in measure_all(rows, metrics).items()}


def _parts(rows: Mapping[str, Sequence[Row]], part: Callable[[Row], str]) -> dict[str, dict[str, list[Row]]]:
    """part -> arm -> rows, in the order in which they come."""
    parts: dict[str, dict[str, list[Row]]] = {}
    for arm, of in rows.items():
        for row in of:
            parts.setdefault(part(row), {}).setdefault(arm, []).append(row)
    return parts
