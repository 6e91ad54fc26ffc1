"""What every reader of a foreign file makes of it: replies with their scores, and what the file leaves unsaid."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from temper.errors import DataError
from temper.types import Better, Completion, Role, Score

Given = Mapping[str, tuple[Score, Better]]
"""Scores by the name of the tool and of its scorer, with the good end of each."""
ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
WHY = 2_000  # characters kept of a foreign judge's explanation


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion as another tool recorded it; `scores` are that tool's opinions, none of them a judge of ours.

    `suite`, `of` and `how` are those of `Suite`; `unknown` names what this record leaves unsaid ("finish", "thought").
    """

    suite: str
    model: str
    completion: Completion
    sample: int = 0
    scores: Given = field(default_factory=lambda: MappingProxyType({}))
    of: str = ""
    how: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    """One file, or several that belong together: who wrote it, what it holds, what it cannot tell.

    `facts` are decoding, versions and status as the file states them, in JSON's types. `unknown` are sentences.
    """

    tool: str
    replies: tuple[Reply, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


_WANTED: Mapping[object, str] = {str: "text", dict: "an object", list: "a list", int: "a whole number", bool: "true or false"}
_MISSING: Any = object()


def want(place: str, row: Mapping[str, Any], name: str, kind: type, default: Any = _MISSING) -> Any:
    """A field of a foreign record, by its type; `default` stands for one that is missing or null.

    Raises `DataError` that names the place, the field and what was wanted.
    """
    value = row.get(name)
    if value is None and default is not _MISSING:
        return default
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    given = "missing" if name not in row else "null" if value is None else f"a {type(value).__name__}"
    raise DataError(f"{place}: field {name!r} is {given}; wanted {_WANTED.get(kind, kind.__name__)}")


def each(place: str, row: Mapping[str, Any], name: str, kind: type, default: Any = _MISSING) -> list[tuple[str, Any]]:
    """The members of a list field, each with its place. Raises `DataError` as `want` does."""
    found = want(place, row, name, list, default)
    placed = [(f"{place} {name}[{i}]", member) for i, member in enumerate(found)]
    for where, member in placed:
        if not isinstance(member, kind):
            raise DataError(f"{where}: is a {type(member).__name__}; wanted {_WANTED.get(kind, kind.__name__)}")
    return placed


def aside(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object that only tells more about a file; where it is something else, nothing is told, and nothing lost."""
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def number(value: object, why: str = "") -> Score:
    """A foreign value as a score: 0 to 1, a truth value, or none. What lies outside keeps its number among the parts.

    Nothing is rescaled: a 3.5 may be one of five or one of ten, and only who made it knows.
    """
    if isinstance(value, bool):
        return Score(float(value), why)
    if not isinstance(value, int | float):
        return Score(None, f"{value!r} is no number" if value is not None else why)
    if not math.isfinite(value):
        return Score(None, why or "not scored")
    if 0 <= value <= 1:
        return Score(float(value), why)
    return Score(None, f"{value:g} is outside [0, 1], and its scale is not stated", {"given": float(value)})


def shared(values: Iterable[Any]) -> Any:
    """The one value that all agree on, None where they differ or there is none."""
    found = list(values)
    return found[0] if found and all(value == found[0] for value in found) else None
