"""What a piece of work took: wall and CPU seconds, and joules where processor packages (RAPL) or NVIDIA GPUs (NVML) can be read.

Energy is that of the whole package or card, other work included; None where nothing is readable, which is never counted as zero.
"""

import ctypes
import functools
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
MICROJOULES, MILLIJOULES = 1e-6, 1e-3


@dataclass(frozen=True, slots=True)
class Spent:
    """`seconds` on the clock, `cpu_seconds` of this process and its ended children, `joules` or None."""

    seconds: float
    cpu_seconds: float
    joules: float | None

    def as_dict(self) -> dict[str, float | None]:
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "joules": self.joules}


@dataclass(frozen=True, slots=True)
class Meter:
    """Starts when it is made; `spent()` may be read any number of times. `powercap` is where the kernel shows RAPL counters."""

    powercap: Path = POWERCAP
    began: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=lambda: cpu_seconds())
    packages: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    cards: tuple[int, ...] = ()

    @classmethod
    def start(cls, powercap: Path = POWERCAP) -> "Meter":
        return cls(powercap=powercap, packages=packages(powercap), cards=card_counters())

    def spent(self) -> Spent:
        return Spent(time.perf_counter() - self.began, cpu_seconds() - self.cpu, self._joules())

    def _joules(self) -> float | None:
        now, cards = packages(self.powercap), card_counters()
        used = [_since(self.packages[name], now[name]) * MICROJOULES for name in self.packages if name in now]
        used += [(after - before) * MILLIJOULES for before, after in zip(self.cards, cards, strict=False)]
        return sum(used) if used else None


def cpu_seconds() -> float:
    """CPU time of this process with all its threads, and of children that have ended."""
    of = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in of)


def packages(powercap: Path = POWERCAP) -> dict[str, tuple[int, int]]:
    """Microjoules and the value at which the counter starts again, by processor package; empty where none is readable."""
    found = {}
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") == 1 and (used := _number(zone / "energy_uj")) is not None:
            found[zone.name] = (used, _number(zone / "max_energy_range_uj") or 0)
    return found


def card_counters() -> tuple[int, ...]:
    """Millijoules since the driver was loaded, by GPU; empty without NVML or on cards that do not count."""
    library = _nvml()
    if library is None:
        return ()
    count, found = ctypes.c_uint(), []
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return ()
    for index in range(count.value):
        handle, used = ctypes.c_void_p(), ctypes.c_ulonglong()
        known = library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0
        if known and library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(used)) == 0:
            found.append(int(used.value))
    return tuple(found)


@functools.cache
def _nvml() -> Any:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def _since(before: tuple[int, int], after: tuple[int, int]) -> int:
    """Microjoules between two readings of a counter that starts again at its maximum, at most once."""
    used = after[0] - before[0]
    return used if used >= 0 else used + before[1]


def _number(path: Path) -> int | None:
    """A counter of the kernel; None where it may only be read by root, or is not there."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
