"""What opens the report: the failure signatures, each detected, not detected or cannot tell, by the figure that says so."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from temper.report import text
from temper.report.blocks import Section, Table
from temper.report.read import Run

Told = Mapping[str, Any]


def section(run: Run) -> Section | None:
    """The section, None for a run whose summary was written before signatures were."""
    told = run.summary.get("signatures")
    if not told:
        return None
    found = told["found"]
    overview = Table(
        "Failure signatures",
        ("signature", "verdict", "figure that says so", "limit"),
        tuple((s["title"], s["verdict"], _said(s), _limit(s)) for s in found),
        f"Limits version {told['version']}, declared before looking. Each interval is 95 % by itself: this is a screen.",
    )
    return Section("signatures", "Failure signatures", _lead(found), (overview,))


def figures(run: Run) -> Section | None:
    """Every figure that the signatures rest on, for the end of the report; None where nothing was measured."""
    found = run.summary.get("signatures", {}).get("found", [])
    lines = tuple(line for s in found for line in _lines(s))
    if not lines:
        return None
    head = ("signature", "of", "figure", "value", "95 % interval", "n", "verdict")
    title = "Figures behind the signatures"
    return Section("signature-figures", title, "Each against its signature's limit.", (Table(title, head, lines),))


def _lead(found: list[Told]) -> str:
    by = {v: [s["title"].lower() for s in found if s["verdict"] == v] for v in ("detected", "not detected", "cannot tell")}
    return " ".join(f"{verdict.capitalize()}: {', '.join(names)}." for verdict, names in by.items() if names)


def _said(signature: Told) -> str:
    """The figure that decides: of those with the signature's verdict the one that reaches highest, or else what is missing."""
    if signature["missing"]:
        return f"not measured: {signature['missing']}"
    agreeing = [e for e in signature["figures"] if e["verdict"] == signature["verdict"]]
    deciding = max(agreeing, key=lambda e: -math.inf if e["high"] is None else e["high"])
    value, interval = _value(deciding)
    shown = f"{value} ({interval}; n {text.count(deciding['n'])})" if interval else value
    why = f"; {deciding['why']}" if deciding["why"] else ""
    return f"{deciding['subject']}: {deciding['what']} {shown}{why}"


def _limit(signature: Told) -> str:
    limit = signature["limit"]
    return f"{text.points(limit)} points" if signature["unit"] == "difference" else text.percent(limit)


def _lines(signature: Told) -> Iterator[tuple[str, ...]]:
    for figure in signature["figures"]:
        value, interval = _value(figure)
        n = "–" if figure["n"] is None else text.count(figure["n"])
        yield signature["title"], figure["subject"], figure["what"], value, interval or "–", n, figure["verdict"]


def _value(figure: Told) -> tuple[str, str]:
    value, interval = text.with_interval(figure, figure["unit"])
    return (f"{value} points" if interval and figure["unit"] == "difference" else value), interval
