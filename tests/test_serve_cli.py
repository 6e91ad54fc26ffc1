"""`temper serve` as a process: it starts, answers, stops cleanly, and says what is wrong before it serves anything."""

import asyncio
import base64
import os
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path

import httpx
import pytest
from bounded import WAIT_S, soon
from click.testing import Result
from fake_openai import CLEAN, fake
from serve_world import POLICY
from typer.testing import CliRunner

from temper.cli import app
from temper.cli.serve import serve
from temper.errors import UsageError
from temper.serve.state import Settings

START = "import typer, sys; from temper.cli.serve import serve; typer.run(serve)"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def settings(tmp_path: Path) -> list[str]:
    file = tmp_path / "test.toml"
    file.write_text(POLICY)
    paths = ["--secret", str(tmp_path / "secret"), "--checkpoints", str(tmp_path / "c")]
    return ["--policy", str(file), "--database", f"sqlite:///{tmp_path / 'temper.db'}", *paths]


@pytest.mark.parametrize("workers", [1, 2])
def test_it_serves_and_stops_cleanly(tmp_path: Path, workers: int) -> None:
    async def test() -> None:
        async with fake() as upstream:
            port = free_port()
            given = [upstream.url, "--port", str(port), "--workers", str(workers), *settings(tmp_path)]
            env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
            out = asyncio.subprocess.PIPE
            work = await asyncio.create_subprocess_exec(sys.executable, "-c", START, *given, stdout=out, stderr=out, env=env)
            try:
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client:
                    await ready(client, work)
                    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
                    answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(8)))
                    assert [a.json()["choices"][0]["message"]["content"] for a in answers] == [CLEAN] * 8
                    assert "server" not in answers[0].headers
            finally:
                work.send_signal(signal.SIGTERM)
                told = await stopped(work)
            assert f"http://127.0.0.1:{port}/v1" in told.decode()
            assert "temper keys make" in told.decode()
        rows = sqlite3.connect(tmp_path / "temper.db").execute("select count(*) from responses").fetchone()
        assert rows == (8,)

    asyncio.run(test())


async def stopped(work: asyncio.subprocess.Process) -> bytes:
    """What it said, once it has ended. Raises `TimeoutError`; it is killed then."""
    try:
        return (await asyncio.wait_for(work.communicate(), WAIT_S))[0]
    except TimeoutError:
        work.kill()
        raise


async def ready(client: httpx.AsyncClient, work: asyncio.subprocess.Process) -> None:
    async def is_ready() -> bool:
        assert work.returncode is None
        try:
            return (await client.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    await soon(is_ready, "the gateway's process to be ready", wait_s=200)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["http://127.0.0.1:1/v1", "--host", "0.0.0.0"], "there is no API key"),
        (["ftp://127.0.0.1/v1"], "wanted http://"),
        (["http://user:secret@127.0.0.1/v1"], "without credentials"),
        (["http://127.0.0.1:1/v1", "--upstream-key-env", "TEMPER_NO_SUCH_KEY"], "no such variable"),
        (["https://127.0.0.1:1/v1", "--upstream-ca", "nowhere.pem"], "nowhere.pem: No such file"),
        (["https://127.0.0.1:1/v1", "--upstream-ca", __file__], "no certificates in PEM form"),
        (["http://127.0.0.1:1/v1", "--upstream-ca", __file__], "is not asked over https"),
        (["smollm2-135m", "--workers", "2"], "one worker"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(tmp_path: Path, given: list[str], why: str) -> None:
    import typer

    app = typer.Typer()
    app.command()(serve)
    told = CliRunner().invoke(app, [*given, *settings(tmp_path)])
    assert isinstance(told.exception, UsageError)
    assert why in str(told.exception)
    assert "secret@" not in str(told.exception)


def test_an_unknown_policy_names_the_known_ones() -> None:
    import typer

    app = typer.Typer()
    app.command()(serve)
    told = CliRunner().invoke(app, ["http://127.0.0.1:1/v1", "--policy", "chatt"])
    assert "did you mean 'chat'?" in str(told.exception)


def invoked(*given: str) -> Result:
    return CliRunner().invoke(app, list(given))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with nothing of a gateway in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("TEMPER_SECRET", "TEMPER_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_beyond_loopback_a_key_must_be_live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []
    monkeypatch.setattr("temper.cli.serve._run", lambda settings, remote: served.append(settings))
    opened = ["serve", "http://127.0.0.1:1/v1", "--host", "0.0.0.0"]
    assert invoked("keys", "make", "app", "--days", "0.0001").exit_code == 0
    monkeypatch.setattr("time.time", lambda now=time.time: now() + 60)
    assert "there is no API key" in str(invoked(*opened).exception)
    assert not served
    assert invoked("keys", "make", "app").exit_code == 0
    assert invoked(*opened).exit_code == 0
    assert len(served) == 1


def test_every_command_finds_the_database_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []
    monkeypatch.setattr("temper.cli.serve._run", lambda settings, remote: served.append(settings))
    url = f"sqlite:///{folder / 'elsewhere.db'}"
    monkeypatch.setenv("TEMPER_DATABASE", url)
    assert invoked("keys", "make", "app").exit_code == 0
    told = invoked("serve", "http://127.0.0.1:1/v1")
    assert [s.database for s in served] == [url]
    assert url not in told.output, "a password in it would be shown to whoever reads the log"
    for command in (["keys", "list"], ["people", "list"], ["holds", "list"], ["loop", "audits"], ["audit", "verify"]):
        assert invoked(*command).exit_code == 0, command
    assert not (folder / "temper.db").exists()


@pytest.mark.parametrize("variable", [None, "  "])
@pytest.mark.parametrize(
    "command", [["keys", "list"], ["people", "list"], ["holds", "list"], ["audit", "verify"], ["loop", "audits"]], ids=" ".join
)
def test_no_command_makes_a_secret_or_a_database_that_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("TEMPER_SECRET", variable)
    told = invoked(*command)
    assert isinstance(told.exception, UsageError)
    assert "--secret temper.secret: no such file" in str(told.exception)
    monkeypatch.setenv("TEMPER_SECRET", base64.b64encode(bytes(32)).decode())
    told = invoked(*command)
    assert "database temper.db: no such file" in str(told.exception)
    assert list(folder.iterdir()) == []
