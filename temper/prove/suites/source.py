"""Where a suite is read from: its published dataset, another revision of it, a file or a folder; rows with their places, and what
identifies exactly what was read.

Rows themselves are read by `data.rows`; here only what public suites need besides: folders, lists without a header, lists of
objects inside one JSON object.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.data.rows import SUFFIXES, Located, rows
from temper.errors import DataError
from temper.files import file_sha256, folder_digest
from temper.prove.suites.form import Origin, Reader, Record

HUB = "hf:"


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to read: `place` is a path or `hf:org/name@revision:config`, `split` is of a dataset; `digest` identifies the
    content (a file's SHA-256 or a dataset's commit, "" where the hub could not be asked).
    """

    place: str
    split: str = ""
    digest: str = ""

    def facts(self) -> dict[str, str]:
        kind = "revision" if self.place.startswith(HUB) else "sha256"
        return {"source": self.place, **({"split": self.split} if self.split else {}), kind: self.digest or "unknown"}


def sources(at: str, origins: Sequence[Origin]) -> list[Source]:
    """What `NAME@at` means; the published datasets for `""`. Raises `DataError` for what is not there."""
    if at and not at.startswith(HUB):
        return [_local(Path(at).expanduser())]
    name, revision, config = _hub(at)
    repositories = dict.fromkeys(name or origin.hub for origin in origins)
    chosen = {repository: revision or commit(repository) for repository in repositories}
    return [_dataset(name or o.hub, chosen[name or o.hub], config or o.config, o.split) for o in origins]


def _dataset(repository: str, revision: str, config: str, split: str) -> Source:
    at, of = f"@{revision}" if revision else "", f":{config}" if config else ""
    return Source(f"{HUB}{repository}{at}{of}", split, revision)


def commit(dataset: str) -> str:
    """The commit that a dataset's main branch stands at, so that what is read is what is recorded; "" without a network."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(dataset, timeout=10).sha or "")
    except Exception:  # noqa: BLE001 offline, gated or renamed: reading the rows tells which, and the revision stays unknown
        return ""


def records(source: Source, reader: Reader | None = None) -> Iterator[Record]:
    """Every row of a source; files of a folder in the order of their names. Raises `DataError` with file and line."""
    if source.place.startswith(HUB):
        named = f"{source.place.removeprefix(HUB)}[{source.split}]"
        yield from _numbered(rows(source.place, split=source.split or None), named)
        return
    path = Path(source.place)
    for file in _files(path):
        place = str(file.relative_to(path)) if path.is_dir() else file.name
        yield from _numbered((reader or table)(file), place)


def _local(path: Path) -> Source:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder (looked in {Path.cwd()})")
    if path.is_dir() and not _files(path):
        raise DataError(f"{path}: the folder holds no file that can be read; wanted {', '.join(SUFFIXES)}")
    return Source(str(path), digest=folder_digest(path) if path.is_dir() else file_sha256(path))


def _hub(at: str) -> tuple[str, str, str]:
    """Repository, revision and configuration of `hf:org/name@revision:config`."""
    name, _, config = at.removeprefix(HUB).partition(":")
    repository, _, revision = name.partition("@")
    return repository, revision, config


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(f for f in path.rglob("*") if f.is_file() and f.name.endswith(SUFFIXES) and not f.name.startswith("."))


def _numbered(located: Iterator[Located], file: str) -> Iterator[Record]:
    return (Record(where, file, number, row) for number, (where, row) in enumerate(located))


def table(file: Path) -> Iterator[Located]:
    """Rows of a file with named columns: JSON lines, CSV, Parquet, a JSON list, or a JSON object that holds one list."""
    return _objects(file) if file.name.endswith(".json") else rows(str(file))


def headless(file: Path, *, columns: Sequence[str]) -> Iterator[Located]:
    """Rows of a comma- or tab-separated file without a header, whose first columns these are."""
    delimiter = "\t" if file.suffix == ".tsv" else ","
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.reader(opened, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
        try:
            yield from _named(reader, columns, file)
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
        except csv.Error as error:
            raise DataError(f"{file}:{reader.line_num}: not a list of rows ({error})") from None


def _named(reader: Any, names: Sequence[str], file: Path) -> Iterator[Located]:
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < len(names):
            raise DataError(f"{file}:{reader.line_num}: {len(cells)} columns; wanted {len(names)}: {', '.join(names)}")
        # a comma in a sentence that nobody quoted splits it: in a list of one column there is nothing else it could be
        joined = [",".join(cells)] if len(names) == 1 else cells
        yield f"{file}:{reader.line_num}", dict(zip(names, joined, strict=False))


def _objects(file: Path) -> Iterator[Located]:
    """Objects of a JSON list; of an object that holds one list of objects, those, each with the other fields beside it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not JSON ({error})") from None
    if not isinstance(found, dict):
        yield from rows(str(file))
        return
    listed = {name: value for name, value in found.items() if isinstance(value, list)}
    if len(listed) != 1:
        told = ", ".join(map(str, found)) or "nothing"
        raise DataError(f"{file}: an object with {told}; wanted a list of objects, or an object with one list among its fields")
    ((name, items),) = listed.items()
    shared = {key: value for key, value in found.items() if key != name}
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise DataError(f"{file}[{name}][{number}]: {type(item).__name__}; wanted an object with named fields")
        yield f"{file}[{name}][{number}]", {**shared, **item}
