"""Answers from rows that an earlier evaluation stored, so that graders can be rerun without the model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from temper.errors import DataError, nearest
from temper.files import read_rows
from temper.types import Completion, Example, Message, Role, Usage

_LISTED = 5  # ids shown in an error


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    reasoning_tokens: int | None = None


class _Message(BaseModel):
    role: Role
    content: str


class _Row(BaseModel):
    """What of a stored row is replayed; scores and metadata are left out."""

    model_config = ConfigDict(extra="ignore")
    id: str
    arm: str = ""
    sample: int = 0
    prompt: str
    answer: str
    reasoning: str = ""
    finish: Literal["stop", "length", "error"] = "stop"
    thought: Literal["none", "closed", "open"] = "none"
    raw: str = ""
    usage: _Usage | None = None
    error: str = ""
    facts: dict[str, Any] = Field(default_factory=dict)
    asked: list[_Message] = Field(default_factory=list)
    category: str = ""
    klass: str = Field("", alias="class")
    group: str = ""
    language: str = "en"
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A sampler over stored completions, in the order of their `sample` number. `source` names where they came from.

    Raises `DataError` for an example that was never asked, was asked in other words, or has fewer than n samples.
    """

    source: str
    rows: Mapping[str, tuple[_Row, ...]]

    @classmethod
    def from_file(cls, path: Path, *, arm: str | None = None) -> "Replay":
        """Rows of a `rows.jsonl`; `arm` must be named where the file holds several. Raises `DataError` naming a bad row."""
        rows = read_rows(path)
        if not rows:
            raise DataError(f"{path}: no rows to replay; wanted the rows.jsonl of an evaluation")
        return cls.from_rows(rows, source=str(path), arm=arm)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], *, source: str = "rows", arm: str | None = None) -> "Replay":
        parsed = [_parsed(f"{source}[{number}]", row) for number, row in enumerate(rows)]
        arms = {row.arm for row in parsed}
        if arm is None and len(arms) > 1:
            raise DataError(f"{source}: holds the arms {', '.join(sorted(arms))}; choose one with arm")
        if arm is not None and arm not in arms:
            raise DataError(f"{source}: no arm {arm!r}; {nearest(arm, arms)}")
        return cls(source, _by_example(source, [row for row in parsed if arm is None or row.arm == arm]))

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        return [[_completion(example, row) for row in self._stored(example, n)] for example in examples]

    def _stored(self, example: Example, n: int) -> tuple[_Row, ...]:
        if example.id not in self.rows:
            raise DataError(f"{self.source}: no stored answer for example {example.id!r}; {self._known()}")
        stored = self.rows[example.id]
        if len(stored) < n:
            raise DataError(f"{self.source}: example {example.id!r} has {len(stored)} stored samples; {n} were asked for")
        if any(row.prompt != example.prompt for row in stored):
            raise DataError(f"{self.source}: example {example.id!r} was asked in other words when its answer was stored")
        return stored[:n]

    def _known(self) -> str:
        few = sorted(self.rows)[:_LISTED]
        more = f" and {len(self.rows) - len(few)} more" if len(self.rows) > len(few) else ""
        return f"it has answers for {', '.join(few)}{more}"


def _parsed(where: str, row: Mapping[str, Any]) -> _Row:
    try:
        return _Row.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: field {field!r}: {first['msg']}; wanted a row as evaluate writes them") from None


def _by_example(source: str, rows: Iterable[_Row]) -> dict[str, tuple[_Row, ...]]:
    grouped: dict[str, dict[int, _Row]] = defaultdict(dict)
    for row in rows:
        if row.sample in grouped[row.id]:
            raise DataError(f"{source}: example {row.id!r} has sample {row.sample} twice; are several suites in one file?")
        grouped[row.id][row.sample] = row
    return {id: tuple(samples[k] for k in sorted(samples)) for id, samples in grouped.items()}


def restored(row: Mapping[str, Any], *, where: str = "row") -> Completion:
    """The completion that a stored row is about, with what was asked. Raises `DataError` naming a wrong field."""
    parsed = _parsed(where, row)
    return _completion(_example(parsed), parsed)


def _example(row: _Row) -> Example:
    messages = tuple(Message(m.role, m.content) for m in row.asked) or (Message("user", row.prompt),)
    group = "" if row.group == row.id else row.group  # a prompt without a group is written down as its own
    tags = {row.klass, f"category:{row.category}" if row.category else ""} - {""}
    plain = Example(row.id, messages, target=row.target, tags=frozenset(tags), language=row.language, group=group)
    return plain if plain.prompt == row.prompt else replace(plain, goal=row.prompt)


def _completion(example: Example, row: _Row) -> Completion:
    return Completion(
        example,
        row.answer,
        row.reasoning,
        finish=row.finish,
        thought=row.thought,
        raw=row.raw or row.answer,
        usage=Usage(**row.usage.model_dump()) if row.usage else None,
        error=row.error,
        facts=row.facts,
    )
