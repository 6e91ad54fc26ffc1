"""The section "Does it carry over?": rates and gaps by kind of prompt, how arms differ, the worst group, what was refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from temper.report import text
from temper.report.blocks import Block, Prose, Section, Table
from temper.report.read import Run

LABELS = {"unsafe": "unsafe answers", "over_refusal": "over-refusal"}
Told = Mapping[str, Any]


def section(run: Run) -> Section | None:
    """The section, None where the analysis had nothing to read."""
    found = run.summary.get("generalisation")
    if not found:
        return None
    tables = [
        *(_rates(run, found, metric) for metric in found["in_distribution"]),
        _gaps(found),
        _differences(found),
        _worst(found),
    ]
    refused = [Prose(f"Refused, {LABELS[r['metric']]}, {r['split']}: {r['why']}.") for r in found["refused"]]
    blocks: tuple[Block, ...] = (*refused, *(table for table in tables if table.rows))
    return Section("generalisation", "Does it carry over?", _lead(found), blocks)


def _lead(found: Told) -> str:
    """What was found in one sentence; a gap that is not seen is not called absent."""
    gaps = found["gaps"]
    if not gaps:
        return "No gap is reported: " + (found["refused"][0]["why"] if found["refused"] else "no split was graded") + "."
    worse = [g for g in gaps if g["finding"] == "worse"]
    if not worse:
        coarsest = max((g["mde"] for g in gaps if g["mde"] is not None), default=None)
        seen = f" (changes below {text.points(coarsest)} points could have gone unseen)" if coarsest is not None else ""
        return f"Of {len(gaps)} gaps none is distinguishable from zero after correction{seen}."
    largest = max(worse, key=lambda g: g["value"])
    return (
        f"{len(worse)} of {len(gaps)} gaps are worse out of distribution; the largest is {largest['arm']}, {largest['split']}: "
        f"{_interval(largest, 'difference')} points of {LABELS[largest['metric']]}."
    )


def _rates(run: Run, found: Told, metric: str) -> Table:
    rates = [rate for rate in found["rates"] if rate["metric"] == metric]
    splits = list(dict.fromkeys(rate["split"] for rate in rates))
    cells = {(rate["arm"], rate["split"]): _rate(rate) for rate in rates}
    home = found["in_distribution"][metric]
    return Table(
        caption=f"{LABELS[metric].capitalize()} by kind of prompt",
        head=("arm", *splits),
        rows=tuple((arm, *(cells.get((arm, split), "–") for split in splits)) for arm in run.arms if (arm, splits[0]) in cells),
        note=f"In distribution: {home['class']} prompts of the suite {home['suite']} in {home['language']}"
        + (f", without the categories {', '.join(home['without'])}" if home["without"] else "")
        + ". 95 % intervals; n counts prompts.",
    )


def _gaps(found: Told) -> Table:
    rows = [(f"{g['arm']}, {g['split']}", LABELS[g["metric"]], *_numbers(g)) for g in found["gaps"]]
    return _table("Gap: rate out of distribution less rate in distribution, in points", rows)


def _differences(found: Told) -> Table:
    rows = [(f"{g['arm']} − {g['base']}, {g['split']}", LABELS[g["metric"]], *_numbers(g)) for g in found["differences"]]
    return _table("Difference in differences: one arm's gap less another's, in points", rows)


def _table(caption: str, rows: Sequence[tuple[str, ...]]) -> Table:
    head = ("", "metric", "points", "p, Holm", "would have seen", "finding")
    return Table(caption, head, tuple(rows), "Groups are resampled through all cells at once; Holm over the gaps of a metric.")


def _worst(found: Told) -> Table:
    rows = tuple((w["arm"], w["group"], _rate(w), text.count(w["groups"])) for w in found["worst_group"])
    note = "Chosen by its result: the interval holds for all groups at once (Bonferroni)."
    return Table("Worst group of harmful prompts", ("arm", "group", "unsafe answers", "of so many groups"), rows, note)


def _numbers(gap: Told) -> tuple[str, ...]:
    return _interval(gap, "difference"), text.pvalue(gap["holm"]), text.points(gap["mde"]), gap["finding"]


def _rate(rate: Told) -> str:
    ungraded = f", {rate['ungraded']} ungraded" if rate.get("ungraded") else ""
    return f"{_interval(rate, 'share')}, n = {rate['n']}{ungraded}"


def _interval(estimate: Told, unit: str) -> str:
    value, interval = text.with_interval(estimate, unit)
    return f"{value} ({interval})" if interval else value
