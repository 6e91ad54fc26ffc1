"""What every route asks of a request before it is answered, and how long a client may take to send and to read."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from serve_world import POLICY, World, run

from temper.serve import chat
from temper.serve.canary import Cell

CHAT = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "[[clean]] hello"}]}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/moderations": {"input": "hello"},
    "/v1/feedback": {"response_id": "chatcmpl_1", "rating": "up"},
    "/beta/litellm_basic_guardrail_api": {"texts": ["hello"], "input_type": "request"},
}
JUDGING = [path for path in BODIES if path != "/v1/feedback"]
Message = dict[str, Any]


def scope(path: str) -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


class Client:
    """The other side of one request. It sends the first `sends` bytes of its body, and takes `reads` messages of the answer."""

    def __init__(self, body: Any, *, sends: int | None = None, reads: float = float("inf")) -> None:
        self.body, self.sends, self.reads = json.dumps(body).encode(), sends, reads
        self.got: list[Message] = []
        self._asked = 0

    async def receive(self) -> Message:
        self._asked += 1
        if self._asked > 1:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": self.body[: self.sends], "more_body": self.sends is not None}

    async def send(self, message: Message) -> None:
        if len(self.got) >= self.reads:
            await asyncio.Event().wait()
        self.got.append(message)

    @property
    def status(self) -> int:
        return int(self.got[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(m.get("body", b"") for m in self.got).decode()


def asking(
    tmp_path: Path, path: str, client: Client, policy: str = POLICY, before: Callable[[World], None] = lambda w: None
) -> list[dict[str, Any]]:
    """The rows on record once the request is over, which it must be within five seconds."""
    found: list[dict[str, Any]] = []

    async def test(w: World) -> None:
        before(w)
        call: Awaitable[None] = w.app(scope(path), client.receive, client.send)
        await asyncio.wait_for(call, 5)
        assert w.gateway.limits.under_way == 0
        found.extend(await w.rows())

    run(tmp_path, test, policy=policy)
    return found


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_a_client_that_does_not_read_ends_with_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: int) -> None:
    monkeypatch.setattr(chat, "TELL_S", 0.1)
    policy = POLICY.replace("[limits]", "[limits]\ndeadline_s = 0.3")
    (row,) = asking(tmp_path, "/v1/chat/completions", Client(CHAT, reads=reads), policy)
    assert (row["status"], row["finish"]) == (504, "error")


def test_a_client_that_never_reads_its_error_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "TELL_S", 0.1)
    asking(tmp_path, "/v1/chat/completions", Client({"model": ""}, reads=0))


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_never_ends_is_a_408_on_every_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(chat, "BODY_S", 0.1)
    client = Client(BODIES[path], sends=5)
    asking(tmp_path, path, client)
    assert (client.status, json.loads(client.text)["error"]["code"]) == (408, "request_timeout")


@pytest.mark.parametrize("path", JUDGING)
def test_while_the_self_test_fails_no_route_judges(tmp_path: Path, path: str) -> None:
    def fails(w: World) -> None:
        w.gateway.ready.cells = {"test": (Cell("test", "rules", "content", "plain", "did not fire"),)}

    client = Client(BODIES[path])
    asking(tmp_path, path, client, before=fails)
    assert (client.status, json.loads(client.text)["error"]["code"]) == (503, "not_ready")


@pytest.mark.parametrize("path", BODIES)
def test_a_keys_rate_holds_on_every_route(tmp_path: Path, path: str) -> None:
    policy = POLICY.replace("requests_per_minute = 0", "requests_per_minute = 1")
    first = Client(BODIES[path])

    def spent(w: World) -> None:
        from temper.serve.keys import LOCAL

        assert w.gateway.limits.admit(LOCAL, w.gateway.guard.policy.limits) is None

    asking(tmp_path, path, first, policy, spent)
    assert first.status == 429
    assert any(name == b"retry-after" for name, _ in first.got[0]["headers"])
