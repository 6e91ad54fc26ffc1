"""What this machine is and can do, which of its cores are free, how much memory some work took, one setting of its allocator."""

import ctypes
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

# numbers of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
TOPOLOGY, STAT, CPUINFO = Path("/sys/devices/system/cpu"), Path("/proc/stat"), Path("/proc/cpuinfo")
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
BUSY = 0.5
"""A core that other work uses for more than this share of the time is not idle."""
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16", "svebf16")
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "onnxruntime", "numpy", "temper-llm")


@dataclass(frozen=True, slots=True)
class Cores:
    """Logical CPUs to compute on, one for each physical core, and why these.

    `physical` counts the cores this process may use; `busy` is the share of its time that each physical core, named by its first
    CPU, worked for others.
    """

    chosen: tuple[int, ...]
    physical: int
    busy: Mapping[int, float]
    reason: str


def describe() -> dict[str, Any]:
    """Processor, cores, memory in bytes, operating system and Python, without anything that identifies a person or host."""
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide results; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Cores this process may use."""
    return len(usable_cpus())


def usable_cpus() -> frozenset[int]:
    """Logical CPUs this process may use."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def choose_cores(
    exactly: int | None = None,
    *,
    at_most: int | None = None,
    busy: Mapping[int, float] | None = None,
    usable: Collection[int] | None = None,
    topology: Path = TOPOLOGY,
    limit: Path = CPU_LIMIT,
) -> Cores:
    """The physical cores that are idle now, at least the least busy one; or `exactly` so many, the least busy ones (or all).

    Two threads of a product wait for each other at its end, so a thread on a busy core holds up all others. `busy` is the share
    of time each logical CPU worked, measured over 0.2 s unless given; call it while this process rests, or it sees itself.
    """
    ours = usable_cpus() if usable is None else usable
    shares = sample_busy() if busy is None else busy
    groups = physical_cores(ours, topology)
    load = {group: max(shares.get(cpu, 0.0) for cpu in group) for group in groups}
    ranked = sorted(groups, key=lambda group: (load[group], group))
    idle = sum(share < BUSY for share in load.values())
    quota = cpu_quota(limit)
    most = min(n for n in (max(1, idle), at_most, quota) if n is not None)
    picked = ranked[: most if exactly is None else exactly]
    return Cores(
        chosen=tuple(sorted(min((c for c in g if c in ours), key=lambda c: (shares.get(c, 0.0), c)) for g in picked)),
        physical=len(groups),
        busy={group[0]: round(load[group], 2) for group in groups} if shares else {},
        reason=_why(load, measured=bool(shares)) + _held_back(len(picked), max(1, idle), quota if exactly is None else None),
    )


def physical_cores(usable: Collection[int], topology: Path = TOPOLOGY) -> list[tuple[int, ...]]:
    """The logical CPUs of each physical core that has a usable one; where the system does not tell, every CPU is a core."""
    files = {cpu: topology / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in sorted(usable)}
    return list(dict.fromkeys(_cpu_list(_text(file)) or (cpu,) for cpu, file in files.items()))


def sample_busy(stat: Path = STAT, seconds: float = 0.2) -> dict[int, float]:
    """The share of the next `seconds` that each logical CPU works; empty where the system does not tell."""
    before = _text(stat)
    if not before:
        return {}
    time.sleep(seconds)
    return busy_shares(before, _text(stat))


def busy_shares(before: str, after: str) -> dict[int, float]:
    """Two readings of /proc/stat to the share of time each logical CPU worked between them.

    Time stolen by other guests of the same host counts as work, waiting for a disk does not.
    """
    first, second = _ticks(before), _ticks(after)
    spent = {cpu: (b - first[cpu][0], t - first[cpu][1]) for cpu, (b, t) in second.items() if cpu in first}
    return {cpu: min(1.0, max(0.0, worked / total)) if total > 0 else 0.0 for cpu, (worked, total) in spent.items()}


def cpu_quota(limit: Path = CPU_LIMIT) -> int | None:
    """Whole cores' worth of time that the control group grants, at least one; None if it sets no limit.

    A container with one core's time sees all cores of its host; more threads than that are stopped in the middle of a product.
    """
    words = _text(limit).split()
    return max(1, int(words[0]) // int(words[1])) if len(words) == 2 and words[0].isdigit() else None


def native_bf16(cpuinfo: Path = CPUINFO) -> str:
    """The flag by which this processor says that it multiplies bf16 natively; empty if it does not, or does not say."""
    lines = _text(cpuinfo).splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}
    return next((flag for flag in BF16_FLAGS if flag in flags), "")


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or the control group's limit if that is smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def gflops(seconds: float = 0.3) -> float:
    """Billions of fp32 operations a second of matrix products with all cores, measured now."""
    import numpy as np

    side = 768
    left, right = (np.ones((side, side), dtype=np.float32) for _ in range(2))
    left @ right
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:  # a machine may stand still for longer than that
        left @ right
        done += 1
    return 2 * side**3 * done / (time.perf_counter() - started) / 1e9


def bandwidth(seconds: float = 0.2) -> float:
    """Billions of bytes a second that one core moves when it copies a large array, reading and writing, measured now."""
    import numpy as np

    source = np.ones(16_000_000, dtype=np.float32)
    target = np.empty_like(source)
    np.copyto(target, source)
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:  # a machine may stand still for longer than that
        np.copyto(target, source)
        done += 1
    return 2 * source.nbytes * done / (time.perf_counter() - started) / 1e9


def keep_freed_memory() -> bool:
    """Let glibc reuse large freed blocks instead of returning them to the kernel; False where the C library is another.

    Every large tensor is otherwise mapped, cleared page by page and unmapped again; a training step of the 135M model was about
    1.25 times faster with the setting (docs/decisions/0007-allocator.md). Freed memory goes back only at `reset_peak`.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def reset_peak() -> None:
    """Start a new measurement of peak memory, where the system can (Linux); elsewhere the peak is that of the whole process."""
    # a trainer and its model hold each other, so the last stage's weights are there until somebody looks for such circles
    gc.collect()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    clear = Path("/proc/self/clear_refs")
    if clear.exists() and os.access(clear, os.W_OK):
        clear.write_text("5")


def peak_bytes() -> int:
    """Highest resident memory since `reset_peak`, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL("libc.so.6")


def _cpu_name() -> str:
    for line in _text(CPUINFO).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _text(path: Path) -> str:
    """What a file of the kernel says; nothing where the system has no such file or a sandbox forbids it."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _cpu_list(text: str) -> tuple[int, ...]:
    """The kernel's `0,4-6` as numbers."""
    ranges = [part.split("-") for part in text.strip().split(",") if part]
    return tuple(cpu for r in ranges for cpu in range(int(r[0]), int(r[-1]) + 1))


def _ticks(stat: str) -> dict[int, tuple[int, int]]:
    """Of each logical CPU: clock ticks it worked, and all ticks."""
    found = {}
    for name, *counts in (line.split() for line in stat.splitlines() if line.startswith("cpu")):
        # guest time, the ninth and tenth, is already part of the first and second
        ticks = [int(count) for count in counts[:8]]
        if name != "cpu":
            found[int(name[3:])] = sum(ticks) - ticks[3] - ticks[4], sum(ticks)
    return found


def _why(load: Mapping[tuple[int, ...], float], *, measured: bool) -> str:
    n = len(load)
    everything = {1: "the only physical core", 2: "both physical cores"}.get(n, f"all {n} physical cores")
    if not measured:
        return f"{everything}; whether other work uses them is not known here"
    busy = {group[0]: share for group, share in load.items() if share >= BUSY}
    if not busy:
        return f"{everything}, idle now"
    told = ", ".join(f"core {cpu} {share:.0%}" for cpu, share in list(busy.items())[:8])
    told += f" and {len(busy) - 8} more" if len(busy) > 8 else ""
    start = "no core is idle, so the least busy one" if len(busy) == n else f"{n - len(busy)} of {n} physical cores, idle now"
    return f"{start}; busy with other work: {told}"


def _held_back(picked: int, idle: int, quota: int | None) -> str:
    return f"; the control group grants the time of {quota}" if quota == picked < idle else ""
