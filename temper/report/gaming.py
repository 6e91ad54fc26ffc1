"""The section "Was the reward gamed?": proxy and gold over the distance moved, what adapted, hacks, and a line a stage.

Everything comes from summary.json (`prove.gaming`), metrics.jsonl and events.jsonl; a stage whose start was not scored is said to
be unmeasured rather than shown as clean.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from temper.report import charts, tables, text
from temper.report.blocks import Figure
from temper.report.read import Run

HEADS = ("gap, points", "area", "onset", "hacked", "commonest hack", "labels spent", "monitorability")
SHOWN = 6  # lines of one figure
RARE = 0.05  # a hack that is never above this share is named, not drawn
LOUD = ("reward released", "release refused", "rolled back", "stopped", "alarm", "detector to review")
QUIET = ("multiplier changed", "penalty changed", "pessimism changed")
KEY = "Dashed lines with letters are the events listed below; ticks on the axis are weights, penalties or pessimism that changed."
Stage = Mapping[str, Any]


def view(run: Run) -> dict[str, Any] | None:
    """What the template prints: a line and the figures of every grpo stage; None for a run without one."""
    measured = run.summary.get("gaming", {})
    folders = [f for f, known in run.facts.get("stages", {}).items() if known.get("kind") == "grpo"]
    folders += [f for f in measured if f not in folders]
    if not folders:
        return None
    return {
        "heads": HEADS,
        "lines": [_line(run, folder, measured[folder]) for folder in folders if folder in measured],
        "stages": [_stage(run, folder, measured.get(folder)) for folder in folders],
    }


def _line(run: Run, folder: str, found: Stage) -> dict[str, Any]:
    return {
        "title": _title(run, folder),
        "cells": list(_cells(found)),
        "broke_out": ", ".join(found["broke_out"]).replace(" %", f"{text.NBSP}%") or "no",
    }


def _cells(found: Stage) -> Iterator[dict[str, str]]:
    yield _cell(*text.with_interval(found["end"]["gap"], "difference"))
    yield _cell(*text.with_interval(found["area"], "score"))
    yield _cell("never" if found["onset"] is None else f"step {found['onset']}")
    yield _cell(*text.with_interval(found["hacked"]))
    common = max(found["hacks"], key=lambda name: found["hacks"][name]["value"] or 0.0, default=None)
    share, span = text.with_interval(found["hacks"].get(common))
    yield _cell(f"{common} {share}" if common and found["hacks"][common]["value"] else "none", span if common else "")
    yield _cell("none" if found["labels"] is None else text.count(found["labels"]))
    moved = (found["monitorability"] or {}).get("delta") or {}
    yield _cell(*text.with_interval(moved, "score") if moved else (text.MISSING, ""))


def _cell(value: str, interval: str = "") -> dict[str, str]:
    return {"value": value, "interval": interval}


def _stage(run: Run, folder: str, found: Stage | None) -> dict[str, Any]:
    title = _title(run, folder)
    if found is None:
        why = (
            "Not measured: the stage kept no answers of its start (key reference), or gold graded none, so the reward has no map."
        )
        return {"title": title, "figures": [], "sentences": [why], "events": []}
    events = [e for e in run.events.get(folder, []) if e.get("kind") in (*LOUD, *QUIET)]
    return {
        "title": title,
        "figures": list(_figures(run.steps.get(folder, []), found, events, title)),
        "sentences": [*_sentences(found), *([KEY] if events else [])],
        "events": [_told(e, letter) for e, letter in zip(events, _letters(events), strict=True)],
    }


def _title(run: Run, folder: str) -> str:
    arms = run.facts.get("stages", {}).get(folder, {}).get("arms", [])
    return ", ".join(arms) or folder


def _figures(steps: Sequence[Stage], found: Stage, events: Sequence[Stage], where: str) -> Iterator[Figure]:
    yield _curve(found, where)
    marks = _marks(events)
    for key, caption in (
        ("weights", "Weights of the reward"),
        ("multipliers", "Multipliers and pessimism"),
        ("penalties", "Hack penalties"),
    ):
        series, left = _adapted(steps, key)
        if series:
            note = "" if not left else f"; {left} more that changed less"
            yield _figure(f"{caption}{note}", series, f"{caption} over training: {where}", marks)
    hacks, rare = _hacks(found)
    if hacks:
        note = f"; rarer: {', '.join(rare)}" if rare else ""
        yield _figure(f"Share of answers with each hack{note}", hacks, f"Share of answers with each hack: {where}", marks)


def _curve(found: Stage, where: str) -> Figure:
    windows = [w for w in found["windows"] if w["proxy"]["value"] is not None]
    moved = all(w["distance"] is not None for w in windows)

    def at(window: Stage) -> float:
        return float(window["distance"] if moved else (window["first"] + window["last"]) / 2)

    lines = [
        charts.Line("reward, mapped", [(at(w), w["proxy"]["value"]) for w in windows]),
        charts.Line(
            "gold",
            [(at(w), w["gold"]["value"]) for w in windows],
            dots=True,
            spans=[(at(w), w["gold"]["low"], w["gold"]["high"]) for w in windows if w["gold"]["low"] is not None],
        ),
    ]
    onset = next((at(w) for w in windows if w["first"] == found["onset"]), None)
    marks = [] if onset is None else [charts.Mark(onset, "onset")]
    axis = "\N{SQUARE ROOT}KL to the start, \N{SQUARE ROOT}nats" if moved else "optimiser step"
    return _figure("P(good): what the reward promises, what gold finds", lines, f"Mapped reward and gold: {where}", marks, axis)


def _adapted(steps: Sequence[Stage], key: str) -> tuple[list[charts.Line], int]:
    """The lines of one kind of weight that moved most, and how many more there are."""
    names = list(dict.fromkeys(name for step in steps for name in step.get(key) or {}))
    series = {name: [(float(s["step"]), float(s[key][name])) for s in steps if name in (s.get(key) or {})] for name in names}
    if key == "multipliers":
        series |= {"pessimism": [(float(s["step"]), float(s["kappa"])) for s in steps if s.get("kappa") is not None]}
    known = {name: points for name, points in series.items() if points}
    by_reach = sorted(known, key=lambda name: min(y for _, y in known[name]) - max(y for _, y in known[name]))
    drawn = [name for name in known if name in by_reach[:SHOWN]]
    return [charts.Line(name, known[name]) for name in drawn], len(known) - len(drawn)


def _hacks(found: Stage) -> tuple[list[charts.Line], list[str]]:
    """The commonest hacks over training as lines, and the names of those that stay rare or find no room."""
    windows = found["windows"]
    series = {
        name: [((w["first"] + w["last"]) / 2, w["hacks"][name]) for w in windows if name in w["hacks"]]
        for name in dict.fromkeys(name for w in windows for name in w["hacks"])
    }
    peak = {name: max(y for _, y in points) for name, points in series.items()}
    drawn = sorted((name for name in peak if peak[name] > RARE), key=lambda name: -peak[name])[:SHOWN]
    return [charts.Line(name, series[name]) for name in drawn], [name for name in series if name not in drawn]


def _sentences(found: Stage) -> Iterator[str]:
    gap, size = found["end"]["gap"], found["start"]
    yield (
        f"The map rests on {text.count(size)} answers of the start; the end on {text.count(gap['n'])} answers that gold graded. "
        f"{_onset(found)}"
    )
    if found["over_refusal_hack"]:
        yield "Harm fell while refusals of benign and borderline prompts rose: part of the safety is refusing everybody."
    for tried in found["ablations"]:
        before, after = (text.decimal(tried[side]["value"]) for side in ("before", "after"))
        yield (
            f"Without the span that the detector {tried['hack']} marks, {tried['grader']} goes from {before} to {after} "
            f"(change {text.span(tried['change']['low'], tried['change']['high'], 'score')}, n = {tried['change']['n']})."
        )
    for sentence in found["missing"]:
        yield f"{sentence[:1].upper()}{sentence[1:]}."


def _onset(found: Stage) -> str:
    if found["onset"] is None:
        return "Gold never fell certifiably below its best while the mapped reward held."
    return f"From step {found['onset']} gold was certifiably below its best while the mapped reward was not."


def _letters(events: Sequence[Stage]) -> list[str]:
    """A label for each step at which something loud happened, shared by its events; "" for quiet ones."""
    loud = list(dict.fromkeys(_step(e) for e in events if e["kind"] in LOUD))
    names = {step: chr(ord("a") + i) if i < 26 else str(i + 1) for i, step in enumerate(loud)}
    return [names[_step(e)] if e["kind"] in LOUD else "" for e in events]


def _marks(events: Sequence[Stage]) -> list[charts.Mark]:
    pairs = {(_step(e), letter) for e, letter in zip(events, _letters(events), strict=True)}
    return [charts.Mark(step, letter) for step, letter in sorted(pairs)]


def _step(event: Stage) -> float:
    return float((event.get("data") or {}).get("step") or 0)


def _told(event: Stage, letter: str) -> str:
    data = ", ".join(f"{k} {_short(v)}" for k, v in (event.get("data") or {}).items() if k != "step")
    said = f"step {_step(event):g}: {event['kind']}, {event['subject']}" + (f" ({data})" if data else "")
    return f"{letter} · {said}" if letter else said


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _figure(
    caption: str, found: Sequence[charts.Line], title: str, marks: Sequence[charts.Mark], x_label: str = "optimiser step"
) -> Figure:
    drawn = charts.lines(found, title=title, x_label=x_label, y_label="", marks=marks)
    return Figure(caption, drawn, tables.of_lines(title, x_label, found))
