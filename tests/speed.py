"""How fast this machine is just now, so that a limit in seconds holds on a slow or busy one as well."""

import gc
import re
import time
from collections import Counter
from collections.abc import Callable

TEXT = "It took Anna 17 minutes to mix the flour, bake the cake and clean her kitchen; 花园很大. " * 120
# CPU seconds of `_work` on a core on which everything that is held against `slowness` kept its limit by 2.5 times or more
THERE = 0.018


def _work() -> None:
    """Some of everything that our pure-Python code does: patterns, slices, counts, numbers."""
    for _ in range(20):
        words = re.findall(r"\w+", TEXT)
        counts = Counter(word.lower() for word in words if not word.isdigit())
        total = sum(n * len(word) for word, n in counts.items())
        for start in range(0, len(TEXT), 3):
            total += ord(TEXT[start]) ^ (start % 7)


def cpu_seconds(work: Callable[[], object], tries: int = 3) -> float:
    """The least CPU time of some tries, without the collector, which walks over all that other tests have left."""
    taken = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(tries):
            started = time.thread_time()
            work()
            taken.append(time.thread_time() - started)
    finally:
        if collecting:
            gc.enable()
    return min(taken)


def grows_within(limit: float, work: Callable[[int], object], small: int, large: int, *, least: float = 0.0005) -> bool:
    """Whether the time for `large` is below `limit` times that for `small`, which counts as `least` seconds or more.

    Measured up to three times: caches that others have emptied slow a busy machine now and then, superlinear work is slow always.
    """
    return any(cpu_seconds(lambda: work(large)) < limit * max(cpu_seconds(lambda: work(small)), least) for _ in range(3))


def slowness() -> float:
    """How many times as long as there this machine takes for the same work, measured now; never below 1."""
    return max(1.0, cpu_seconds(_work) / THERE)
