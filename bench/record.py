"""Write benchmark rows in the form that other tools read: results/bench/<name>.json. Ratios above 1 mean that ours is better."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from temper import machine

RESULTS = Path(__file__).parent.parent / "results" / "bench"


@dataclass(frozen=True)
class Case:
    """One comparison: medians over `pairs` interleaved runs, and the share of the physical limit that ours reaches."""

    case: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float
    pairs: int
    floor_share: float | None = None


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process for one call: on a shared machine steadier than the clock on the wall."""
    started = time.process_time()
    work()
    return time.process_time() - started


def interleaved(ours: Callable[[], float], peer: Callable[[], float], *, pairs: int) -> tuple[float, float, float]:
    """Median of ours, of the peer, and of their ratio pair by pair (peer / ours); ours and the peer take turns."""
    both = [(ours(), peer()) for _ in range(pairs)]
    return (
        statistics.median(a for a, _ in both),
        statistics.median(b for _, b in both),
        statistics.median(b / a for a, b in both),
    )


def record(name: str, cases: Sequence[Case], **about: object) -> None:
    """Write the rows and print them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    note = {"command": f"python bench/{name}.py", "machine": machine.describe(), "versions": machine.versions(), **about}
    rows = [asdict(c) for c in cases]
    (RESULTS / f"{name}.json").write_text(json.dumps({**note, "rows": rows}, indent=1) + "\n")
    for c in cases:
        floor = "" if c.floor_share is None else f", {c.floor_share:.0%} of the floor"
        print(f"{c.case}: {c.ours:.4g} vs {c.peer:.4g} {c.unit} ({c.peer_name}), ratio {c.ratio:.2f}, {c.pairs} pairs{floor}")
    print(f"-> {RESULTS / name}.json", file=sys.stderr)
