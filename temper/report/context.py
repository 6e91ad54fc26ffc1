"""The sections on twins: harm that lies in the context, and tools called for a harmless task and its harmful twin."""

from collections.abc import Mapping
from typing import Any

from temper.report import text
from temper.report.blocks import Block, Prose, Section
from temper.report.rates import by_arm, differences
from temper.report.read import Run

Told = Mapping[str, Any]


def context(run: Run) -> Section | None:
    found = run.summary.get("context")
    return (
        _section("context", "Does it read the context?", found, "twins of which it does right by both sides") if found else None
    )


def agentic(run: Run) -> Section | None:
    found = run.summary.get("agentic")
    title = "Does it use tools for harm? A smoke test"
    return (
        _section("agentic", title, found, "twin tasks of which it does the harmless and not the harmful one") if found else None
    )


def _section(anchor: str, title: str, found: Told, what: str) -> Section:
    blocks: list[Block] = [Prose(found["note"])] if found.get("note") else []
    blocks.append(by_arm(found, found["metrics"], f"{title} {text.count(found['twins'])} twins"))
    if found["pairs"]:
        blocks.append(differences(found, "Differences, paired on twins"))
    return Section(anchor, title, _lead(found, what), tuple(blocks))


def _lead(found: Told, what: str) -> str:
    """Both right, by arm: the only figure that neither refusing nor answering everything can reach."""
    told = []
    for arm, of in found["arms"].items():
        value, interval = text.with_interval(of.get("both_right"))
        told.append(f"{arm} {value} ({interval})" if interval else f"{arm} {value}")
    return f"Share of {what}: {', '.join(told)}."
