"""A stage's rewards and weights once more, from its journal: what adapts is a fold over rows, live, resumed or replayed.

`states` is that fold, and the only one. `replayed` runs it over a finished stage and compares every reward, advantage, draw of
audits, weight, opinion of the learned model, event, figure of what was in force and pay of the start's answers with what the run
wrote down, to the bit. An alarm's events are taken as they stand: what raised them is not in the journal alone.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.errors import StorageError
from temper.files import Row, dumps, read_json, read_rows, write_json
from temper.rewards import adapt, journal
from temper.rewards.adapt import Change, State
from temper.rewards.signal import Design, beaten, pay, relearned

DESIGN, TWINS = "design.json", "twins.json"
Twins = Sequence[tuple[str, Row, Row]]
PAID = ("weights", "penalties", "reward", "advantage", "think_advantage")


@dataclass(frozen=True, slots=True)
class Folded:
    """One step: its rows, what was in force when they were paid, what is in force after them, and the changes between."""

    step: int
    rows: list[Row]
    before: State | None
    after: State | None
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay compared: numbers of steps, rows and changes, and the first differences as sentences, none if all agree."""

    stage: str
    steps: int
    rows: int
    changes: int
    differences: tuple[str, ...]


def write_design(folder: Path, design: Design, twins: Twins) -> None:
    """Put down what the stage pays for, before its first step."""
    write_json(folder / DESIGN, design.as_dict())
    write_json(folder / TWINS, [list(twin) for twin in twins])


def read_twins(folder: Path) -> Twins:
    """The pairs of the release gate that `write_design` put down."""
    return [(name, clean, hacked) for name, clean, hacked in read_json(folder / TWINS)]


def forward(
    state: State | None, rows: Sequence[Row], design: Design, twins: Twins, *, step: int
) -> tuple[State | None, list[Change]]:
    """The state after one step's rows, and what changed. Before the prompts shift, what was best on the old ones is forgotten."""
    if state is None or design.arc is None:
        return state, []

    def examine(candidate: State) -> list[str]:
        return beaten(design, candidate, twins)

    state, changes = adapt.advance(state, rows, design.arc, step=step, seed=design.seed, examine=examine)
    return (adapt.rebase(state, step=step) if step == design.shift_at - 1 else state), changes


def states(folder: Path, design: Design, twins: Twins) -> Iterator[Folded]:
    """The fold over a stage's journal, an alarm's rollbacks included, which the journal's events tell."""
    alarmed = [
        e["data"]["step"] for e in read_rows(folder / journal.EVENTS) if e["kind"] == "rolled back" and e["subject"] == "alarm"
    ]
    state = design.begin()
    for step, rows in journal.steps(folder):
        before = state
        state, changes = forward(state, rows, design, twins, step=step)
        if step in alarmed and state is not None:
            state = adapt.alarmed(state, step)
        yield Folded(step, rows, before, state, changes)


def replayed(folder: Path) -> Replayed:
    """Replay one stage folder. Raises `StorageError` if it holds no journal."""
    if not (folder / DESIGN).is_file():
        raise StorageError(f"{folder}: no {DESIGN}; wanted the folder of a grpo stage, as `temper run` writes it")
    design = Design.of(read_json(folder / DESIGN))
    found, events = list(states(folder, design, read_twins(folder))), read_rows(folder / journal.EVENTS)
    recorded = [e for e in events if e["subject"] != "alarm"]
    again = [json.loads(dumps(told(change, fold.step))) for fold in found for change in fold.changes]
    figures = {row["step"]: row for row in read_rows(folder / journal.METRICS)}
    differences = [d for fold in found for d in _differences(fold, design, figures)]
    if again != [{k: e[k] for k in ("kind", "subject", "data")} for e in recorded]:
        differences.append(f"{len(again)} changes were made again, {len(recorded)} are on record, and they are not the same")
    differences += [*_cut(found, design, events), *_otherwise_paid(found, design, read_rows(folder / journal.REFERENCE))]
    return Replayed(folder.name, len(found), sum(len(f.rows) for f in found), len(again), tuple(differences))


def decided(rewards: Sequence[float | None], state: State | None) -> dict[str, Any]:
    """The figures of a step that its rewards and what was in force decide."""
    told = [r for r in rewards if r is not None]
    mean = {"reward": sum(told) / len(told) if told else None}
    if state is None:
        return mean
    return {
        **mean,
        "multipliers": dict(state.multipliers),
        "penalties": dict(state.penalties),
        "kappa": state.kappa,
        "labels": state.spent,
        "beta_factor": state.beta_factor,
        "version": state.version,
    }


def repaid(start: Sequence[Row], design: Design, state: State | None) -> list[float | None]:
    """What the start's answers are paid by what is in force now."""
    return pay(relearned(start, design, state), design, state).rewards


def _differences(fold: Folded, design: Design, figures: Mapping[int, Row]) -> Iterator[str]:
    """Sentences on what does not agree in one step."""
    again = _chosen(relearned([{**row, "audit": None} for row in fold.rows], design, fold.before), fold, design)
    paid = pay([{**row, "audit": old["audit"]} for row, old in zip(again, fold.rows, strict=True)], design, fold.before)
    for number, (old, learned, new) in enumerate(zip(fold.rows, again, paid.rows, strict=True), 1):
        if learned["learned"] != old["learned"]:
            yield f"step {fold.step}, row {number}: the learned model says {learned['learned']}, the journal {old['learned']}"
        if learned["audit"] != (old["audit"] and {k: old["audit"][k] for k in ("expected", "count")}):
            yield f"step {fold.step}, row {number}: the draw of audits is {learned['audit']}, the journal has {old['audit']}"
        for key in PAID:
            if new[key] != old[key]:
                yield f"step {fold.step}, row {number}: {key} is {new[key]!r}, the journal has {old[key]!r}"
    told = figures.get(fold.step, {})
    for key, value in json.loads(dumps(decided(paid.rewards, fold.before))).items():
        if fold.step > 0 and told.get(key) != value:
            yield f"step {fold.step}: {key} is {value!r}, {journal.METRICS} has {told.get(key)!r}"


def _cut(found: Sequence[Folded], design: Design, events: Sequence[Row]) -> Iterator[str]:
    """Whether each step of the stage is there, or of a stopped stage each one up to its stop."""
    stop = next((e["data"]["step"] for e in events if e["kind"] == "stopped"), design.steps)
    steps = [fold.step for fold in found if fold.step > 0]
    if steps != list(range(1, stop + 1)):
        last = steps[-1] if steps else 0
        yield f"the journal has {len(steps)} steps and ends at step {last}; wanted each step from 1 to {stop}"


def _otherwise_paid(found: Sequence[Folded], design: Design, recorded: Sequence[Row]) -> Iterator[str]:
    """The start's answers, paid anew after each change, against what the run's map of the gap was made from."""
    start = next((fold.rows for fold in found if fold.step == 0), [])
    moved = [fold for fold in found if start and (fold.step == 0 or fold.changes)]
    if [fold.step for fold in moved] != [row["step"] for row in recorded]:
        yield f"{journal.REFERENCE} has {len(recorded)} rows; wanted one for the start and each step with a change, {len(moved)}"
        return
    for fold, row in zip(moved, recorded, strict=True):
        if repaid(start, design, fold.after) != row["rewards"]:
            yield f"step {fold.step}: the start's answers are paid otherwise than {journal.REFERENCE} says"


def _chosen(rows: list[Row], fold: Folded, design: Design) -> list[Row]:
    """The same rows with the draw of audits made anew."""
    if fold.before is None or design.arc is None:
        return rows
    draws = adapt.choose(rows, fold.before, design.arc, step=fold.step, seed=design.seed)
    return [
        {**row, "audit": {"expected": draws[i].expected, "count": draws[i].count} if i in draws else None}
        for i, row in enumerate(rows)
    ]


def told(change: Change, step: int) -> dict[str, Any]:
    """A change as an event tells it."""
    return {"kind": change.kind, "subject": change.subject, "data": {"step": step, **change.data}}
