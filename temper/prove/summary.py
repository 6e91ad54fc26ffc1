"""From all rows of all arms to the content of summary.json: metrics by arm, comparisons, verdicts, what each analysis tells."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from temper.files import Row
from temper.prove import metrics as measures
from temper.prove.analyses import ANALYSES
from temper.prove.compare import Trained, compare, judge
from temper.prove.evidence import Evidence

SCHEMA = 2


def summarise(
    evidence: Evidence,
    *,
    command: str,
    commit: str,
    trained: Mapping[str, Trained] = MappingProxyType({}),
    unrelated: Collection[str] = (),
) -> dict[str, Any]:
    """The content of summary.json, from rows. Every arm is judged against the first; `trained` is what training tells of an arm,
    `unrelated` are arms that no reward trained, or of another run than the first's: what they are, it is not gaming.

    Arms, pairs and verdicts read suites as they are, without those told `APART`; what rewrites, attacks and these show is told by
    the `ANALYSES`, each under its name.
    """
    rows_by_arm = evidence.pooled.rows
    hacks = sorted({name for rows in rows_by_arm.values() for row in rows for name in row.get("flags") or {}})
    table = measures.table(evidence.held_out, gold=evidence.gold, proxy=evidence.proxy, graders=evidence.graders, hacks=hacks)
    pairs = compare(rows_by_arm, table, seed=evidence.seed)
    arms = list(rows_by_arm)
    told = {name: found for name, analyse in ANALYSES.items() if (found := analyse(evidence)) is not None}
    return {
        "schema": SCHEMA,
        "command": command,
        "commit": commit,
        "metrics": {name: metric.as_dict() for name, metric in table.items()},
        "primary": list(measures.PRIMARY),
        "judge": evidence.gold,
        "proxy": evidence.proxy,
        "held_out": sorted(evidence.held_out),
        "unrelated": sorted(unrelated),
        "rows": {arm: len(rows) for arm, rows in rows_by_arm.items()},
        "arms": {
            arm: {name: m.as_dict() for name, m in measures.measure_all(rows, table).items()} for arm, rows in rows_by_arm.items()
        },
        "pairs": [pair.as_dict() for pair in pairs],
        "verdicts": [judge(pairs, arms[0], arm, trained, related=arm not in unrelated).as_dict() for arm in arms[1:]],
        "outcomes": {arm: outcomes(rows) for arm, rows in rows_by_arm.items()},
        "costs": dict(evidence.costs),
        **told,
    }


def outcomes(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """How many replies of each class became what."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row["class"]][row["outcome"]] += 1
    return {of: dict(sorted(counts[of].items())) for of in sorted(counts)}
