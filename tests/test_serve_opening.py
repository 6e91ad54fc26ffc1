"""A policy that a key names is read and tested once, however many requests come meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from serve_world import World, run

from temper.errors import GuardError
from temper.serve import reload
from temper.serve.protocol import ApiError
from temper.serve.verdict import Caller

WHO = Caller("key_1", policy="rules-only")


class Trial:
    """Stands in for the self-test: counts, waits until it may go on, and fails the first `fails` times."""

    def __init__(self, fails: int = 0) -> None:
        self.times, self.fails, self.go = 0, fails, asyncio.Event()

    async def __call__(self, *_: Any) -> None:
        self.times += 1
        await self.go.wait()
        if self.times <= self.fails:
            raise GuardError("it did not fire")


def test_requests_that_come_at_once_run_one_self_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(w: World) -> None:
        monkeypatch.setattr(reload, "_tested", tested := Trial())
        asked = [asyncio.create_task(reload.guard_of(w.gateway, WHO)) for _ in range(8)]
        while not tested.times:
            await asyncio.sleep(0.01)
        asked[0].cancel()  # the client that came first left
        await asyncio.sleep(0.05)
        tested.go.set()
        found = await asyncio.gather(*asked[1:])
        assert tested.times == 1
        assert {id(guard) for guard in found} == {id(w.gateway.guards["rules-only"])}
        assert await reload.guard_of(w.gateway, WHO) is found[0]
        assert tested.times == 1
        assert w.gateway.opening == {}

    run(tmp_path, test)


def test_a_policy_that_fails_is_told_to_all_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(w: World) -> None:
        monkeypatch.setattr(reload, "_tested", tested := Trial(fails=1))
        tested.go.set()
        found = await asyncio.gather(*(reload.guard_of(w.gateway, WHO) for _ in range(8)), return_exceptions=True)
        assert tested.times == 1
        assert {e.code for e in found if isinstance(e, ApiError)} == {"policy_unavailable"}
        assert len(found) == 8
        assert (await reload.guard_of(w.gateway, WHO)).policy.name == "rules-only"
        assert tested.times == 2

    run(tmp_path, test)
