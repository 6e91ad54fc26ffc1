"""Rows, atomic writes, content hashes and seals: how every result reaches the disk and survives kill -9.

Rows are JSON lines, appended and flushed one batch at a time; a torn tail (the process died inside a write) is dropped on
reading, and overwritten by `append_rows` or cut off by `keep_rows`. Everything else is written to a temporary file beside its
target and renamed.
"""

import errno
import gzip
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import zstandard

from temper.errors import StorageError

SEAL = "DONE"
LONGEST = 120  # bytes of a name's part; file systems end at 255, and SUITE@ARM are two of them
CHUNK = 1 << 16  # bytes of a zstd file that are read at a time: what follows a frame is copied for each frame in them
Row = dict[str, Any]
_SURROGATE = re.compile("[\ud800-\udfff]")


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False)


def dumps(value: object) -> str:
    """Canonical JSON: sorted keys, no spaces, NaN refused; equal values give equal bytes.

    A text with half a surrogate pair (a broken endpoint sends one) is written in escapes, since UTF-8 cannot hold it.
    """
    text = _CANONICAL.encode(value)
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value's canonical form, as 16 hex digits: short enough for a folder name, 64 bits wide."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()[:16]


def slug(text: str, *, also: str = "+") -> str:
    """A text as part of a file's name: word characters, dots, commas, equals signs, dashes, and the signs in `also`.

    A long text ends in its hash, one of which nothing would be left becomes it, and no name is hidden or leads elsewhere.
    """
    plain = re.sub(rf"[^\w.=,{re.escape(also)}-]+", "-", text).strip("-.") or digest(text)
    return plain if len(plain.encode()) <= LONGEST else f"{plain.encode()[: LONGEST - 17].decode(errors='ignore')}-{digest(text)}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """One digest over the names and bytes of every file below a folder."""
    return digest({str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()})


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into one clear line that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{path}: the disk is full; every finished row is kept: free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(f"{path}: cannot be written ({error.strerror}); choose another folder with --out") from error
        raise
    except Exception as error:  # safetensors and torch report a full disk in classes of their own, by its text alone
        if "No space left" in str(error) or "StorageFull" in str(error):
            raise StorageError(f"{path}: the disk is full; every finished row is kept: free some space and run again") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once: readers see the old text or the new, never a part."""
    _write_bytes(path, text.encode())


def _write_bytes(path: Path, body: bytes) -> None:
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises `StorageError` naming file and position if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: not valid JSON ({error})") from None


def append_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Append rows to a JSON-lines file and flush them to the operating system before returning."""
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        with path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(dumps(row) + "\n")


def read_rows(path: Path) -> list[Row]:
    """All rows of a `.jsonl`, `.jsonl.gz` or `.jsonl.zst` file; a torn tail is left out, damage before it raises."""
    return list(iter_rows(path))


def iter_rows(path: Path) -> Iterator[Row]:
    """The same rows one by one, of the file as it is when the first is taken: for who works on a few of many at a time."""
    if not path.exists():
        return
    lines = _text(path).split("\n")
    whole, tail = lines[:-1], lines[-1]
    if tail and (path.suffix == ".gz" or _is_row(tail)):
        whole.append(tail)
    for number, line in enumerate(whole, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise StorageError(f"{path}:{number}: not a JSON row ({error.msg}); the rows before it are intact") from None
        yield row


def write_rows_gz(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as gzip with a fixed time stamp, so that equal rows give equal bytes."""
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(_lines(rows), mtime=0))


def append_zst(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Append rows as one more zstd frame; frames concatenate, so a crash loses at most the frame under way."""
    frame = zstandard.ZstdCompressor().compress(_lines(rows))
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(frame)


def keep_rows(path: Path, wanted: Callable[[Row], bool]) -> None:
    """Drop all other rows of a `.jsonl` or `.jsonl.zst` file, and a torn tail, at once; with none of these it is not touched."""
    rows = read_rows(path)
    kept = [row for row in rows if wanted(row)]
    if len(kept) == len(rows) and not _torn(path):
        return
    body = _lines(kept)
    _write_bytes(path, zstandard.ZstdCompressor().compress(body) if path.suffix == ".zst" else body)


def _lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    return "".join(dumps(row) + "\n" for row in rows).encode()


def _torn(path: Path) -> bool:
    if not path.exists():
        return False
    body, torn = _unpacked(path) if path.suffix == ".zst" else (path.read_bytes(), False)
    return torn or not (body == b"" or body.endswith(b"\n"))


def seal(folder: Path, note: Mapping[str, object]) -> None:
    """Mark a folder as complete. Always the last file written; readers trust a folder only if it is there."""
    write_json(folder / SEAL, note)


def sealed(folder: Path) -> bool:
    return (folder / SEAL).is_file()


def _is_row(line: str) -> bool:
    """Whether a last line without an end is whole all the same; a row torn in writing lacks its brace."""
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _text(path: Path) -> str:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode()
    if path.suffix == ".zst":
        body, torn = _unpacked(path)
        # a torn frame may end inside a character
        return body[: body.rfind(b"\n") + 1].decode() if torn else body.decode()
    return path.read_text(encoding="utf-8")


def _unpacked(path: Path) -> tuple[bytes, bool]:
    """What the frames of a zstd file hold, and whether the last of them was torn in writing."""
    parts, frame = list[bytes](), None
    try:
        with path.open("rb") as file:
            for chunk in iter(partial(file.read, CHUNK), b""):
                left = chunk
                while left:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    parts.append(frame.decompress(left))
                    left, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    except zstandard.ZstdError as error:
        intact = b"".join(parts).count(b"\n")
        raise StorageError(f"{path}: damaged after row {intact} ({error}); wanted whole zstd frames") from None
    return b"".join(parts), frame is not None


def _drop_torn_line(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        body = path.read_bytes()
        start = body.rfind(b"\n") + 1
        if _is_row(body[start:].decode(errors="replace")):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(start)
