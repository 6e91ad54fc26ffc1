"""Mixed load on the gateway while things break: nothing unscanned is delivered, nothing held is lost, the audit stays whole.

`python tools/load_serve.py [--minutes 30] [--clients 16] [--workers 2] [--postgres] [--out FILE]`. Starts an upstream that
answers, stalls, breaks off, lies and plants a banned phrase in every channel, the gateway before it, and clients of every
temper; then, evenly over the time, kills a worker with SIGKILL, takes the database away, fills the disk and lets the clock jump.
Prints a summary as JSON and ends with 1 where a claim failed.

`python tools/load_serve.py --knee plain [--seconds 10] [--most 512] [--workers 1] [--out FILE.jsonl]` breaks nothing and looks
for the knee instead: it doubles the number of clients until p99 doubles from one step to the next, the rate no longer grows, or
requests fail, and prints a row of each step. Clients and upstream run in this process: where `own_cpu` is near 1 they are the
limit, not the gateway, whose share is `gateway_cpu` (both in cores).

The disk is full for the gateway alone (RLIMIT_FSIZE); the clock jumps by a `time.time` that adds what stands in a file. SQLite is
taken away by an exclusive lock; with `--postgres` the database is a PostgreSQL of the tests' own, which is stopped at once and
started again.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench" / "guard_peers"), str(ROOT / "tests")]

import wire  # noqa: E402
from cases import BANNED, ESCAPED, HIDDEN, OUTPUT, TOOLS, WIDE, holds, strings  # noqa: E402
from load import below, measure, memory_mb  # noqa: E402
from postgres import server  # noqa: E402

HELD = "quiet zeppelin"
POLICY = f"""
name = "load"
[agentic]
action = "allow"
[lint]
mode = "off"
[limits]
requests_per_minute = 0
deadline_s = 20.0
first_byte_s = 5.0
idle_s = 3.0
[[rules]]
id = "banned"
phrases = ["{BANNED}"]
[[rules]]
id = "held"
phrases = ["{HELD}"]
action = "review"
"""
CLOCK = """
import os, time
_real, _file, _seen = time.time, os.environ["LOAD_CLOCK"], [0.0, 0.0]
def _moved():
    now = _real()
    if now - _seen[0] > 0.2:
        _seen[0] = now
        try:
            with open(_file) as told:
                _seen[1] = float(told.read() or 0)
        except (OSError, ValueError):
            pass
    return now + _seen[1]
time.time = _moved
"""
KINDS = {
    "plain": 20,
    "stream": 20,
    "planted": 20,
    "planted_stream": 25,
    "held": 4,
    "disconnect": 6,
    "bad_json": 3,
    "upstream_500": 3,
    "upstream_cut": 3,
    "upstream_garbage": 3,
    "upstream_stall": 1,
    "slow_stream": 3,
}
"""What a client does next, and how often."""
CALM = frozenset({"plain", "stream", "planted", "planted_stream"})
"""Kinds that a gateway without trouble of its own answers."""
RECOVERED = 0.02
"""Share of those that may be refused once a fault is over."""
TICKET = re.compile(r"hold_[0-9A-Za-z]{20,}")
RESTART_S = 30.0
SETTLES_S = 5.0
GROWS = 1.05
"""Twice the clients must give so many times the rate, or the knee is found."""
FLAT = 1.15
"""The last third of the memory readings may exceed the second by so much."""


# --- the upstream ------------------------------------------------------------------------------------------------------


def planted(chance: random.Random) -> dict[str, Any]:
    """A message with the phrase somewhere a client might read it, in one of its disguises."""
    phrase = chance.choice([BANNED, BANNED.upper(), HIDDEN, WIDE, BANNED.replace(" ", " " * 40)])
    at = chance.randrange(len(OUTPUT))
    text = f"{OUTPUT[:at]} {phrase} {OUTPUT[at:]}"
    arguments = json.dumps({"cmd": text}) if chance.random() < 0.5 else f'{{"cmd": "{ESCAPED}"}}'
    call = {"id": "c", "type": "function", "function": {"name": "sh", "arguments": arguments}}
    return chance.choice(
        [
            {"content": text},
            {"content": f"<think>{text}</think>{OUTPUT}"},
            {"content": f"{text}</think>{OUTPUT}"},
            {"reasoning_content": text, "content": OUTPUT},
            {"reasoning": text, "content": OUTPUT},
            {"content": None, "tool_calls": [call]},
            {"content": OUTPUT, "note": phrase},
            {"refusal": text, "content": None},
        ]
    )


def message_of(kind: str, chance: random.Random) -> dict[str, Any]:
    if kind.startswith("planted"):
        return planted(chance)
    return {"content": f"{OUTPUT} {HELD}" if kind == "held" else OUTPUT}


def deltas(message: Mapping[str, Any], chance: random.Random) -> Iterator[dict[str, Any]]:
    """The message in events cut at random places."""
    yield {"role": "assistant", "content": ""}
    for name, value in message.items():
        if name == "tool_calls":
            call = value[0]["function"]
            yield {name: [{"index": 0, "id": "c", "type": "function", "function": {"name": call["name"], "arguments": ""}}]}
            yield from ({name: [{"index": 0, "function": {"arguments": p}}]} for p in pieces(call["arguments"], chance))
        elif value is not None:
            yield from ({name: piece} for piece in pieces(value, chance))


def pieces(text: str, chance: random.Random) -> Iterator[str]:
    at = 0
    while at < len(text):
        size = chance.choice([1, 3, 16, 40])
        yield text[at : at + size]
        at += size


async def upstream(seed: int) -> tuple[asyncio.Server, str]:
    """A server that does what the [[mark]] in a request says."""
    numbers = iter(range(10**9))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head.lower())
                body = await reader.readexactly(int(length[1])) if length else b""
                if not await _answered(body, writer, random.Random(seed + next(numbers))):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side left, or the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=512)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _answered(body: bytes, writer: asyncio.StreamWriter, chance: random.Random) -> bool:
    """Whether the connection goes on after this answer."""
    found = re.search(rb"\[\[(\w+)\]\]", body)
    kind = found[1].decode() if found else "plain"
    asked = json.loads(body) if body else {}
    if not body:
        writer.write(_whole(b'{"object": "list", "data": [{"id": "fake", "object": "model"}]}'))
    elif kind == "upstream_500":
        writer.write(_whole(json.dumps({"error": {"message": BANNED}}).encode(), 500))
    elif kind == "upstream_cut":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{")
        return False
    elif kind == "upstream_garbage":
        writer.write(_whole(f'{{"choices": [{{"message": "{BANNED}'.encode()))
    elif kind == "upstream_stall":
        await asyncio.sleep(8)
        return False
    elif not asked.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", **message_of(kind, chance)}, "finish_reason": "stop"}
        writer.write(_whole(_frame([choice], object="chat.completion").encode()))
    else:
        await _streamed(kind, writer, chance)
    await writer.drain()
    return True


async def _streamed(kind: str, writer: asyncio.StreamWriter, chance: random.Random) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    frames = [_frame([{"index": 0, "delta": d, "finish_reason": None}]) for d in deltas(message_of(kind, chance), chance)]
    frames += [_frame([{"index": 0, "delta": {}, "finish_reason": "stop"}]), "[DONE]"]
    pause = 0.05 if kind == "slow_stream" else 0.0
    for frame in frames:
        event = f"data: {frame}\n\n".encode()
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        if pause or chance.random() < 0.02:
            await writer.drain()
            await asyncio.sleep(pause)
    writer.write(b"0\r\n\r\n")


def _frame(choices: list[Any], **more: Any) -> str:
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    whole = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": choices, "usage": usage}
    return json.dumps(whole | more)


def _whole(body: bytes, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


# --- the gateway -------------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """The gateway as a process of its own, in a folder of its own."""

    folder: Path
    upstream: str
    database: str
    workers: int
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def clock(self) -> Path:
        return self.folder / "clock"

    def start(self) -> None:
        (self.folder / "policy.toml").write_text(POLICY)
        (self.folder / "sitecustomize.py").write_text(CLOCK)
        self.clock.write_text("0")
        given = ["--policy", "policy.toml", "--port", str(self.port), "--database", self.database, "--workers", str(self.workers)]
        command = [sys.executable, "-m", "temper.cli", "serve", f"{self.upstream}/v1", *given]
        paths = os.pathsep.join([str(self.folder), str(ROOT)])
        env = {**os.environ, "PYTHONPATH": paths, "LOAD_CLOCK": str(self.clock), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> int:
        """SIGTERM, and the exit code; a service that does not end by itself is killed and says -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()

    @property
    def pids(self) -> list[int]:
        assert self.process is not None
        return below(self.process.pid)

    async def ready(self, within: float = RESTART_S) -> float:
        """Seconds until the service says that it is ready. Raises `TimeoutError`."""
        began = time.perf_counter()
        while not await asyncio.to_thread(_ok, f"{self.url}/readyz"):
            if time.perf_counter() - began > within:
                raise TimeoutError(f"not ready after {within:.0f} s: {(self.folder / 'log.txt').read_text()[-3000:]}")
            await asyncio.sleep(0.1)
        return time.perf_counter() - began


def _ok(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (HTTPError, OSError):
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# --- the clients -------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the clients saw. `statuses` are by kind; `leaks` hold the beginning of an answer that had the phrase.

    `phase` is what is going on; `phases` count by it what was answered, and what was refused for the gateway's own trouble.
    """

    phase: str = "0 calm"
    phases: dict[str, Counter[str]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)
    tickets: set[str] = field(default_factory=set)
    memory: list[float] = field(default_factory=list)


async def client(service: Service, seen: Seen, until: float, chance: random.Random) -> None:
    """One request after the other, of any kind."""
    while time.perf_counter() < until:
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        try:
            await asyncio.wait_for(_ask(service, seen, kind, chance), 40)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            seen.statuses[f"{kind}: {type(error).__name__}"] += 1
            seen.phases.setdefault(seen.phase, Counter())["refused"] += kind in CALM
            await asyncio.sleep(0.1)


async def _ask(service: Service, seen: Seen, kind: str, chance: random.Random) -> None:
    stream = kind.endswith("stream") or kind == "disconnect" or (kind.startswith("upstream") and chance.random() < 0.5)
    asked = {"model": "fake", "stream": stream, "messages": [{"role": "user", "content": f"[[{kind}]] hello"}], "tools": TOOLS}
    body = json.dumps(asked).encode()
    reader, writer = await wire.connect(service.url)
    try:
        sent = body[: len(body) // 2] if kind == "bad_json" else body
        writer.write(wire.request(f"{service.url}/v1/chat/completions", sent, {"Connection": "close"}))
        if kind == "disconnect":
            await writer.drain()
            part = await reader.read(chance.choice([1, 400, 4000]))
            seen.leaks += [part.decode(errors="replace")[:500]] if holds(part.decode(errors="replace")) else []
            seen.statuses["disconnect: left"] += 1
            return
        _note(seen, kind, await wire.read(reader))
    finally:
        writer.close()


def _note(seen: Seen, kind: str, answer: wire.Answer) -> None:
    text = answer.body.decode("utf-8", "replace")
    seen.statuses[f"{kind}: {answer.status}{' cut' if answer.cut else ''}"] += 1
    if kind in CALM:
        seen.phases.setdefault(seen.phase, Counter())["refused" if answer.status == 503 or answer.cut else "answered"] += 1
    if any(holds(said) for said in (answer.head.decode("latin-1"), text, *_joined(text))):
        seen.leaks.append(f"{kind}: {text[:500]}")
    if kind == "held" and answer.status == 200:
        seen.tickets |= set(TICKET.findall(answer.head.decode("latin-1") + text))


def _joined(text: str) -> list[str]:
    """Every string of an answer, put together over its events."""
    told: dict[str, str] = {}
    for line in [line[5:] for line in text.splitlines() if line.startswith("data:")] or [text]:
        with contextlib.suppress(ValueError):
            for path, said in strings(json.loads(line)):
                told[path] = told.get(path, "") + said
    return list(told.values())


async def watch_memory(service: Service, seen: Seen) -> None:
    while True:
        seen.memory.append(await asyncio.to_thread(memory_mb, service.process.pid if service.process else 0))
        await asyncio.sleep(1)


# --- what breaks -------------------------------------------------------------------------------------------------------


async def kill_worker(service: Service, chance: random.Random) -> str:
    """SIGKILL of one worker; with one worker the service itself, which is then started again as a supervisor would."""
    assert service.process is not None
    workers = [pid for pid in service.pids[1:] if b"spawn_main" in _cmdline(pid)]
    if workers:
        os.kill(chance.choice(workers), signal.SIGKILL)
        return f"one of {len(workers)} workers"
    os.killpg(service.process.pid, signal.SIGKILL)
    service.process.wait()
    service.start()
    return "the service; started again"


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def take_database(service: Service, postgres: Any) -> str:
    """Three seconds without it: PostgreSQL is stopped as by a crash, SQLite locked."""
    if postgres:
        await asyncio.to_thread(postgres.stop)
        await asyncio.sleep(3)
        await asyncio.to_thread(postgres.start)
        return "PostgreSQL stopped for 3 s"
    lock = sqlite3.connect(service.folder / "gateway.db", timeout=10, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(3)
        lock.execute("ROLLBACK")
    finally:
        lock.close()
    return "SQLite locked for 3 s"


async def fill_disk(service: Service) -> str:
    """No file of the gateway can grow for three seconds."""
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in service.pids}
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
    await asyncio.sleep(3)
    for pid in service.pids:  # a worker that began meanwhile inherited the limit
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(
                pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1])
            )
    return f"{len(limits)} processes for 3 s"


async def jump(service: Service) -> str:
    """An hour ahead for two seconds, then an hour back, then as it was."""
    for offset in ("3600", "-3600", "0"):
        service.clock.write_text(offset)
        await asyncio.sleep(2)
    return "an hour ahead, an hour back"


# --- the summary -------------------------------------------------------------------------------------------------------


async def lost(service: Service, tickets: set[str]) -> list[str]:
    """Tickets that nobody knows any more."""

    def known(ticket: str) -> bool:
        return _ok(f"{service.url}/v1/holds/{ticket}")

    return [t for t in sorted(tickets) if not await asyncio.to_thread(known, t)]


def audit(service: Service) -> dict[str, Any]:
    """What the check of the chain finds once the service has stopped."""
    from temper.serve.keyring import open_keyring
    from temper.serve.store import Store
    from temper.serve.verify import verify

    store = Store(service.database)
    try:
        found = verify(store, open_keyring(service.folder / "temper.secret"), service.folder / "checkpoints")
    finally:
        store.close()
    return {"rows": found.rows, "lanes": found.lanes, "checkpoints": found.checkpoints, "problems": list(found.problems)}


def growth(readings: list[float]) -> float:
    """The median of the last third of the readings over that of the second."""
    third = len(readings) // 3
    if not third:
        return 1.0
    middle, last = sorted(readings[third : 2 * third]), sorted(readings[2 * third :])
    return last[len(last) // 2] / middle[len(middle) // 2]


async def run(given: argparse.Namespace, folder: Path, postgres: Any) -> dict[str, Any]:
    chance = random.Random(given.seed)
    listening, address = await upstream(given.seed)
    database = postgres.url() if postgres else f"sqlite:///{folder / 'gateway.db'}"
    service = Service(folder, address, database, given.workers, free_port())
    service.start()
    start_s = await service.ready()
    seen, began = Seen(), time.perf_counter()
    until = began + 60 * given.minutes
    breaks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("kill", lambda: kill_worker(service, chance)),
        ("database", lambda: take_database(service, postgres)),
        ("disk", lambda: fill_disk(service)),
        ("clock", lambda: jump(service)),
    ]
    clients = [asyncio.create_task(client(service, seen, until, random.Random(given.seed + i))) for i in range(given.clients)]
    reader = asyncio.create_task(watch_memory(service, seen))
    faults: list[dict[str, Any]] = []
    try:
        for number in range(given.faults):
            await asyncio.sleep(max(0.0, began + 60 * given.minutes * (number + 1) / (given.faults + 1) - time.perf_counter()))
            name, happen = breaks[number % len(breaks)]
            seen.phase = f"{number + 1} {name}"
            what = await happen()
            faults.append({"fault": name, "what": what, "ready_again_s": round(await service.ready(), 2)})
            await asyncio.sleep(SETTLES_S)
            seen.phase = f"{number + 1} {name} over"
            print(json.dumps(faults[-1]), file=sys.stderr, flush=True)
        await asyncio.gather(*clients)
        gone = await lost(service, seen.tickets)
    finally:
        reader.cancel()
        for task in clients:
            task.cancel()
        code = service.stop()
        listening.close()
    found = audit(service)
    log = (folder / "log.txt").read_text(errors="replace")
    claims = {
        "no unscanned byte delivered": not seen.leaks and not holds(log),
        "no held item lost": not gone and bool(seen.tickets),
        "audit chain valid": not found["problems"] and found["rows"] > 0,
        "memory flat": growth(seen.memory) <= FLAT,
        "answers again after each fault": all(
            of["refused"] <= RECOVERED * of.total() for phase, of in seen.phases.items() if phase.endswith("over")
        ),
        "no internal error": not any(status.endswith(": 500") for status in seen.statuses),
        "ends by itself": code in (0, -signal.SIGTERM, 128 + signal.SIGTERM),
    }
    return {
        "minutes": given.minutes,
        "clients": given.clients,
        "workers": given.workers,
        "database": database.partition(":")[0],
        "start_s": round(start_s, 2),
        "requests": sum(seen.statuses.values()),
        "statuses": dict(sorted(seen.statuses.items())),
        "faults": faults,
        "phases": {phase: dict(of) for phase, of in seen.phases.items()},
        "leaks": seen.leaks[:5],
        "tickets": {"given": len(seen.tickets), "lost": gone[:5]},
        "audit": found,
        "memory_mb": {"first": seen.memory[:1], "most": max(seen.memory, default=0.0), "growth": round(growth(seen.memory), 3)},
        "exit": code,
        "claims": claims,
        "ok": all(claims.values()),
    }


# --- the knee ----------------------------------------------------------------------------------------------------------


def ends(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why the search is over after these steps, "" where it goes on."""
    *before, now = rows
    if now["errors"] or not now["rate"]:
        return "requests failed"
    if not before:
        return ""
    if now["rate"] < GROWS * before[-1]["rate"]:
        return "the rate no longer grows"
    return "p99 doubled" if now["p99_ms"] >= 2 * before[-1]["p99_ms"] else ""


async def step(service: Service, kind: str, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients for so long, each with one request under way."""
    assert service.process is not None
    asked = {"model": "fake", "stream": kind == "stream", "messages": [{"role": "user", "content": f"[[{kind}]] hello"}]}
    wall, own = time.perf_counter(), time.process_time()
    url = f"{service.url}/v1/chat/completions"
    found: Any = await measure(url, json.dumps(asked).encode(), {}, at=clients, seconds=seconds, pid=service.process.pid)
    own_cpu = (time.process_time() - own) / (time.perf_counter() - wall)
    return {
        "clients": clients,
        "rate": found["rate"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "errors": sum(found["failed"].values()),
        "cpu_ms": found["cpu_ms"],
        "gateway_cpu": round(found["rate"] * (found["cpu_ms"] or 0.0) / 1000, 2),
        "own_cpu": round(own_cpu, 2),
    }


async def knee(given: argparse.Namespace, folder: Path, postgres: Any) -> dict[str, Any]:
    """The steps until the search ends, each printed and written as it is known."""
    listening, address = await upstream(given.seed)
    database = postgres.url() if postgres else f"sqlite:///{folder / 'gateway.db'}"
    service = Service(folder, address, database, given.workers, free_port())
    service.start()
    rows: list[dict[str, Any]] = []
    why, clients = "", 1
    try:
        await service.ready()
        while not why and clients <= given.most:
            rows.append(await step(service, given.knee, clients, given.seconds))
            print(json.dumps(rows[-1]), flush=True)
            if given.out:
                given.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
            why, clients = ends(rows), 2 * clients
    finally:
        service.stop()
        listening.close()
    best = max(rows, key=lambda row: row["rate"] * (not row["errors"]))
    return {
        "knee": best["clients"],
        "rate": best["rate"],
        "why": why or f"{given.most} clients were the most allowed",
        "ok": True,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--faults", type=int, default=8, help="how many things break, in turn: kill, database, disk, clock")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL server of its own in place of SQLite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--knee", choices=("plain", "stream"), help="break nothing, and look for the knee of such requests")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a step of --knee takes")
    parser.add_argument("--most", type=int, default=512, help="clients at which --knee gives up")
    parser.add_argument("--out", type=Path, help="write the summary here; with --knee a row of each step")
    given = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every write to a gateway that has just been killed
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        folder.chmod(0o755)  # PostgreSQL runs as another user
        made = stack.enter_context(server(folder / "postgres")) if given.postgres else None
        summary = asyncio.run((knee if given.knee else run)(given, folder, made))
    told = json.dumps(summary, indent=None if given.knee else 1)
    print(told)
    if given.out and not given.knee:
        given.out.write_text(told + "\n")
    return 0 if summary["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
