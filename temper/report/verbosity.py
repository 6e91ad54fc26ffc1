"""The section "Does length buy anything?": tokens by how a reply ended, overthinking, and outcomes by length of the thought."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from temper.report import charts, text
from temper.report.blocks import Block, Figure, Prose, Section, Table
from temper.report.rates import by_arm, differences
from temper.report.read import Run

LABELS = {"unsafe": "unsafe answers", "helped": "answered in full", "accuracy": "solved"}
Told = Mapping[str, Any]


def section(run: Run) -> Section | None:
    found = run.summary.get("verbosity")
    if not found:
        return None
    blocks: list[Block] = [by_arm(found, found["metrics"], "Tokens by how a reply ended")]
    if found["pairs"]:
        blocks.append(differences(found, "Tokens on prompts that both arms ended alike"))
    overthinking = _overthinking(found)
    blocks += [overthinking] if overthinking.rows else []
    blocks += [_bands(klass, of) for klass, of in found["bands"].items()]
    return Section("verbosity", "Does length buy anything?", _lead(found), (*blocks, *_apportioned(found)))


def _lead(found: Told) -> str:
    longer = [p for p in found["pairs"] if p["metric"] in ("tokens_answered", "tokens_solved") and p["low"] is not None]
    if not longer:
        return "Lengths are by how a reply ended, because a refusal is short."
    most = max(longer, key=lambda p: abs(p["difference"] / p["base_value"]) if p["base_value"] else 0.0)
    low, high = (text.change(most[side], "tokens") for side in ("low", "high"))
    what = found["metrics"][most["metric"]]["label"].lower()
    return (
        f"The largest change of length is {text.change(most['difference'], 'tokens')} tokens ({what}, {most['arm']} "
        f"{text.MINUS} {most['base']}; {low} to {high}, n {text.count(most['n'])})."
    )


def _overthinking(found: Told) -> Table:
    head = ("arm", "solved, tokens", "unsolved, tokens", "unsolved minus solved", "within a task")
    lines = [
        (arm, *(_shown(of[key]) for key in ("solved", "unsolved", "difference", "within")))
        for arm, of in found["overthinking"].items()
        if of["solved"]["n"] or of["unsolved"]["n"]
    ]
    note = "Unsolved tasks are harder ones; only the last column, from tasks with samples of both kinds, leaves difficulty out."
    cut = [f"{arm} {text.count(of['cut'])}" for arm, of in found["overthinking"].items() if of.get("cut")]
    if cut:
        note += (
            f" Thoughts that the token cap cut count as unsolved with their tokens so far ({', '.join(cut)}): at least so many."
        )
    return Table("Thought tokens on solved and unsolved tasks", head, tuple(lines), note)


def _shown(estimate: Told) -> str:
    value, interval = text.with_interval(estimate, "tokens")
    return f"{value} ({interval}; n {text.count(estimate['n'])}{text.unseen(estimate, 'tokens')})" if interval else value


def _bands(klass: str, of: Told) -> Figure:
    edges, label = of["edges"], LABELS[of["metric"]]
    names = [f"{text.count(a)} to {text.count(b)}" for a, b in pairwise(edges)]
    series = [
        charts.Line(arm, [(i + 1, e["value"]) for i, e in known], True, [(i + 1, e["low"], e["high"]) for i, e in known])
        for arm, bands in of["arms"].items()
        if (known := [(i, e) for i, e in enumerate(bands) if e["value"] is not None and e["low"] is not None])
    ]
    caption = f"Share {label} by length of the thought, {klass} prompts"
    lines = [
        (names[i], arm, *(shown or "–" for shown in text.with_interval(e)), text.count(e["n"]), text.count(e["ungraded"]))
        for arm, bands in of["arms"].items()
        for i, e in enumerate(bands)
    ]
    table = Table(caption, ("thought tokens", "arm", label, "95 % interval", "n", "not graded"), tuple(lines))
    return Figure(
        caption, charts.lines(series, title=caption, x_label="quarter of all thoughts, short to long", y_label=""), table
    )


def _apportioned(found: Told) -> list[Prose]:
    guessed = {arm: n for arm, n in found["apportioned"].items() if n}
    if not guessed:
        return []
    told = ", ".join(f"{arm} {text.count(n)}" for arm, n in guessed.items())
    return [Prose(f"Nobody counted the tokens of these thoughts, so they are the reply's in proportion to characters: {told}.")]
