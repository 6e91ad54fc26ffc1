"""A run folder as the report sees it: facts, summary, training steps and rows, whatever of them is there."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper import files
from temper.errors import StorageError
from temper.files import Row

MANY = 8  # arms
PLACED = frozenset(("suite", "arm"))
SHOWN = frozenset(("id", "sample", "class", "category", "language", "prompt", "reasoning", "answer", "outcome", "scores"))
"""What a row has that tells where it belongs, and what a page shows of every row."""


@dataclass(frozen=True, slots=True)
class Run:
    """`steps` and `events` hold metrics.jsonl and events.jsonl by stage folder, `rows` those of every suite by arm; what is
    missing on disk is empty.
    """

    folder: Path
    facts: Mapping[str, Any]
    summary: Mapping[str, Any]
    recipe: str
    steps: Mapping[str, list[Row]]
    rows: Mapping[str, list[Row]]
    events: Mapping[str, list[Row]]

    @property
    def name(self) -> str:
        return str(self.facts.get("name") or self.folder.name)

    @property
    def arms(self) -> list[str]:
        """In the order of the recipe, which decides who is compared with whom; without run.json, those that have results."""
        return list(self.facts.get("arms") or dict.fromkeys([*self.summary.get("arms", {}), *self.rows]))

    @property
    def many(self) -> bool:
        """More arms than a reader compares two by two."""
        return len(self.arms) > MANY

    @property
    def pairs(self) -> list[Mapping[str, Any]]:
        """The comparisons a page shows: all of them, or of many arms those with the first; summary.json holds the others too."""
        found: list[Mapping[str, Any]] = self.summary.get("pairs", [])
        return [p for p in found if p["base"] == self.arms[0]] if self.many else found

    @property
    def gold(self) -> str:
        """The name of the judge's column."""
        named = (name for name, g in self.facts.get("graders", {}).items() if g.get("role") == "gold")
        return str(self.summary.get("judge") or next(named, "gold"))


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises `StorageError` for a damaged file or row, never for a missing file."""
    recipe, facts = folder / "recipe.toml", _json(folder / "run.json")
    return Run(
        folder=folder,
        facts=facts,
        summary=_json(folder / "summary.json"),
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        steps={path.parent.name: files.read_rows(path) for path in sorted(folder.glob("stages/*/metrics.jsonl"))},
        rows=_rows(folder, facts.get("arms")),
        events={path.parent.name: files.read_rows(path) for path in sorted(folder.glob("stages/*/events.jsonl"))},
    )


def _json(path: Path) -> Mapping[str, Any]:
    found = files.read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise StorageError(f"{path}: holds a JSON {type(found).__name__}; wanted an object, as `temper run` writes it")
    return found


def _rows(folder: Path, arms: Collection[str] | None) -> Mapping[str, list[Row]]:
    """Rows of the recipe's arms. A folder whose name is not exactly suite@arm holds answers of an earlier setting, set aside."""
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for path in sorted(folder.glob("evals/*/rows.jsonl")):
        for number, row in enumerate(files.read_rows(path), 1):
            _check(f"{path}: row {number}", row, PLACED)
            if path.parent.name == f"{row['suite']}@{row['arm']}" and (arms is None or row["arm"] in arms):
                by_arm[row["arm"]].append(row)
    return dict(by_arm)


def check(run: Run) -> None:
    """Raise `StorageError` for a row that lacks what a page shows of every row."""
    for rows in run.rows.values():
        for row in rows:
            _check(f"{run.folder / 'evals'}/{row['suite']}@{row['arm']}/rows.jsonl: row {row.get('id')}", row, SHOWN)


def _check(where: str, row: object, needed: frozenset[str]) -> None:
    if not isinstance(row, dict):
        raise StorageError(f"{where} is a JSON {type(row).__name__}; wanted an object, as `temper prove` writes it")
    if missing := needed - row.keys():
        raise StorageError(f"{where} lacks {', '.join(sorted(missing))}; wanted a row as `temper prove` writes it")
