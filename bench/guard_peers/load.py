"""Closed-loop load: `--at` connections, each with one request under way, for `--seconds`; one line of JSON with what it took.

`cpu_ms` is the gateway's CPU time per answered request, of process `--pid` and all below it: unlike the clock on the wall it
hardly moves when others use the machine.
"""

import argparse
import asyncio
import json
import os
import time
from pathlib import Path

import wire
from cases import CASES, body_of

WARM = 2.0


def below(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        tasks = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
        children = [int(child) for file in tasks for child in file.read_text().split()]
    except OSError:
        return []
    return [pid, *(found for child in children for found in below(child))]


def cpu_seconds(pid: int) -> float:
    ticks = 0
    for each in below(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Resident memory of a process and all below it; pages that they share are counted once (PSS)."""
    total = 0
    for each in below(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total / 1024, 1)


def quantile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(1000 * ordered[round(share * (len(ordered) - 1))], 3) if ordered else None


class Load:
    """What came of the requests so far."""

    def __init__(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        self.url, self.sent = url, wire.request(url, body, headers)
        self.took: list[float] = []
        self.firsts: list[float] = []
        self.failed: dict[str, int] = {}

    async def one(self, until: float) -> None:
        """One connection, used again and again."""
        streams = None
        while time.perf_counter() < until:
            try:
                streams = streams or await wire.connect(self.url)
                began = time.perf_counter()
                streams[1].write(self.sent)
                answer = await wire.read(streams[0])
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.fail(type(error).__name__)
                streams = None
                await asyncio.sleep(0.05)
                continue
            if answer.status != 200 or answer.cut:
                self.fail(f"HTTP {answer.status}{' cut' if answer.cut else ''}")
            else:
                self.took.append(time.perf_counter() - began)
                self.firsts += [answer.first - began] if answer.first else []
            if answer.closes:
                streams[1].close()
                streams = None
        if streams:
            streams[1].close()

    def fail(self, why: str) -> None:
        self.failed[why] = self.failed.get(why, 0) + 1


async def measure(url: str, body: bytes, headers: dict[str, str], *, at: int, seconds: float, pid: int) -> dict[str, object]:
    warm = Load(url, body, headers)
    await asyncio.gather(*(warm.one(time.perf_counter() + min(WARM, seconds)) for _ in range(min(at, 8))))
    load = Load(url, body, headers)
    cpu, began = cpu_seconds(pid), time.perf_counter()
    await asyncio.gather(*(load.one(began + seconds) for _ in range(at)))
    wall, spent = time.perf_counter() - began, cpu_seconds(pid) - cpu
    n = len(load.took)
    return {
        "n": n,
        "failed": load.failed,
        "rate": round(n / wall, 1),
        "p50_ms": quantile(load.took, 0.5),
        "p99_ms": quantile(load.took, 0.99),
        "first_p50_ms": quantile(load.firsts, 0.5),
        "first_p99_ms": quantile(load.firsts, 0.99),
        "cpu_ms": round(1000 * spent / n, 3) if n and pid else None,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--at", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--pid", type=int, default=0)
    given = parser.parse_args()
    sent = json.dumps(body_of(CASES["clean"], given.stream, given.model)).encode()
    with_headers = dict(header.split(":", 1) for header in given.header)
    work = measure(given.url, sent, with_headers, at=given.at, seconds=given.seconds, pid=given.pid)
    print(json.dumps(asyncio.run(work)))
