"""`temper serve` as a process: it starts, answers, stops cleanly, and says what is wrong before it serves anything."""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path

import httpx
import pytest
from bounded import WAIT_S, soon
from fake_openai import CLEAN, fake
from serve_world import POLICY
from typer.testing import CliRunner

from temper.cli.serve import serve
from temper.errors import UsageError

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
