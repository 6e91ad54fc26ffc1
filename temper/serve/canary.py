"""The self-test: every filter must fire on its planted text, on each of its channels, in each mode, before a request is taken.

It goes through the parts that requests go through, the live guard and a `Release` fed in small pieces, so that a filter that is
configured and never called is found too. Each filter is also made to fail once, and must then count as its `on_error` says.
"""

import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from temper.serve import logs
from temper.serve.guard import Guard, opinion
from temper.serve.policy import Setting
from temper.serve.release import Delta, Release
from temper.serve.verdict import OUTPUT, Action, Canary, Channel, Filter, Finding, Mode, Pace, Verdict, View

if TYPE_CHECKING:
    from fastapi import APIRouter

    from temper.serve.pool import Pool
    from temper.serve.state import Gateway

MODES: tuple[Mode, ...] = ("strict", "window", "observe")
PIECE = 7  # characters a delta: smaller than any phrase, so that every one is cut
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing that was tried: `how` is a mode, "plain", "live" (the guard in use), or "error" (the filter made to fail).

    `why` says what was wrong, "" where it passed; it never quotes text.
    """

    policy: str
    filter: str
    channel: str
    how: str
    why: str = ""


class Readiness:
    """What the last self-test found; not ready until one has passed for every policy in use."""

    def __init__(self) -> None:
        self.cells: dict[str, tuple[Cell, ...]] = {}
        self.at: float | None = None
        self.seconds = 0.0

    @property
    def ok(self) -> bool:
        return bool(self.cells) and not self.failed

    @property
    def failed(self) -> tuple[Cell, ...]:
        return tuple(cell for cells in self.cells.values() for cell in cells if cell.why)

    @property
    def why(self) -> tuple[str, ...]:
        """One sentence for each cell that failed."""
        if not self.cells:
            return ("the self-test has not run yet",)
        return tuple(f"{c.policy}: {c.filter} on {c.channel}, {c.how}: {c.why}" for c in self.failed)

    async def check(self, guard: Guard, pool: "Pool | None" = None) -> bool:
        """Try every cell of one policy's guard; True where all passed. Its earlier result is replaced."""
        began = time.perf_counter()
        cells = [cell async for cell in _cells(guard, pool)]
        self.cells = {**self.cells, guard.policy.name: tuple(cells)}
        self.at, self.seconds = time.time(), time.perf_counter() - began
        return all(not cell.why for cell in cells)

    def keep(self, names: Sequence[str]) -> None:
        """Forget policies that are no longer in use."""
        self.cells = {name: cells for name, cells in self.cells.items() if name in names}

    def as_dict(self) -> dict[str, Any]:
        return {
            "ready": self.ok,
            "checked_at": self.at,
            "cells": sum(map(len, self.cells.values())),
            "failed": [asdict(cell) for cell in self.failed],
        }


async def check_all(gateway: "Gateway") -> bool:
    """Test every policy in use; where one that passed fails now, that is journalled and an alert is queued."""
    ready, before = gateway.ready, {(c.policy, c.filter, c.channel, c.how) for c in gateway.ready.failed}
    guards = {g.policy.name: g for g in (gateway.guard, *gateway.guards.values())}
    logs.know([*gateway.meters.models, *(s.name for g in guards.values() for s in g.policy.filters)])
    for guard in guards.values():
        await ready.check(guard, gateway.pool)
    ready.keep(list(guards))
    gateway.meters.ready(ready.ok)
    new = [c for c in ready.failed if (c.policy, c.filter, c.channel, c.how) not in before]
    if new:
        body: Mapping[str, Any] = {"event": "selftest.failed", "failed": [asdict(c) for c in new]}
        log.critical("the self-test failed in %d of %d cells", len(ready.failed), sum(map(len, ready.cells.values())))
        gateway.journal.write("selftest.failed", gateway.guard.policy.version, body)
        await gateway.store.run(lambda conn: gateway.hooks.queue(conn, "alert", body))
    return ready.ok


async def watch(gateway: "Gateway", every_s: float) -> None:
    """Test again and again until cancelled; the first test is `check_all` at start."""
    while True:
        await asyncio.sleep(every_s)
        await check_all(gateway)


def routes(gateway: "Gateway") -> "APIRouter":
    """`GET /readyz`: 200 where the last self-test passed, else 503 with the cells that failed."""
    from fastapi import APIRouter
    from fastapi.responses import JSONResponse

    router = APIRouter()

    @router.get("/readyz", tags=["operations"], responses={503: {"description": "The self-test has not passed."}})
    async def readyz() -> JSONResponse:
        """Whether every filter fired when it was last tried."""
        return JSONResponse(gateway.ready.as_dict(), 200 if gateway.ready.ok else 503, {"Cache-Control": "no-store"})

    return router


async def _cells(guard: Guard, pool: "Pool | None") -> AsyncIterator[Cell]:
    for setting in guard.policy.filters:
        for channel in setting.channels:
            try:
                canary = setting.filter.canary(channel)
            except Exception as error:  # noqa: BLE001  a filter is anybody's code; one that cannot be tested is not ready
                yield Cell(guard.policy.name, setting.name, str(channel), "live", f"its canary raised {type(error).__name__}")
                continue
            for how in ("live", "error") if channel is Channel.INPUT else ("live", *MODES, "plain", "error"):
                why = await _tried(guard, setting, channel, canary, how, pool)
                yield Cell(guard.policy.name, setting.name, str(channel), how, why)


async def _tried(guard: Guard, setting: Setting, channel: Channel, canary: Canary, how: str, pool: "Pool | None") -> str:
    try:
        if how == "live":
            verdict = await _among(guard, setting).judge(View(channel, canary.text, canary.turn), pool=pool)
            return _fired(setting, verdict) or await _every_rule(setting, channel, canary)
        if how == "error":
            return await _failed_as_told(guard, setting, channel, canary, pool)
        mode: Mode = "strict" if how == "plain" else next(m for m in MODES if m == how)
        return await _released(_alone(guard, setting, channel, mode), setting, channel, canary, mode, how == "plain", pool)
    except Exception as error:  # noqa: BLE001  whatever breaks here would break a request: not ready, and the type says why
        return f"raised {type(error).__name__}"


def _fired(setting: Setting, verdict: Verdict) -> str:
    """Nothing where the filter's findings are in the verdict and count as they should; else what is wrong."""
    if setting.name in verdict.errors:
        return "failed on its canary"
    found = [f for f in verdict.findings if f.filter == setting.name]
    if not found:
        return "did not fire"
    if setting.shadow:
        return "" if all(f.shadow for f in found) else "is in shadow, and its finding counts"
    counted = max((f.action or Action.ALLOW for f in found if not f.shadow), default=Action.ALLOW)
    return "" if verdict.action >= counted else f"fired, and the verdict is {verdict.action.label}, not {counted.label}"


async def _every_rule(setting: Setting, channel: Channel, canary: Canary) -> str:
    """Nothing where every rule of a filter of many fires on its own text; else the first that does not."""
    for n, (rule, text) in enumerate(canary.others):
        found, failed = opinion(setting, View(channel, text, canary.turn))
        if failed or not any(f.rule == rule for f in found):
            return f"its rule {rule!r} did not fire"
        if n % 16 == 15:  # thousands of rules must not keep requests waiting
            await asyncio.sleep(0)
    return ""


async def _released(
    guard: Guard, setting: Setting, channel: Channel, canary: Canary, mode: Mode, plain: bool, pool: "Pool | None"
) -> str:
    release = Release(guard, canary.turn, pool=pool, strict=plain)
    size = len(canary.text) if plain else PIECE
    out: list[Delta] = []
    for at in range(0, len(canary.text), size):
        if release.feed(_delta(channel, canary.text[at : at + size])):
            out += await release.scan()
    out += await release.end()
    if why := _fired(setting, release.verdict):
        return why
    found = [f for f in release.verdict.findings if f.filter == setting.name and not f.shadow]
    text = "".join(d.text for d in out if d.channel is channel)
    if setting.shadow or (mode == "observe" and not plain):
        return "" if release.stopped is None else "stopped the answer, and should only have written it down"
    return _held(found, release.stopped, text, canary.text)


def _held(found: Sequence[Finding], stopped: Action | None, released: str, planted: str) -> str:
    """Whether what was found stayed inside: the answer stopped, or the place redacted."""
    action = max((f.action or Action.ALLOW for f in found), default=Action.ALLOW)
    if action > Action.REDACT and (stopped is None or stopped < action):
        return f"fired, and the answer was not stopped ({action.label})"
    spans = [planted[f.start : f.end] for f in found if f.action is not Action.ALLOW and f.end > f.start]
    return "fired, and what it found was released" if any(s and s in released for s in spans) else ""


async def _failed_as_told(guard: Guard, setting: Setting, channel: Channel, canary: Canary, pool: "Pool | None") -> str:
    """The filter made to fail, through the input path or a release."""
    broken = replace(setting, filter=_Broken(setting.filter.name, setting.filter))
    alone = _alone(guard, broken, channel, "window")
    if channel is Channel.INPUT:
        verdict, stopped = await alone.judge(View(channel, canary.text, canary.turn), pool=pool), None
    else:
        release = Release(alone, canary.turn, pool=pool)
        if release.feed(_delta(channel, canary.text)):
            await release.scan()
        await release.end()
        verdict, stopped = release.verdict, release.stopped
    wanted = Action.ALLOW if setting.shadow else setting.on_error
    if setting.name not in verdict.errors:
        return "failed, and nobody noticed"
    if verdict.action is not wanted or (channel in OUTPUT and (stopped or Action.ALLOW) is not wanted):
        return f"failed, and did not count as on_error = {setting.on_error.label}"
    return ""


def _among(guard: Guard, setting: Setting) -> Guard:
    """The guard in use with its own tables, every other filter in shadow: one that blocks would spare this one its call."""
    made = copy.copy(guard)
    made.of = {c: tuple(s if s.name == setting.name else replace(s, shadow=True) for s in of) for c, of in guard.of.items()}
    return made


def _alone(guard: Guard, setting: Setting, channel: Channel, mode: Mode) -> Guard:
    """A guard like the given one with this filter only, so that no other one stops the answer before this one has read it."""
    channels = {**guard.policy.channels, channel: replace(guard.policy.channels[channel], policy="filter", mode=mode)}
    return type(guard)(replace(guard.policy, filters=(replace(setting, channels=(channel,)),), channels=channels))


def _delta(channel: Channel, text: str) -> Delta:
    if channel is Channel.TOOL_ARGS:
        return Delta(0, channel, text, call=0, name="canary", call_id="canary")
    return Delta(0, channel, text)


class Rehearsal(RuntimeError):
    """What a filter raises when the self-test makes it fail."""


@dataclass(slots=True)
class _Broken:
    """A filter that fails whenever it is called, as often as the real one would be."""

    name: str
    of: Filter

    @property
    def pace(self) -> Pace:
        return self.of.pace

    @property
    def reach(self) -> int:
        return self.of.reach

    @property
    def heavy(self) -> bool:
        return self.of.heavy

    @property
    def default_channels(self) -> tuple[Channel, ...]:
        return self.of.default_channels

    @property
    def default_action(self) -> Action:
        return self.of.default_action

    def __call__(self, view: View, /) -> NoReturn:
        raise Rehearsal

    def canary(self, channel: Channel, /) -> Canary:
        return self.of.canary(channel)


def _real(record: logging.LogRecord) -> bool:
    return not (isinstance(record.args, tuple) and Rehearsal.__name__ in record.args)


# the guard tells of every failed filter as critical; those of the self-test are no news
logging.getLogger("temper.serve.guard").addFilter(_real)
