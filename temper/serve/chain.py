"""The audit chain itself: what a row's mac covers, what a checkpoint signs, and the form in which both are the same on every
database. `journal.py` writes it, `verify.py` reads it back.
"""

import base64
import hashlib
import hmac
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Column, Connection, Float, Integer, Text, text
from sqlalchemy.types import Boolean

from temper.files import storage
from temper.serve.keyring import Keyring
from temper.serve.tables import responses

encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
"""Canonical JSON: sorted keys, no spaces, NaN refused."""
Head = tuple[int, str, float]
_INT = 2**31 - 1


class Pages:
    """The checkpoint file of one lane: a line each, signed, that holds the heads of the lanes which moved since the last."""

    def __init__(self, folder: Path, lane: str, keyring: Keyring) -> None:
        self.path = folder / f"{lane}.jsonl"
        self.lane = lane
        self._sign = Ed25519PrivateKey.from_private_bytes(keyring.derive("checkpoints")).sign
        self._known: dict[str, Head] = {}
        self._number, self._prev, self._size = 0, "", 0

    def add(self, found: Mapping[str, Head]) -> tuple[int, str]:
        """Append a checkpoint and wait until it is on the disk; gives its number and the SHA-256 of its line."""
        moved = [[lane, *head] for lane, head in sorted(found.items()) if self._known.get(lane) != head]
        page = {"lane": self.lane, "number": self._number + 1, "at": time.time(), "heads": moved, "prev": self._prev}
        signature = base64.b64encode(self._sign(encode(page).encode())).decode()
        line = encode({**page, "signature": signature}).encode() + b"\n"
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                file.truncate(self._size)  # what a full disk left of a line
                file.seek(self._size)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        self._number, self._size, self._known = self._number + 1, self._size + len(line), dict(found)
        self._prev = hashlib.sha256(line).hexdigest()
        return self._number, self._prev


def mac(key: bytes, lane: str, seq: int, at: float, kind: str, subject: str, body: str, prev: str) -> str:
    """HMAC-SHA256 of a row and the mac before it, over canonical JSON, as 64 hex digits."""
    line = {"at": at, "body": body, "kind": kind, "lane": lane, "prev": prev, "seq": seq, "subject": subject}
    return hmac.digest(key, encode(line).encode(), "sha256").hex()


def row_digest(values: Sequence[Any]) -> str:
    """SHA-256 of the canonical JSON of a row of `responses`: its values in the order of the columns."""
    return hashlib.sha256(encode(values).encode()).hexdigest()


def heads(connection: Connection) -> dict[str, Head]:
    """The last row of each lane: seq, mac, at. Steps from lane to lane on the primary key, whatever their length."""
    return {row.lane: (row.seq, row.mac, row.at) for row in connection.execute(_HEADS)}


_HEADS = text(
    """
    WITH RECURSIVE lanes(lane) AS (
        SELECT min(lane) FROM journal
        UNION ALL
        SELECT (SELECT min(lane) FROM journal WHERE lane > lanes.lane) FROM lanes WHERE lanes.lane IS NOT NULL
    )
    SELECT j.lane, j.seq, j.at, j.mac FROM lanes
    JOIN journal j ON j.lane = lanes.lane AND j.seq = (SELECT max(seq) FROM journal WHERE lane = lanes.lane)
    """
)


def clean(given: str, limit: int | None = None) -> str:
    """Text that both databases take: no NUL, no half of a surrogate pair, and no longer than its column."""
    if not given.isascii():
        given = given.encode("utf-8", "replace").decode()
    if "\0" in given:
        given = given.replace("\0", "\ufffd")
    return given if limit is None or len(given) <= limit else given[:limit]


def _whole(given: Any) -> int:
    return max(-_INT, min(_INT, int(given)))


def real(given: Any) -> float:
    return value if math.isfinite(value := float(given)) else 0.0


def _cleaner(column: Column[Any]) -> tuple[str, Callable[[Any], Any], bool, Any]:
    """A column's name, what brings a value to its type, whether it may be null, and its default."""
    default = column.default.arg if column.default is not None else None  # type: ignore[attr-defined]
    kind = column.type
    if isinstance(kind, Boolean):
        return column.name, bool, False, default
    if isinstance(kind, Integer):
        return column.name, _whole, bool(column.nullable), default
    if isinstance(kind, Float):
        return column.name, real, bool(column.nullable), default
    limit = None if isinstance(kind, Text) else kind.length  # type: ignore[attr-defined]
    return column.name, lambda given: clean(given, limit), bool(column.nullable), default


_CLEANERS = tuple(_cleaner(c) for c in responses.columns)
COLUMN = {c.name: i for i, c in enumerate(responses.columns)}


def response_values(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A row's values in the order of the columns, each of its column's type: what the digest covers is what is read back."""
    values = []
    for name, cleaned, nullable, default in _CLEANERS:
        value = row.get(name, default)
        if value is None and not nullable:
            raise ValueError(f"a row of responses has no {name!r}")
        values.append(None if value is None else cleaned(value))
    if not row.keys() <= COLUMN.keys():
        raise ValueError(f"a row of responses has no column {min(row.keys() - COLUMN.keys())!r}")
    return tuple(values)
