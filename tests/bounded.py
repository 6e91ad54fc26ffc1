"""Waiting that ends: each wait of the gateway's tests has a longest time, and says what did not come.

The times are far above what a slow machine takes: they are there so that a fault is a failed test and never a suite that hangs.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
WAIT_S = 60.0
TEST_S = 240.0  # a whole test; below the suite's own limit, which knows nothing of what was waited for


def until(true: Callable[[], Any], what: str, *, wait_s: float = WAIT_S) -> None:
    """Look until it is true. Raises `TimeoutError`."""
    end = time.monotonic() + wait_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {wait_s:g} s for {what}")
        time.sleep(0.005)


async def soon(true: Callable[[], Any], what: str, *, wait_s: float = WAIT_S) -> None:
    """`until` in a coroutine; `true` may be one itself."""
    end = time.monotonic() + wait_s
    while True:
        found = true()
        if await found if asyncio.iscoroutine(found) else found:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"waited {wait_s:g} s for {what}")
        await asyncio.sleep(0.005)


async def within(work: Awaitable[T], what: str, *, wait_s: float = WAIT_S) -> T:
    """What a task gives. Raises `TimeoutError` without waiting for it to be cancelled: it may not heed that either."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=wait_s)
    except BaseException:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise TimeoutError(f"waited {wait_s:g} s for {what}")
    return task.result()


def run(test: Coroutine[Any, Any, T], what: str = "the test's coroutine", *, wait_s: float = TEST_S) -> T:
    """`asyncio.run` with an end."""
    return asyncio.run(within(test, what, wait_s=wait_s))


def joined(thread: threading.Thread, what: str, *, wait_s: float = WAIT_S) -> None:
    """Wait for a thread's end. Raises `TimeoutError`."""
    thread.join(wait_s)
    if thread.is_alive():
        raise TimeoutError(f"waited {wait_s:g} s for {what}")


@contextmanager
def ending(what: str, end: Callable[[], Any], *, wait_s: float = WAIT_S) -> Iterator[None]:
    """For calls that know no time-out: where the block takes longer, `end` breaks off what they wait for, from another thread.

    Raises `TimeoutError` then, whatever the broken call raised.
    """
    late = threading.Event()

    def too_late() -> None:
        late.set()
        end()

    clock = threading.Timer(wait_s, too_late)
    clock.daemon = True
    clock.start()
    try:
        yield
    except Exception as error:
        if late.is_set():
            raise TimeoutError(f"waited {wait_s:g} s for {what}") from error
        raise
    finally:
        clock.cancel()
    if late.is_set():
        raise TimeoutError(f"waited {wait_s:g} s for {what}")


def allowed(cpu_s: float) -> float:
    """A limit of processor time, set on the machine where the tests were written, on this one: more where it is slower."""
    return cpu_s * _slower()


@cache
def _slower() -> float:
    def once() -> float:
        begun = time.thread_time()
        for i in range(200_000):
            len(str(i))
        return time.thread_time() - begun

    return max(1.0, min(once() for _ in range(3)) / 0.0115)
