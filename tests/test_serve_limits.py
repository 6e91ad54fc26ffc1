"""Rates, budgets and load: what is refused, when to come back, and what several workers share."""

import asyncio

import pytest
from bounded import soon
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from temper.serve import limits as module
from temper.serve.limits import Limiter, sweep
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
    row = store.now(lambda c: c.execute(select(spent)).mappings().one())
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
    assert len(limiter._buckets) == 10


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
