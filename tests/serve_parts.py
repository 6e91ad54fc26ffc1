"""What tests of the gateway's storage share: both databases, an open journal, rows of answers."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import postgres
import pytest

from temper.serve import ids
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.store import Store

SECRET = bytes(range(32))


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
    made = Store(store_url)
    made.migrate()
    yield made
    made.close()


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
