"""The section "Over a conversation": each rate by realised turn, and its change per turn with an interval.

Everything comes from summary.json (`prove.turns`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from temper.report import charts, tables, text
from temper.report.blocks import Block, Figure, Section, Table
from temper.report.read import Run

DRAWN = ("unsafe", "over_refusal", "readability")
Told = Mapping[str, Any]


def turns(run: Run) -> Section | None:
    """None for a run in which no conversation was held."""
    found: Mapping[str, Mapping[str, Told]] = run.summary.get("turns", {}).get("arms", {})
    if not any(found.values()):
        return None
    return Section("turns", "Over a conversation", _lead(run, found), tuple(_blocks(run, found)))


def _lead(run: Run, found: Mapping[str, Mapping[str, Told]]) -> str:
    arm = run.arms[-1]
    change = (found.get(arm, {}).get("unsafe") or {}).get("slope")
    if not change or change["low"] is None:
        return "How replies change as a conversation grows longer."
    held = "rises" if change["low"] > 0 else "falls" if change["high"] < 0 else "does not change distinguishably"
    span = text.span(change["low"], change["high"], "difference")
    value = text.points(change["value"])
    return f"The unsafe rate of {arm} {held} with the turn: {value} points a turn (95 % interval {span}, {change['n']} groups)."


def _blocks(run: Run, found: Mapping[str, Mapping[str, Told]]) -> Iterator[Block]:
    yield from (_curve(run, metric, found) for metric in DRAWN if any(metric in of for of in found.values()))
    metrics = list(dict.fromkeys(m for of in found.values() for m in of))
    known = [(m, arm) for m in metrics for arm in run.arms if m in found.get(arm, {})]
    rows = tuple((_label(run, m), arm, *_slope(run, m, found[arm][m])) for m, arm in known)
    yield Table("Change per turn", ("metric", "arm", "per turn", "groups", "within"), rows, "Not corrected for their number.")


def _curve(run: Run, metric: str, found: Mapping[str, Mapping[str, Told]]) -> Figure:
    series = [
        charts.Line(
            arm,
            [(float(t["turn"]), t["value"]) for t in found[arm][metric]["by_turn"] if t["value"] is not None],
            dots=True,
            spans=[(float(t["turn"]), t["low"], t["high"]) for t in found[arm][metric]["by_turn"] if t["low"] is not None],
        )
        for arm in run.arms
        if metric in found.get(arm, {})
    ]
    caption = f"{_label(run, metric)}, by turn, with 95 % intervals"
    drawn = charts.lines(series, title=caption, x_label="turn", y_label="")
    return Figure(caption, drawn, tables.of_lines(caption, "turn", series))


def _slope(run: Run, metric: str, told: Told) -> Iterator[str]:
    change, unit = told["slope"], run.summary.get("metrics", {}).get(metric, {}).get("unit", "share")
    if change is None:
        yield from ("one turn only", "–", "–")
        return
    shown = "difference" if unit == "share" else unit
    span = text.span(change["low"], change["high"], shown) or "unknown"
    yield f"{text.change(change['value'], unit)} ({span}{text.unseen(change, unit)})"
    yield text.count(change["n"])
    yield told["basis"]


def _label(run: Run, metric: str) -> str:
    return str(run.summary.get("metrics", {}).get(metric, {}).get("label", metric))
