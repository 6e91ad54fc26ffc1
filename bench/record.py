"""Write benchmark rows in the form that other tools read: results/bench/<name>.json. Ratios above 1 mean that ours is better."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from temper import machine

RESULTS = Path(__file__).parent.parent / "results" / "bench"


@dataclass(frozen=True)
class Case:
    """One comparison: medians over `pairs` interleaved runs, and the share of the physical limit that ours reaches.

    `ratio` is the median of the ratios pair by pair, `ratio_min` and `ratio_max` the least and the largest of them. `check` says
    how far the two sides' results differ, `notes` what else belongs to the row.
    """

    case: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float
    pairs: int
    floor_share: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None
    ours_peak_bytes: int | None = None
    peer_peak_bytes: int | None = None
    check: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process for one call: on a shared machine steadier than the clock on the wall."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compared(ours: Sequence[float], peer: Sequence[float], *, more_is_better: bool = False) -> dict[str, float]:
    """Medians of both sides, and the median and ends of their ratio pair by pair, as the fields of a `Case`."""
    ratios = [a / b if more_is_better else b / a for a, b in zip(ours, peer, strict=True)]
    return {
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "pairs": len(ratios),
    }


def stored(name: str) -> list[dict[str, Any]]:
    """Rows of an earlier benchmark of that name, if this machine made them with the same versions; else none."""
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        return []
    found = json.loads(file.read_text())
    same = found["machine"] == machine.describe() and found["versions"] == machine.versions()
    return list(found["rows"]) if same else []


def record(name: str, cases: Sequence[Case], *, others: Sequence[Mapping[str, Any]] = (), **about: object) -> None:
    """Write the rows beside `others`, rows that stay as they are, sorted by case, and print the new ones."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    note = {"command": f"python bench/{name}.py", "machine": machine.describe(), "versions": machine.versions(), **about}
    new = [{k: v for k, v in asdict(c).items() if v not in (None, {})} for c in cases]
    rows = sorted([*others, *new], key=lambda r: str(r["case"]))
    (RESULTS / f"{name}.json").write_text(json.dumps({**note, "rows": rows}, indent=1) + "\n")
    for c in cases:
        spread = "" if c.ratio_min is None else f" ({c.ratio_min:.2f} to {c.ratio_max:.2f})"
        floor = "" if c.floor_share is None else f", {c.floor_share:.0%} of the floor"
        ratio = f"ratio {c.ratio:.2f}{spread}, {c.pairs} pairs{floor}"
        print(f"{c.case}: {c.ours:.4g} vs {c.peer:.4g} {c.unit} ({c.peer_name}), {ratio}")
    print(f"-> {RESULTS / name}.json", file=sys.stderr)
