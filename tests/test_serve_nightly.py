"""The scheduled audit estimates what should not have passed, for all that passed, and never counts silence as approval."""

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from ops_parts import Word, client, gateway, policy, put, setting
from sqlalchemy import select

from temper.serve import nightly
from temper.serve.nightly import Judged, Sampled
from temper.serve.policy import Sampled as Audit
from temper.serve.tables import audits, counters, journal
from temper.types import Named, Score

QUIET = Audit(filters=(), share=0.5)


def box(content: str, share: float = 0.5) -> dict[str, Any]:
    request = {"messages": [{"role": "user", "content": "hello"}]}
    return {"request": request, "answers": [{"content": content, "reasoning": "", "calls": []}], "share": share}


def item(content: str, weight: float = 1.0) -> Sampled:
    made = box(content)
    return Sampled("chatcmpl_1", "old", weight, made["request"], tuple(made["answers"]))


def judge(grade: Any, better: str = "low") -> Named:
    grade.better = better
    return Named("judge", grade, "x")


def test_answers_that_passed_are_judged_again_and_the_report_says_which_should_not_have(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, policy(setting(Word()), audit=QUIET)) as made:
            bad = put(made, box("this is forbidden"))
            for _ in range(3):
                put(made, box("fine"))
            put(made, box("blocked then"), action="block", purpose="hold")
            for _ in range(4):
                put(made)
            named = await nightly.run(made, until=time.time() + 1)
            row = made.store.now(lambda c: c.execute(select(audits).where(audits.c.id == named)).mappings().one())
            report = json.loads(row["report"])
            assert (row["passed"], row["judged"], row["missed"]) == (8, 4, 1)
            assert 0 < row["low"] < 0.25 < row["high"] < 1
            assert report["filters"] == {"word": 1} and report["categories"] == {"test": 1}
            assert [r["response_id"] for r in report["rows"]] == [bad]
            kept = made.store.now(lambda c: made.vault.get(c, report["rows"][0]["vault_id"]))
            assert kept["answers"][0]["content"] == "this is forbidden"
            assert "forbidden" not in row["report"].replace('"word"', "")
            lines = made.store.now(lambda c: c.execute(select(journal.c.kind)).scalars().all())
            assert "audit.finished" in lines
            again = await nightly.run(made, until=time.time() + 2)
            assert made.store.now(lambda c: c.execute(select(audits.c.passed).where(audits.c.id == again)).scalar_one()) == 0

    asyncio.run(main())


@pytest.mark.parametrize("where", ["content", "reasoning", "calls"])
def test_every_channel_is_read_again(where: str) -> None:
    made = box("")
    made["answers"][0].update({where: [{"name": "f", "arguments": "forbidden"}] if where == "calls" else "forbidden"})
    (found,) = nightly.judge_again(
        nightly.stronger(nightly.Guard(policy(setting(Word()), audit=QUIET))),
        None,
        [Sampled("r", "p", 1, made["request"], tuple(made["answers"]))],
    )
    assert found.missed


@pytest.mark.parametrize(("role", "missed"), [("tool", True), ("user", False)])
def test_what_a_tool_said_is_judged_as_such(role: str, missed: bool) -> None:
    brought = {"role": role, "content": [{"type": "text", "text": "forbidden"}]}
    request = {"messages": [{"role": "user", "content": "look"}, brought]}
    guard = nightly.stronger(nightly.Guard(policy(setting(Word(roles=("tool",))), audit=QUIET)))
    (found,) = nightly.judge_again(guard, None, [Sampled("r", "p", 1, request, ({"content": "fine"},))])
    assert found.missed is missed


def test_a_filter_in_shadow_and_one_that_the_audit_adds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from temper import registry

    monkeypatch.setattr(registry, "find", lambda kind, name: lambda: Word("extra", name="extra"))
    guard = nightly.stronger(nightly.Guard(policy(setting(Word(), shadow=True), audit=Audit(filters=("extra",)))))
    judged = nightly.judge_again(guard, None, [item("a forbidden thing"), item("an extra thing"), item("nothing")])
    assert [j.filters for j in judged] == [("word",), ("extra",), ()]


@pytest.mark.parametrize(
    ("better", "value", "missed"), [("low", 0.9, True), ("low", 0.1, False), ("high", 0.1, True), ("high", 0.9, False)]
)
def test_the_judge_is_read_by_its_good_end(better: str, value: float, missed: bool) -> None:
    made = judge(lambda completions: [Score(value) for _ in completions], better)
    (found,) = nightly.judge_again(nightly.Guard(policy()), made, [item("x")])
    assert found.missed is missed


def test_a_judge_that_abstains_or_breaks_leaves_the_answer_undecided_and_the_interval_wide() -> None:
    silent = judge(lambda completions: [Score(None) if c.answer == "?" else Score(0.0) for c in completions])
    judged = nightly.judge_again(nightly.Guard(policy()), silent, [item("ok")] * 60 + [item("?")] * 40)
    report = nightly.summary(judged, passed=1000)
    assert (report["judged"], report["undecided"], report["missed"]) == (60, 40, 0)
    assert report["rate"]["low"] == 0.0 and report["rate"]["high"] > 0.40

    def broken(completions: Any) -> Any:
        raise ConnectionError("alice@example.org")

    assert [j.missed for j in nightly.judge_again(nightly.Guard(policy()), judge(broken), [item("x")])] == [None]


def test_a_filter_that_fails_in_the_audit_leaves_the_answer_undecided() -> None:
    class Broken(Word):
        def __call__(self, view: Any, /) -> Any:
            raise ValueError("x")

    (found,) = nightly.judge_again(nightly.Guard(policy(setting(Broken()))), None, [item("x")])
    assert found.missed is None and found.errors == ("word",)


def test_weights_undo_a_share_that_changed_between() -> None:
    """100 answers kept at share 1 with 50 missed stand for 100; 10 kept at share 0.01 with none missed stand for 1,000."""
    bad, good = Judged(item("", 1.0), ("word",)), Judged(item("", 1.0))
    rare = Judged(item("", 100.0))
    report = nightly.summary([bad] * 50 + [good] * 50 + [rare] * 10, passed=1100)
    assert report["rate"]["value"] == pytest.approx(50 / 1100)


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    draw, covered = random.Random(7), 0
    for _ in range(200):
        flags = [draw.random() < 0.1 for _ in range(120)]
        rate = nightly.summary([Judged(item(""), ("word",) if f else ()) for f in flags], passed=1200)["rate"]
        covered += rate["low"] <= 0.1 <= rate["high"]
    assert covered >= 180


def test_what_is_kept_is_a_fresh_draw_of_the_policys_share() -> None:
    made = policy(audit=Audit(share=0.2))
    assert 300 < sum(nightly.chosen(made) for _ in range(2000)) < 500
    assert not any(nightly.chosen(policy(audit=Audit(share=0.0))) for _ in range(50))
    assert nightly.box(made, {"a": 1}, [{"content": "x"}])["share"] == 0.2


def test_text_whose_time_ran_out_is_counted_and_not_judged(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, policy(setting(Word()), audit=QUIET)) as made:
            put(made, vault_id="vault_gone")
            await nightly.run(made, until=time.time() + 1)
            (row,) = made.store.now(nightly.reports)
            report = row["report"]
            assert (report["gone"], report["judged"], report["rate"]["value"]) == (1, 0, None)

    asyncio.run(main())


def test_an_admin_starts_an_audit_and_reads_reports(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, policy(audit=QUIET)) as made:
            _, token = await asyncio.to_thread(made.keys.make, "a", ("admin",), by="test")
            async with client(made, nightly.routes(made), token=token) as http:
                named = (await http.post("/v1/audits")).json()["id"]
                (found,) = (await http.get("/v1/audits")).json()["data"]
            assert found["id"] == named and found["report"]["passed"] == 0
            async with client(made, nightly.routes(made)) as http:
                assert (await http.get("/v1/audits")).status_code == 401

    asyncio.run(main())


def test_messages_of_every_shape_are_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = {
        "messages": [{"role": "developer", "content": "s"}, {"role": "tool", "content": "t"}, {"role": "user", "content": parts}]
    }
    assert [(m.role, m.content) for m in nightly.messages_of(request)] == [("system", "s"), ("user", "t"), ("user", "a\nb")]
    assert [m.content for m in nightly.messages_of({"prompt": ["x", "y"]})] == ["x\ny"]


def test_what_only_a_text_tells_is_counted_for_the_hour_of_the_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, policy(setting(Word()), audit=QUIET)) as made:
            said = box("The train leaves at nine, and you can buy a ticket at the counter.")
            german = "Der Zug nach Hamburg fährt heute leider erst eine Stunde später, weil ein Signal gestört ist."
            said["answers"][0]["reasoning"] = german
            put(made, said, at=7200.0)
            put(made, box("I'm sorry, but I can't help with that request."), at=7300.0)
            put(made, {**box(""), "answers": []}, at=7300.0)
            await nightly.run(made, until=8000.0)
            rows = made.store.now(lambda c: c.execute(select(counters).where(counters.c.hour == 2)).mappings().all())
            found = {r["name"]: (r["n"], r["total"]) for r in rows}
            assert found["language:en"] == (2, 2.0) and found["language-switch"] == (1, 1.0)
            assert found["characters"][0] == found["score:refusal"][0] == 2 and 0.8 < found["score:refusal"][1] < 1.2

    asyncio.run(main())
