"""From an event loop to a plain loop: work that puts results as they finish, taken in batches by whoever writes them down."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Put = Callable[[T], Awaitable[None]]


def flow(work: Callable[[Put[T]], Coroutine[Any, Any, None]], *, ahead: int) -> Iterator[list[T]]:
    """What `work(put)` puts, in batches of all that is there; never an empty one.

    The work runs in a thread with an event loop of its own, so it goes on while a batch is used; `await put(result)` waits while
    `ahead` results lie untaken. An error of the work is raised after everything put before it was taken; closing the iterator
    cancels the work.
    """
    belt: _Belt[T] = _Belt(ahead)
    thread = threading.Thread(target=belt.run, args=(work,), daemon=True)
    thread.start()
    try:
        while batch := belt.take():
            yield batch
    finally:
        belt.cancel()
        thread.join()
    if belt.error is not None:
        raise belt.error


class _Belt(Generic[T]):
    """Results between the thread that makes them and the one that takes them."""

    def __init__(self, ahead: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.room = asyncio.Semaphore(ahead)
        self.results: deque[T] = deque()
        self.changed = threading.Condition()
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self.error: BaseException | None = None

    def run(self, work: Callable[[Put[T]], Coroutine[Any, Any, None]]) -> None:
        try:
            self.task = self.loop.create_task(work(self._put))
            self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the results are taken
            self.error = error
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            with self.changed:
                self.ended = True
                self.changed.notify()

    def take(self) -> list[T]:
        """All that is there, after waiting until there is something; empty at the end."""
        with self.changed:
            self.changed.wait_for(lambda: bool(self.results) or self.ended)
            batch = list(self.results)
            self.results.clear()
        self._tell(partial(self._make_room, len(batch)))
        return batch

    def cancel(self) -> None:
        self._tell(lambda: self.task is not None and self.task.cancel())

    def _make_room(self, count: int) -> None:
        for _ in range(count):
            self.room.release()

    async def _put(self, result: T) -> None:
        await self.room.acquire()
        with self.changed:
            self.results.append(result)
            self.changed.notify()

    def _tell(self, change: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the work is at its end
            self.loop.call_soon_threadsafe(change)
