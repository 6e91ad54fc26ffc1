"""The tables that every analysis of rates shows: its metrics by arm, and each arm against the first (`prove.tables`)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from temper.report import text
from temper.report.blocks import Table

Told = Mapping[str, Any]
BESIDE = (
    "Closed: replies whose thought is there and closed. Cut: replies that the token cap ended. Both of the replies that count."
)


def by_arm(found: Told, names: Iterable[str], caption: str, note: str = BESIDE) -> Table:
    """One line per metric and arm: value, interval, n, what was not graded and its bounds, closed thoughts and cut replies."""
    head = ("metric", "arm", "value", "95 % interval", "n", "not graded", "thought closed", "cut by the cap")
    lines = [_line(found["metrics"][name], arm, of[name]) for name in names for arm, of in found["arms"].items() if name in of]
    return Table(caption, head, tuple(lines), note)


def differences(found: Told, caption: str, names: Sequence[str] | None = None) -> Table:
    """Later arms minus the first, paired on prompts; where none is distinguishable, the change that would have been seen."""
    head = ("metric", "arm", "against", "difference", "95 % interval", "n", "p (Holm)", "distinguishable", "smallest detectable")
    lines = [_pair(found["metrics"][p["metric"]], p) for p in found["pairs"] if names is None or p["metric"] in names]
    return Table(caption, head, tuple(lines), "Paired on prompts; Holm over the tested lines of this table.")


def _line(metric: Told, arm: str, of: Told) -> tuple[str, ...]:
    value, interval = text.with_interval(of, metric["unit"])
    return (
        metric["label"],
        arm,
        value,
        interval or "–",
        text.count(of["n"]),
        _ungraded(of),
        *map(text.percent, (of["closed"], of["cut"])),
    )


def _ungraded(of: Told) -> str:
    if not of["ungraded"] or of["worst"] is None:
        return text.count(of["ungraded"])
    return f"{text.count(of['ungraded'])} ({text.percent(of['best'])} to {text.percent(of['worst'])})"


def _pair(metric: Told, pair: Told) -> tuple[str, ...]:
    def show(x: float | None) -> str:
        return text.change(x, metric["unit"])

    bounded = pair["low"] is not None and pair["high"] is not None
    return (
        metric["label"],
        pair["arm"],
        pair["base"],
        show(pair["difference"]),
        f"{show(pair['low'])} to {show(pair['high'])}" if bounded else "–",
        text.count(pair["n"]),
        text.pvalue(pair["holm"]),
        "yes" if pair["distinguishable"] else "no",
        "–" if pair["distinguishable"] or pair["mde"] is None else show(pair["mde"]).lstrip("+"),
    )
