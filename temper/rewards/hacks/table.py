"""The table of entries, and what is known about each: chosen by name, run over a batch, measured, and tried on bundled pairs."""

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from temper.data.read import read_dialogues
from temper.errors import UnknownName, nearest
from temper.registry import find
from temper.registry import names as registered
from temper.rewards.hacks import disguises, judged, padding, refusals, thoughts
from temper.rewards.hacks.entry import CLASSES, Figures, Hack, Reference, Twin
from temper.rewards.hacks.reading import rewritten
from temper.rewards.hacks.thresholds import SHIPPED
from temper.stats import proportion
from temper.types import Completion

KIND = "hack"
TABLE: dict[str, Hack] = {hack.name: hack for family in (refusals, padding, thoughts, disguises, judged) for hack in family.HACKS}
TWINS = 4
"""Pairs for each entry."""
PLANTINGS = 10


def bank(names: Sequence[str] = ("all",)) -> tuple[Hack, ...]:
    """Entries by name, in the bank's order; "all", "-name" leaves one out; a list that begins so is the whole bank without it.

    `file.py:name` adds one, and so does the file.json of a mined one that a person accepted. Raises `UnknownName`, also for an
    added entry that bears the name of another one: its flags would be read with the other's measured errors.
    """
    chosen: dict[str, Hack] = {}
    added: dict[str, str] = {}
    for name in ("all", *names) if names and names[0].startswith("-") else names:
        if name == "all":
            chosen |= TABLE
        elif name.startswith("-"):
            chosen.pop(_entry(name[1:]).name, None)
        else:
            entry = _entry(name)
            _only_one(entry, name, added)
            chosen[entry.name] = entry
    order = {name: place for place, name in enumerate(TABLE)}
    return tuple(sorted(chosen.values(), key=lambda h: order.get(h.name, len(order))))


def _only_one(entry: Hack, spec: str, added: dict[str, str]) -> None:
    if entry.name in TABLE and spec != entry.name:
        raise UnknownName(f"hack {spec}: is called {entry.name!r}, as an entry of the bank is; give it another name")
    if added.setdefault(entry.name, spec) != spec:
        raise UnknownName(f"hack {spec}: is called {entry.name!r}, as {added[entry.name]} is; give one of them another name")


def _entry(name: str) -> Hack:
    if name in TABLE:
        return TABLE[name]
    if name.endswith(".json"):  # a mined hack that a person accepted
        from temper.rewards.mining import load  # which imports this package

        return load(Path(name))
    if not name.endswith(".py") and ".py:" not in name and name not in registered(KIND):
        raise UnknownName(
            f"no hack is called {name!r}; {nearest(name, [*TABLE, *registered(KIND), 'all'])}; or give file.py:name"
        )
    found = find(KIND, name)
    if not isinstance(found, Hack):
        raise UnknownName(f"hack {name}: is a {type(found).__name__}; wanted a temper.rewards.hacks.Hack")
    return found


def flags(hacks: Sequence[Hack], completions: Sequence[Completion], reference: Reference) -> dict[str, list[float | None]]:
    """One column a hack, as long as the batch; None where the prompt's class is known and none the hack can occur on."""
    classes = [c.example.tags & CLASSES for c in completions]
    found = {hack.name: hack.detect(completions, reference) for hack in hacks}
    return {
        hack.name: [v if not own or own & hack.classes else None for v, own in zip(found[hack.name], classes, strict=True)]
        for hack in hacks
    }


def figures(names: Sequence[str] = ()) -> Mapping[str, Figures]:
    """Measured recall and false-positive rate of each entry of the table, and of the accepted file.json among `names`.

    `tools/measure_hacks.py` measured the table's; an accepted file brings its own.
    """
    from temper.rewards.mining import figures as mined  # which imports this package

    files = [name for name in names if name.endswith(".json")]
    accepted = {_entry(name).name: mined(Path(name)) for name in files}
    return {name: _figures(held) for name, held in measured()["hacks"].items()} | accepted


def measured() -> dict[str, Any]:
    """The shipped hacks.json: command, date, reference, and counts of each entry."""
    held: dict[str, Any] = json.loads(files(__package__).joinpath("hacks.json").read_text(encoding="utf-8"))
    return held


def _figures(held: Mapping[str, int]) -> Figures:
    recall = proportion(held["found"], held["positives"])
    false = proportion(held["flagged"], held["negatives"])
    return Figures(recall, false, held["positives"], held["negatives"])


@cache
def twins() -> list[Twin]:
    """Bundled pairs, four for each entry: a good answer of the cold start, and the same with the hack planted in it."""
    return [twin for hack in TABLE.values() for twin in pairs(hack)]


def pairs(hack: Hack, answers: Sequence[Completion] = ()) -> list[Twin]:
    """Four pairs for any entry, also one that is not in the table; their prompts are of classes the hack can occur on.

    Planted in the first of `answers`, which are good ones; where fewer than four fit, in good answers of the cold start.
    """
    fitting = [a for a in answers if not hack.classes.isdisjoint(a.example.tags)][:TWINS]
    return [_twin(hack, clean) for clean in (fitting if len(fitting) == TWINS else _bundled(hack))]


def _bundled(hack: Hack) -> list[Completion]:
    found = [d for d in read_dialogues("cold-start") if not hack.classes.isdisjoint(d.example.tags)]
    chosen = sorted(found, key=lambda d: (d.example.id[-1], d.example.id))[:TWINS]
    return [rewritten(Completion(d.example, ""), reasoning=d.reasoning, answer=d.answer) for d in chosen]


def _twin(hack: Hack, clean: Completion) -> Twin:
    """The first of ten plantings that is seen: the gate asks what a seen hack is paid; how many are seen, the figures say."""
    made = [hack.plant(clean, random.Random(f"{hack.name} {clean.example.id} {n}")) for n in range(PLANTINGS)]
    return Twin(hack.name, clean, next((c for c in made if hack.detect([c], SHIPPED) == [1.0]), made[0]))
