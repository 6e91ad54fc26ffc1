"""CPU a judged row costs beside the bare HTTP calls it is made of, on a server that answers at once; rows in results/bench.

Every figure is CPU time of this process, and the sides take turns. The server is a process of its own.
"""

import asyncio
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from record import Case, compared, cpu_seconds, record

from temper.graders.judge import Judge
from temper.graders.rubric import load
from temper.samplers.asking import Asked, Cached, Chosen
from temper.samplers.remote import Chooser
from temper.types import Completion, Example, Message

ROWS, TURNS, CONCURRENCY = 200, 5, 8
TOKENS = [{"token": "ABC"[n % 3], "logprob": -1.0 - n, "bytes": None} for n in range(20)]
CHOICE = {"message": {"content": "A"}, "logprobs": {"content": [TOKENS[0] | {"top_logprobs": TOKENS}]}, "finish_reason": "stop"}
REPLY = json.dumps({"choices": [CHOICE], "usage": {"prompt_tokens": 900, "completion_tokens": 1}}).encode()


class Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(REPLY)}\r\n\r\n"
        self.wfile.write(head.encode() + REPLY)

    def log_message(self, *arguments: object) -> None:
        pass


def serve(ports: "multiprocessing.Queue[int]") -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    ports.put(server.server_port)
    server.serve_forever()


async def bare(url: str, bodies: list[dict[str, object]]) -> None:
    """The same requests by httpx alone, as many at a time."""
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(client: httpx.AsyncClient, body: dict[str, object]) -> None:
        async with gate:
            (await client.post(f"{url}/chat/completions", json=body)).json()

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=CONCURRENCY)) as client:
        await asyncio.gather(*(one(client, body) for body in bodies))


class Recorder:
    """An asker that keeps what it is asked."""

    weights = ""

    def __init__(self, kept: list[Asked]) -> None:
        self.kept = kept

    def __call__(self, asked: Sequence[Asked], /) -> list[Chosen]:
        self.kept += asked
        return [(None, "recorded", {})] * len(asked)


def cost(work: Callable[[], object]) -> float:
    return cpu_seconds(work) * 1000 / ROWS


def main() -> None:
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(ports,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ports.get()}/v1"
    text = "This is a sentence of an answer that somebody wrote. " * 30
    rows = [
        Completion(Example(f"q{n}", (Message("user", f"Question {n}?"),)), f"{n} {text}", "A thought. " * 20) for n in range(ROWS)
    ]
    chooser = Chooser(url, "model", concurrency=CONCURRENCY)
    judge = Judge(load("harm"), chooser)
    asks: list[Asked] = []
    Judge(load("harm"), Recorder(asks))(rows)
    bodies = [chooser._body(ask, "logprobs") for ask in asks]
    found: dict[str, list[float]] = {"bare httpx": [], "judge": [], "judge, writing its cache": [], "judge, from its cache": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(TURNS):
            cached = Judge(load("harm"), Cached(chooser, Path(folder) / f"{turn}.sqlite"))
            found["bare httpx"].append(cost(lambda: asyncio.run(bare(url, bodies))))
            found["judge"].append(cost(lambda: judge(rows)))
            found["judge, writing its cache"].append(cost(lambda cached=cached: cached(rows)))  # type: ignore[misc]
            found["judge, from its cache"].append(cost(lambda cached=cached: cached(rows)))  # type: ignore[misc]
    bare_times = found.pop("bare httpx")
    cases = [
        Case(
            case=f"{name}, {len(asks) // ROWS} calls a row", peer_name="httpx", unit="CPU ms a row", **compared(times, bare_times)
        )
        for name, times in found.items()
    ]
    record("judge", cases)
    server.terminate()


if __name__ == "__main__":
    main()
