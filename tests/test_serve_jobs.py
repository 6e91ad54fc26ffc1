"""Jobs that run on one worker of several, at both databases."""

import asyncio
import time

import pytest
from bounded import soon, within
from sqlalchemy import select, update

from temper.serve.jobs import Jobs
from temper.serve.store import Store
from temper.serve.tables import jobs as table

pytest_plugins = ("serve_parts",)


def _row(store: Store) -> dict[str, object]:
    return dict(store.now(lambda c: c.execute(select(table)).mappings().one()))


def _due(store: Store) -> None:
    store.now(lambda c: c.execute(update(table).values(due_at=0.0)))


def test_a_job_runs_when_it_is_due_and_says_what_it_did(store: Store) -> None:
    async def main() -> None:
        jobs = Jobs(store)
        ran = []

        async def work() -> str:
            ran.append(1)
            return "swept 3"

        jobs.every("sweep", 3600, work)
        assert 3599 < await jobs.turn("sweep") <= 3600
        assert ran == []
        _due(store)
        assert await jobs.turn("sweep") == 3600
        assert ran == [1]
        row = _row(store)
        assert (row["last_result"], row["lease_by"], row["lease_until"]) == ("swept 3", None, None)
        assert await jobs.turn("sweep") > 3590
        assert ran == [1]

    asyncio.run(main())


def test_two_workers_never_do_a_job_at_once(store: Store) -> None:
    async def main() -> None:
        inside, most, total = 0, 0, 0

        async def work() -> str:
            nonlocal inside, most, total
            inside += 1
            most, total = max(most, inside), total + 1
            await asyncio.sleep(0.005)
            inside -= 1
            return ""

        workers = [Jobs(store, look_s=0.01) for _ in range(4)]
        for worker in workers:
            worker.every("tick", 0.01, work)
            worker.start()
        await soon(lambda: total >= 12, "the workers to do the job twelve times")
        for worker in workers:
            await worker.close()
        assert total >= 12
        assert most == 1

    asyncio.run(main())


def test_the_lease_of_a_worker_that_died_runs_out(store: Store) -> None:
    async def main() -> None:
        jobs = Jobs(store)
        ran = []

        async def work() -> str:
            ran.append(1)
            return ""

        jobs.every("a", 60, work)
        await jobs.turn("a")
        taken = {"due_at": 0.0, "lease_by": "worker_dead", "lease_until": time.time() + 20}
        store.now(lambda c: c.execute(update(table).values(taken)))
        assert await jobs.turn("a") == jobs.look_s
        assert ran == []
        store.now(lambda c: c.execute(update(table).values(lease_until=time.time() - 1)))
        await jobs.turn("a")
        assert ran == [1]

    asyncio.run(main())


def test_a_holder_renews_its_lease_and_stops_when_it_lost_it(store: Store) -> None:
    async def main() -> None:
        jobs = Jobs(store, lease_s=0.3)
        stopped = asyncio.Event()
        started = asyncio.Event()

        async def work() -> str:
            started.set()
            try:
                await asyncio.sleep(30)
            finally:
                stopped.set()
            return ""

        jobs.every("a", 60, work)
        await jobs.turn("a")
        _due(store)
        turn = asyncio.create_task(jobs.turn("a"))
        await within(started.wait(), "the job to begin")
        first = _row(store)["lease_until"]
        await soon(lambda: _row(store)["lease_until"] != first, "the lease to be renewed")
        assert _row(store)["lease_until"] > first  # type: ignore[operator]
        store.now(lambda c: c.execute(update(table).values(lease_by="worker_other")))
        await within(turn, "the job to be stopped")
        assert stopped.is_set()
        assert _row(store)["lease_by"] == "worker_other"

    asyncio.run(main())


def test_a_job_that_fails_is_told_and_tried_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        jobs = Jobs(store)

        async def work() -> str:
            raise RuntimeError("no")

        jobs.every("a", 600, work)
        await jobs.turn("a")
        _due(store)
        await jobs.turn("a")
        row = _row(store)
        assert row["last_result"] == "failed: RuntimeError"
        assert 55 < row["due_at"] - time.time() <= 60  # type: ignore[operator]

    asyncio.run(main())
    assert "job a failed" in caplog.text


def test_a_worker_that_closes_gives_the_job_back_at_once(store: Store) -> None:
    async def main() -> None:
        jobs = Jobs(store, look_s=0.01)
        started = asyncio.Event()

        async def work() -> str:
            started.set()
            await asyncio.sleep(30)
            return ""

        jobs.every("a", 0.01, work)
        jobs.start()
        await within(started.wait(), "the job to begin")
        await jobs.close()
        row = _row(store)
        assert row["lease_by"] is None
        assert row["due_at"] <= time.time()  # type: ignore[operator]

    asyncio.run(main())


def test_a_name_is_used_once(store: Store) -> None:
    async def work() -> str:
        return ""

    jobs = Jobs(store)
    jobs.every("a", 1, work)
    with pytest.raises(ValueError, match="two jobs"):
        jobs.every("a", 1, work)
