"""What stands between a judge and its model: replies kept on disk, and a breaker that stops calling a server that is down.

Without a network and without torch. `Cached` wraps any asker (`samplers.remote.Chooser`, `models.choice.Choice`); what was
answered once is not asked again, in this process or another, after a crash or at the same time.
"""

import json
import logging
import math
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from temper.errors import StorageError
from temper.files import dumps
from temper.types import Message

Asked = tuple[tuple[Message, ...], tuple[str, ...], int]
"""Chat messages, the choices, and the index of the vote (`graders.judge.Ask`)."""
Chosen = tuple[Mapping[str, float] | None, str, Mapping[str, float]]
"""Probabilities of the choices or None, the reason, and what was spent (`graders.judge.Reply`)."""
Told = Callable[[int, Chosen], None]

_LISTED = 500  # keys in one query: the fewest that every SQLite takes is 999
_WAIT = 20.0  # seconds to wait for another process that writes


class Asker(Protocol):
    """A model to wrap. `settings` hashes all that decides a reply beyond the messages."""

    @property
    def weights(self) -> str: ...

    @property
    def settings(self) -> str: ...

    def __call__(self, asked: Sequence[Asked], /, *, told: Told | None = None) -> list[Chosen]: ...


class Breaker:
    """Ends calling after `limit` failures in a row, for `cooldown` seconds; then one call may try, and decides.

    Safe to share between threads.
    """

    def __init__(self, *, limit: int = 5, cooldown: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.cooldown, self._clock = limit, cooldown, clock
        self._failures, self._until, self._last = 0, 0.0, ""
        self._lock = threading.Lock()

    def refusal(self) -> str:
        """Why no call may be made now, or "" if one may; the first to ask after the cool-down is the one that tries."""
        with self._lock:
            if self._failures < self.limit:
                return ""
            left = self._until - self._clock()
            if left <= 0:
                self._until = self._clock() + self.cooldown
                return ""
            return f"not asked: {self._failures} calls in a row failed, next try in {left:.0f} s; the last said: {self._last}"

    def is_open(self) -> bool:
        """Whether calling has ended; asks for no turn."""
        return self._failures >= self.limit

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self, why: str) -> None:
        with self._lock:
            self._failures += 1
            self._last = why
            if self._failures >= self.limit:
                self._until = self._clock() + self.cooldown


@dataclass(frozen=True, slots=True)
class Cached:
    """An asker whose replies are kept in the SQLite file `path` and given again.

    The key is the SHA-256 of the asker's weights and settings (endpoint, model, form, sampling parameters, version of the
    reading) and of every message, choice and vote; a rubric's text and the judged text are in the messages. Only verdicts are
    kept, never failures. Each is on disk before the next is waited for. A damaged file is set aside and a damaged row is asked
    anew; a cache that cannot be read or written costs time, and says so in the log once a batch.
    """

    asker: Asker
    path: Path

    @property
    def weights(self) -> str:
        return self.asker.weights

    @property
    def settings(self) -> str:
        return self.asker.settings

    @property
    def slow(self) -> bool:
        return getattr(self.asker, "slow", False)

    def __call__(self, asked: Sequence[Asked], /, *, told: Told | None = None) -> list[Chosen]:
        salt = f"{self.weights}:{self.settings}"
        keys = [key(salt, one) for one in asked]
        with _opened(self.path) as store:
            found: dict[str, Chosen] = {name: (chances, "", {"cached": 1}) for name, chances in store.read(set(keys)).items()}
            for index, name in enumerate(keys):
                if told is not None and name in found:
                    told(index, found[name])
            first = {name: index for index, name in reversed(list(enumerate(keys))) if name not in found}
            missing = sorted(first, key=lambda name: first[name])

            def keep(index: int, reply: Chosen) -> None:
                if reply[0] is not None and all(map(math.isfinite, reply[0].values())):
                    store.write(missing[index], reply[0])
                if told is not None:
                    told(first[missing[index]], reply)

            replies = self.asker([asked[first[name]] for name in missing], told=keep) if missing else []
        new = dict(zip(missing, replies, strict=True))
        return [_given(name, found, new, first.get(name) == index) for index, name in enumerate(keys)]


def key(salt: str, asked: Asked) -> str:
    """All 256 bits: with fewer somebody could look for two texts that share a verdict."""
    messages, choices, vote = asked
    return sha256(dumps([salt, [[m.role, m.content] for m in messages], choices, vote]).encode()).hexdigest()


def _given(name: str, found: Mapping[str, Chosen], new: Mapping[str, Chosen], first: bool) -> Chosen:
    """A reply as the caller gets it; what was asked once for several equal asks is paid once."""
    if name in found:
        return found[name]
    chances, why, spent = new[name]
    return (chances, why, spent) if first else (chances, why, {"cached": 1 if chances is not None else 0})


class _Store:
    """An open file of replies, or none if it cannot be had."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: sqlite3.Connection | None = None
        self.lock = threading.Lock()  # replies may arrive in another thread, where an event loop already runs

    def open(self) -> None:
        try:
            self.file = _connect(self.path)
        except sqlite3.OperationalError as error:
            self._give_up(error)
        except sqlite3.DatabaseError:
            _set_aside(self.path)
            self.file = _connect(self.path)

    def read(self, keys: set[str]) -> dict[str, dict[str, float]]:
        """Kept chances of those keys that there are; rows that do not match their checksum are left out."""
        try:
            return dict(self._rows(sorted(keys)))
        except sqlite3.OperationalError as error:
            self._give_up(error)
        except sqlite3.DatabaseError:
            self.close()
            _set_aside(self.path)
            self.open()
        return {}

    def _rows(self, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
        if self.file is None:
            return
        for start in range(0, len(keys), _LISTED):
            some = keys[start : start + _LISTED]
            marks = ",".join("?" * len(some))
            for name, kept, check in self.file.execute(f"SELECT key, chances, crc FROM replies WHERE key IN ({marks})", some):
                if isinstance(kept, str) and check == _checksum(name, kept):
                    yield name, json.loads(kept)

    def write(self, name: str, chances: Mapping[str, float]) -> None:
        kept = dumps(dict(chances))
        with self.lock:
            if self.file is None:
                return
            try:
                self.file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (name, kept, _checksum(name, kept)))
            except sqlite3.DatabaseError as error:
                self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        logging.getLogger(__name__).warning("%s: replies of the judge are not kept (%s)", self.path, error)
        self.close()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        self.file = None


@contextmanager
def _opened(path: Path) -> Iterator[_Store]:
    """Opened anew for each batch: a connection must not be shared by forked processes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: no folder can be made for the judge's replies ({error.strerror}); choose another") from None
    store = _Store(path)
    store.open()
    with closing(store):
        yield store


def _connect(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    try:
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=NORMAL")  # a crash of the machine may lose the last replies, never the file
        file.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, chances TEXT, crc INTEGER) WITHOUT ROWID")
    except sqlite3.DatabaseError:
        file.close()
        raise
    return file


def _set_aside(path: Path) -> None:
    """Out of the way, kept for whoever wants to look; another process may have done it first."""
    aside = path.with_name(f"{path.name}.damaged-{os.getpid()}")
    with suppress(FileNotFoundError):
        path.replace(aside)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    logging.getLogger(__name__).warning("%s: was damaged and is now %s; its replies are asked for anew", path, aside.name)


def _checksum(name: str, kept: str) -> int:
    return zlib.crc32(f"{name}:{kept}".encode())
