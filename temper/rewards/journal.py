"""The journal of a stage: every rollout with every opinion, audit, weight and reward, as rows that a resumed run continues.

What adapts during a stage is a fold over these rows, so whoever has the journal can recompute every reward and every weight of
the run (`rewards.replay`). Step 0 holds the answers of the stage's start, scored before anything was trained.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from temper.files import Row, append_zst, keep_rows, read_rows
from temper.types import Completion, Example, Message, Score

ROLLOUTS, METRICS, EVENTS, REFERENCE = "rollouts.jsonl.zst", "metrics.jsonl", "events.jsonl", "reference.jsonl"


def rows_of(
    completions: Sequence[Completion],
    columns: Mapping[str, Sequence[Score]],
    flags: Mapping[str, Sequence[float | None]],
    *,
    step: int,
) -> list[Row]:
    """One row a completion: what was asked and answered, each grader's opinion, each hack's flag; not audited, not paid yet."""
    return [
        {
            "step": step,
            "id": c.example.id,
            "class": c.example.klass,
            "prompt": c.example.prompt,
            "language": c.example.language,
            "reasoning": c.reasoning,
            "answer": c.answer,
            "finish": c.finish,
            "thought": c.thought,
            "raw": c.raw,
            "scores": {name: asdict(column[i]) for name, column in columns.items()},
            "flags": {name: column[i] for name, column in flags.items()},
            "learned": None,
            "audit": None,
            "weights": {},
            "penalties": {},
            "reward": None,
            "advantage": 0.0,
            "think_advantage": 0.0,
        }
        for i, c in enumerate(completions)
    ]


def completion_of(row: Row) -> Completion:
    """The completion a row is about. Of a conversation only the last user turn is kept in rows."""
    tags = frozenset({row["class"]} - {""})
    example = Example(row["id"], (Message("user", row["prompt"]),), tags=tags, language=row["language"])
    return Completion(example, row["answer"], row["reasoning"], row["finish"], row["thought"], row["raw"])


def write(folder: Path, rows: Sequence[Row]) -> None:
    append_zst(folder / ROLLOUTS, rows)


def steps(folder: Path) -> Iterator[tuple[int, list[Row]]]:
    """The rows of each step in the order they were made."""
    for step, found in groupby(read_rows(folder / ROLLOUTS), key=lambda row: int(row["step"])):
        yield step, list(found)


def rewind(folder: Path, step: int) -> None:
    """Drop what a crashed attempt wrote after the checkpoint at `step`, so that a resumed stage writes it once."""
    for name in (ROLLOUTS, METRICS, REFERENCE):
        keep_rows(folder / name, lambda row: bool(row["step"] <= step))
    keep_rows(folder / EVENTS, lambda row: bool(row["data"]["step"] <= step))


def forget(folder: Path) -> None:
    """Drop the whole journal: an attempt that has no checkpoint starts again, its first answers included."""
    for name in (ROLLOUTS, METRICS, EVENTS, REFERENCE):
        (folder / name).unlink(missing_ok=True)


def mean_value(rows: Iterable[Row], grader: str, *, flip: bool = False) -> float | None:
    """Mean of a grader's values over the rows it graded, None if there are none; `flip` turns a cost into its complement."""
    values = [v for r in rows if (v := value_of(r, grader)) is not None]
    mean = sum(values) / len(values) if values else None
    return mean if mean is None or not flip else 1.0 - mean


def value_of(row: Row, grader: str) -> float | None:
    found: Any = row["scores"].get(grader) or {}
    return None if found.get("value") is None else float(found["value"])
