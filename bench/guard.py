"""The gateway beside others in one run, on the same rules: CPU, latency, throughput, memory, and what leaks.

`python bench/guard.py --peers FOLDER [--rounds 3] [--seconds 5] [--only NAME,NAME]`. FOLDER gets a virtual environment for each
peer that has none there yet. Every gateway runs on one core, upstream and load on another; all are up at once, and those that are
not measured are stopped (SIGSTOP), so that rounds interleave. Ours runs as a user starts it: audit and database on.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record import Case, compared, record

PEERS = Path(__file__).parent / "guard_peers"
sys.path.insert(0, str(PEERS))

from cases import CASES  # noqa: E402
from load import memory_mb  # noqa: E402
from peers import Peer, environment, installed, peers  # noqa: E402

LOADS = {"plain, 1": (1, False), "plain, 32": (32, False), "stream, 1": (1, True), "stream, 32": (32, True)}
"""Name -> connections, and whether answers are streamed."""
FIGURES = {
    "cpu_ms": ("CPU", "ms", False),
    "p50_ms": ("p50", "ms", False),
    "p99_ms": ("p99", "ms", False),
    "first_p50_ms": ("first token p50", "ms", False),
    "rate": ("rate", "1/s", True),
}
STARTS = 120.0
Row = dict[str, Any]


@dataclass
class Running:
    """A gateway that is up: its process, how long it took to get there, and what was measured of it."""

    peer: Peer
    process: subprocess.Popen[bytes]
    url: str
    start_s: float
    probes: list[Row] = field(default_factory=list)
    loads: dict[str, list[Row]] = field(default_factory=dict)
    memory: float = 0.0

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


def cores() -> tuple[str, str]:
    """One core for the gateways, another for upstream and load; the same one where there is no other."""
    free = sorted(os.sched_getaffinity(0))
    return str(free[0]), str(free[-1])


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.HTTPError):
        return False


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> float:
    """Seconds until the address answers 200. Raises `RuntimeError` with the end of the log."""
    began = time.perf_counter()
    while not up(url):
        if process.poll() is not None or time.perf_counter() - began > STARTS:
            raise RuntimeError(f"{log.stem}: not up after {time.perf_counter() - began:.0f} s: {log.read_text()[-2000:]}")
        time.sleep(0.05)
    return time.perf_counter() - began


@contextlib.contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str], core: str, log: Path, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of its own on one core; killed whole at the end."""
    with log.open("wb") as said:
        pinned = ["taskset", "-c", core, *command]
        process = subprocess.Popen(
            pinned, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def tool(name: str, base: str, core: str, *given: str) -> str:
    """One of the scripts beside this one, on the core of the load."""
    done = subprocess.run(["taskset", "-c", core, base, str(PEERS / name), *given], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return done.stdout


def sent_with(peer: Peer) -> list[str]:
    return [part for key, value in peer.headers.items() for part in ("--header", f"{key}:{value}")]


def measure(running: Running, base: str, core: str, seconds: float) -> None:
    """One round: every load once."""
    for name, (at, stream) in LOADS.items():
        given = ["--url", running.url, "--at", str(at), "--seconds", str(seconds), "--pid", str(running.process.pid)]
        given += ["--model", running.peer.model, *sent_with(running.peer), *(["--stream"] if stream else [])]
        with running.awake():
            found = json.loads(tool("load.py", base, core, *given))
        running.loads.setdefault(name, []).append(found)
        print(f"  {running.peer.name:<24}{name:<12}{found}", flush=True)
    running.memory = max(running.memory, memory_mb(running.process.pid))


def probe(running: Running, base: str, core: str, upstream: str) -> None:
    given = ["--url", running.url, "--upstream", upstream, "--model", running.peer.model, *sent_with(running.peer)]
    with running.awake():
        running.probes = [json.loads(line) for line in tool("probes.py", base, core, *given).splitlines()]


def cell(row: Row | None) -> str:
    """One probe in a word: LEAK and where, whole or short for a clean answer, stopped, or let through without the phrase."""
    if row is None:
        return ""
    if "failed" in row:
        return f"no answer ({row['failed']})"
    if row.get("leaks"):
        return f"LEAK {row['leaks'][0]}"
    if "whole" in row:
        return "whole" if row["whole"] else "not whole"
    stopped = row["status"] >= 400 or row["finish"] == "content_filter"
    return "cut" if row["cut"] else f"stopped at {row['chars']}" if stopped else "without it"


def table(running: Sequence[Running]) -> Iterator[str]:
    """What leaks, case by case, as Markdown: plain, then streamed."""
    yield "| case | " + " | ".join(r.peer.name for r in running) + " |"
    yield "|---|" + "---|" * len(running)
    for name, case in CASES.items():
        cells = []
        for r in running:
            by = {row["stream"]: row for row in r.probes if row["case"] == name}
            cells.append(" / ".join(cell(by.get(form)) for form in case.forms()))
        yield f"| {name} | " + " | ".join(cells) + " |"


def figures(running: Sequence[Running]) -> Iterator[str]:
    """What it costs, as Markdown: medians over the rounds."""
    yield "| gateway | start s | memory MB | leaks | " + " | ".join(LOADS) + " |"
    yield "|---|---|---|---|" + "---|" * len(LOADS)
    for r in running:
        cells = [_cost(r.loads.get(name, [])) for name in LOADS]
        leaking = sum(bool(row.get("leaks")) for row in r.probes)
        yield f"| {r.peer.name} | {r.start_s:.1f} | {r.memory:.0f} | {leaking} of {len(r.probes)} | " + " | ".join(cells) + " |"


def _cost(rounds: Sequence[Row]) -> str:
    known = [r for r in rounds if r["n"]]
    if not known:
        return "–"
    cpu, half, most, rate = (median([r[key] for r in known]) for key in ("cpu_ms", "p50_ms", "p99_ms", "rate"))
    return f"{cpu:.2f} ms CPU; {half:.1f}/{most:.1f} ms; {rate:.0f}/s"


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def rows(running: Sequence[Running]) -> list[Case]:
    """Ours against every other, load by load and figure by figure, round by round."""
    ours = next((r for r in running if r.peer.ours), None)
    made = []
    for peer in running if ours else []:
        for name in LOADS if peer is not ours else []:
            for key, (label, unit, more) in FIGURES.items():
                pairs = [(a[key], b[key]) for a, b in zip(ours.loads[name], peer.loads[name], strict=True) if a[key] and b[key]]
                if pairs and (key != "first_p50_ms" or LOADS[name][1]):
                    sides = compared(*zip(*pairs, strict=True), more_is_better=more)
                    made.append(Case(f"{name}: {label}, beside {peer.peer.name}", peer_name=peer.peer.name, unit=unit, **sides))
    return made


def told(running: Running) -> Row:
    """All that was measured of one gateway."""
    return {
        "case": f"gateway {running.peer.name}",
        "start_s": round(running.start_s, 2),
        "memory_mb": running.memory,
        "loads": running.loads,
        "probes": running.probes,
        "leaks": sum(bool(row.get("leaks")) for row in running.probes),
    }


def neural(core: str) -> Row:
    """The harm filter by itself, in our own Python on the gateway's core."""
    command = ["taskset", "-c", core, sys.executable, str(PEERS / "neural.py")]
    paths = os.pathsep.join([str(PEERS.parent.parent), str(PEERS)])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return {"case": "harm filter, 512 tokens", **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="folder of the virtual environments")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", default="", help="names of gateways, comma between")
    parser.add_argument("--dry", action="store_true", help="print, and write no results")
    given = parser.parse_args()
    every = peers(given.peers.resolve())
    chosen = [every[name] for name in given.only.split(",")] if given.only else list(every.values())
    needed = {"base", *(p.name.partition("-")[0] for p in chosen if p.name.startswith(("nemo", "litellm")))}
    installed(given.peers.resolve(), sorted(needed))
    base, (mine, other) = str(given.peers.resolve() / "base" / "bin" / "python"), cores()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        at = port()
        upstream = f"http://127.0.0.1:{at}"
        quiet = [base, str(PEERS / "upstream.py"), "--port", str(at)]
        process = stack.enter_context(started(quiet, dict(os.environ), other, work / "upstream.log", work))
        wait_for(upstream, process, work / "upstream.log")
        running = []
        for peer in chosen:
            files = work / peer.name
            files.mkdir()
            there = port()
            command = peer.command(files, upstream, there)
            env = environment(peer, upstream, files)
            began = time.perf_counter()
            process = stack.enter_context(started(command, env, mine, files / "log.txt", files))
            wait_for(f"http://127.0.0.1:{there}{peer.health}", process, files / "log.txt")
            url = f"http://127.0.0.1:{there}/v1/chat/completions"
            running.append(Running(peer, process, url, time.perf_counter() - began))
            print(f"{peer.name}: up after {running[-1].start_s:.1f} s", flush=True)
            probe(running[-1], base, other, upstream)
        for number in range(given.rounds):
            print(f"round {number + 1}", flush=True)
            for one in running:
                measure(one, base, other, given.seconds)
    filtered = neural(mine)
    print("\n".join([*table(running), "", *figures(running), "", json.dumps(filtered)]))
    if not given.dry:
        others = [*map(told, running), filtered]
        command = f"python bench/guard.py --peers FOLDER --rounds {given.rounds} --seconds {given.seconds:g}"
        record("guard", rows(running), others=others, command=command)


if __name__ == "__main__":
    main()
