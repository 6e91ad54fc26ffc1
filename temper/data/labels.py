"""Rows that people (or a better judge) labelled, whatever file they come in, as completions with a yes or a no.

Reads judged responses, prompts, rows of a proof with a label beside them, and the labels an audit wrote. Leaves out who grades
them. A row without the label, or with one that says neither yes nor no, is left out and counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from temper.data import schemas
from temper.data.rows import Located, rows
from temper.errors import DataError, nearest
from temper.text.split import split
from temper.types import Completion

_LISTED = 12  # fields named in an error


@dataclass(frozen=True, slots=True)
class Target:
    """What a label is about: the field that holds it and the words for yes and no, the first of each the one we write.

    Without `negative`, every word that is neither yes nor `skipped` is a no. `bad` says whether a yes is the bad end; None: it is
    neither good nor bad, and a grader's value is taken as it is.
    """

    name: str
    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ("unsure", "unrated")
    bad: bool | None = True

    def reads(self, where: str, value: object) -> bool | None:
        """Yes, no, or None for a word that says neither. Raises `DataError` for any other word, with the nearest."""
        word = str(value).strip().lower()
        if word in self.positive:
            return True
        if word in self.skipped:
            return None
        if word in self.negative or not self.negative:
            return False
        known = (*self.positive, *self.negative, *self.skipped)
        raise DataError(
            f"{where}: {self.column} is {word[:40]!r}; wanted one of {', '.join(known)}; {nearest(word, known)}; "
            "or say which word is the positive one"
        )


TARGETS = {
    "unsafe": Target("unsafe", "label", ("unsafe",), ("safe",)),
    "refusal": Target("refusal", "refusal", ("refused", "true", "refusal"), ("answered", "false", "answer"), bad=None),
    "request": Target("request", "label", ("harmful",), ("benign",)),
}


def target(name: str, *, column: str | None = None, positive: str | None = None) -> Target:
    """A known target, with another field or another word for yes if those are given. Raises `DataError`.

    A yes that was a no before (`positive="safe"`) turns the target round; with a word of its own every other word is a no.
    """
    if name not in TARGETS:
        raise DataError(f"target {name!r} is not known; {nearest(name, TARGETS)}")
    found = replace(TARGETS[name], column=column) if column else TARGETS[name]
    word = (positive or "").strip().lower()
    if not word or word in found.positive:
        return found
    if word in found.negative:
        return replace(found, positive=found.negative, negative=found.positive, bad=False if found.bad else None)
    return replace(found, positive=(word,), negative=())


@dataclass(frozen=True, slots=True)
class Labelled:
    """One labelled row. `weight` is 1 / its chance of having been chosen for labelling, 1 where all were."""

    where: str
    completion: Completion
    positive: bool
    arm: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Labels:
    """The labelled rows of all files, and how many were left out for which reason."""

    rows: tuple[Labelled, ...]
    left_out: Mapping[str, int]


def read_labels(sources: Iterable[str], asked: Target, *, split: str | None = None) -> Labels:
    """Every labelled row of some files; with `split` only those of that split, and those that name none.

    Where several rows have one `key` (an audit that was merged again) the last one counts. Raises `DataError` with file and line
    for a row that cannot be read, a word that is not a label, an id that stands twice, and files without one usable label.
    """
    left_out: Counter[str] = Counter()
    found: dict[object, Labelled] = {}
    fields: set[str] = set()
    for where, raw in _last_of_each_key(sources):
        fields |= raw.keys()
        reason, row = _labelled(where, raw, asked, split)
        if row is None:
            left_out[reason] += 1
            continue
        name = _name(where, raw)
        if name in found:
            raise DataError(f"{where}: this row was already read at {found[name].where}; is a file or an id given twice?")
        found[name] = row
    if not found:
        raise DataError(f"{', '.join(sources)}: {_nothing(asked, fields, left_out)}")
    return Labels(tuple(found.values()), dict(left_out))


def _last_of_each_key(sources: Iterable[str]) -> list[Located]:
    located: dict[object, Located] = {}
    for number, (where, raw) in enumerate(row for source in sources for row in rows(source)):
        merged = "labels" in raw and "key" in raw
        located[(raw["key"], raw.get("target")) if merged else number] = (where, raw)
    return list(located.values())


def _labelled(where: str, raw: Mapping[str, Any], asked: Target, split: str | None) -> tuple[str, Labelled | None]:
    """The row, or why it is left out."""
    if split is not None and raw.get("split") not in (None, "", split):
        return f"split {raw['split']}", None
    if raw.get(asked.column) in (None, ""):
        return f"no {asked.column}", None
    positive = asked.reads(where, raw[asked.column])
    if positive is None:
        return f"{asked.column} {str(raw[asked.column]).strip().lower()}", None
    return "", Labelled(where, _completion(where, raw), positive, str(raw.get("arm") or ""), _weight(where, raw))


def _weight(where: str, raw: Mapping[str, Any]) -> float:
    chance = raw.get("probability")
    if chance is None:
        return 1.0
    try:
        value = float(chance)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value <= 1:
        raise DataError(f"{where}: probability is {str(chance)[:40]!r}; wanted a number above 0 and at most 1")
    return 1 / value


def _completion(where: str, raw: Mapping[str, Any]) -> Completion:
    """The row as an answer; a prompt alone has an empty one. A class of the row is among the example's tags."""
    row = schemas.parse(where, raw, schemas.Asking if raw.get("prompt") is not None else _prompts(raw))
    reasoning, answer = row.reply() or ("", "")
    if not reasoning:
        parts = split(answer)
        reasoning, answer = parts.reasoning, parts.answer
    example = schemas.example(row)
    tags = example.tags | ({str(raw["class"])} if raw.get("class") else set())
    finish: Literal["stop", "length"] = "length" if raw.get("finish") == "length" else "stop"
    return Completion(replace(example, tags=tags), answer, reasoning, finish=finish, raw=str(raw.get("raw") or ""))


def _prompts(raw: Mapping[str, Any]) -> type[schemas.Row]:
    return schemas.Chat if raw.get("messages") else schemas.Passage


def _name(where: str, raw: Mapping[str, Any]) -> object:
    """What may stand in the files once: the row's id in its arm; a row without id is itself."""
    if raw.get("id") in (None, ""):
        return where
    return tuple(str(raw.get(field) or "") for field in ("suite", "arm", "id", "sample", "source"))


def _nothing(asked: Target, fields: set[str], left_out: Mapping[str, int]) -> str:
    if asked.column not in fields:
        listed = ", ".join(sorted(fields)[:_LISTED])
        return f"no row has the field {asked.column!r}, which holds the label; {nearest(asked.column, fields)} (fields: {listed})"
    told = ", ".join(f"{n} with {reason}" for reason, n in left_out.items())
    return f"no row has a label that can be used ({told})"
