"""The database: SQLite in a file, or PostgreSQL by URL, used from threads. A call is one transaction, committed when it returns.

SQLite runs in WAL mode with `synchronous=FULL`: what was answered as committed survives a loss of power, and readers never wait
for the writer.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, create_engine, event, inspect, make_url, select, table, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.sql import column

from temper.errors import StorageError, UsageError
from temper.files import storage
from temper.serve.migrations import HEAD

T = TypeVar("T")
BUSY_S = 10.0  # how long a SQLite transaction waits for another process's
THREADS = 4
_MIGRATING = 7_203_551_934  # the PostgreSQL advisory lock of whoever migrates
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    f"busy_timeout={int(BUSY_S * 1000)}",
    "foreign_keys=ON",
    "secure_delete=ON",  # an expired box is overwritten, not only unlinked
)


class Store:
    """A database by URL: `sqlite:///FILE` or `postgresql://...`. Raises `UsageError` for another kind.

    `make` says whether a file that is missing is made.
    """

    def __init__(self, url: str, *, make: bool = True) -> None:
        self.url = _checked(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._lock: AbstractContextManager[Any] = threading.Lock() if self.sqlite else nullcontext()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        if self.sqlite:
            _private(Path(self.url.database or ""), make)
            self.engine = create_engine(self.url, pool_size=THREADS + 2, connect_args={"timeout": BUSY_S})
            event.listen(self.engine, "connect", _sqlite_connected)
            event.listen(self.engine, "begin", _sqlite_begun)
        else:
            args = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "application_name": "temper"}
            self.engine = create_engine(self.url, pool_size=THREADS + 2, pool_pre_ping=True, connect_args=args)

    def now(self, work: Callable[[Connection], T], *, reads: bool = False) -> T:
        """Do the work in one transaction, in this thread. `reads` promises that it writes nothing, so that it never waits."""
        if reads:
            with self.engine.connect().execution_options(temper_reads=True) as connection, connection.begin():
                return work(connection)
        # threads of one process take turns here: SQLite itself would let them poll for up to 100 ms
        with self._lock, self.engine.begin() as connection:
            return work(connection)

    async def run(self, work: Callable[[Connection], T], *, reads: bool = False) -> T:
        """Do the work in one transaction, in a thread of the store."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: self.now(work, reads=reads))

    def migrate(self) -> None:
        """Bring the tables to this version's form; several processes may call it at once.

        Raises `StorageError` where a newer temper made them.
        """
        if self.now(_version, reads=True) == HEAD:
            return
        self.now(_upgrade)

    def close(self) -> None:
        """Wait for work under way, then close every connection."""
        self._threads.shutdown(wait=True)
        self.engine.dispose()


def _checked(url: str) -> URL:
    try:
        made = make_url(url)
    except ArgumentError:
        raise UsageError("database: not a URL; wanted sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME") from None
    kind = made.get_backend_name()
    if kind == "sqlite" and made.database not in (None, "", ":memory:"):
        return made.set(drivername="sqlite")
    if kind in ("postgresql", "postgres"):
        return made.set(drivername="postgresql+psycopg")
    raise UsageError(f"database {made.render_as_string()}: wanted sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")


def _private(path: Path, make: bool) -> None:
    """Make the file before SQLite does, for the owner alone; the log and index beside it inherit its mode."""
    if not make and not path.is_file():
        raise UsageError(f"database {path}: no such file; wanted the one that the gateway writes to")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _sqlite_connected(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: see _sqlite_begun
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begun(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail at once where another wrote between, whatever the time-out.
    reads = connection.get_execution_options().get("temper_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(select(column("version_num")).select_from(table("alembic_version"))).scalar()


def _upgrade(connection: Connection) -> None:
    _exclusive(connection)
    found = _version(connection)
    if found == HEAD:
        return
    # imported here: a worker that finds its tables in order needs neither the library nor its memory
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(config(connection), "head")
    except CommandError:
        raise StorageError(f"the database has the tables of version {found}, unknown here: a newer temper made them") from None


def _exclusive(connection: Connection) -> None:
    """One migration at a time. SQLite's transaction holds the only write lock already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATING})


def config(connection: Connection) -> Any:
    """Alembic's settings for the packaged migrations on an open connection."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    made.attributes["connection"] = connection
    return made
