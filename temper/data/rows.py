"""Where rows come from: a bundled or generated set, a file or the Hugging Face Hub -> dictionaries, each with the place it stood.

Reads as a stream, so that `limit` never loads a whole file. Knows nothing about what a row means: see `schemas`.
"""

import csv
import gzip
import importlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from temper.data import organism
from temper.errors import DataError, nearest

Located = tuple[str, dict[str, Any]]

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".csv", ".tsv", ".parquet")
_SHELVES = ("sets", "suites")
_HUB = re.compile(r"(?P<scheme>hf:)?(?P<name>\w[\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?(?::(?P<config>[\w.-]+))?")
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
_SHOWN_SPLITS = 10


def bundled(shelves: Sequence[str] = _SHELVES) -> dict[str, Traversable]:
    """The `sets` to train on and the `suites` to ask that come with temper, by name."""
    there = [shelf for name in shelves if (shelf := files("temper.data") / name).is_dir()]
    found = [file for shelf in there for file in shelf.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz"))]
    return {file.name.split(".")[0]: file for file in sorted(found, key=lambda file: file.name)}


def rows(source: str, *, split: str | None = None, limit: int | None = None) -> Iterator[Located]:
    """Rows of one split of a source, at most `limit`, each with its place (`file:line`).

    Raises `DataError` for a source, a split or a row that is not there, and for a file that cannot be parsed.
    """
    if limit is not None and limit < 1:
        raise DataError(f"{source}: limit is {limit}; wanted at least 1")
    empty = True
    for row in islice(_select(source, split, limit), limit):
        empty = False
        yield row
    if empty:
        raise DataError(f"{source}: the dataset is empty; wanted at least one row")


def _select(source: str, split: str | None, limit: int | None) -> Iterator[Located]:
    if source in organism.SETS:
        made = ((f"{source}:{number}", row) for number, row in enumerate(organism.SETS[source](), 1))
        return _of_split(made, source, split)
    file = _file(source)
    if file is None:
        return _from_hub(source, split, streaming=limit is not None)
    place = source if isinstance(file, Path) else file.name
    return _of_split(_from_file(file, place), source, split)


def _file(source: str) -> Path | Traversable | None:
    """The file behind a source, or None where it can only be a dataset on the Hub."""
    sets = bundled()
    if source in sets:
        return sets[source]
    path = Path(source).expanduser()
    if path.is_file() and not path.name.endswith(SUFFIXES):
        raise DataError(f"{source}: cannot read this kind of file; wanted one of {', '.join(SUFFIXES)}")
    if path.is_file():
        return path
    if path.name.endswith(SUFFIXES):
        raise DataError(f"{source}: there is no such file (looked in {Path.cwd()}); {_sibling(path)}")
    match = _HUB.fullmatch(source)
    if match and (match["scheme"] or "/" in match["name"]):
        return None
    if path.exists():
        raise DataError(f"{source}: a folder; wanted a file ({', '.join(SUFFIXES)})")
    raise DataError(
        f"data {source!r}: no bundled set has this name; {nearest(source, [*sets, *organism.SETS])}; "
        f"or give a file ({', '.join(SUFFIXES)}) or a Hugging Face dataset as org/name[@revision][:config]"
    )


def _sibling(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return nearest(path.name, [p.name for p in path.parent.iterdir() if p.name.endswith(SUFFIXES)])


def _of_split(located: Iterable[Located], source: str, split: str | None) -> Iterator[Located]:
    """Keep one split, by the rows' field `split`; complain at the end if no row was in it."""
    if split is None:
        yield from located
        return
    seen: set[str] = set()
    for where, row in located:
        seen.add(str(row.get("split") or ""))
        if row.get("split") == split:
            yield where, row
    if seen and split not in seen:
        raise DataError(f"{source}: {_no_split(split, seen - {''})}")


def _no_split(split: str, known: set[str]) -> str:
    if not known:
        return f"split {split!r} was asked for, but its rows have no field 'split'; leave split out"
    return f"no split {split!r}; it has the splits {', '.join(sorted(known)[:_SHOWN_SPLITS])}"


def _from_file(file: Path | Traversable, place: str) -> Iterator[Located]:
    try:
        with file.open("rb") as raw:
            if file.name.endswith(".parquet"):
                yield from _parquet(raw, place)
            else:
                yield from _text_rows(file.name, raw, place)
    except _DAMAGED as error:
        raise DataError(f"{place}: cannot be unpacked ({error}); is it cut short or not what its name says?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text ({error.reason}); save it as UTF-8") from None


def _text_rows(name: str, raw: IO[bytes], place: str) -> Iterator[Located]:
    if name.endswith((".csv", ".tsv")):
        return _csv(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""), place)
    if name.endswith(".json"):
        return _json(io.TextIOWrapper(raw, encoding="utf-8-sig"), place)
    return _jsonl(io.TextIOWrapper(_unpacked(name, raw), encoding="utf-8-sig", newline="\n"), place)


def _unpacked(name: str, raw: IO[bytes]) -> IO[bytes]:
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(raw))
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return raw


def _jsonl(lines: Iterable[str], place: str) -> Iterator[Located]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{place}:{number}"
        try:
            row = json.loads(line)
        except RecursionError:
            raise DataError(f"{where}: JSON nested too deeply to be a row") from None
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error.msg}, column {error.colno}); wanted one object per line") from None
        yield where, _object(where, row)


def _json(file: IO[str], place: str) -> Iterator[Located]:
    try:
        found = json.load(file)
    except json.JSONDecodeError as error:
        hint = "; one object per line? rename it to .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{place}:{error.lineno}: not JSON ({error.msg}, column {error.colno}){hint}") from None
    if not isinstance(found, list):
        raise DataError(f"{place}: holds one {type(found).__name__}; wanted a list of objects")
    for number, row in enumerate(found):
        where = f"{place}[{number}]"
        yield where, _object(where, row)


def _object(where: str, row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row of type {type(row).__name__}; wanted an object with named fields")
    return row


def _csv(file: IO[str], place: str) -> Iterator[Located]:
    header = next(iter(file), "")
    # spreadsheets of many countries write semicolons, because the comma is their decimal point
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(chain([header], file), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            where = f"{place}:{reader.line_num}"
            if None in row:
                raise DataError(f"{where}: more columns than the header names; quote fields that hold {delimiter!r}")
            yield where, {name: value for name, value in row.items() if value}
    except csv.Error as error:
        raise DataError(f"{place}:{reader.line_num}: not CSV ({error})") from None


def _parquet(raw: IO[bytes], place: str) -> Iterator[Located]:
    _needs("pyarrow", place)
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        batches = parquet.ParquetFile(raw).iter_batches()
        numbered = enumerate((row for batch in batches for row in batch.to_pylist()), 1)
        yield from ((f"{place}:{number}", row) for number, row in numbered)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{place}: not a parquet file ({error})") from None


def _from_hub(source: str, split: str | None, *, streaming: bool) -> Iterator[Located]:
    """Rows of a Hugging Face dataset; one with several splits wants a choice, so that nobody trains on a test split unasked."""
    _needs("datasets", source)
    import datasets

    match = _HUB.fullmatch(source)
    assert match is not None, "_file sends only what matches"
    try:
        found = datasets.load_dataset(match["name"], match["config"], revision=match["revision"], streaming=streaming)
        chosen = _choose(source, split, sorted(map(str, found)))
        for number, row in enumerate(found[chosen]):
            yield f"{source}[{chosen}]:{number}", row
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{source}: cannot be read from the Hugging Face Hub, and no such file is here ({reason})") from error


def _choose(source: str, split: str | None, known: list[str]) -> str:
    if split is None and len(known) == 1:
        return known[0]
    if split is None:
        raise DataError(f"{source}: has the splits {', '.join(known)}; choose one with split")
    if split not in known:
        raise DataError(f"{source}: {_no_split(split, set(known))}")
    return split


def _needs(package: str, place: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError:
        raise DataError(f"{place}: needs the package {package!r}; install temper-llm[train]") from None
