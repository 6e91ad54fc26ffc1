"""The section "Does it keep to one language, and can it be read?": switches nobody asked for, pass rates, readability."""

from collections.abc import Mapping
from typing import Any

from temper.report import text
from temper.report.blocks import Block, Section, Table
from temper.report.rates import by_arm, differences
from temper.report.read import Run

PASSES = {"lpr": "LPR", "wpr": "WPR", "lcpr": "LCPR"}
NOTE = (
    "LPR: replies whose every line is in the right language. WPR: of those, replies without a foreign word. LCPR: their harmonic "
    "mean (arXiv 2406.20052), its interval conservative."
)
Told = Mapping[str, Any]


def section(run: Run) -> Section | None:
    found = run.summary.get("mixing")
    if not found:
        return None
    reading = [name for name in found["metrics"] if name.startswith(("readability", "summary"))]
    languages = [name for name in found["metrics"] if name not in reading]
    blocks: list[Block] = [by_arm(found, languages, "Languages in reasoning and answer"), _passes(found["lcpr"])]
    if found["languages"]:
        blocks.append(_by_language(found["languages"]))
    blocks.append(by_arm(found, reading, "How well it reads, by how the reply ended"))
    if found["pairs"]:
        blocks.append(differences(found, "Differences, readability on prompts that both answered"))
    return Section("mixing", "Does it keep to one language, and can it be read?", _lead(found), tuple(blocks))


def _lead(found: Told) -> str:
    known = {
        (arm, side): of[f"switched_{side}"]
        for arm, of in found["arms"].items()
        for side in ("reasoning", "answer")
        if of.get(f"switched_{side}", {}).get("value") is not None
    }
    if not known:
        return "No reply had words whose language could be told."
    arm, side = max(known, key=lambda key: known[key]["value"])
    value, interval = text.with_interval(known[arm, side])
    return (
        f"At most {value} of replies go into a language that nobody used or asked for ({side} of {arm}; {interval}, "
        f"n {text.count(known[arm, side]['n'])})."
    )


def _passes(found: Told) -> Table:
    lines = [
        (arm, side, *(_shown(of[side][name]) for name in PASSES), text.count(of[side]["lpr"]["n"]))
        for arm, of in found.items()
        for side in ("reasoning", "answer")
        if of[side]["lpr"]["n"]
    ]
    return Table("Language pass rates", ("arm", "side", *PASSES.values(), "n"), tuple(lines), NOTE)


def _by_language(found: Told) -> Table:
    lines = [
        (
            code,
            arm,
            side,
            _shown(of.get(f"switched_{side}")),
            _shown(of["lcpr"][side]["lcpr"]),
            text.count(of["lcpr"][side]["lcpr"]["n"]),
        )
        for code, arms in found.items()
        for arm, of in arms.items()
        for side in ("reasoning", "answer")
        if f"switched_{side}" in of
    ]
    head = ("language of the prompt", "arm", "side", "switches language", "LCPR", "n")
    return Table("By language of the prompt", head, tuple(lines))


def _shown(estimate: Told | None) -> str:
    value, interval = text.with_interval(estimate)
    return f"{value} ({interval})" if interval else value
