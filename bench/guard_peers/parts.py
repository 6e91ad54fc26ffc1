"""Where our own time of a plain request goes: each part in microseconds, in process, before an upstream that is a constant.

`PYTHONPATH=.:bench/guard_peers python bench/guard_peers/parts.py [REQUESTS]`. The 20th percentile of each part's times, by the
clock: what it takes when nobody interrupts it. A part holds those indented below it, and their clocks.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import orjson
import peers
import upstream
import uvloop
from cases import CASES, body_of

from temper.serve import chat, gateway, guard, journal, metrics, release
from temper.serve.state import Settings

E = chat.Exchange
PARTS: tuple[tuple[Any, str, str], ...] = (
    (gateway.App, "__call__", "all"),
    (E, "__init__", "  id, headers, state"),
    (E, "_admitted", "  the request"),
    (E, "_known", "    who asks"),
    (chat, "read_body", "    body read"),
    (E, "_parsed", "    body parsed"),
    (E, "_answered", "    the answer"),
    (E, "_heard", "      input filters, two texts"),
    (chat, "notice", "      disclosure"),
    (E, "_plain", "      model asked and answer written"),
    (E, "_feed_reply", "        answer taken apart"),
    (release.Release, "end", "        output filters and release"),
    (E, "_write_plain", "        recorded and written"),
    (journal.Journal, "response", "          journal row, digest, queue"),
    (metrics.Meters, "response", "          metrics"),
    (E, "_write_json", "          response"),
    (guard.Guard, "judge", "one text through the filters"),
)


def timed(owner: Any, name: str, took: list[float]) -> None:
    """Put a clock around a function."""
    inner: Callable[..., Any] = getattr(owner, name)

    @wraps(inner)
    async def waited(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return await inner(*given, **named)
        finally:
            took.append(time.perf_counter() - began)

    @wraps(inner)
    def called(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return inner(*given, **named)
        finally:
            took.append(time.perf_counter() - began)

    setattr(owner, name, waited if asyncio.iscoroutinefunction(inner) else called)


class Constant:
    """An upstream that says the same at once."""

    def __init__(self) -> None:
        self.reply: Mapping[str, Any] = orjson.loads(upstream.plain("clean"))

    async def models(self) -> list[Mapping[str, Any]]:
        return [{"id": "fake"}]

    async def plain(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        orjson.dumps(body)
        return self.reply

    async def stream(self, path: str, body: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        pass


async def ask(app: gateway.App) -> None:
    body = [json.dumps(body_of(CASES["clean"], False, "fake")).encode()]
    headers = [(b"host", b"127.0.0.1:1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "client": ("127.0.0.1", 2)}

    async def receive() -> dict[str, Any]:
        if not body:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body.pop()}

    async def send(message: Mapping[str, Any]) -> None:
        assert message.get("status", 200) == 200

    await app(scope, receive, send)


async def main(requests: int, files: Path) -> None:
    (files / "policy.toml").write_text(peers.ours())
    own: dict[str, Any] = {"secret": files / "secret", "checkpoints": files / "checkpoints"}
    own |= {"policy": str(files / "policy.toml"), "database": f"sqlite:///{files / 'gateway.db'}"}
    settings = Settings(upstream="http://unused/v1", **own)
    app = gateway.application(gateway.build(settings, upstream=Constant()))
    await app.start()
    took: list[list[float]] = [[] for _ in PARTS]
    for (owner, name, _), times in zip(PARTS, took, strict=True):
        timed(owner, name, times)
    for _ in range(requests):
        await ask(app)
    await app.close()
    for (_, _, label), times in zip(PARTS, took, strict=True):
        print(f"{1e6 * sorted(times)[len(times) // 5]:8.1f} us  {label}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500, Path(folder)))
