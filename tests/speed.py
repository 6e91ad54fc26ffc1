"""How fast this machine is just now, so that a limit in seconds holds on a slow or busy one as well."""

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
    """The least CPU time of some tries; what other processes do is no part of it."""
    taken = []
    for _ in range(tries):
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    return min(taken)


def slowness() -> float:
    """How many times as long as there this machine takes for the same work, measured now; never below 1."""
    return max(1.0, cpu_seconds(_work) / THERE)
