"""What tests of the gateway's storage share: both databases, an open journal, rows of answers."""

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any

import postgres
import pytest
from alembic import command
from sqlalchemy import Connection, event, inspect

from temper.serve import ids
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.store import Store, config

SECRET = bytes(range(32))
CHILDREN = multiprocessing.get_context("forkserver")
"""Processes that begin with what this module imports, which takes longer than most of what they are for."""
CHILDREN.set_forkserver_preload([__name__])


@pytest.fixture(scope="session")
def pg_server() -> Iterator[postgres.Server]:
    folder = Path(tempfile.mkdtemp(prefix="temper-pg-"))
    try:
        with postgres.server(folder) as made:
            yield made
    finally:
        rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.out").unlink(missing_ok=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/temper.db"
    made: str = request.getfixturevalue("pg_server").url()
    return made


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A database with its tables."""
    made = opened(store_url)
    yield made
    made.close()


def opened(url: str) -> Store:
    """A database with its tables; in an empty one they are put as the first migration of this run made them, at a fourth of
    its cost.
    """
    made = Store(url)
    with _ONE:
        if made.sqlite:
            file = Path(made.url.database or "")
            if not file.stat().st_size:
                file.write_bytes(_sqlite_tables())
        elif not made.now(lambda c: inspect(c).has_table("alembic_version"), reads=True):
            made.now(_postgresql_tables if _POSTGRESQL_TABLES else _first)
        made.migrate()
    return made


@cache
def _sqlite_tables() -> bytes:
    """An empty database with its tables, as a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tables.db"
        made = Store(f"sqlite:///{file}")
        made.migrate()
        made.close()
        assert [f.name for f in Path(folder).iterdir()] == ["tables.db"], "its log is in the file"
        return file.read_bytes()


_ONE = threading.Lock()
_POSTGRESQL_TABLES: list[str] = []
"""The statements of a migration of an empty schema."""


def _postgresql_tables(connection: Connection) -> None:
    connection.exec_driver_sql(";\n".join(_POSTGRESQL_TABLES))


def _first(connection: Connection) -> None:
    """Migrate, and write down what that does."""

    def told(_c: Any, _cursor: Any, statement: str, given: Any, _x: Any, _many: Any) -> None:
        if statement.lstrip().startswith(("CREATE", "INSERT", "ALTER")):
            assert not given, statement
            _POSTGRESQL_TABLES.append(statement)

    event.listen(connection, "before_cursor_execute", told)
    command.upgrade(config(connection), "head")
    event.remove(connection, "before_cursor_execute", told)


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([SECRET])


@pytest.fixture
def journal(store: Store, keyring: Keyring, tmp_path: Path) -> Iterator[Journal]:
    """A journal at work."""
    with writing(store, keyring, tmp_path / "checkpoints") as made:
        yield made


@contextmanager
def writing(store: Store, keyring: Keyring, checkpoints: Path) -> Iterator[Journal]:
    made = Journal(store, keyring, checkpoints)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def answer(**changes: Any) -> dict[str, Any]:
    """A row of `responses`."""
    row = {
        "id": ids.new("resp"),
        "at": time.time(),
        "key_id": "key_1",
        "route": "chat",
        "model": "m",
        "policy": "p1",
        "stream": False,
        "status": 200,
        "finish": "stop",
        "action": "allow",
        "findings": "[]",
        "scanned": 120,
        "released": 120,
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "reasoning_tokens": 0,
        "seconds": 0.25,
        "first_s": 0.1,
        "language": "en",
        "vault_id": None,
    }
    return {**row, **changes}
