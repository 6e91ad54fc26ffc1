"""API keys: who they let in, for how long, and what guessing costs the database."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from temper.errors import UnknownName, UsageError
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.keys import Keys
from temper.serve.people import People
from temper.serve.store import Store
from temper.serve.tables import journal as lines
from temper.serve.tables import keys as table
from temper.serve.verify import verify

pytest_plugins = ("serve_parts",)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def counting(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts transactions from now on."""
    seen: list[int] = []
    real = store.now

    def now(work: Any, *, reads: bool = False) -> Any:
        seen.append(1)
        return real(work, reads=reads)

    monkeypatch.setattr(store, "now", now)
    return seen


def test_a_key_opens_with_what_it_was_made_with_and_only_its_hash_is_kept(store: Store, journal: Journal) -> None:
    keys = Keys(store, journal)
    id_, token = keys.make("app", ["chat"], by="me", policy="p", models=["m"], limits={"requests_per_minute": 5})
    found = asyncio.run(keys.caller(token))
    assert found is not None
    assert (found.id, found.name, found.scopes, found.policy, found.models) == (id_, "app", frozenset({"chat"}), "p", ("m",))
    assert found.limits == {"requests_per_minute": 5}
    assert len(token) == 47
    row = store.now(lambda c: c.execute(select(table)).mappings().one())
    assert token not in json.dumps(dict(row))
    assert token.startswith(row["prefix"])
    told = [r for r in store.now(lambda c: c.execute(select(lines)).mappings().all()) if r["kind"] == "key.made"]
    assert [t["subject"] for t in told] == [id_]
    assert token not in told[0]["body"]


def test_a_revoked_or_expired_key_lets_nobody_in(store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(store, journal)
    first, token = keys.make("a", by="me")
    _, short = keys.make("b", by="me", expires_at=time.time() + 60)
    assert asyncio.run(keys.any())
    keys.revoke(first, by="me")
    assert asyncio.run(keys.caller(token)) is None
    assert asyncio.run(keys.caller(short)) is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert asyncio.run(keys.caller(short)) is None
    assert not asyncio.run(keys.any())
    with pytest.raises(UnknownName):
        keys.revoke(first, by="me")


def test_another_worker_sees_a_revocation_after_five_seconds_and_a_new_key_at_once(store: Store, journal: Journal) -> None:
    clock = Clock()
    here, there = Keys(store, journal), Keys(store, journal, clock=clock)
    id_, token = here.make("a", by="me")
    assert asyncio.run(there.caller(token)) is not None
    here.revoke(id_, by="me")
    assert asyncio.run(there.caller(token)) is not None
    clock.now += 5.1
    assert asyncio.run(there.caller(token)) is None
    clock.now += 0.3
    _, other = here.make("b", by="me")
    assert asyncio.run(there.caller(other)) is not None


def test_guessed_tokens_cost_the_database_four_reads_a_second(
    store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    keys = Keys(store, journal, clock=clock)
    asyncio.run(keys.any())
    seen = counting(store, monkeypatch)

    async def flood() -> None:
        for i in range(400):
            clock.now += 0.01
            assert await keys.caller(f"tmp-{i:043d}") is None
            assert await keys.caller(f"sk-{i}") is None

    asyncio.run(flood())
    assert len(seen) <= 17
    assert len(keys._known) == 0


def test_many_requests_at_once_read_the_keys_once(store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(store, journal)
    _, token = keys.make("a", by="me")
    seen = counting(store, monkeypatch)

    async def main() -> list[Any]:
        return await asyncio.gather(*(keys.caller(token) for _ in range(100)))

    assert all(asyncio.run(main()))
    assert len(seen) == 1


def test_keys_read_before_still_count_for_a_minute_without_the_database(
    store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    keys = Keys(store, journal, clock=clock)
    _, token = keys.make("a", by="me")
    assert asyncio.run(keys.caller(token)) is not None
    away = OperationalError("SELECT", {}, Exception("gone"))

    async def run(work: Any, *, reads: bool = False) -> Any:
        raise away

    monkeypatch.setattr(store, "run", run)
    clock.now += 30
    assert asyncio.run(keys.caller(token)) is not None
    clock.now += 31
    with pytest.raises(OperationalError):
        asyncio.run(keys.caller(token))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"scopes": ["chats"]}, "did you mean 'chat'"),
        ({"scopes": []}, "needs a scope"),
        ({"limits": {"tokens_per_dya": 1}}, "did you mean 'tokens_per_day'"),
        ({"limits": {"tokens_per_day": -1}}, "whole number"),
        ({"expires_at": 1.0}, "expired already"),
        ({"name": " "}, "needs a name"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(store: Store, journal: Journal, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Keys(store, journal).make(**{"name": "a", "by": "me", **wrong})


def test_the_list_has_every_key_and_no_hash(store: Store, journal: Journal) -> None:
    keys = Keys(store, journal)
    ids = [keys.make(n, ["chat", "models"], by="me")[0] for n in "ab"]
    keys.revoke(ids[0], by="me")
    rows = keys.all()
    assert {r["id"]: r["revoked_at"] is not None for r in rows} == {ids[0]: True, ids[1]: False}
    assert rows[0]["scopes"] == ["chat", "models"]
    assert all("sha256" not in r for r in rows)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("UPDATE keys SET scopes = '[\"admin\"]'", "its scopes was changed"),
        ("UPDATE keys SET sha256 = 'x'", "its sha256 was changed"),
        ("UPDATE keys SET revoked_at = NULL", "was ended, and is live again"),
        ("DELETE FROM keys", "its row was removed"),
        ("UPDATE people SET role = 'admin'", "its role was changed"),
        ("UPDATE people SET disabled_at = NULL", "was ended, and is live again"),
    ],
)
def test_a_key_or_person_changed_in_the_database_is_found(
    store: Store, keyring: Keyring, journal: Journal, tmp_path: Path, harm: str, told: str
) -> None:
    keys, people = Keys(store, journal), People(store, keyring, journal)
    id_, _ = keys.make("app", by="me", expires_at=time.time() + 60, limits={"max_tokens": 5})
    keys.revoke(id_, by="me")
    people.add("ann", "correct horse battery", "reviewer", by="me")
    people.disable("ann", by="me")
    assert verify(store, keyring, tmp_path / "checkpoints").problems == []
    store.now(lambda c: c.exec_driver_sql(harm))
    assert any(told in p for p in verify(store, keyring, tmp_path / "checkpoints").problems)
