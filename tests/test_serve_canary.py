"""The gateway is not ready until every filter fired on every channel in every mode, and says which did not."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bounded import allowed
from ops_parts import EVERY, Word, client, gateway, policy, setting
from sqlalchemy import select

from temper.serve import canary
from temper.serve.canary import Readiness
from temper.serve.filters.rules import Rule, Rules
from temper.serve.guard import Guard
from temper.serve.policy import Setting, read_policy, shipped
from temper.serve.pool import Pool
from temper.serve.release import Release
from temper.serve.tables import journal
from temper.serve.verdict import OUTPUT, Action, Canary, Channel, Finding, View


def checked(guard: Guard) -> Readiness:
    made = Readiness()
    asyncio.run(made.check(guard))
    return made


def test_nothing_is_ready_before_a_test_ran() -> None:
    assert not Readiness().ok and Readiness().why == ("the self-test has not run yet",)


@pytest.mark.parametrize("action", [Action.ALLOW, Action.REDACT, Action.REWRITE, Action.REVIEW, Action.BLOCK])
@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("on_error", [Action.BLOCK, Action.REVIEW, Action.ALLOW])
def test_a_filter_that_works_passes_in_every_cell(action: Action, shadow: bool, on_error: Action) -> None:
    made = checked(Guard(policy(setting(Word(), action=action, shadow=shadow, on_error=on_error))))
    assert made.ok, made.why
    tried = {(c.channel, c.how) for c in made.cells["test"]}
    outputs = {(c, how) for c in OUTPUT for how in ("live", "strict", "window", "observe", "plain", "error")}
    assert tried == {("input", "live"), ("input", "error"), *outputs}


@pytest.mark.parametrize("channel", EVERY)
def test_a_filter_that_is_deaf_on_one_channel_is_found_there(channel: Channel) -> None:
    made = checked(Guard(policy(setting(Word(deaf=(channel,))))))
    assert not made.ok
    assert {c.channel for c in made.failed} == {channel}
    assert "did not fire" in made.why[0]


def test_a_filter_that_is_configured_and_never_called_is_found() -> None:
    guard = Guard(policy(setting(Word()), setting(Word("other", name="other"))))
    guard.of = {c: tuple(s for s in of if s.name != "other") for c, of in guard.of.items()}
    made = checked(guard)
    assert {(c.filter, c.how, c.why) for c in made.failed} == {("other", "live", "did not fire")}


def test_a_filter_that_blocks_spares_no_other_its_test() -> None:
    class Heavy(Word):
        heavy = True

    both = Word("forbidden to say", name="other")
    assert checked(Guard(policy(setting(Word()), setting(both)))).ok


def test_a_release_that_lets_text_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Release.end

    async def leaking(self: Release) -> list[Any]:
        self.stopped = None
        await kept(self)
        self.stopped = None
        return []

    monkeypatch.setattr(Release, "end", leaking)
    made = checked(Guard(policy(setting(Word()))))
    assert {c.how for c in made.failed} >= {"strict", "window", "plain"}


def test_an_action_that_the_guard_drops_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Guard.judge

    async def milder(self: Guard, *args: Any, **kwargs: Any) -> Any:
        return replace(await kept(self, *args, **kwargs), action=Action.ALLOW)

    monkeypatch.setattr(Guard, "judge", milder)
    assert "the verdict is allow, not block" in str(checked(Guard(policy(setting(Word())))).why)


def test_a_filter_whose_failure_nobody_notices_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Guard.judge

    async def careless(self: Guard, *args: Any, **kwargs: Any) -> Any:
        found = await kept(self, *args, **kwargs)
        return replace(found, errors=(), action=Action.ALLOW) if found.errors else found

    monkeypatch.setattr(Guard, "judge", careless)
    assert "failed, and nobody noticed" in str(checked(Guard(policy(setting(Word())))).why)


def test_filters_and_canaries_that_raise_are_named_by_type_alone() -> None:
    class Broken(Word):
        def __call__(self, view: View, /) -> Sequence[Finding]:
            raise ValueError("alice@example.org")

    class Unplanted(Word):
        def canary(self, channel: Channel, /) -> Canary:
            raise KeyError("alice@example.org")

    made = checked(Guard(policy(setting(Broken()), setting(Unplanted(name="unplanted")))))
    assert "failed on its canary" in str(made.why) and "its canary raised KeyError" in str(made.why)
    assert "alice" not in str(made.as_dict())


def test_a_rehearsed_failure_is_not_logged_as_a_real_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "temper.serve.guard"):
        checked(Guard(policy(setting(Word()))))
    assert not caplog.records


def test_a_failure_later_makes_the_gateway_unready_is_journalled_and_told_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, policy(setting(Word()))) as made:
            told: list[tuple[str, Any]] = []
            made.hooks.queue = lambda conn, event, body: told.append((event, body))  # type: ignore[method-assign]
            async with client(made, canary.routes(made)) as http:
                assert (await http.get("/readyz")).status_code == 503
                assert await canary.check_all(made)
                assert (await http.get("/readyz")).status_code == 200
                made.guard = Guard(policy(setting(Word(deaf=(Channel.REASONING,)))))
                assert not await canary.check_all(made)
                reply = await http.get("/readyz")
                assert reply.status_code == 503 and {f["channel"] for f in reply.json()["failed"]} == {"reasoning"}
                assert not await canary.check_all(made)
                made.guard = Guard(policy(setting(Word())))
                assert await canary.check_all(made)
                assert (await http.get("/readyz")).status_code == 200
            await made.journal.settled()
            kinds = made.store.now(lambda c: c.execute(select(journal.c.kind)).scalars().all())
            assert kinds.count("selftest.failed") == 1 and [event for event, _ in told] == ["alert"]

    asyncio.run(main())


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_policy_passes_and_a_second_test_is_quick(name: str) -> None:
    """The first test loads what filters load; the timer's are the ones that run beside requests."""

    async def twice() -> tuple[Readiness, float]:
        made, pool, guard = Readiness(), Pool(), Guard(read_policy(name))
        await made.check(guard, pool)
        before = time.process_time()
        await made.check(guard, pool)
        await pool.close()
        return made, time.process_time() - before

    made, seconds = asyncio.run(twice())
    assert made.ok, made.why
    assert seconds < allowed(2.0)


def test_a_policy_of_many_light_filters_is_tested_in_well_under_two_seconds() -> None:
    guard = Guard(policy(*(setting(Word(f"forbidden{i}", name=f"w{i}")) for i in range(10))))
    before = time.thread_time()
    assert checked(guard).ok
    assert time.thread_time() - before < allowed(1.5)


def test_every_rule_must_fire_and_not_the_first_alone() -> None:
    rules = Rules((Rule("kept", phrases=("copper lantern",)), Rule("deaf", pattern="zx-[0-9]{4}", example="nothing of the kind")))
    made = checked(Guard(policy(Setting("rules", "rules", rules, (Channel.CONTENT,), Action.BLOCK))))
    assert any("'deaf' did not fire" in why for why in made.why), made.why
