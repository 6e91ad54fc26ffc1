"""The audit journal: who did what and what became of each answer, in an order that nobody can change unseen.

Each process writes its own lane, a chain of rows: every row's mac covers the row and the mac before it, with a key that is not in
the database. A thread commits rows in batches, together with the rows of `responses` and `counters` they tell of. Checkpoints,
signed files best kept on another disk, hold the heads of all lanes: what lies below one cannot be cut off either (`verify.py`).

The journal holds ids, hashes and counts, never text of a request or an answer.
"""

import asyncio
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, select
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

import temper
from temper.errors import StorageError
from temper.serve import ids
from temper.serve.chain import COLUMN, Pages, clean, encode, heads, mac, real, response_values, row_digest
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import counters, journal, responses
from temper.serve.verify import Report, verify

__all__ = ["Journal", "Report", "verify"]
log = logging.getLogger(__name__)
T = TypeVar("T")
WAIT_S = 0.05  # a row of a passed answer is committed at most this much later
BATCH = 256
QUEUE = 8192  # rows that wait for a database which is away; then `write` and `response` raise
CHECK_S = 60.0
CHECK_ROWS = 10_000
_TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
_BACK_OFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(slots=True)
class _Entry:
    """One row to be written. `work` is done in the same transaction; without a `kind` it only tells when its turn came."""

    kind: str
    subject: str
    body: str
    at: float
    row: tuple[Any, ...] | None = None
    counts: Sequence[tuple[str, float]] = ()
    work: Callable[[Connection], Any] | None = None
    done: "Future[Any] | None" = None


@dataclass(slots=True)
class _Try:
    """What one attempt to commit a batch came to: the lane's head after it, and what each entry's work gave."""

    seq: int
    mac: str
    results: list[tuple["Future[Any]", Any, Exception | None]] = field(default_factory=list)


class Journal:
    """This process's lane. `trouble` says why rows cannot be committed, "" while they can: a gateway then answers nothing."""

    def __init__(self, store: Store, keyring: Keyring, checkpoints: Path) -> None:
        self.store = store
        self.lane = ids.new("lane")
        self.trouble = ""
        self.checkpoint_trouble = ""
        self._key = keyring.derive("journal")
        self._inserts = _inserts(store.sqlite)
        self._pages = Pages(checkpoints, self.lane, keyring)
        self._queue: deque[_Entry] = deque()
        self._some, self._urgent, self._pen = threading.Event(), threading.Event(), threading.Lock()
        self._seq, self._mac = 0, ""
        self._tried: _Try | None = None
        self._singly = 0  # entries still to be written one at a time, since the database refused one of them
        self._uncovered = 0  # rows since the last checkpoint
        self._checked = 0.0
        self._closing, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)

    @property
    def accepts(self) -> bool:
        """Whether new requests may begin: rows reach the database, and the queue is less than half full."""
        return not self.trouble and self._open and len(self._queue) < QUEUE // 2

    @property
    def waiting(self) -> int:
        """How many rows wait to be committed."""
        return len(self._queue)

    @property
    def _open(self) -> bool:
        return self._thread.is_alive() and not self._closing.is_set()

    def start(self, policy: str = "") -> None:
        """Open the lane and its first checkpoint, then write in the background. Raises what the database raises."""
        opened = {"pid": os.getpid(), "version": temper.__version__, "policy": policy}
        self._queue.append(_Entry("lane.opened", self.lane, encode(opened), time.time()))
        with self._pen:
            self._commit([self._queue[0]])
            self._checkpoint()
        self._thread.start()

    def write(self, kind: str, subject: str, body: Mapping[str, Any]) -> None:
        """Write a line with the next batch. `body` holds no text of a request or an answer.

        Raises `StorageError` where the queue is full because the database is away.
        """
        self._append(_Entry(kind, clean(subject, 48), _body(body), time.time()))

    def response(self, row: Mapping[str, Any]) -> None:
        """Write a row of `responses`, its line and its counters with the next batch.

        Raises `StorageError` where the queue is full, `ValueError` where the row has not exactly the table's columns.
        """
        values = response_values(row)
        body = f'{{"columns":{len(values)},"sha256":"{row_digest(values)}"}}'
        self._append(_Entry("response", values[0], body, time.time(), row=values, counts=_counts(values)))

    def act(self, kind: str, subject: str, body: Mapping[str, Any], work: Callable[[Connection], T]) -> "Future[T]":
        """Do the work and write its line in one transaction, at once. The future is done when both are committed.

        Work that raises is undone, leaves no line, and hands its error to the future; it may run again where a commit fails.
        In a coroutine: `await asyncio.wrap_future(journal.act(...))`. Never wait for it inside other work of the store: on SQLite
        that work holds the lock which this one needs.
        """
        done: Future[T] = _future()
        self._append(_Entry(kind, clean(subject, 48), _body(body), time.time(), work=work, done=done))
        self._urgent.set()
        return done

    async def settled(self) -> None:
        """Wait until everything written so far is committed."""
        await asyncio.wrap_future(self._turn())

    def flush(self) -> None:
        """`settled` for a thread."""
        self._turn().result()

    def checkpoint(self) -> None:
        """Write a checkpoint now. Raises `StorageError` where the folder cannot be written."""
        with self._pen:
            self._checkpoint()
        if self.checkpoint_trouble:
            raise StorageError(self.checkpoint_trouble)

    async def close(self) -> None:
        """Commit what waits, close the lane and sign its last checkpoint. Raises `StorageError` where rows could not be saved."""
        await asyncio.to_thread(self.stop)

    def stop(self, wait_s: float = 30.0) -> None:
        """`close` for a thread; waits `wait_s` seconds for a database that is away."""
        with self._pen:
            self._queue.append(_Entry("lane.closed", self.lane, "{}", time.time()))
            self._closing.set()
        self._urgent.set()
        self._some.set()
        self._thread.join(wait_s)
        if self._queue:
            raise StorageError(f"{len(self._queue)} rows of the audit journal could not be saved: {self.trouble}")

    def _turn(self) -> "Future[Any]":
        done: Future[Any] = _future()
        self._append(_Entry("", "", "", 0.0, done=done))
        self._urgent.set()
        return done

    def _append(self, entry: _Entry) -> None:
        if not self._open:
            raise StorageError("the audit journal is closed")
        if entry.kind and len(self._queue) >= QUEUE:
            raise StorageError(f"the audit journal is full: {QUEUE} rows wait for the database ({self.trouble or 'slow'})")
        self._queue.append(entry)
        if len(self._queue) >= BATCH:
            self._urgent.set()
        self._some.set()
        if self._ended.is_set():  # between the look at the first line and now
            self._leave()

    def _write_all(self) -> None:
        try:
            self._write_until_closed()
        except BaseException as error:
            self.trouble = f"the thread that writes ended by {type(error).__name__}"
            raise
        finally:
            self._ended.set()
            self._leave()

    def _leave(self) -> None:
        """Tell all who wait for a thread that is no more."""
        with self._pen:
            for entry in self._queue:
                if entry.done is not None and not entry.done.done():
                    entry.done.set_exception(StorageError(f"the audit journal is closed: {self.trouble or 'it was stopped'}"))

    def _write_until_closed(self) -> None:
        failures = 0
        while True:
            self._some.wait(CHECK_S)
            if not self._closing.is_set():
                self._urgent.wait(WAIT_S)
            self._some.clear()
            self._urgent.clear()
            while self._queue:
                with self._pen:
                    failures = 0 if self._commit_some() else failures + 1
                if failures:
                    time.sleep(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])
            with self._pen:
                if self._closing.is_set() and not self._queue:
                    self._checkpoint()
                    return
                if self._uncovered >= CHECK_ROWS or (self._uncovered and time.monotonic() - self._checked >= CHECK_S):
                    self._checkpoint()

    def _commit_some(self) -> bool:
        """Commit the next batch; False where the database is away, and the batch stays in the queue."""
        batch = [self._queue[i] for i in range(min(1 if self._singly else BATCH, len(self._queue)))]
        try:
            self._commit(batch)
        except (DBAPIError, PoolTimeout) as error:
            if _away(error):
                self._say(error)
                return False
            self._set_aside(batch, error)
            return True
        self._singly = max(0, self._singly - 1)
        return True

    def _commit(self, batch: Sequence[_Entry]) -> None:
        tried = self.store.now(lambda connection: self._attempt(connection, batch))
        self._seq, self._mac, self._tried = tried.seq, tried.mac, None
        self._uncovered += sum(e.kind not in ("", "checkpoint") for e in batch)
        self.trouble = ""
        for _ in batch:
            self._queue.popleft()
        for done, result, error in tried.results:
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

    def _attempt(self, connection: Connection, batch: Sequence[_Entry]) -> _Try:
        if self._tried is not None and self._landed(connection, self._tried):
            return self._tried
        self._tried = made = _Try(self._seq, self._mac)
        lines, rows = [], []
        for entry in batch:
            result, error = _done(connection, entry)
            if entry.done is not None:
                made.results.append((entry.done, result, error))
            if error is not None or not entry.kind:
                continue
            made.seq += 1
            made.mac = mac(self._key, self.lane, made.seq, entry.at, entry.kind, entry.subject, entry.body, made.mac)
            lines.append((self.lane, made.seq, entry.at, entry.kind, entry.subject, entry.body, made.mac))
            if entry.row is not None:
                rows.append(entry.row)
        if lines:
            connection.exec_driver_sql(self._inserts[0], lines)
        if rows:
            connection.exec_driver_sql(self._inserts[1], rows)
            connection.exec_driver_sql(self._inserts[2], counted([e for e in batch if e.row is not None]))
        return made

    def _landed(self, connection: Connection, tried: _Try) -> bool:
        """Whether the last attempt was committed after all, and only its answer got lost."""
        at = journal.c.lane == self.lane, journal.c.seq == tried.seq
        return tried.seq > self._seq and connection.execute(select(journal.c.mac).where(*at)).scalar() == tried.mac

    def _set_aside(self, batch: Sequence[_Entry], error: Exception) -> None:
        """One entry that the database refuses for good must not stop the others: it is found by writing one at a time."""
        self._tried = None
        if len(batch) > 1:
            self._singly = len(batch)
            return
        bad = batch[0]
        log.critical("audit journal: the database refused a row of kind %s: %s", bad.kind, type(error).__name__)
        if bad.done is not None:
            self._queue.popleft()
            bad.done.set_exception(error)
            return
        refused = encode({"kind": bad.kind, "error": type(error).__name__})
        self._queue[0] = _Entry("row.refused", bad.subject, refused, bad.at)

    def _say(self, error: Exception) -> None:
        if not self.trouble:
            log.error("audit journal: rows cannot be committed, no answers are given: %s", type(error).__name__)
        cause = getattr(error, "orig", None) or error
        self.trouble = f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else 'no message'}"

    def _checkpoint(self) -> None:
        """Evidence that cannot be written now is tried again: answers go on, `checkpoint_trouble` tells operators."""
        self._checked = time.monotonic()
        try:
            number, digest = self._pages.add(self.store.now(heads, reads=True))
        except (StorageError, OSError, DBAPIError, PoolTimeout) as error:
            self.checkpoint_trouble = f"no checkpoint could be written: {error}"
            log.error("audit journal: no checkpoint could be written: %s", type(error).__name__)
            return
        self.checkpoint_trouble, self._uncovered = "", 0
        if not self._closing.is_set():
            self._queue.append(_Entry("checkpoint", self.lane, encode({"number": number, "sha256": digest}), time.time()))
            self._some.set()


def _future() -> "Future[Any]":
    """A future that nobody can cancel: a client that leaves does not undo what is being written."""
    made: Future[Any] = Future()
    made.set_running_or_notify_cancel()
    return made


def _away(error: Exception) -> bool:
    """Whether the same rows may be accepted later: the database is down, locked, or its disk full."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, (OperationalError, InterfaceError, InternalError, PoolTimeout))


def _done(connection: Connection, entry: _Entry) -> tuple[Any, Exception | None]:
    """What an entry's work gave, or why it failed; a failure of the database itself fails the batch."""
    if entry.work is None:
        return None, None
    try:
        with connection.begin_nested():
            return entry.work(connection), None
    except Exception as error:
        if _away(error):
            raise
        return None, error


def _inserts(sqlite: bool) -> tuple[str, str, str]:
    """The statements for lines, responses and counters, as the driver takes them: compiled once, run with many rows."""
    mark = "?" if sqlite else "%s"

    def insert(into: Table) -> str:
        names = ", ".join(c.name for c in into.columns)
        return f"INSERT INTO {into.name} ({names}) VALUES ({', '.join([mark] * len(into.columns))})"

    sums = ", ".join(f"{c} = counters.{c} + excluded.{c}" for c in ("n", "total", "squares"))
    upsert = f"{insert(counters)} ON CONFLICT (hour, key_id, model, name) DO UPDATE SET {sums}"
    return insert(journal), insert(responses), upsert


def _body(body: Mapping[str, Any]) -> str:
    return clean(encode(body))


def counted(entries: Sequence[_Entry]) -> list[tuple[int, str, str, str, int, float, float]]:
    """What a batch adds to `counters`, one row a name, sorted so that two writers never wait for each other."""
    sums: dict[tuple[int, str, str, str], list[float]] = {}
    for entry in entries:
        assert entry.row is not None
        row = entry.row
        group = int(row[COLUMN["at"]] // 3600), row[COLUMN["key_id"]], row[COLUMN["model"]]
        for name, value in entry.counts:
            held = sums.setdefault((*group, name), [0, 0.0, 0.0])
            held[0] += 1
            held[1] += value
            held[2] += value * value
    return [(*place, int(n), total, squares) for place, (n, total, squares) in sorted(sums.items())]


def _counts(row: Sequence[Any]) -> list[tuple[str, float]]:
    at = COLUMN
    found: list[tuple[str, float]] = [("requests", row[at["seconds"]])]
    if row[at["action"]] != "allow":
        found.append((f"action:{row[at['action']]}", 1.0))
    if row[at["status"]] >= 500:
        found.append(("errors", 1.0))
    found += [(name, float(row[at[name]])) for name in _TOKENS if row[at[name]]]
    if row[at["first_s"]] is not None:
        found.append(("first_s", row[at["first_s"]]))
    if row[at["language"]]:
        found.append((f"language:{row[at['language']]}", 1.0))
    if row[at["findings"]] != "[]":
        found += sorted(_fired(json.loads(row[at["findings"]])).items())
    return found


def _fired(findings: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The filters that found something in an answer, each once, those in shadow under a name of their own; and the highest score
    of each that gives scores.
    """
    found: dict[str, float] = {}
    for f in findings:
        found[clean(f"{'shadow' if f.get('shadow') else 'filter'}:{f['filter']}", 64)] = 1.0
        if f.get("score") is not None:
            name = clean(f"score:{f['filter']}", 64)
            found[name] = max(found.get(name, 0.0), real(f["score"]))
    return found
