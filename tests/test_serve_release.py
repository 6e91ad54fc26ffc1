"""What comes out of a release, and when: modes, treatments, redactions, stops, the clock, broken filters."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from bounded import WAIT_S, allowed

from temper.serve.guard import Guard
from temper.serve.policy import ChannelPolicy, Limits, Policy, Setting
from temper.serve.pool import Pool
from temper.serve.release import MOST_FINDINGS, SCAN_S, Answer, Call, Delta, Release
from temper.serve.verdict import EMPTY, OUTPUT, Action, Canary, Channel, Finding, Pace, Turn, View, canary_turn

C, R, T = Channel.CONTENT, Channel.REASONING, Channel.TOOL_ARGS


@dataclass(frozen=True, slots=True)
class Words:
    """Finds words, as they are written; or does whatever `judge` does."""

    words: tuple[str, ...] = ("secret",)
    name: str = "words"
    pace: Pace = "window"
    reach: int = 12
    heavy: bool = False
    replacement: str = "[removed]"
    judge: Callable[[View], Sequence[Finding]] | None = None
    default_channels = OUTPUT
    default_action = Action.BLOCK

    def __call__(self, view: View, /) -> Sequence[Finding]:
        if self.judge is not None:
            return self.judge(view)
        found = []
        for word in self.words:
            at = view.text.find(word, max(view.fresh - len(word), 0))
            while at >= 0:
                found.append(Finding("words", word, start=at, end=at + len(word), replacement=self.replacement))
                at = view.text.find(word, at + 1)
        return found

    def canary(self, channel: Channel, /) -> Canary:
        return Canary(self.words[0], canary_turn())


def setting(
    action: Action = Action.BLOCK, *, channels: tuple[Channel, ...] = OUTPUT, shadow: bool = False, **words: Any
) -> Setting:
    on_error = words.pop("on_error", Action.BLOCK)
    made = Words(**words)
    return Setting(made.name, "words", made, channels, action, on_error=on_error, reason="a test", shadow=shadow)


def guard(*settings: Setting, limits: Limits | None = None, **channels: dict[str, str]) -> Guard:
    policies = {c: ChannelPolicy(**channels.get(str(c), {})) for c in Channel}  # type: ignore[arg-type]
    return Guard(Policy(name="t", version="t", filters=settings, channels=policies, limits=limits or Limits()))


async def run(release: Release, *deltas: Delta, end: bool = True) -> list[Delta]:
    out: list[Delta] = []
    for delta in deltas:
        if release.feed(delta):
            out += await release.scan()
    return out + (await release.end() if end else [])


def pieces(channel: Channel, text: str, size: int = 7, choice: int = 0) -> list[Delta]:
    return [Delta(choice, channel, text[i : i + size]) for i in range(0, len(text), size)]


def texts(out: Sequence[Delta], channel: Channel = C, choice: int = 0) -> str:
    return "".join(d.text for d in out if d.channel is channel and d.choice == choice)


def go(release: Release, *deltas: Delta, end: bool = True) -> list[Delta]:
    return asyncio.run(run(release, *deltas, end=end))


LONG = "The river runs to the sea, and the sea is never full. " * 10


def test_a_window_releases_before_the_end_and_everything_after_it() -> None:
    release = Release(guard(setting()), EMPTY, thinks=False)
    early = go(release, *pieces(C, LONG), end=False)
    assert len(LONG) - 250 < len(texts(early)) <= len(LONG) - 64
    assert texts(early) + texts(asyncio.run(release.end())) == LONG
    assert release.released == release.scanned == len(LONG)


def test_strict_releases_nothing_before_the_end() -> None:
    strict = guard(setting(), content={"mode": "strict"})
    for release in (Release(strict, EMPTY, thinks=False), Release(guard(setting()), EMPTY, thinks=False, strict=True)):
        assert go(release, *pieces(C, LONG), end=False) == []
        assert texts(asyncio.run(release.end())) == LONG


def test_observe_releases_at_once_and_only_writes_down() -> None:
    release = Release(guard(setting(), content={"mode": "observe"}), EMPTY, thinks=False)
    early = go(release, *pieces(C, f"{LONG} secret {LONG}"), end=False)
    assert texts(early) == f"{LONG} secret {LONG}".rstrip()
    asyncio.run(release.end())
    assert release.stopped is None and release.verdict.action is Action.ALLOW
    assert [f.rule for f in release.verdict.findings if f.shadow] == ["secret"]


def test_what_ends_a_thought_is_released_when_content_begins() -> None:
    release = Release(guard(setting()), EMPTY)
    early = go(release, *pieces(R, "A short thought."), *pieces(C, "And so it is. " * 12), end=False)
    assert texts(early, R) == "A short thought."
    assert 0 < len(texts(early)) < 120


def test_a_stop_ends_every_channel_and_every_choice() -> None:
    release = Release(guard(setting()), EMPTY, thinks=False)
    before = go(release, *pieces(C, LONG, choice=1), *pieces(R, LONG), end=False)
    assert before
    assert go(release, *pieces(C, "a secret " + LONG), *pieces(C, LONG, choice=1), *pieces(R, LONG)) == []
    assert release.stopped is Action.BLOCK and release.verdict.action is Action.BLOCK
    assert release.feed(Delta(2, C, LONG)) is False and asyncio.run(release.scan()) == []


def test_what_the_model_wrote_is_kept_whatever_was_released() -> None:
    release = Release(guard(setting(Action.REVIEW)), EMPTY, thinks=True)
    call = [Delta(1, T, '{"a":', 0, "find", "c1"), Delta(1, T, " 1}", 0)]
    go(release, *pieces(C, "secret thought</think>\nsaid"), *call, *pieces(C, "<i>", choice=1))
    assert release.stopped is Action.REVIEW
    assert release.answers() == [Answer("secret thought", "said"), Answer("<i>", "", [Call("find", "c1", '{"a": 1}')])]


def test_nothing_can_be_rewritten_once_something_was_released() -> None:
    rewriting = guard(setting(Action.REWRITE))
    early, late = Release(rewriting, EMPTY, thinks=False), Release(rewriting, EMPTY, thinks=False)
    go(early, *pieces(C, "a secret " + LONG))
    go(late, *pieces(C, LONG + "a secret " + LONG))
    assert (early.stopped, late.stopped) == (Action.REWRITE, Action.BLOCK)


@pytest.mark.parametrize("size", [1, 5, 64, 1000])
def test_a_redaction_is_whole_wherever_the_text_is_cut(size: int) -> None:
    release = Release(guard(setting(Action.REDACT, replacement="[gone]")), EMPTY, thinks=False)
    out = go(release, *pieces(C, f"{LONG}the secret of {LONG}secret", size))
    assert texts(out) == f"{LONG}the [gone] of {LONG}[gone]"
    assert release.stopped is None and release.verdict.action is Action.REDACT


def test_redacted_text_does_not_come_back_in_another_channel() -> None:
    only_reasoning = guard(setting(Action.REDACT, channels=(R,), words=("anna@example.org",), reach=16))
    release = Release(only_reasoning, EMPTY)
    call = Delta(0, T, '{"to": "anna@\\u0065xample.org"}', 0, "mail", "c1")
    out = go(
        release, *pieces(R, "I write to anna@example.org. "), *pieces(C, f"{LONG} To Ａnna@example.org, of course. {LONG}"), call
    )
    assert texts(out) == f"{LONG} To [removed], of course. {LONG}"
    assert texts(out, T) == '{"to": "[removed]"}'


def test_a_replacement_in_arguments_stays_json() -> None:
    release = Release(guard(setting(Action.REDACT, replacement='"\\')), EMPTY)
    assert texts(go(release, Delta(0, T, '{"q": "secret"}', 0, "f", "c")), T) == '{"q": "\\"\\\\"}'


def test_a_tool_is_named_with_its_first_arguments_and_a_call_without_arguments_at_the_end() -> None:
    release = Release(guard(setting()), EMPTY)
    begin = [Delta(0, T, "", 0, "search", "c0"), Delta(0, T, '{"q": "', 0), Delta(0, T, "", 1, "stop", "bad id!")]
    assert go(release, *begin, end=False) == []
    out = go(release, *[Delta(0, T, "river ", 0) for _ in range(60)], Delta(0, T, '"}', 0))
    first, *rest = [d for d in out if d.call == 0]
    assert (first.name, first.call_id) == ("search", "c0") and first.text.startswith('{"q": "river')
    assert all((d.name, d.call_id) == ("", "") for d in rest)
    assert [d for d in out if d.call == 1] == [Delta(0, T, "", 1, "stop", "call_0_1")]


@pytest.mark.parametrize("action", [Action.BLOCK, Action.REDACT])
def test_a_banned_name_of_a_tool_stops_the_answer(action: Action) -> None:
    release = Release(guard(setting(action)), EMPTY)
    assert go(release, Delta(0, T, "{}", 0, "tell_secret", "c")) == []
    assert release.stopped is Action.BLOCK


def test_hidden_reasoning_is_read_and_never_released() -> None:
    hiding = guard(setting(), reasoning={"policy": "hide"})
    clean, bad = Release(hiding, EMPTY), Release(hiding, EMPTY)
    out = go(clean, *pieces(R, LONG), *pieces(C, "Yes."))
    assert (texts(out, R), texts(out)) == ("", "Yes.")
    assert go(bad, *pieces(R, LONG + "secret" + LONG), *pieces(C, "Yes.")) == []
    assert bad.stopped is Action.BLOCK


def test_a_thought_without_an_opener_never_comes_out_as_content_where_thoughts_are_hidden() -> None:
    hiding = guard(setting(), reasoning={"policy": "hide"})
    out = go(Release(hiding, EMPTY), *pieces(C, f"{LONG}</think>\n\nYes."))
    assert out == [Delta(0, C, "Yes.")]
    assert texts(go(Release(hiding, EMPTY), *pieces(C, LONG))) == LONG


def test_a_summary_takes_the_place_of_a_thought_before_the_answer_comes() -> None:
    release = Release(guard(setting(), reasoning={"policy": "summarise"}), EMPTY)
    out = go(release, *pieces(R, "One two three."), *pieces(C, LONG))
    assert out[0] == Delta(0, R, "The model thought about this in 3 words, which are not shown.")
    assert texts(out) == LONG and len([d for d in out if d.channel is R]) == 1


def test_a_dropped_channel_is_only_read_for_the_record() -> None:
    release = Release(guard(setting(), reasoning={"policy": "drop"}), EMPTY)
    out = go(release, *pieces(R, "A secret."), *pieces(C, LONG))
    assert release.stopped is None and (texts(out, R), texts(out)) == ("", LONG)
    assert [(f.rule, f.shadow) for f in release.verdict.findings] == [("secret", True)]


def test_a_filter_in_shadow_is_written_down_once_and_changes_nothing() -> None:
    release = Release(guard(setting(shadow=True)), EMPTY, thinks=False)
    assert texts(go(release, *pieces(C, f"{LONG}secret {LONG}"))) == f"{LONG}secret {LONG}"
    assert [(f.rule, f.shadow, f.start) for f in release.verdict.findings] == [("secret", True, len(LONG))]


def test_a_finding_at_the_end_of_what_there_is_waits_for_what_follows() -> None:
    def whole_word(view: View) -> Sequence[Finding]:
        at = view.text.find("secret", max(view.fresh - 6, 0))
        after = view.text[at + 6 : at + 7]
        return () if at < 0 or after.isalpha() else (Finding("words", "word", start=at, end=at + 6),)

    for rest, stopped in (("ary " + LONG, None), (" " + LONG, Action.BLOCK), ("", Action.BLOCK)):
        release = Release(guard(setting(judge=whole_word)), EMPTY, thinks=False)
        head = "x" * 130 + " secret"
        release.feed(Delta(0, C, head))
        assert "secret" not in texts(asyncio.run(release.scan()))
        go(release, *([Delta(0, C, rest)] if rest else []))
        assert release.stopped is stopped


def test_the_clock_asks_for_a_scan_of_little_text() -> None:
    now = [10.0]
    release = Release(guard(setting()), EMPTY, thinks=False, clock=lambda: now[0])
    assert release.feed(Delta(0, C, "Hello")) is False and release.due == 10.0 + SCAN_S
    now[0] += SCAN_S
    assert release.feed(Delta(0, C, " you")) is True
    asyncio.run(release.scan())
    assert release.due is None and release.scanned == 9
    assert release.feed(Delta(0, C, "x" * 128)) is True


def test_an_end_without_text_gives_nothing_and_is_judged_by_filters_of_whole_answers() -> None:
    assert go(Release(guard(setting()), EMPTY)) == []
    release = Release(guard(setting(pace="final", judge=lambda v: () if v.text else (Finding("words", "empty"),))), EMPTY)
    assert go(release, Delta(0, C, "")) == [] and release.stopped is Action.BLOCK


def test_a_filter_of_whole_answers_makes_its_channel_strict_unless_it_does_not_apply() -> None:
    @dataclass(frozen=True, slots=True)
    class Whole(Words):
        pace: Pace = "final"

        def applies(self, turn: Turn) -> bool:
            return bool(turn.schema)

    whole = guard(Setting("whole", "whole", Whole(), (C,), Action.BLOCK))
    asked = Turn("t", EMPTY.example, schema={"type": "object"})
    assert go(Release(whole, asked, thinks=False), *pieces(C, LONG), end=False) == []
    assert texts(go(Release(whole, EMPTY, thinks=False), *pieces(C, LONG), end=False))
    release = Release(whole, asked, thinks=False)
    assert go(release, *pieces(C, LONG + "secret")) == [] and release.stopped is Action.BLOCK


def test_nothing_is_released_beyond_the_last_sentence_that_was_judged() -> None:
    seen: list[tuple[int, str]] = []

    def judge(view: View) -> Sequence[Finding]:
        seen.append((view.fresh, view.text[view.fresh :]))
        return [Finding("words", "s", start=view.fresh, end=len(view.text) - 1)] if "secret" in view.text[view.fresh :] else ()

    release = Release(guard(setting(pace="sentence", judge=judge, reach=0)), EMPTY, thinks=False)
    first = "A sentence that is done. " * 4
    out = go(release, *pieces(C, first + "a long one without an end " * 8), end=False)
    assert texts(out) == first.rstrip() + " " and seen[0][0] == 0
    assert all(a[0] + len(a[1]) <= b[0] + len(b[1]) for a, b in pairwise(seen))
    assert go(release, *pieces(C, "and a secret. More follows here. " * 4)) == []
    assert release.stopped is Action.BLOCK


@pytest.mark.parametrize("on_error", [Action.BLOCK, Action.REVIEW, Action.ALLOW])
def test_a_filter_that_breaks_in_mid_stream_counts_as_its_on_error(on_error: Action) -> None:
    def breaks(view: View) -> Sequence[Finding]:
        if "planted" in view.text:
            raise ValueError("do not tell: " + view.text)
        return ()

    release = Release(guard(setting(judge=breaks, on_error=on_error)), EMPTY, thinks=False)
    out = go(release, *pieces(C, f"{LONG}planted{LONG}"))
    assert release.verdict.errors == ("words",)
    if on_error is Action.ALLOW:
        assert release.stopped is None and texts(out) == f"{LONG}planted{LONG}"
    else:
        assert release.stopped is on_error and "planted" not in texts(out)
    assert all("do not tell" not in f.why for f in release.verdict.findings)


def test_a_heavy_filter_that_overruns_its_deadline_counts_as_an_error() -> None:
    async def answer() -> tuple[Release, list[Delta]]:
        gate = threading.Event()
        pool = Pool(threads=1, deadline_s=0.05)
        slow = setting(judge=lambda v: gate.wait(WAIT_S) and (), heavy=True, name="slow")
        release = Release(guard(slow), EMPTY, thinks=False, pool=pool)
        out = await run(release, *pieces(C, LONG))
        gate.set()
        await pool.close()
        return release, out

    release, out = asyncio.run(answer())
    assert (out, release.stopped, release.verdict.errors) == ([], Action.BLOCK, ("slow",))


def test_text_that_arrives_during_a_scan_is_not_released_unread() -> None:
    async def answer() -> list[Delta]:
        pool = Pool(threads=1)
        release = Release(guard(setting(heavy=True)), EMPTY, thinks=False, pool=pool)
        release.feed(Delta(0, C, LONG))
        scan = asyncio.create_task(release.scan())
        await asyncio.sleep(0)
        release.feed(Delta(0, C, "secret " + LONG))
        out = await scan
        out += await release.end()
        await pool.close()
        assert release.stopped is Action.BLOCK
        return out

    assert LONG.startswith(texts(asyncio.run(answer())))


def test_too_much_that_can_neither_be_released_nor_refused_is_blocked() -> None:
    small = Limits(pending_chars=1000)
    spaces = Release(guard(setting(), limits=small), EMPTY, thinks=False)
    assert go(spaces, *pieces(C, "a" + " " * 3000, 50)) == [] and spaces.stopped is Action.BLOCK
    fence = Release(guard(setting(), limits=small), EMPTY, thinks=False)
    go(fence, *pieces(C, "```\n<think>" + LONG * 4, 50), end=False)
    assert fence.stopped is Action.BLOCK
    strict = Release(guard(setting(), limits=small), EMPTY, thinks=False, strict=True)
    assert texts(go(strict, *pieces(C, LONG * 4, 50))) == LONG * 4
    endless = Release(guard(setting(), limits=small), EMPTY, thinks=False, strict=True)
    assert go(endless, *pieces(C, LONG * 40, 50)) == [] and endless.stopped is Action.BLOCK


def test_what_waits_is_not_read_again_at_every_tick() -> None:
    """60,000 characters of nothing: each scan has to read all of them, so there must be few."""
    release = Release(guard(setting()), EMPTY, thinks=False, clock=lambda: 0.0)
    assert sum(release.feed(d) and asyncio.run(release.scan()) is not None for d in pieces(C, "\u200b" * 60_000, 100)) < 150
    timed = Release(guard(setting()), EMPTY, thinks=False, clock=iter(range(10_000)).__next__)
    go(timed, Delta(0, C, "\u200b" * 50_000), end=False)
    assert not timed.feed(Delta(0, C, "a" * 200)) and timed.feed(Delta(0, C, "a"))  # the clock goes on all the same


def test_an_answer_of_too_many_findings_is_blocked() -> None:
    release = Release(guard(setting(action=Action.REDACT)), EMPTY, thinks=False)
    go(release, Delta(0, C, "secret, " * (MOST_FINDINGS + 10)))
    assert release.stopped is Action.BLOCK and len(release.verdict.findings) <= MOST_FINDINGS + 1


def test_characters_are_never_cut() -> None:
    release = Release(guard(setting()), EMPTY, thinks=False)
    text = "e\u0301" * 400 + "\U0001f600" * 200
    units = text.encode("utf-16-be")
    out = go(release, *[Delta(0, C, units[i : i + 2].decode("utf-16-be", "surrogatepass")) for i in range(0, len(units), 2)])
    assert texts(out) == text
    assert all(not d.text.startswith("\u0301") and d.text.encode() for d in out)
    assert texts(go(Release(guard(setting()), EMPTY, thinks=False), Delta(0, C, "a\ud83d"))) == "a\ufffd"


def test_a_long_answer_takes_linear_time() -> None:
    """200,000 characters in 12,500 events: about 0.1 s of this thread's time, and quadratic work would take minutes."""
    begun = time.thread_time()
    release = Release(guard(setting()), EMPTY, thinks=False)
    assert len(texts(go(release, *pieces(C, LONG * 375, 16)))) == len(LONG) * 375
    assert time.thread_time() - begun < allowed(5)
