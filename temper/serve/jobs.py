"""Work that is done every so often by one worker of all: each job is a row with a lease, which its holder renews while it works.

A holder that dies loses its lease after half a minute, and another worker takes the job. One that was merely frozen for longer
finds on waking that its lease is gone and stops; work therefore commits in small steps that may be done twice.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import Connection, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from temper.serve import ids
from temper.serve.store import Store
from temper.serve.tables import jobs

log = logging.getLogger(__name__)
LEASE_S = 30.0
LOOK_S = 5.0  # how often a worker looks whether a job of others fell due
Work = Callable[[], Awaitable[str]]
"""A job: what it did, in a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    seconds: float
    work: Work


class Jobs:
    """The jobs of this worker. Register with `every`, then `start`."""

    def __init__(self, store: Store, *, lease_s: float = LEASE_S, look_s: float = LOOK_S) -> None:
        self.store = store
        self.worker = ids.new("worker")
        self.lease_s = lease_s
        self.look_s = look_s
        self._jobs: list[_Job] = []
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, name: str, seconds: float, work: Work) -> None:
        """Do the work every so many seconds, the first time that long after the job was first seen. A name is used once."""
        if any(j.name == name for j in self._jobs):
            raise ValueError(f"two jobs are called {name!r}")
        self._jobs.append(_Job(name, seconds, work))

    def start(self) -> None:
        self._tasks = [asyncio.get_running_loop().create_task(self._keep(job), name=f"job {job.name}") for job in self._jobs]

    async def close(self) -> None:
        """Cancel work under way; its lease is given back."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep(self, job: _Job) -> None:
        while True:
            try:
                wait = await self.turn(job.name)
            except (DBAPIError, PoolTimeout) as error:
                log.warning("job %s: the database is away: %s", job.name, type(error).__name__)
                wait = self.look_s
            await asyncio.sleep(min(self.look_s, wait))

    async def turn(self, name: str) -> float:
        """Do a job if it is due and nobody else does it; gives the seconds until it is due."""
        job = next(j for j in self._jobs if j.name == name)
        due = await self.store.run(lambda c: _due(c, job), reads=True)
        if due is None:
            due = await self.store.run(lambda c: _made(c, job))
        if due > time.time():
            return due - time.time()
        if not await self.store.run(lambda c: _taken(c, job.name, self.worker, self.lease_s)):
            return self.look_s
        await self._run(job)
        return job.seconds

    async def _run(self, job: _Job) -> None:
        async def worked() -> str:
            return await job.work()

        work = asyncio.create_task(worked())
        beat = asyncio.create_task(self._beat(job.name, work))
        result, again = "stopped", 0.0
        try:
            result, again = await work, job.seconds
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            result, again = "lost its lease", job.seconds
        except Exception as error:
            log.exception("job %s failed", job.name)
            result, again = f"failed: {type(error).__name__}", min(job.seconds, 60.0)
        finally:
            beat.cancel()
            work.cancel()
            await asyncio.gather(beat, work, return_exceptions=True)
            await self.store.run(lambda c: _ended(c, job.name, self.worker, result, again))

    async def _beat(self, name: str, work: "asyncio.Task[str]") -> None:
        """Renew the lease until the work is done; work whose lease is gone is stopped."""
        until = time.monotonic() + self.lease_s
        while True:
            await asyncio.sleep(self.lease_s / 3)
            try:
                kept = await self.store.run(lambda c: _renewed(c, name, self.worker, self.lease_s))
            except (DBAPIError, PoolTimeout):
                kept = time.monotonic() < until
            else:
                until = time.monotonic() + self.lease_s
            if not kept:
                work.cancel()
                return


def _due(connection: Connection, job: _Job) -> float | None:
    due: float | None = connection.execute(select(jobs.c.due_at).where(jobs.c.name == job.name)).scalar()
    return due


def _made(connection: Connection, job: _Job) -> float:
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    due = time.time() + job.seconds
    connection.execute(insert(jobs).values(name=job.name, due_at=due, last_result="").on_conflict_do_nothing())
    return due


def _taken(connection: Connection, name: str, worker: str, lease_s: float) -> bool:
    now = time.time()
    free = jobs.c.name == name, jobs.c.due_at <= now, or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < now)
    return bool(connection.execute(update(jobs).where(*free).values(lease_by=worker, lease_until=now + lease_s)).rowcount)


def _renewed(connection: Connection, name: str, worker: str, lease_s: float) -> bool:
    mine = jobs.c.name == name, jobs.c.lease_by == worker
    return bool(connection.execute(update(jobs).where(*mine).values(lease_until=time.time() + lease_s)).rowcount)


def _ended(connection: Connection, name: str, worker: str, result: str, again_s: float) -> None:
    mine = jobs.c.name == name, jobs.c.lease_by == worker
    now = time.time()
    values = {"lease_by": None, "lease_until": None, "last_at": now, "last_result": result[:2000], "due_at": now + again_s}
    connection.execute(update(jobs).where(*mine).values(values))
