"""A real gateway on a free port of loopback, in front of the scripted model server, in this process."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bounded
import httpx
import uvicorn
from bounded import WAIT_S, soon, within
from fake_openai import Fake, fake
from serve_parts import opened

from temper.serve.gateway import App, application, build
from temper.serve.state import Gateway, Settings
from temper.serve.upstream import Upstream

POLICY = """
name = "test"
[agentic]
action = "allow"
[lint]
mode = "off"
[disclosure]
header = true
[limits]
requests_per_minute = 0
[[rules]]
id = "zorblax"
phrases = ["zorblax protocol"]
category = "sabotage"
why = "it names the protocol"
[[rules]]
id = "grumbletons"
phrases = ["grumbletons"]
action = "review"
category = "unrest"
[[rules]]
id = "rewritable"
phrases = ["quibblefrotz"]
action = "rewrite"
why = "it uses a word that is not wanted"
[filters.email]
kind = "rules"
action = "redact"
rules = [{ id = "email", pattern = "[a-z.]{1,40}@[a-z]{1,40}[.]test", replacement = "[email]" }]
"""


@dataclass
class World:
    """What a test talks to."""

    gateway: Gateway
    app: App
    fake: Fake
    client: httpx.AsyncClient
    url: str
    server: uvicorn.Server

    async def chat(self, text: str, **more: Any) -> httpx.Response:
        body = {"model": "fake", "messages": [{"role": "user", "content": text}], **more}
        return await self.client.post("/v1/chat/completions", json=body)

    async def stream(self, text: str, path: str = "/v1/chat/completions", **more: Any) -> tuple[list[dict[str, Any]], str]:
        """The frames of a streamed answer, and its whole text on the wire."""
        body = {"model": "fake", "messages": [{"role": "user", "content": text}], "stream": True, **more}
        reply = await self.client.post(path, json=body)
        return frames(reply.text), reply.text

    async def rows(self) -> list[dict[str, Any]]:
        """The rows on record, oldest first."""
        from sqlalchemy import select

        from temper.serve.tables import responses

        await self.gateway.journal.settled()
        work = select(responses).order_by(responses.c.at)
        return [dict(r) for r in await self.gateway.store.run(lambda c: c.execute(work).mappings().all())]


def frames(text: str) -> list[dict[str, Any]]:
    """The JSON of every data line but [DONE]."""
    import json

    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]


def said(frames: list[dict[str, Any]], key: str = "content", choice: int = 0) -> str:
    """The text that streamed deltas carry under a key."""
    deltas = [c["delta"] for f in frames for c in f.get("choices", ()) if c["index"] == choice]
    return "".join(d.get(key) or "" for d in deltas)


def finish(frames: list[dict[str, Any]], choice: int = 0) -> str | None:
    found = [c["finish_reason"] for f in frames for c in f.get("choices", ()) if c["index"] == choice]
    return next((f for f in found if f is not None), None)


@asynccontextmanager
async def world(tmp: Path, policy: str = POLICY, *, upstream: Upstream | None = None, **more: Any) -> AsyncIterator[World]:
    """Start everything, and stop it gracefully."""
    file = tmp / "test.toml"
    file.write_text(policy)
    async with fake() as made:
        settings = Settings(
            upstream=made.url,
            policy=str(file),
            database=f"sqlite:///{tmp / 'temper.db'}",
            secret=tmp / "secret",
            checkpoints=tmp / "checkpoints",
            port=0,
            **more,
        )
        opened(settings.database).close()
        gateway = build(settings, upstream=upstream)
        app = application(gateway)
        async with listening(app) as (url, server), client_of(url) as client:
            yield World(gateway, app, made, client, url, server)


def client_of(url: str) -> httpx.AsyncClient:
    """A client on loopback. It reads no certificates: nobody shows one there, and that takes longer than a test."""
    return httpx.AsyncClient(base_url=url, timeout=WAIT_S, verify=False)


@asynccontextmanager
async def listening(app: Any, drain: int = 5) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """The application behind a real server."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", http="httptools", timeout_graceful_shutdown=drain
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([sock]))
    await soon(lambda: server.started or task.done(), "the gateway to start")
    if task.done():
        await task
        raise RuntimeError("the server did not start")
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", server
    finally:
        server.should_exit = True
        await within(task, "the gateway to stop")


def run(tmp: Path, test: Callable[[World], Awaitable[None]], policy: str = POLICY, **more: Any) -> None:
    """Run one test in a world of its own."""

    async def all_of_it() -> None:
        async with world(tmp, policy, **more) as made:
            await test(made)

    bounded.run(all_of_it())
