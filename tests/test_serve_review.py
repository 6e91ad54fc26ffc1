"""The hold queue on real databases: who may decide, what a client gets, and that of two who come at once one wins."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from bounded import WAIT_S
from serve_parts import opened
from sqlalchemy import insert, select

from temper.errors import UsageError
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.people import Person
from temper.serve.policy import Review
from temper.serve.review import EXPIRED, Conflict, Holds, Links, appeal_id
from temper.serve.store import Store
from temper.serve.tables import deliveries, holds, hooks, responses, vault
from temper.serve.tables import journal as lines
from temper.serve.vault import Vault
from temper.serve.verdict import Turn
from temper.serve.verify import verify
from temper.serve.webhooks import Hooks
from temper.types import Example

pytest_plugins = ("serve_parts",)
SECRET = "the canary text of nobody@example.org"
ANSWER = {"reasoning": f"thinking of {SECRET}", "content": f"Here: {SECRET}", "calls": []}
FINDING = {"filter": "rules", "rule": "r1", "category": "weapons", "channel": "content", "start": 0, "end": 4, "score": 0.9}
ANNA, BEN, CARA = (Person(f"person_{n}", n, role) for n, role in (("anna", "reviewer"), ("ben", "reviewer"), ("cara", "admin")))
USUAL = Review()
KEYRING = Keyring([bytes(range(32))])


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class World:
    store: Store
    holds: Holds
    clock: Clock
    journal: Journal

    async def item(self, review: Review = USUAL, **changes: Any) -> str:
        given: dict[str, Any] = {
            "kind": "output",
            "category": "weapons",
            "findings": [FINDING],
            "request": {"model": "m", "messages": [{"role": "user", "content": f"tell me {SECRET}"}]},
            "answers": [ANSWER],
        }
        turn = Turn("resp_1", Example("e", ()), key="key_1", policy="abc")
        return await self.holds.hold(turn, **{**given, **changes}, review=review)

    def rows(self, table: Any) -> list[Mapping[str, Any]]:
        return [dict(r) for r in self.store.now(lambda c: c.execute(select(table)).mappings().all(), reads=True)]

    def answered(self, row: Mapping[str, Any]) -> None:
        self.store.now(lambda c: c.execute(insert(responses).values(**row)))

    def told(self, id: str) -> list[str]:
        self.journal.flush()
        return [r["kind"] for r in sorted(self.rows(lines), key=lambda r: r["seq"]) if r["subject"] == id]


@asynccontextmanager
async def world(url: str, folder: Path, clock: Clock | None = None) -> AsyncIterator[World]:
    store = opened(url)
    journal = Journal(store, KEYRING, folder / "checkpoints")
    journal.start()
    made = clock or Clock()
    try:
        yield World(
            store, Holds(store, Vault(store, KEYRING), journal, Hooks(store, KEYRING, journal), clock=made), made, journal
        )
    finally:
        await journal.close()
        store.close()


def test_a_released_item_gives_the_answer_and_is_on_record(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item()
            before = await w.holds.outcome(id)
            assert before.state == "waiting" and before.answers is None
            assert await w.holds.claim(id, ANNA, 60)
            seen = await w.holds.item(id, ANNA)
            assert seen.answers == (ANSWER,) and seen.request["messages"][0]["content"].endswith(SECRET)
            assert await w.holds.decide(id, ANNA, "release", label="safe") == "released"
            after = await w.holds.outcome(id)
            assert after.state == "released" and after.answers == (ANSWER,) and after.model == "m"
            assert w.told(id) == ["hold.made", "hold.claimed", "hold.viewed", "hold.rated", "hold.decided"]

    asyncio.run(story())


def test_an_edit_replaces_answer_reasoning_and_tool_calls(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item(answers=[{**ANSWER, "calls": [{"name": "f", "call_id": "1", "arguments": SECRET}]}])
            assert await w.holds.decide(id, ANNA, "edit", edit=["a better answer"]) == "edited"
            outcome = await w.holds.outcome(id)
            assert outcome.answers == ({"reasoning": "", "content": "a better answer", "calls": []},)
            assert SECRET not in json.dumps(outcome.answers)

    asyncio.run(story())


def test_a_refusal_gives_its_message_and_no_answer(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item()
            assert await w.holds.decide(id, ANNA, "refuse", message="not this one") == "refused"
            outcome = await w.holds.outcome(id)
            assert (outcome.state, outcome.answers, outcome.message) == ("refused", None, "not this one")
            with pytest.raises(Conflict, match="refused already"):
                await w.holds.decide(id, BEN, "release")

    asyncio.run(story())


def test_time_refuses_even_where_the_job_never_ran(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item(Review(expire_s=100))
            w.clock.ahead = 101
            late = await w.holds.outcome(id)
            assert late.state == "expired" and late.message == EXPIRED and late.answers is None
            with pytest.raises(Conflict, match="expired"):
                await w.holds.decide(id, ANNA, "release")
            assert not await w.holds.claim(id, ANNA, 60)
            assert [i.id for i in await w.holds.items(state="expired")].count(id) == 1
            assert await w.holds.expire() >= 1
            assert await w.holds.expire() == 0
            w.clock.ahead = 0  # a clock that jumps back gives nothing back either
            assert (await w.holds.outcome(id)).state == "expired"
            with pytest.raises(Conflict):
                await w.holds.decide(id, ANNA, "release")
            assert w.told(id) == ["hold.made", "hold.expired"]

    asyncio.run(story())


def test_a_lease_keeps_others_away_until_it_ends(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item()
            assert await w.holds.claim(id, ANNA, 60)
            assert not await w.holds.claim(id, BEN, 60)
            with pytest.raises(Conflict, match="has this item"):
                await w.holds.decide(id, BEN, "release")
            assert not await w.holds.give_back(id, BEN)
            assert await w.holds.renew(id, ANNA, 60)
            w.clock.ahead = 61
            assert await w.holds.claim(id, BEN, 60)
            assert await w.holds.give_back(id, BEN)
            assert await w.holds.claim(id, ANNA, 60)

    asyncio.run(story())


TWO = Review(two_person=("weapons",))


def test_two_people_must_agree_and_an_admin_is_one_person(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item(TWO)
            assert await w.holds.decide(id, CARA, "release") == "waiting"
            with pytest.raises(Conflict, match="another person"):
                await w.holds.decide(id, CARA, "release")
            assert (await w.holds.outcome(id)).answers is None
            assert await w.holds.decide(id, BEN, "release") == "released"

    asyncio.run(story())


def test_a_second_finding_asks_for_its_second_person_and_a_shadow_for_none(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            spam = {**FINDING, "category": "spam"}
            two = await w.item(TWO, category="spam", findings=[spam, FINDING])
            assert await w.holds.decide(two, CARA, "release") == "waiting"
            one = await w.item(TWO, category="spam", findings=[spam, {**FINDING, "shadow": True}])
            assert await w.holds.decide(one, CARA, "release") == "released"

    asyncio.run(story())


def test_whoever_saw_the_first_of_two_verdicts_rates_nothing_blind(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(f"sqlite:///{tmp_path / 't.db'}", tmp_path) as w:
            id = await w.item(TWO)
            await w.holds.item(id, BEN)
            await w.holds.decide(id, CARA, "refuse")
            assert [i.id for i in await w.holds.second(BEN, 1.0)] == [id], "there was no verdict to see"
            id = await w.item(TWO)
            await w.holds.decide(id, CARA, "release")
            assert (await w.holds.item(id, BEN)).ratings
            dora = Person("person_dora", "dora", "reviewer")
            assert await w.holds.decide(id, dora, "release") == "released"
            assert id not in {i.id for i in await w.holds.second(BEN, 1.0)}
            with pytest.raises(Conflict, match="blind"):
                await w.holds.rate(id, BEN, "release")

    asyncio.run(story())


HARM = [
    ("UPDATE holds SET state = 'released', decided_at = 1", "is released, which takes 1 verdict; the journal has 0"),
    ("UPDATE holds SET state = 'refused'", "is refused, which takes 1 verdict"),
    ("UPDATE holds SET key_id = 'key_other'", "its key_id was changed"),
    ("UPDATE holds SET expires_at = 9e9", "its expires_at was changed"),
    ("DELETE FROM holds", "its row was removed"),
    ("INSERT INTO holds SELECT 'hold_forged', response_id, key_id, made_at, expires_at, kind, category, state, policy, findings,"
     " vault_id, outcome_vault_id, wanted, lease_by, lease_until, decided_at, message FROM holds",
     "item hold_forged is in no line of the journal"),
]  # fmt: skip


@pytest.mark.parametrize(("harm", "told"), HARM)
def test_an_insider_who_decides_in_the_database_is_found(store_url: str, tmp_path: Path, harm: str, told: str) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            two = await w.item(TWO)
            for who in (ANNA, BEN):
                await w.holds.decide(two, who, "release")
            for verdict in ("release", "refuse", "edit"):
                await w.holds.decide(await w.item(), ANNA, verdict, edit=["x"] if verdict == "edit" else None)
            late = await w.item(Review(expire_s=1))
            w.clock.ahead = 2
            await w.holds.expire()
            w.clock.ahead = 0
            assert (await w.holds.outcome(late)).state == "expired"
            w.store.now(lambda c: c.exec_driver_sql("DELETE FROM deliveries"))
            assert verify(w.store, KEYRING, tmp_path / "checkpoints").problems == []
            id = await w.item()
            where = " WHERE id = 'ID'".replace("ID", id)
            w.store.now(lambda c: (c.exec_driver_sql("DELETE FROM ratings"), c.exec_driver_sql(harm + where)))
            problems = verify(w.store, KEYRING, tmp_path / "checkpoints").problems
            assert any(told in p for p in problems), problems

    asyncio.run(story())


def test_of_two_people_one_refusal_refuses(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item(TWO)
            await w.holds.decide(id, ANNA, "release")
            assert await w.holds.decide(id, BEN, "refuse") == "refused"

    asyncio.run(story())


def test_an_edit_needs_another_person_to_agree_to_that_very_text(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item(TWO)
            await w.holds.decide(id, ANNA, "release")
            assert await w.holds.decide(id, BEN, "edit", edit=["mended"]) == "waiting", "one wants the original, one the edit"
            with pytest.raises(Conflict, match="edited since"):
                await w.holds.decide(id, CARA, "release", seen="")
            item = await w.holds.item(id, ANNA)
            assert item.proposal and item.proposal[0]["content"] == "mended"
            with pytest.raises(Conflict, match="another person"):
                await w.holds.decide(id, BEN, "release", seen=item.seen)
            assert await w.holds.decide(id, ANNA, "release", seen=item.seen) == "edited"
            assert (await w.holds.outcome(id)).answers[0]["content"] == "mended"

    asyncio.run(story())


def test_of_many_verdicts_at_once_one_counts(store_url: str, tmp_path: Path) -> None:
    """Four workers, each with a journal and a pool of its own, decide the same items at the same moment."""

    async def made() -> list[str]:
        async with world(store_url, tmp_path / "0") as w:
            return [await w.item() for _ in range(6)]

    wanted = asyncio.run(made())

    def worker(n: int) -> list[str]:
        async def story() -> list[str]:
            async with world(store_url, tmp_path / str(n)) as w:
                me = Person(f"person_{n}", str(n), "reviewer")
                states = await asyncio.gather(
                    *(w.holds.decide(id, me, "release" if n % 2 else "refuse") for id in wanted), return_exceptions=True
                )
                assert all(isinstance(s, (str, Conflict)) for s in states), states
                return [id for id, s in zip(wanted, states, strict=True) if isinstance(s, str)]

        return asyncio.run(story())

    with ThreadPoolExecutor(4) as threads:
        won = [id for ids in threads.map(worker, range(4)) for id in ids]
    assert sorted(won) == sorted(wanted), "every item was decided exactly once"


def test_of_many_claims_at_once_one_counts(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item()
            people = [Person(f"person_{n}", str(n), "reviewer") for n in range(8)]
            assert sum(await asyncio.gather(*(w.holds.claim(id, p, 60) for p in people))) == 1

    asyncio.run(story())


def test_whoever_waits_is_woken_here_and_finds_it_from_another_worker(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path / "a") as here, world(store_url, tmp_path / "b") as there:
            for decider, pauses in ((here, (WAIT_S, WAIT_S)), (there, (0.05, 0.05))):  # here nobody looks, one is woken
                monkeypatch.setattr("temper.serve.review.POLL_S", pauses)
                id = await here.item()
                waiting = asyncio.create_task(here.holds.wait(id, WAIT_S))
                await asyncio.sleep(0.02)
                await decider.holds.decide(id, ANNA, "release")
                start = time.monotonic()
                assert (await waiting).state == "released"
                assert time.monotonic() - start < WAIT_S / 2
            id = await here.item(Review(expire_s=0.1))
            assert (await here.holds.wait(id, WAIT_S)).state == "expired"
            assert (await here.holds.wait(await here.item(), 0.05)).state == "waiting"

    asyncio.run(story())


def test_items_survive_a_restart(store_url: str, tmp_path: Path) -> None:
    async def before() -> str:
        async with world(store_url, tmp_path) as w:
            return await w.item()

    async def after(id: str) -> None:
        async with world(store_url, tmp_path) as w:
            assert await w.holds.decide(id, ANNA, "release") == "released"
            assert (await w.holds.outcome(id)).answers == (ANSWER,)

    asyncio.run(after(asyncio.run(before())))


def test_no_text_lies_outside_the_vault(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            w.store.now(
                lambda c: c.execute(
                    insert(hooks).values(
                        id=f"hook_{time.time_ns()}", url="https://example.org", secret=b"x", events="[]", made_at=0.0
                    )
                )
            )
            id = await w.item()
            await w.holds.item(id, ANNA)
            await w.holds.decide(id, ANNA, "edit", edit=[f"still {SECRET}"])
            await w.journal.settled()
            for table in (holds, lines, deliveries, vault):
                assert SECRET not in str(w.rows(table)), table.name

    asyncio.run(story())


def test_second_ratings_are_drawn_for_others_and_kept_blind(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(f"sqlite:///{tmp_path / 't.db'}", tmp_path) as w:
            verdicts = ["release", "refuse"] * 10
            items = [await w.item() for _ in verdicts]
            for id, verdict in zip(items, verdicts, strict=True):
                await w.holds.decide(id, ANNA, verdict, label="safe" if verdict == "release" else "unsafe")
            assert await w.holds.second(ANNA, 1.0) == [], "nobody rates twice"
            assert await w.holds.second(BEN, 0.0) == []
            drawn = await w.holds.second(BEN, 1.0)
            assert {i.id for i in drawn} == set(items) and {i.state for i in drawn} == {"waiting"}
            half = {i.id for i in await w.holds.second(BEN, 0.5)}
            assert half < set(items) and half == {i.id for i in await w.holds.second(CARA, 0.5)}
            blind = await w.holds.item(items[0], BEN, blind=True)
            assert blind.answers and not blind.ratings and not blind.message and blind.state == "waiting"
            with pytest.raises(Conflict, match="rated this item before"):
                await w.holds.rate(items[0], ANNA, "release")
            for id, verdict in zip(items[:-1], verdicts, strict=False):
                await w.holds.rate(id, BEN, verdict, label="safe" if verdict == "release" else "unsafe")
            await w.holds.item(items[-1], CARA)
            with pytest.raises(Conflict, match="blind"):
                await w.holds.rate(items[-1], CARA, "release")
            await w.holds.rate(items[-1], BEN, "release", label="safe")
            found = await w.holds.agreement()
            assert found.verdicts.n == found.labels.n == 20
            assert found.verdicts.value == pytest.approx(0.9) and found.verdicts.low < 0.9
            assert (await w.holds.outcome(items[-1])).state == "refused", "a second rating decides nothing"
            over = await w.holds.overblocked()
            assert (over.value, over.n) == (0.5, 20) and over.low < 0.5 < over.high

    asyncio.run(story())


def _response(id: str, action: str, vault_id: str | None) -> dict[str, Any]:
    plain = {"route": "chat", "model": "m", "policy": "abc", "stream": False, "status": 200, "finish": "content_filter"}
    numbers = dict.fromkeys(("scanned", "released", "prompt_tokens", "completion_tokens", "reasoning_tokens"), 0)
    rest = {"findings": json.dumps([FINDING]), "seconds": 0.1, "first_s": None, "language": "en", "vault_id": vault_id}
    return {"id": id, "at": time.time(), "key_id": "key_1", "action": action, **plain, **numbers, **rest}


def test_a_blocked_answer_is_appealed_once_with_its_text_where_it_is_kept(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            stem = f"resp_{time.time_ns()}"
            kept = await w.holds.keep(request={"model": "m", "messages": []}, answers=[ANSWER], review=Review())
            gone = await w.holds.keep(request={"model": "m", "messages": []}, answers=[ANSWER], review=Review(expire_s=0))
            for id, action, box in ((f"{stem}a", "block", kept), (f"{stem}b", "block", gone), (f"{stem}c", "allow", None)):
                w.answered(_response(id, action, box))
            first = await w.holds.appeal(f"{stem}a", "I only asked", Review())
            assert first == appeal_id(f"{stem}a")
            item = await w.holds.item(first, ANNA)
            assert (item.kind, item.category, item.why, item.answers) == ("appeal", "weapons", "I only asked", (ANSWER,))
            with pytest.raises(Conflict, match="appealed already"):
                await w.holds.appeal(f"{stem}a", "", Review())
            bare = await w.holds.item(await w.holds.appeal(f"{stem}b", "", Review()), ANNA)
            assert not bare.kept and bare.answers == ()
            for id in (f"{stem}c", "resp_unknown"):
                with pytest.raises(UsageError, match="no answer that was blocked"):
                    await w.holds.appeal(id, "", Review())
            with pytest.raises(UsageError, match="2001 characters"):
                await w.holds.appeal(f"{stem}b", "x" * 2001, Review())

    asyncio.run(story())


def test_appeals_at_once_make_one_item(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = f"resp_{time.time_ns()}"
            w.answered(_response(id, "block", None))
            made = await asyncio.gather(*(w.holds.appeal(id, "", Review()) for _ in range(5)), return_exceptions=True)
            assert sum(isinstance(m, str) for m in made) == 1 and sum(isinstance(m, Conflict) for m in made) == 4

    asyncio.run(story())


def test_an_input_that_a_reviewer_released_may_be_sent_again_by_its_key_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(f"sqlite:///{tmp_path / 't.db'}", tmp_path) as w:
            asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            id = await w.item(kind="input", request=asked, answers=[])
            assert not await w.holds.admits(id, "key_1", asked), "it still waits"
            await w.holds.decide(id, ANNA, "release")
            assert await w.holds.admits(id, "key_1", asked)
            assert not await w.holds.admits(id, "key_2", asked)
            assert not await w.holds.admits(id, "key_1", {**asked, "model": "other"})
            assert not await w.holds.admits("hold_unknown", "key_1", asked)
            output = await w.item(request=asked)
            await w.holds.decide(output, ANNA, "release")
            assert not await w.holds.admits(output, "key_1", asked), "a released answer is no leave to ask anew"

    asyncio.run(story())


def test_what_no_form_sends_is_refused(store_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with world(store_url, tmp_path) as w:
            id = await w.item()
            for given in (
                {"verdict": "approve"},
                {"verdict": "release", "label": "fine"},
                {"verdict": "edit"},
                {"verdict": "release", "edit": ["x"]},
                {"verdict": "refuse", "note": "x" * 2001},
                {"verdict": "refuse", "message": "x" * 501},
            ):
                with pytest.raises(UsageError):
                    await w.holds.decide(id, ANNA, **given)
            assert (await w.holds.outcome(id)).state == "waiting"
            for unknown in ("hold_unknown", "hold_\0", "x" * 100, "\ud800"):
                with pytest.raises(UsageError, match="no held item"):
                    await w.holds.outcome(unknown)
                assert not await w.holds.claim(unknown, ANNA, 60)
                assert await w.holds.items(category=unknown) == []
                with pytest.raises(Conflict):
                    await w.holds.decide(unknown, ANNA, "release")
            given = {"note": "a\0b\ud800", "category": "c\0", "message": "m\0"}
            assert await w.holds.decide(id, ANNA, "refuse", **given) == "refused"

    asyncio.run(story())


def test_an_appeal_link_names_its_response_and_cannot_be_forged() -> None:
    links = Links(KEYRING)
    url = links.url("https://ai.example.org/", "resp_1")
    start, token = url.rsplit("/", 1)
    assert start == "https://ai.example.org/appeal"
    assert links.response(token) == "resp_1"
    assert links.response(token[:-2] + "aa") is None
    assert Links(Keyring([bytes(32)])).response(token) is None
    assert Links(Keyring([bytes(32), bytes(range(32))])).response(token) == "resp_1", "an older secret still reads"
