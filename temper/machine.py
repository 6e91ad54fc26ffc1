"""What this machine is, what it can do, how much memory a piece of work took, and one setting of its allocator."""

import ctypes
import os
import platform
import resource
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

# numbers of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "onnxruntime", "numpy", "temper-llm")


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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    while time.perf_counter() - started < seconds:
        left @ right
        done += 1
    return 2 * side**3 * done / (time.perf_counter() - started) / 1e9


def keep_freed_memory() -> bool:
    """Let glibc reuse large freed blocks instead of returning them to the kernel; False where the C library is another.

    Every large tensor is otherwise mapped, cleared page by page and unmapped again; a training step of the 135M model was about
    1.25 times faster with the setting (docs/decisions/0007-allocator.md). Freed memory goes back only at `reset_peak`.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def reset_peak() -> None:
    """Start a new measurement of peak memory, where the system can (Linux); elsewhere the peak is that of the whole process."""
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
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
