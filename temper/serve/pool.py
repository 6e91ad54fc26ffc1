"""Heavy filters off the event loop: a few threads, a bounded queue, a deadline.

The models behind heavy filters release the interpreter's lock while they compute, so threads are enough. A call that overruns its
deadline, or finds the queue full, counts as an error of the filter; its thread is busy until the filter returns.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from temper.serve.guard import failure, opinion
from temper.serve.policy import Setting
from temper.serve.verdict import Finding, View

log = logging.getLogger(__name__)


class Pool:
    """`threads` calls at once, `waiting` more in the queue, each answered within `deadline_s` seconds of being asked."""

    def __init__(self, *, threads: int = 2, waiting: int = 64, deadline_s: float = 10.0) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="filter")
        self._most = threads + waiting
        self._deadline_s = deadline_s
        self._lock = Lock()
        self.under_way = 0

    async def call(self, setting: Setting, view: View) -> tuple[Sequence[Finding], str]:
        """One filter's findings and, if it failed, its name (as `guard.opinion`)."""
        if self.under_way >= self._most:
            return failure(setting, f"{self.under_way} calls are waiting already")
        with self._lock:
            self.under_way += 1
        work = self._threads.submit(opinion, setting, view)
        work.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), self._deadline_s)
        except TimeoutError:
            return failure(setting, f"no answer within {self._deadline_s:g} s")

    async def close(self) -> None:
        """Waits for the calls under way, each at most its deadline; those in the queue are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + self._deadline_s
        while self.under_way and time.monotonic() < end:
            await asyncio.sleep(0.005)
        if self.under_way:  # what comes after must be done all the same: the journal has rows to save
            log.error("%d filters have not returned within %g s and are left behind", self.under_way, self._deadline_s)

    def _ended(self, _: object) -> None:
        with self._lock:
            self.under_way -= 1
