"""A proof over a real endpoint, killed with SIGKILL at random moments: no finished row is lost, none is asked for again."""

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from temper import Completion, Example, Message, Named, Score, Suite
from temper.files import read_rows, sealed
from temper.prove.evaluate import Panel, evaluate
from temper.samplers.remote import Remote

PROMPTS, SAMPLES, CONCURRENCY, KILLS = 150, 2, 6, 20
SUITE = Suite("s", tuple(Example(f"e{i}", (Message("user", f"q{i}"),), tags=frozenset({"benign"})) for i in range(PROMPTS)))


def constant(completions: Sequence[Completion]) -> list[Score]:
    return [Score(0.1)] * len(completions)


class Endpoint:
    """Answers every request after a few milliseconds with its question, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, int]] = Counter()
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                question = body["messages"][0]["content"]
                with lock:
                    self.asked[question, body["seed"]] += 1
                time.sleep(random.uniform(0.001, 0.006))
                message = {"role": "assistant", "content": f"{question} {'é' * 300}"}
                reply = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
                try:
                    handler.send_response(200)
                    handler.send_header("Content-Length", str(len(reply)))
                    handler.end_headers()
                    handler.wfile.write(reply)
                except OSError:
                    pass  # who asked was killed

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = Endpoint()
    yield served
    served.server.shutdown()
    served.server.server_close()


def prove(url: str, folder: Path) -> None:
    panel = Panel((Named("refusal", constant, "r"),), Named("refusal", constant, "r"))
    sampler = Remote(url, "m", seed=0, concurrency=CONCURRENCY)
    evaluate(sampler, SUITE, panel, folder, arm="a", address="x", samples=SAMPLES)


def killed_after(requests: int, seconds: float, endpoint: Endpoint, folder: Path) -> None:
    """Start a proof in a process of its own; kill it so many seconds after it sent so many requests."""
    goal = sum(endpoint.asked.values()) + requests
    process = multiprocessing.get_context("fork").Process(target=prove, args=(endpoint.url, folder), daemon=True)
    process.start()
    while process.is_alive() and sum(endpoint.asked.values()) < goal:
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()


def whole_lines(path: Path) -> set[bytes]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return {line for line in lines if line.endswith(b"\n")}


def test_a_proof_killed_at_twenty_random_moments_loses_no_finished_row_and_asks_none_again(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    moments, kept, path = random.Random(0), set[bytes](), tmp_path / "rows.jsonl"
    finished: set[tuple[str, int]] = set()
    for _ in range(KILLS):
        before = Counter(endpoint.asked)
        killed_after(moments.randint(1, 20), moments.uniform(0, 0.02), endpoint, tmp_path)
        assert not any(endpoint.asked[each] > before[each] for each in finished), "a finished sample was asked again"
        lines = whole_lines(path)
        assert kept <= lines, "a finished row was lost or changed"
        kept = lines
        finished = {(row["prompt"], row["sample"]) for row in map(json.loads, kept)}
    assert 0 < len(kept) < PROMPTS * SAMPLES, "the kills were to fall into the middle"
    prove(endpoint.url, tmp_path)
    rows = read_rows(path)
    assert [(r["id"], r["sample"]) for r in rows] == [(e.id, k) for e in SUITE.examples for k in range(SAMPLES)]
    assert sealed(tmp_path)
    assert kept <= set(path.read_bytes().splitlines(keepends=True))
    lost = sum(endpoint.asked.values()) - len(rows)
    assert lost <= KILLS * (CONCURRENCY + 64), "more was asked again than could be under way or waiting to be graded"
