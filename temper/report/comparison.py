"""The section "What was compared": each arm's evaluation, where settings differ, rates without the judge's errors."""

from collections.abc import Mapping
from typing import Any

from temper.report import text
from temper.report.blocks import Block, Prose, Section, Table
from temper.report.read import Run

SETTINGS = ("judge", "token cap", "temperature", "top-p", "answers per prompt")


def section(run: Run) -> Section | None:
    """The section, None for a run that is not a comparison of finished evaluations (`temper compare`)."""
    found = run.summary.get("comparison")
    if not found:
        return None
    warnings = found["warnings"]
    lead = (
        f"{len(warnings)} reasons why a difference may not be the models': read them before the numbers."
        if warnings
        else "The evaluations record the same judge, decoding and caps."
    )
    blocks: list[Block] = [*map(Prose, warnings), _evaluations(found)]
    if found["corrected"] is not None:
        blocks.append(_corrected(found["corrected"]))
    return Section("comparison", "What was compared", lead, tuple(blocks))


def _evaluations(found: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            arm,
            str(of["source"]),
            *(text.MISSING if of[name] is None else str(of[name]) for name in SETTINGS),
            _matched(found["matched"][arm]),
        )
        for arm, of in found["evaluations"].items()
    )
    note = "Prompts are matched by their text and what was done to it; by content: under another id than in the first evaluation."
    return Table("The evaluations", ("arm", "from", *SETTINGS, "prompts shared"), rows, note)


def _matched(of: Mapping[str, int]) -> str:
    other = f", {text.count(of['by_content'])} by content" if of["by_content"] else ""
    return f"{text.count(of['shared'])} of {text.count(of['prompts'])}{other}"


def _corrected(found: Mapping[str, Any]) -> Table:
    rows = tuple(
        (arm, _rate(of["observed"]), _rate(of["corrected"]), _rate(of["powered"]), text.count(of["labels"]), _whose(of))
        for arm, of in found["arms"].items()
    )
    head = ("arm", "by the judge", "Rogan-Gladen", "prediction-powered", "labels", "judge's errors from")
    return Table("Unsafe answers without the judge's errors", head, rows, "Intervals hold the labels' own variance.")


def _whose(of: Mapping[str, Any]) -> str:
    return "this arm's labels" if of["own"] else "all arms' labels"


def _rate(estimate: Mapping[str, Any]) -> str:
    value, interval = text.with_interval(estimate)
    return f"{value} ({interval})" if interval else "not corrected"
