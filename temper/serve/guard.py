"""A policy at work on text: every filter of a channel, its findings summed up. One object serves gateway, proof and audits.

A guard is a pure function of a view and the policy. A filter that raises is an error on record and counts as its `on_error`,
by default a block: text that nobody could read is not released.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from temper.serve.policy import Policy, Setting
from temper.serve.verdict import Action, Channel, Finding, Pace, Turn, Verdict, View

if TYPE_CHECKING:
    from temper.serve.pool import Pool

log = logging.getLogger(__name__)
_PANIC = "PanicException"
"""What libraries in Rust raise when they break; it is no `Exception`."""
ALL: frozenset[Pace] = frozenset({"window", "sentence", "final"})
AT_ONCE = 8192
"""New characters that light filters read in the thread of the requests: some 10 ms where every one of them is hostile."""


class Guard:
    """The filters of a policy, sorted by channel. `timed` is told the name of each filter that ran here and its seconds."""

    def __init__(self, policy: Policy, *, timed: Callable[[str, float], None] | None = None) -> None:
        self.policy = policy
        self.timed = timed
        self.of = {c: tuple(s for s in policy.filters if c in s.channels) for c in Channel}

    def reach(self, channel: Channel) -> int:
        """Folded characters that must be held back on a channel: the longest match of any filter that counts there."""
        return max((s.filter.reach for s in self.of[channel] if not s.shadow), default=0)

    def scan(self, view: View, paces: Iterable[Pace] = ALL) -> Verdict:
        """Every filter of the view's channel whose pace is wanted, in this thread."""
        found = [self._opinion(s, view) for s in self.of[view.channel] if s.filter.pace in paces and applies(s, view.turn)]
        return summed(found, scanned=len(view.text))

    async def judge(self, view: View, paces: Iterable[Pace] = ALL, pool: "Pool | None" = None) -> Verdict:
        """As `scan`, with the heavy filters in the pool, all at once; they are not asked where a light one already blocks.
        Of a long text every filter reads in the pool: no request keeps the others waiting."""
        wanted = [s for s in self.of[view.channel] if s.filter.pace in paces and applies(s, view.turn)]
        heavy = [s for s in wanted if s.filter.heavy] if pool is not None else []
        light = [s for s in wanted if not heavy or not s.filter.heavy]
        if pool is not None and len(view.text) - view.fresh > AT_ONCE:
            read = await asyncio.gather(*(self._pooled(pool, s, view) for s in light))
        else:
            read = [self._opinion(s, view) for s in light]
        verdict = summed(read, scanned=len(view.text))
        if not heavy or pool is None or verdict.action is Action.BLOCK:
            return verdict
        return summed([*read, *await asyncio.gather(*(self._pooled(pool, s, view) for s in heavy))], scanned=len(view.text))

    def _opinion(self, setting: Setting, view: View) -> tuple[Sequence[Finding], str]:
        if self.timed is None:
            return opinion(setting, view)
        begun = perf_counter()
        found = opinion(setting, view)
        self.timed(setting.name, perf_counter() - begun)
        return found

    async def _pooled(self, pool: "Pool", setting: Setting, view: View) -> tuple[Sequence[Finding], str]:
        begun = perf_counter()
        found = await pool.call(setting, view)
        if self.timed is not None:
            self.timed(setting.name, perf_counter() - begun)
        return found


def applies(setting: Setting, turn: Turn) -> bool:
    """Whether a filter reads anything of a turn. One that reads only some has a method `applies(turn)`: without it, a filter that
    waits for the end of an answer keeps every answer from being streamed.
    """
    told: Callable[[Turn], bool] | None = getattr(setting.filter, "applies", None)
    return told is None or told(turn)


def opinion(setting: Setting, view: View) -> tuple[Sequence[Finding], str]:
    """One filter's findings with their actions filled in, and its name if it failed."""
    try:
        found = tuple(setting.filter(view))
    except BaseException as error:  # a filter is anybody's code, and whatever it raises must not let text pass
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        log.critical("filter %s failed on %s: %s", setting.name, view.channel, type(error).__name__)
        return failure(setting, type(error).__name__)
    if not found:
        return (), ""
    return tuple(
        replace(
            f,
            filter=setting.name,
            action=setting.action if f.action is None else f.action,
            shadow=f.shadow or setting.shadow,
        )
        for f in found
    ), ""


def failure(setting: Setting, why: str) -> tuple[Sequence[Finding], str]:
    """What a filter that failed counts as: a finding with its `on_error`, and its name."""
    why = f"the filter failed ({why}); on_error = {setting.on_error.label}"
    return (Finding(setting.name, "error", "error", setting.on_error, why=why, shadow=setting.shadow),), setting.name


def summed(opinions: Iterable[tuple[Sequence[Finding], str]], *, scanned: int = 0) -> Verdict:
    """The strictest action of the findings that count."""
    findings: list[Finding] = []
    errors: list[str] = []
    action = Action.ALLOW
    for found, failed in opinions:
        findings += found
        if failed:
            errors.append(failed)
        for f in found:
            if not f.shadow and f.action is not None and f.action > action:
                action = f.action
    return Verdict(action, tuple(findings), tuple(errors), scanned)


def redacted(text: str, findings: Iterable[Finding]) -> str:
    """The text with the place of every redaction taken by its replacement; overlapping places are merged, the first one's
    replacement standing for all.
    """
    spans = sorted((f for f in findings if f.action is Action.REDACT and not f.shadow), key=lambda f: (f.start, -f.end))
    pieces: list[str] = []
    at = 0
    for f in spans:
        start, end = (f.start, f.end) if f.end > f.start else (0, len(text))
        if end <= at:
            continue
        if start >= at:
            pieces += [text[at:start], f.replacement]
        at = end
    return "".join([*pieces, text[at:]])
