"""What a hostile reading of the pipeline found: each of these was once wrong."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from bounded import WAIT_S, soon
from fake_openai import EMAIL
from serve_world import POLICY, World, finish, run, said
from sqlalchemy.exc import OperationalError

from temper.serve import reload
from temper.serve.filters.rules import Rules
from temper.serve.inprocess import InProcess
from temper.serve.people import Person
from temper.serve.protocol import ApiError, added, usage_of
from temper.serve.verdict import Channel

WHO = Person("person_1", "ann", "admin")


def test_a_streamed_request_that_is_held_gets_its_ticket(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        frames, text = await w.stream("about grumbletons")
        assert finish(frames) == "content_filter"
        assert "hold_" in said(frames, "refusal")
        assert text.endswith("data: [DONE]\n\n")
        assert [(r["status"], r["action"]) for r in await w.rows()] == [(200, "review")]

    run(tmp_path, test)


def test_what_is_redacted_stays_so_in_a_request_that_a_person_let_through(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        asked = f"[[clean]] grumbletons, write to {EMAIL}"
        hold = (await w.chat(asked)).headers["x-temper-hold"]
        assert await w.gateway.holds.claim(hold, WHO, 60)
        await w.gateway.holds.decide(hold, WHO, "release")
        w.client.headers["x-temper-hold"] = hold
        assert (await w.chat(asked)).json()["choices"][0]["finish_reason"] == "stop"
        assert w.fake.bodies[-1]["messages"][0]["content"] == "[[clean]] grumbletons, write to [email]"

    run(tmp_path, test)


def test_a_store_that_is_away_before_the_request_is_read_is_a_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise OperationalError("select", {}, Exception("secret"))

    async def test(w: World) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(w.gateway.keys, "caller", away)
            reply = await w.client.post("/v1/chat/completions", json={}, headers={"authorization": "Bearer tmp-x"})
            listed = await w.client.get("/v1/models", headers={"authorization": "Bearer tmp-x"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
        assert (listed.status_code, listed.json()["error"]["code"]) == (503, "overloaded")
        assert "secret" not in reply.text + listed.text

    run(tmp_path, test)


def test_a_request_that_a_stop_cuts_short_is_a_503_on_record(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def test(w: World) -> None:
        body = b'{"model": "fake", "messages": [{"role": "user", "content": "[[hangs]]"}]}'
        asked = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            return asked.pop() if asked else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"host", b"127.0.0.1")]}
        work = asyncio.ensure_future(w.app({**scope, "client": ("127.0.0.1", 1)}, receive, send))
        await soon(lambda: w.fake.bodies, "the model server to be asked")
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert sent[0]["status"] == 503
        assert [(r["status"], r["finish"]) for r in await w.rows()] == [(503, "error")]
        assert w.gateway.limits.under_way == 0

    run(tmp_path, test)


def test_tokens_of_an_answer_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        assert (await w.chat("[[calls]] hi")).status_code == 502
        assert [(r["status"], r["completion_tokens"]) for r in await w.rows()] == [(502, 30)]

    run(tmp_path, test)


def test_counts_that_no_column_holds_are_cut() -> None:
    most = usage_of({"prompt_tokens": 2**64 - 1, "completion_tokens": 2**64 - 1})
    assert orjson.loads(orjson.dumps(added(most, most)))["total_tokens"] == 4 * 10**9


def test_a_held_answer_is_kept_with_what_was_asked_and_not_what_it_was_told_again(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        kept: list[Any] = []
        real = w.gateway.holds.keep

        async def keep(**given: Any) -> str:
            kept.append(given["request"])
            return await real(**given)

        w.gateway.holds.keep = keep  # type: ignore[method-assign]
        assert (await w.chat("[[bad_out]] hi")).json()["choices"][0]["finish_reason"] == "content_filter"
        assert len(w.fake.bodies) == 2
        assert kept[0]["messages"][-1]["content"] == "[[bad_out]] hi"

    run(tmp_path, test, POLICY.replace('phrases = ["zorblax protocol"]', 'phrases = ["zorblax protocol"]\naction = "rewrite"'))


def test_a_rule_without_a_category_is_told_by_its_id(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        assert "policy test (no zorblax)" in (await w.chat("zorblax protocol")).json()["error"]["message"]

    run(tmp_path, test, POLICY.replace('id = "zorblax"', 'id = "no-zorblax"').replace('category = "sabotage"\n', ""))


def test_the_policy_is_watched_on_after_the_store_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(w: World) -> None:
        monkeypatch.setattr(reload, "EVERY_S", 0.01)
        watcher = reload.Reloader(w.gateway)
        tried = asyncio.Event()

        async def source() -> object:
            if not tried.is_set():
                tried.set()
                raise OperationalError("select", {}, Exception())
            return "new"

        monkeypatch.setattr(watcher, "_source", source)
        again = asyncio.Event()

        async def read(_: object) -> None:
            again.set()

        monkeypatch.setattr(reload, "reload", read)
        task = asyncio.create_task(watcher.watch())
        await asyncio.wait({task, waiting := asyncio.create_task(again.wait())}, timeout=WAIT_S, return_when="FIRST_COMPLETED")
        assert waiting.done()
        assert not task.done()
        task.cancel()

    run(tmp_path, test)


def test_a_slow_reload_does_not_bring_back_the_older_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(w: World) -> None:
        real, tested = reload._tested, 0
        file = tmp_path / "test.toml"

        async def slow(*given: Any) -> None:
            nonlocal tested
            tested += 1
            if tested == 1:  # while the first is tested, a second reads a newer file and is done
                file.write_text(POLICY + "[review]\nwait_s = 2\n")
                await reload.reload(w.gateway)
            await real(*given)

        monkeypatch.setattr(reload, "_tested", slow)
        file.write_text(POLICY + "[review]\nwait_s = 1\n")
        await reload.reload(w.gateway)
        assert w.gateway.guard.policy.review.wait_s == 2

    run(tmp_path, test)


def test_whatever_a_model_in_process_raises_is_told_and_who_left_the_queue_is_not_answered() -> None:
    asked: list[int] = []
    go = threading.Event()

    def speak(body: Mapping[str, Any], _: int, __: object) -> Any:
        asked.append(body["seed"])
        go.wait(WAIT_S)
        raise LookupError("secret")

    async def test() -> None:
        upstream = InProcess(speak, "tiny")
        body = {"model": "tiny", "messages": []}
        first, second = [await upstream.stream("chat/completions", {**body, "seed": i}) for i in (1, 2)]
        await second.close()
        go.set()
        with pytest.raises(ApiError, match="the model in this process failed"):
            async with asyncio.timeout(WAIT_S):
                await first.read()
        await upstream.close()
        assert asked == [1]

    asyncio.run(test())


def test_an_answer_that_a_broken_filter_could_not_read_is_held_where_the_policy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Rules.__call__

    def fail(self: Any, view: Any) -> Any:
        if view.channel is Channel.CONTENT:
            raise ValueError
        return real(self, view)

    async def test(w: World) -> None:
        monkeypatch.setattr(Rules, "__call__", fail)
        assert (await w.chat("hi")).headers["x-temper-hold"].startswith("hold_")

    email = "[filters.email]" + POLICY.split("[filters.email]")[1]
    run(tmp_path, test, POLICY.split("[[rules]]")[0] + email + 'on_error = "review"\n')


def test_two_tool_calls_under_one_number_are_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [{"index": 0, "function": {"name": name, "arguments": "{}"}} for name in ("sh", "rm")]
    reply = {"choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"tool_calls": calls}}]}

    async def plain(*_: object) -> Any:
        return reply

    async def test(w: World) -> None:
        monkeypatch.setattr(type(w.gateway.upstream), "plain", plain)
        tools = [{"type": "function", "function": {"name": name}} for name in ("sh", "rm")]
        assert (await w.chat("hi", tools=tools)).status_code == 502

    run(tmp_path, test)
