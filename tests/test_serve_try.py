"""What a newcomer meets first: scripts/try against a gateway under examples/serve-policy.toml, and a filter of their own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from test_serve_cli import free_port, ready

from temper.errors import PolicyError
from temper.samplers.scripted import Scripted
from temper.serve.canary import Readiness
from temper.serve.guard import Guard
from temper.serve.guarded import Guarded
from temper.serve.policy import parse_policy, read_policy
from temper.types import Example, Message

ROOT = Path(__file__).parent.parent
OWN = '[filters.shouting]\nkind = "examples/my_filter.py:Shouting"\n'


class Echo(BaseHTTPRequestHandler):
    """A model that says what it was told."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.told("application/json", json.dumps({"object": "list", "data": [{"id": "echo", "object": "model"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = {"role": "assistant", "content": asked["messages"][-1]["content"]}
        if asked.get("stream"):
            choices = [{"index": 0, "delta": said, "finish_reason": None}, {"index": 0, "delta": {}, "finish_reason": "stop"}]
            events = [json.dumps({"choices": [c]}) for c in choices] + ["[DONE]"]
            self.told("text/event-stream", "".join(f"data: {event}\n\n" for event in events))
        else:
            choice = {"index": 0, "message": said, "finish_reason": "stop"}
            self.told(
                "application/json", json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}})
            )

    def told(self, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given: object) -> None:
        """Nothing on stderr."""


@contextmanager
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def test_the_story_of_the_readme_can_be_played(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    # the encoder has no part in the story and costs seconds
    policy.write_text((ROOT / "examples/serve-policy.toml").read_text().replace('"chat"', '"rules-only"'))
    port, temper = free_port(), [sys.executable, "-m", "temper.cli"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with echo() as upstream:
        store = ["--database", f"sqlite:///{tmp_path}/temper.db", "--secret", f"{tmp_path}/secret"]
        given = ["serve", upstream, "--policy", str(policy), "--port", str(port), "--checkpoints", f"{tmp_path}/checkpoints"]
        work = subprocess.Popen([*temper, *given, *store], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(up(port))
            env |= {"URL": f"http://127.0.0.1:{port}", "STATE": str(tmp_path)}
            env |= {"PYTHON": sys.executable, "TEMPER": " ".join(temper)}
            played = subprocess.run(["scripts/try"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
        finally:
            work.send_signal(signal.SIGTERM)
            ended(work)
    said = played.stdout
    assert played.returncode == 0, played.stderr
    assert "[PROJECT] begins on Monday." in said
    assert "Bluebird begins on Monday.\n" not in said
    assert '"code":"content_filter"' in said and "status 400" in said and "/appeal/" in said
    assert "status 202" in said
    assert '"state":"released"' in said
    stream = said.split("5. A stream waits")[1]
    assert stream.index("is released") < stream.index("data: ") < stream.index("data: [DONE]")
    assert "no change was found" in said
    assert "may no longer sign in" in said


def ended(work: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of what was told to stop. Raises `subprocess.TimeoutExpired`; it is killed then."""
    try:
        work.wait(60)
    finally:
        work.kill()


async def up(port: int) -> None:
    class Running:
        returncode = None

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await ready(client, Running())  # type: ignore[arg-type]


def test_without_a_gateway_it_says_how_to_start_one() -> None:
    env = {**os.environ, "URL": f"http://127.0.0.1:{free_port()}"}
    played = subprocess.run(["scripts/try"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert played.returncode == 1
    assert "make serve" in played.stderr


def test_the_example_policy_is_one() -> None:
    policy = read_policy(ROOT / "examples/serve-policy.toml")
    rules = next(s for s in policy.filters if s.name == "rules").filter.rules  # type: ignore[attr-defined]
    assert {r.id: (r.action, r.shadow) for r in rules} == {
        "code-phrase": ("block", False),
        "project-name": ("redact", False),
        "refunds": ("review", False),
        "competitor": ("block", True),
    }
    assert policy.review.wait_s > 0


def test_a_filter_of_ones_own_redacts_and_passes_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len((ROOT / "examples/my_filter.py").read_text().split("@dataclass")[1].strip().splitlines()) <= 15
    guard = Guard(parse_policy(OWN + "letters = 6\n"))
    sampler = Guarded(Scripted({}, default="It is GREATLY liked in PARIS."), guard)
    [[answer]] = sampler([Example("1", (Message("user", "Is it liked?"),))])
    assert answer.answer == "It is greatly liked in PARIS."
    ready = Readiness()
    asyncio.run(ready.check(guard, None))
    assert ready.ok, ready.why


def test_a_filter_of_ones_own_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(PolicyError, match="Shoutin'"):
        parse_policy(OWN.replace("Shouting", "Shoutin"))
