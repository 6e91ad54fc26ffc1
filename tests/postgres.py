"""A PostgreSQL server of the tests' own: in a temporary folder, on a free port of the loopback, as a user without privileges."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_USER = "nobody"  # PostgreSQL refuses to run as root


class Server:
    """A running server; `url` names a fresh, empty schema each time."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self._data, self._bin = folder / "data", binaries
        self._count = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(_USER).pw_uid, -1)
        self._run("initdb", "-D", self._data, "-U", "temper", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        options += " -c shared_buffers=16MB -c max_connections=60 -c log_min_messages=fatal"
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "60", "-o", options, "-l", self.folder / "log", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def url(self) -> str:
        self._count += 1
        place = f"postgresql://temper@127.0.0.1:{self.port}/postgres"
        # a schema takes milliseconds where a database takes a second
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA t{self._count}")
        return f"{place}?options=-csearch_path%3Dt{self._count}"

    def _run(self, program: str, *args: object) -> None:
        user = _USER if os.geteuid() == 0 else None
        command = [str(self._bin / program), *map(str, args)]
        # the server inherits what it is given: a pipe would never close
        with (self.folder.parent / f"{self.folder.name}.out").open("w+") as out:
            code = subprocess.run(command, user=user, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
            out.seek(0)
            assert code.returncode == 0, f"{program}: {out.read()}"


def binaries() -> Path | None:
    """Where PostgreSQL's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parent.parent.name))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server for the length of a `with`; skips the test where PostgreSQL is missing and nobody requires it."""
    where = binaries()
    if where is None:
        if os.environ.get("TEMPER_REQUIRE_POSTGRES"):
            pytest.fail("TEMPER_REQUIRE_POSTGRES is set, and there is no initdb in /usr/lib/postgresql or on PATH")
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # another user must reach the folder, and pytest's own is closed to others
    folder.mkdir(mode=0o755, exist_ok=True)
    made = Server(folder, where)
    try:
        yield made
    finally:
        made.stop()
