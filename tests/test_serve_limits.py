"""Rates, budgets and load: what is refused, when to come back, and what several workers share."""

import asyncio
import time
from typing import Any

import pytest
from bounded import soon
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from temper.serve import limits as module
from temper.serve.limits import RATE, Limiter, sweep
from temper.serve.policy import Limits
from temper.serve.store import Store
from temper.serve.tables import spent
from temper.serve.verdict import Caller

pytest_plugins = ("serve_parts",)
A, B = Caller("key_a"), Caller("key_b")


class Clock:
    now = 86_400.0 * 100 + 10

    def __call__(self) -> float:
        return self.now


def test_a_model_server_that_claims_too_many_tokens_stops_no_sharing(store: Store) -> None:
    limiter = Limiter(store)
    for _ in range(3):
        limiter.spend(A, 10**40)
        asyncio.run(limiter.sync())
    assert limiter.admit(A, Limits(tokens_per_day=10**9)) is not None
    assert limiter.admit(B, Limits(tokens_per_day=1)) is None


def test_a_key_may_send_its_rate_and_is_told_when_to_come_back(store: Store) -> None:
    clock = Clock()
    limiter = Limiter(store, clock=clock)
    rate = Limits(requests_per_minute=60)
    assert [limiter.admit(A, rate) for _ in range(60)] == [None] * 60
    refused = limiter.admit(A, rate)
    assert refused is not None
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert refused.retry_after_s == pytest.approx(1.0)
    assert limiter.admit(B, rate) is None
    clock.now += refused.retry_after_s
    assert limiter.admit(A, rate) is None
    assert limiter.admit(A, rate) is not None
    clock.now -= 1000
    assert limiter.admit(A, rate) is not None


def test_a_keys_own_limit_stands_before_the_policys(store: Store) -> None:
    limiter = Limiter(store, clock=Clock())
    own = Caller("key_c", limits={"requests_per_minute": 1})
    assert limiter.admit(own, Limits(requests_per_minute=60)) is None
    assert limiter.admit(own, Limits(requests_per_minute=60)) is not None
    free = Caller("key_d", limits={"requests_per_minute": 0})
    assert all(limiter.admit(free, Limits(requests_per_minute=1)) is None for _ in range(50))


def test_a_budget_of_tokens_ends_with_the_day(store: Store) -> None:
    clock = Clock()
    limiter = Limiter(store, clock=clock)
    budget = Limits(tokens_per_day=100)
    limiter.spend(A, 99)
    assert limiter.admit(A, budget) is None
    limiter.spend(A, 1)
    refused = limiter.admit(A, budget)
    assert refused is not None
    assert (refused.status, refused.code, refused.retry_after_s) == (429, "insufficient_quota", 86_390.0)
    asyncio.run(limiter.sync())
    assert limiter.admit(A, budget) is not None
    clock.now += 86_390
    assert limiter.admit(A, budget) is None


def test_workers_share_what_was_spent(store: Store) -> None:
    clock = Clock()
    one, two = Limiter(store, clock=clock), Limiter(store, clock=clock)
    budget = Limits(tokens_per_day=100)
    one.spend(A, 60)
    two.spend(A, 60)
    assert one.admit(A, budget) is None
    asyncio.run(one.sync())
    asyncio.run(two.sync())
    asyncio.run(one.sync())
    assert one.admit(A, budget) is not None
    assert two.admit(A, budget) is not None
    assert Limiter(store, clock=clock).admit(A, budget) is None  # a fresh worker knows after its first second
    row = store.now(lambda c: c.execute(select(spent).where(spent.c.window != RATE)).mappings().one())
    assert (row["tokens"], row["requests"]) == (120, 1)


def test_what_was_counted_while_the_database_is_away_is_shared_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = Limiter(store, clock=Clock())
    limiter.spend(A, 7)

    async def run(work: object, *, reads: bool = False) -> None:
        raise OperationalError("INSERT", {}, Exception("gone"))

    with monkeypatch.context() as broken:
        broken.setattr(store, "run", run)
        with pytest.raises(OperationalError):
            asyncio.run(limiter.sync())
    limiter.spend(A, 1)
    asyncio.run(limiter.sync())
    assert store.now(lambda c: c.execute(select(spent.c.tokens)).scalar()) == 8


def admitted(limiters: list[Limiter], requests: int, rate: Limits, caller: Caller = A) -> int:
    """How many of so many requests are let through, which come to the workers in turn."""

    async def main() -> int:
        found = [await limiters[i % len(limiters)].admitted(caller, rate) for i in range(requests)]
        for limiter in limiters:
            if limiter._asking is not None:
                await limiter._asking  # what the last request took is told to the others, as it is where a loop goes on
        return found.count(None)

    return asyncio.run(main())


@pytest.mark.parametrize("per_minute", [5, 60, 600])
def test_a_keys_rate_holds_over_all_workers(store: Store, per_minute: int) -> None:
    clock, rate = Clock(), Limits(requests_per_minute=per_minute)
    limiters = [Limiter(store, workers=4, clock=clock) for _ in range(4)]
    at_once = admitted(limiters, 4 * per_minute, rate)
    assert per_minute <= at_once <= per_minute * (1 + 1 / 16) + 4
    total = at_once
    for _ in range(20):  # what a burst had too much is paid back: the mean holds
        clock.now += 15
        total += admitted(limiters, 2 * per_minute, rate)
    assert per_minute * 5.5 <= total <= per_minute * (6 + 1 / 16) + 4


def test_a_key_that_one_worker_alone_serves_has_all_of_its_rate(store: Store) -> None:
    clock, rate = Clock(), Limits(requests_per_minute=60)
    one, *others = [Limiter(store, workers=4, clock=clock) for _ in range(4)]
    assert admitted([one], 100, rate) == 60
    assert 60 <= admitted(others, 100, rate, B) <= 62  # two may let one through before they heard of the third's
    later = Limiter(store, workers=4, clock=clock)  # a worker that was started again knows no key
    asyncio.run(later.sync())
    assert later.admit(A, rate) is not None


def test_requests_of_one_moment_share_the_rate_over_all_workers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.serve.limits.ASK_S", 60.0)  # however slow the database is here
    rate = Limits(requests_per_minute=60)
    two = [Limiter(store, workers=2, clock=Clock()) for _ in range(2)]

    async def main() -> int:
        found = await asyncio.gather(*(two[i % 2].admitted(A, rate) for i in range(200)))
        return found.count(None)

    assert 60 <= asyncio.run(main()) <= 60 * (1 + 1 / 16) + 2


def test_a_clock_that_was_set_back_shuts_nobody_out_for_more_than_two_minutes(store: Store) -> None:
    clock, rate = Clock(), Limits(requests_per_minute=60)
    limiter = Limiter(store, clock=clock)
    assert admitted([limiter], 1, rate) == 1
    asyncio.run(limiter.sync())
    clock.now -= 3600
    asyncio.run(limiter.sync())
    assert admitted([limiter], 1, rate) == 0
    clock.now += 120
    assert admitted([limiter], 1, rate) == 1
    fresh = Limiter(store, clock=clock)
    asyncio.run(fresh.sync())
    assert admitted([fresh], 1, rate) == 1


def test_only_a_burst_asks_the_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rate, asked, run = Clock(), Limits(requests_per_minute=600), 0, store.run

    async def counted(*given: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        return await run(*given, **more)

    monkeypatch.setattr(store, "run", counted)
    limiter = Limiter(store, workers=4, clock=clock)
    assert admitted([limiter], 9, rate) == 9
    assert asked == 0
    assert admitted([limiter], 2000, rate) == 591
    assert asked <= 600 / 9, "a request that is refused asks nothing"


def test_while_the_database_is_away_each_worker_counts_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def run(work: object, *, reads: bool = False) -> None:
        nonlocal asked
        asked += 1
        raise OperationalError("INSERT", {}, Exception("gone"))

    limiter, rate = Limiter(store, clock=Clock()), Limits(requests_per_minute=60)
    with monkeypatch.context() as broken:
        broken.setattr(store, "run", run)
        assert admitted([limiter], 100, rate) == 60
        assert asked == 1, "requests do not wait for a database that is away"
    asyncio.run(limiter.sync())
    other = Limiter(store, clock=limiter._clock)
    asyncio.run(other.sync())
    assert other.admit(A, rate) is not None


def test_a_slow_database_holds_a_request_up_for_a_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_S", 0.05)
    limiter, rate = Limiter(store, clock=Clock()), Limits(requests_per_minute=60)

    async def main() -> int:
        waiting = asyncio.Event()

        async def run(work: object, *, reads: bool = False) -> None:
            await waiting.wait()

        monkeypatch.setattr(store, "run", run)
        found = [await limiter.admitted(A, rate) for _ in range(10)]
        limiter._asking.cancel()  # type: ignore[union-attr]
        return found.count(None)

    assert asyncio.run(asyncio.wait_for(main(), 5)) == 10


def test_a_request_that_asks_nobody_costs_little(store: Store) -> None:
    limiter, rate = Limiter(store, workers=4), Limits(requests_per_minute=10**7)

    async def main() -> float:
        began = time.process_time()
        for _ in range(2000):
            await limiter.admitted(A, rate)
        return (time.process_time() - began) / 2000

    assert min(asyncio.run(main()) for _ in range(3)) < 20e-6


def test_a_worker_with_too_much_under_way_sheds_load(store: Store) -> None:
    limiter = Limiter(store)
    for _ in range(2):
        assert limiter.admit(A, Limits(under_way=2)) is None
        limiter.enter()
    refused = limiter.admit(A, Limits(under_way=2))
    assert refused is not None
    assert (refused.status, refused.code) == (503, "overloaded")
    limiter.leave()
    assert limiter.admit(A, Limits(under_way=2)) is None


def test_the_memory_for_buckets_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKETS", 10)
    limiter = Limiter(store)
    for i in range(100):
        assert limiter.admit(Caller(f"key_{i}"), Limits()) is None
    assert len(limiter._whole) == 10


def test_the_task_shares_totals_and_saves_them_at_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.01)

    async def main() -> None:
        limiter, other = Limiter(store), Limiter(store)
        limiter.start()
        limiter.spend(A, 5)

        async def shared() -> bool:
            await other.sync()
            return other._total.get(A.id) == 5

        await soon(shared, "the other worker's totals")
        limiter.spend(A, 6)
        await limiter.close()
        await other.sync()
        assert other._total[A.id] == 11

    asyncio.run(main())


def test_totals_of_old_days_are_swept(store: Store) -> None:
    clock = Clock()
    limiter = Limiter(store, clock=clock)
    for _ in range(4):
        limiter.spend(A, 1)
        asyncio.run(limiter.sync())
        clock.now += 86_400
    assert store.now(lambda c: sweep(c, clock.now)) == 3


def test_a_minute_is_swept_when_it_is_whole_again(store: Store) -> None:
    clock, rate = Clock(), Limits(requests_per_minute=1)
    limiter = Limiter(store, clock=clock)
    assert limiter.admit(A, rate) is None
    asyncio.run(limiter.sync())
    assert store.now(lambda c: sweep(c, clock.now)) == 0
    clock.now += 61
    assert store.now(lambda c: sweep(c, clock.now)) == 1
    assert limiter.admit(A, rate) is None
