"""A PostgreSQL server of the tests' own: in a temporary folder, at a socket in it, as a user without privileges."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_USER = "nobody"  # PostgreSQL refuses to run as root
_RUN_S = 180.0  # the slowest, initdb, takes a second


class Server:
    """A running server; `url` names a fresh, empty schema each time. Raises `subprocess.TimeoutExpired`."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self._data, self._bin = folder / "data", binaries
        self._count = 0
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(_USER).pw_uid, -1)
        self._run("initdb", "-D", self._data, "-U", "temper", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def start(self) -> None:
        # no port: of two runs at once, one could find the other's taken
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        options += " -c shared_buffers=16MB -c max_connections=60 -c log_min_messages=fatal"
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "120", "-o", options, "-l", self.folder / "log", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "120", "-m", "immediate", "stop")

    def url(self) -> str:
        self._count += 1
        # a schema takes milliseconds where a database takes a second
        with psycopg.connect(host=str(self.folder), user="temper", dbname="postgres", connect_timeout=60) as connection:
            connection.execute(f"CREATE SCHEMA t{self._count}")
        return f"postgresql://temper@/postgres?host={self.folder}&options=-csearch_path%3Dt{self._count}"

    def _run(self, program: str, *args: object) -> None:
        user = _USER if os.geteuid() == 0 else None
        command = [str(self._bin / program), *map(str, args)]
        # the server inherits what it is given: a pipe would never close
        with (self.folder.parent / f"{self.folder.name}.out").open("w+") as out:
            streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            code = subprocess.run(command, user=user, cwd="/", **streams, check=False, timeout=_RUN_S)  # type: ignore[call-overload]
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
