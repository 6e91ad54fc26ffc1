"""A policy at work on text: every filter of a channel, its findings summed up. One object serves gateway, proof and audits.

A guard is a pure function of a view and the policy. A filter that raises is an error on record and counts as its `on_error`,
by default a block: text that nobody could read is not released.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from temper.serve.policy import Policy, Setting
from temper.serve.verdict import Action, Channel, Finding, Pace, Verdict, View

log = logging.getLogger(__name__)
ALL: frozenset[Pace] = frozenset({"window", "sentence", "final"})


class Guard:
    """The filters of a policy, sorted by channel."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.of = {c: tuple(s for s in policy.filters if c in s.channels) for c in Channel}

    def reach(self, channel: Channel) -> int:
        """Folded characters that must be held back on a channel: the longest match of any filter that counts there."""
        return max((s.filter.reach for s in self.of[channel] if not s.shadow), default=0)

    def scan(self, view: View, paces: Iterable[Pace] = ALL) -> Verdict:
        """Every filter of the view's channel whose pace is wanted, in this thread."""
        return summed(opinion(s, view) for s in self.of[view.channel] if s.filter.pace in paces)


def opinion(setting: Setting, view: View) -> tuple[Sequence[Finding], str]:
    """One filter's findings with their actions filled in, and its name if it failed."""
    try:
        found = setting.filter(view)
    except Exception as error:  # noqa: BLE001  a filter is anybody's code, and whatever it raises must not let text pass
        log.critical("filter %s failed on %s: %s", setting.name, view.channel, type(error).__name__)
        why = f"the filter failed ({type(error).__name__}); on_error = {setting.on_error.label}"
        failed = Finding(setting.name, "error", "error", setting.on_error, why=why, shadow=setting.shadow)
        return (failed,), setting.name
    return tuple(
        replace(
            f,
            filter=setting.name,
            action=setting.action if f.action is None else f.action,
            shadow=f.shadow or setting.shadow,
        )
        for f in found
    ), ""


def summed(opinions: Iterable[tuple[Sequence[Finding], str]]) -> Verdict:
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
    return Verdict(action, tuple(findings), tuple(errors))


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
            pieces += [text[at:start], f.replacement or "[removed]"]
        at = end
    return "".join([*pieces, text[at:]])
