"""A guard sums up what filters say; what breaks, overruns or finds no place counts as the policy says, and never as a pass."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from bounded import WAIT_S

from temper.serve.guard import AT_ONCE, Guard, redacted
from temper.serve.policy import ChannelPolicy, Policy, Setting
from temper.serve.pool import Pool
from temper.serve.verdict import EMPTY, Action, Canary, Channel, Finding, Pace, Turn, Verdict, View, canary_turn


@dataclass(frozen=True, slots=True)
class Says:
    """A filter that says what it is told to."""

    judge: Callable[[View], Sequence[Finding]]
    name: str = "says"
    pace: Pace = "window"
    reach: int = 8
    heavy: bool = False
    default_channels = (Channel.CONTENT,)
    default_action = Action.BLOCK

    def __call__(self, view: View, /) -> Sequence[Finding]:
        return self.judge(view)

    def canary(self, channel: Channel, /) -> Canary:
        return Canary("says", canary_turn())


def says(
    *findings: Finding, name: str = "says", action: Action = Action.BLOCK, shadow: bool = False, **fields: object
) -> Setting:
    made = Says(lambda view: findings, name=name, **fields)  # type: ignore[arg-type]
    return Setting(name, "says", made, (Channel.CONTENT,), action, shadow=shadow)


def does(judge: Callable[[View], Sequence[Finding]], *, heavy: bool = False, on_error: Action = Action.BLOCK) -> Setting:
    return Setting("does", "says", Says(judge, heavy=heavy), (Channel.CONTENT,), Action.BLOCK, on_error=on_error, reason="a test")


def guard(*settings: Setting, timed: Callable[[str, float], None] | None = None) -> Guard:
    policy = Policy(name="t", version="t", filters=settings, channels={c: ChannelPolicy() for c in Channel})
    return Guard(policy, timed=timed)


VIEW = View(Channel.CONTENT, "some text", EMPTY)
HIT = Finding("other name", "r", start=0, end=4)


def judged(judging: Guard, pool: Pool | None = None) -> Verdict:
    async def go() -> Verdict:
        verdict = await judging.judge(VIEW, pool=pool)
        if pool is not None:
            await pool.close()
        return verdict

    return asyncio.run(go())


def test_the_strictest_action_counts_and_shadows_are_only_told() -> None:
    shadow = says(HIT, name="b", action=Action.REVIEW, shadow=True)
    verdict = guard(says(HIT, name="a", action=Action.REDACT), shadow).scan(VIEW)
    assert verdict.action is Action.REDACT and verdict.scanned == len(VIEW.text)
    assert [(f.filter, f.action, f.shadow) for f in verdict.findings] == [("a", Action.REDACT, False), ("b", Action.REVIEW, True)]
    assert verdict.deciding == verdict.findings[0]


def test_a_finding_may_name_its_own_action() -> None:
    assert guard(says(Finding("x", action=Action.REVIEW))).scan(VIEW).action is Action.REVIEW


def test_judging_says_the_same_as_scanning() -> None:
    judging = guard(says(HIT, name="a", action=Action.REDACT), says(HIT, name="b", action=Action.REVIEW, heavy=True))
    assert judged(judging) == judging.scan(VIEW) == judged(judging, Pool())


def test_only_filters_of_the_channel_and_the_wanted_pace_are_asked() -> None:
    judging = guard(says(HIT, pace="final"))
    assert judging.scan(VIEW, {"window"}).findings == ()
    assert judging.scan(View(Channel.REASONING, "some text", EMPTY)).findings == ()


def test_reach_leaves_out_shadows() -> None:
    assert guard(says(reach=5, name="a"), says(reach=90, name="b", shadow=True)).reach(Channel.CONTENT) == 5


def test_a_filter_that_does_not_apply_to_a_turn_is_not_asked() -> None:
    class Sometimes(Says):
        def applies(self, turn: Turn) -> bool:
            return turn.schema is not None

    some = guard(Setting("s", "says", Sometimes(lambda v: (HIT,)), (Channel.CONTENT,), Action.BLOCK))
    asked = View(Channel.CONTENT, "some text", Turn("t", EMPTY.example, schema={}))
    assert [some.scan(v).action for v in (VIEW, asked)] == [Action.ALLOW, Action.BLOCK]
    assert judged(some).action is Action.ALLOW


def raising(view: View) -> Sequence[Finding]:
    raise ValueError(view.text)


def late(view: View) -> Sequence[Finding]:
    return (Finding("x") for _ in [1, 1 // 0])  # type: ignore[return-value]


@pytest.mark.parametrize("judge", [raising, late])
@pytest.mark.parametrize("heavy", [True, False])
@pytest.mark.parametrize("on_error", [Action.BLOCK, Action.REVIEW, Action.ALLOW])
def test_a_filter_that_raises_counts_as_its_on_error(
    judge: Callable[[View], Sequence[Finding]], heavy: bool, on_error: Action, caplog: pytest.LogCaptureFixture
) -> None:
    verdict = judged(guard(does(judge, heavy=heavy, on_error=on_error)), Pool())
    assert (verdict.action, verdict.errors) == (on_error, ("does",))
    assert VIEW.text not in verdict.findings[0].why + caplog.text and caplog.records


def test_a_filter_in_shadow_that_raises_stops_nothing() -> None:
    setting = Setting("s", "says", Says(raising), (Channel.CONTENT,), Action.BLOCK, shadow=True)
    verdict = guard(setting).scan(VIEW)
    assert (verdict.action, verdict.errors) == (Action.ALLOW, ("s",))


def test_heavy_filters_run_off_the_loop_all_at_once_and_not_where_a_light_one_blocks() -> None:
    threads: list[str] = []
    meeting = threading.Barrier(2, timeout=WAIT_S)

    def meet(view: View) -> Sequence[Finding]:
        threads.append(threading.current_thread().name)
        meeting.wait()
        return ()

    assert judged(guard(does(meet, heavy=True), does(meet, heavy=True)), Pool(threads=2)).action is Action.ALLOW
    assert len(threads) == 2 and all(name.startswith("filter") for name in threads)
    assert judged(guard(says(HIT), does(meet, heavy=True)), Pool()).action is Action.BLOCK and len(threads) == 2


def test_a_pool_answers_in_time_and_counts_what_overran_or_found_no_place() -> None:
    async def go() -> list[tuple[Action, tuple[str, ...]]]:
        gate = threading.Event()
        pool = Pool(threads=1, waiting=1, deadline_s=0.1)
        judging = guard(does(lambda v: gate.wait(WAIT_S) and (), heavy=True))
        verdicts = await asyncio.gather(*(judging.judge(VIEW, pool=pool) for _ in range(3)))
        busy = pool.under_way
        gate.set()
        await pool.close()
        assert (busy, pool.under_way) == (1, 0)
        return [(v.action, v.errors, v.findings[0].why) for v in verdicts]

    told = asyncio.run(go())
    assert [t[:2] for t in told] == [(Action.BLOCK, ("does",))] * 3
    assert sorted(t[2].split("(")[1][:9] for t in told) == ["2 calls a", "no answer", "no answer"]


def test_a_pool_closes_though_a_filter_never_returns(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    async def go() -> None:
        pool = Pool(threads=1, waiting=1, deadline_s=0.1)
        judging = guard(does(lambda v: gate.wait(WAIT_S) and (), heavy=True))
        await asyncio.gather(*(judging.judge(VIEW, pool=pool) for _ in range(2)))
        await asyncio.wait_for(pool.close(), WAIT_S / 2)
        assert pool.under_way == 1, "the one in the queue was dropped"

    asyncio.run(go())
    gate.set()
    assert "1 filters have not returned" in caplog.text


def test_each_filter_is_timed() -> None:
    times: list[tuple[str, float]] = []
    judging = guard(says(name="a"), says(name="b", heavy=True), timed=lambda name, s: times.append((name, s)))
    judged(judging, Pool())
    judging.scan(VIEW)
    assert sorted(name for name, _ in times) == ["a", "a", "b", "b"] and all(0 <= s < 5 for _, s in times)


def test_redactions_merge_where_they_overlap() -> None:
    cut = [
        Finding("x", action=Action.REDACT, start=s, end=e, replacement=r) for s, e, r in ((0, 4, "A"), (2, 6, "B"), (8, 9, ""))
    ]
    assert redacted("0123456789", [*cut, Finding("x", action=Action.BLOCK, start=6, end=7)]) == "A679"
    assert redacted("0123456789", [Finding("x", action=Action.REDACT, replacement="all")]) == "all"


def test_long_texts_are_read_in_the_pool_by_every_filter() -> None:
    threads: list[str] = []

    def told(view: View) -> Sequence[Finding]:
        threads.append(threading.current_thread().name)
        return ()

    async def go(text: str) -> None:
        pool = Pool()
        await guard(does(told)).judge(View(Channel.CONTENT, text, EMPTY), pool=pool)
        await pool.close()

    asyncio.run(go("short"))
    asyncio.run(go("long " * AT_ONCE))
    assert not threads[0].startswith("filter") and threads[1].startswith("filter")


def test_what_a_library_in_rust_raises_is_a_failure_like_any_other() -> None:
    class PanicException(BaseException):
        pass

    def panics(view: View) -> Sequence[Finding]:
        raise PanicException

    verdict = judged(guard(does(panics)))
    assert verdict.errors == ("does",) and verdict.action is Action.BLOCK
