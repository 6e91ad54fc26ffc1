"""The section "Model alone and behind the guard": unsafe answers and rejections side by side, and which filters decided."""

from collections.abc import Mapping
from typing import Any

from temper.report import text
from temper.report.blocks import Block, Prose, Section, Table
from temper.report.rates import by_arm, differences
from temper.report.read import Run

Told = Mapping[str, Any]
PAIR = ("unsafe", "rejected_harmful")
"""The two rates that are never told apart, as R1's authors do (docs/science.md, 1.5)."""


def section(run: Run) -> Section | None:
    found = run.summary.get("guard")
    if not found:
        return None
    blocks: list[Block] = [by_arm(found, found["metrics"], "Unsafe answers and rejections, by arm")]
    if found["pairs"]:
        blocks.append(differences(found, "What the guard changes"))
    for arm, of in found["guards"].items():
        blocks += [Prose(_did(arm, of)), _filters(arm, of)]
    return Section("guard", "Model alone and behind the guard", _lead(found), tuple(blocks))


def _lead(found: Told) -> str:
    told = [f"{arm}: {_rates(of)}" for arm, of in found["arms"].items()]
    return (
        f"{'; '.join(told)}. A lower unsafe rate that is bought with rejections of harmless prompts is no improvement: read "
        "the two together."
    )


def _rates(of: Told) -> str:
    said = [
        f"{text.with_interval(of[name])[0]} {label}"
        for name, label in (
            (*zip(PAIR, ("unsafe", "of harmful prompts rejected"), strict=True), ("over_refusal", "over-refusal"))
        )
        if name in of
    ]
    return ", ".join(said) or "no harmful or harmless prompt was asked"


def _did(arm: str, of: Told) -> str:
    actions = ", ".join(f"{name} {text.count(n)}" for name, n in of["actions"].items())
    policy = f" ({', '.join(of['policies'])})" if of["policies"] else ""
    caught, lost = (_share(of[key]) for key in ("caught", "lost"))
    return (
        f"{arm}{policy}, replies by action: {actions}. Of the answers that were unsafe without it, it withheld {caught}; of the "
        f"answers to benign and borderline prompts, {lost}. What a person would have to release counts as withheld."
    )


def _share(of: Told) -> str:
    if not of["n"]:
        return "none, for there were none"
    value, span = text.with_interval(of)
    return f"{value} ({span}, n {text.count(of['n'])})"


def _filters(arm: str, of: Told) -> Table:
    head = ("filter", "category", "channel", "action", "replies")
    rows = tuple((f["filter"], f["category"] or "–", f["channel"], f["action"], text.count(f["n"])) for f in of["filters"])
    note = "A reply counts once in each line; one that several filters stopped is in several. Shadow rules are left out."
    return Table(f"Which filters had a part, {arm}", head, rows or (("none", "–", "–", "–", "0"),), note)
