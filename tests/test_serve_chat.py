"""The guarded routes, through real sockets: what passes, what is stopped, what is held, and that nothing else comes out."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from bounded import WAIT_S, soon
from fake_openai import BANNED, CLEAN, EMAIL
from serve_world import POLICY, World, finish, run, said
from sqlalchemy import select

from temper.errors import StorageError
from temper.serve.journal import Journal
from temper.serve.people import Person
from temper.serve.tables import holds, vault

TOOLS = [{"type": "function", "function": {"name": "sh", "description": "a shell", "parameters": {"type": "object"}}}]
BAD = ("bad_out", "bad_tail", "bad_reason", "bad_think", "bad_tool", "after_finish")
WHO = Person("person_1", "ann", "admin")


def test_clean_answers_arrive_whole_plain_and_streamed(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        plain = (await w.chat("[[reasons]] hi")).json()
        message = plain["choices"][0]["message"]
        assert message["reasoning_content"] == message["reasoning"] == CLEAN
        assert (message["content"], plain["choices"][0]["finish_reason"]) == ("Done.", "stop")
        assert plain["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}
        frames, text = await w.stream("[[reasons]] hi", stream_options={"include_usage": True})
        assert said(frames, "reasoning_content") == said(frames, "reasoning") == CLEAN
        assert (said(frames), finish(frames)) == ("Done.", "stop")
        assert frames[-1]["choices"] == []
        assert frames[-1]["usage"] == plain["usage"]
        assert text.endswith("data: [DONE]\n\n")
        frames, _ = await w.stream("[[thinks]] hi")
        assert (said(frames, "reasoning").strip(), said(frames).strip()) == (CLEAN.strip(), "Done.")
        for row in await w.rows():
            assert row["scanned"] == row["released"] > 0
            assert (row["status"], row["action"], row["finish"]) == (200, "allow", "stop")

    run(tmp_path, test)


def test_no_bad_answer_leaks_in_any_channel_or_mode(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        for name in BAD:
            tools: dict[str, Any] = {"tools": TOOLS} if name == "bad_tool" else {}
            if name != "after_finish":
                plain = await w.chat(f"[[{name}]] hi", **tools)
                choice = plain.json()["choices"][0]
                assert (plain.status_code, choice["finish_reason"]) == (200, "content_filter"), name
                assert choice["message"]["content"] == ""
                assert "/appeal/" in choice["message"]["refusal"]
                assert "zorblax" not in plain.text
                assert plain.json()["moderation"]["output"]["results"][0]["categories"] == {"sabotage": True}
            frames, text = await w.stream(f"[[{name}]] hi", **tools, stream_options={"include_usage": True})
            assert finish(frames) == "content_filter", name
            assert "/appeal/" in said(frames, "refusal")
            assert "zorblax" not in text
            assert text.endswith("data: [DONE]\n\n")
        assert {r["action"] for r in await w.rows()} == {"block"}

    run(tmp_path, test)


def test_nothing_of_the_model_servers_own_fields_is_relayed(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        plain = await w.chat("hi")
        _, text = await w.stream("hi", stream_options={"include_usage": True})
        models = await w.client.get("/v1/models")
        for told in (plain.text, text, models.text, str(plain.headers)):
            assert "zorblax" not in told
        assert plain.json()["model"] == "fake"
        assert plain.json()["choices"][0].keys() == {"index", "message", "logprobs", "finish_reason"}

    run(tmp_path, test)


def test_bad_input_is_a_400_and_the_model_is_never_asked(tmp_path: Path) -> None:
    bad = f"start the {BANNED}"
    tool = {"type": "function", "function": {"name": "f", "description": bad}}
    cases: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": bad}]},
        {"messages": [{"role": "system", "content": bad}, {"role": "user", "content": "hi"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "start the zorblax"}, {"type": "text", "text": "protocol"}]}
            ]
        },
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x", "reasoning": bad}]},
        {"messages": [{"role": "user", "content": "hi"}], "tools": [tool]},
        {
            "messages": [{"role": "user", "content": "hi"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": bad}}},
        },
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                {"role": "tool", "tool_call_id": "c", "content": bad},
            ]
        },
    ]

    async def test(w: World) -> None:
        for stream in (False, True):
            for case in cases:
                reply = await w.client.post("/v1/chat/completions", json={"model": "fake", "stream": stream, **case})
                error = reply.json()["error"]
                assert (reply.status_code, error["code"], error["type"]) == (400, "content_filter", "invalid_request_error"), case
                assert "zorblax" not in reply.text
        reply = await w.client.post("/v1/completions", json={"model": "fake", "prompt": ["fine", bad]})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")
        assert w.fake.bodies == []
        rows = await w.rows()
        assert len(rows) == 2 * len(cases) + 1
        assert {(r["status"], r["finish"], r["action"]) for r in rows} == {(400, "content_filter", "block")}

    run(tmp_path, test)


def test_redaction_works_both_ways(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        plain = (await w.chat(f"[[email]] I am {EMAIL}")).json()
        assert w.fake.bodies[-1]["messages"][0]["content"] == "[[email]] I am [email]"
        assert plain["choices"][0]["message"]["content"].startswith("Write to [email] today.")
        frames, text = await w.stream("[[email]] hi")
        assert said(frames).startswith("Write to [email] today.")
        assert EMAIL not in text
        assert finish(frames) == "stop"

    run(tmp_path, test)


def test_tool_calls_keep_their_shape(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        plain = (await w.chat("[[calls]] hi", tools=TOOLS)).json()["choices"][0]
        call = plain["message"]["tool_calls"][0]
        assert (plain["finish_reason"], call["function"]) == ("tool_calls", {"name": "sh", "arguments": '{"cmd": "ls"}'})
        frames, _ = await w.stream("[[calls]] hi", tools=TOOLS)
        parts = [t for f in frames for c in f["choices"] for t in c["delta"].get("tool_calls", ())]
        assert parts[0]["function"]["name"] == "sh"
        assert parts[0]["id"].startswith("call_")
        assert "".join(p["function"]["arguments"] for p in parts) == '{"cmd": "ls"}'
        assert finish(frames) == "tool_calls"
        legacy = (await w.chat("[[calls]] hi", functions=[{"name": "sh"}])).json()["choices"][0]
        assert (legacy["finish_reason"], legacy["message"]["function_call"]["name"]) == ("function_call", "sh")
        unknown = await w.chat("[[bad_name]] hi", tools=TOOLS)
        assert unknown.status_code == 502
        assert "zorblax" not in unknown.text

    run(tmp_path, test)


def test_several_choices_and_several_prompts_are_kept_apart(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        plain = (await w.chat("hi", n=3)).json()
        assert [c["index"] for c in plain["choices"]] == [0, 1, 2]
        frames, _ = await w.stream("hi", n=2)
        assert said(frames, choice=0) == said(frames, choice=1) == CLEAN
        assert finish(frames, 0) == finish(frames, 1) == "stop"
        body = {"model": "fake", "prompt": ["a", "b"], "n": 2}
        old = (await w.client.post("/v1/completions", json=body)).json()
        assert old["object"] == "text_completion"
        assert [(c["index"], c["text"]) for c in old["choices"]] == [(i, CLEAN) for i in range(4)]
        stopped = (await w.client.post("/v1/completions", json={**body, "prompt": "[[bad_out]]"})).json()
        assert {c["finish_reason"] for c in stopped["choices"]} == {"content_filter"}
        reply = await w.client.post("/v1/completions", json={"model": "fake", "prompt": "[[clean]]", "stream": True})
        texts = [json.loads(line[6:])["choices"][0]["text"] for line in reply.text.split("\n") if line.startswith("data: {")]
        assert "".join(texts) == CLEAN

    run(tmp_path, test)


def test_what_is_to_be_rewritten_is_asked_once_more_with_the_reason(tmp_path: Path) -> None:
    policy = POLICY.replace(
        'phrases = ["zorblax protocol"]', 'phrases = ["zorblax protocol"]\naction = "rewrite"\nchannels = ["content"]'
    )

    async def test(w: World) -> None:
        plain = (await w.chat("[[once_bad_out]] hi")).json()
        assert plain["choices"][0]["message"]["content"] == CLEAN
        assert "it names the protocol" in w.fake.bodies[1]["messages"][-1]["content"]
        assert plain["usage"]["completion_tokens"] == 60
        twice = (await w.chat("[[bad_out]] hi")).json()
        assert twice["choices"][0]["finish_reason"] == "content_filter"
        assert len(w.fake.bodies) == 4
        frames, text = await w.stream("[[once_bad_tail]] hi")
        assert finish(frames) in ("stop", "content_filter")
        assert "zorblax" not in text
        first, second, _ = await w.rows()
        assert (first["action"], second["action"]) == ("rewrite", "block")

    run(tmp_path, test, policy)


def test_a_held_answer_gives_a_ticket_and_is_delivered_once_released(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        for stream in (False, True):
            reply = await w.chat("[[review]] hi", stream=stream)
            assert "grumbletons" not in reply.text
            assert "content_filter" in reply.text
            assert "hold_" in reply.text
        ticket = await w.client.post(
            "/v1/chat/completions",
            json={"model": "fake", "messages": [{"role": "user", "content": "[[review]] hi"}]},
            headers={"Prefer": "respond-async"},
        )
        assert ticket.status_code == 202
        where = ticket.headers["location"]
        assert ticket.headers["x-temper-hold"] in where
        waiting = await w.client.get(where)
        assert "grumbletons" not in waiting.text
        assert await w.gateway.holds.claim(ticket.headers["x-temper-hold"], WHO, 60)
        assert await w.gateway.holds.decide(ticket.headers["x-temper-hold"], WHO, "release") == "released"
        assert "grumbletons" in (await w.client.get(where)).text
        assert {r["action"] for r in await w.rows()} == {"review"}

    run(tmp_path, test)


def test_a_request_waits_for_its_reviewer_as_long_as_the_policy_says(tmp_path: Path) -> None:
    policy = POLICY + "[review]\nwait_s = 10\n"

    async def decide(w: World, verdict: str) -> None:
        waiting = select(holds.c.id).where(holds.c.state == "waiting")
        await soon(lambda: w.gateway.store.run(lambda c: c.scalar(waiting)), "an item that waits for a person")
        found = await w.gateway.store.run(lambda c: c.scalar(waiting))
        assert await w.gateway.holds.claim(found, WHO, 60)
        await w.gateway.holds.decide(found, WHO, verdict, message="not today")

    async def test(w: World) -> None:
        for stream in (False, True):
            reply, _ = await asyncio.gather(w.chat("[[review]] hi", stream=stream), decide(w, "refuse"))
            assert "not today" in reply.text
            assert "grumbletons" not in reply.text
        reply, _ = await asyncio.gather(w.chat("[[review]] hi"), decide(w, "release"))
        assert "grumbletons" in reply.json()["choices"][0]["message"]["content"]
        assert reply.json()["choices"][0]["finish_reason"] == "stop"
        # a request that is itself held goes on to the model once it is let through
        asked = len(w.fake.bodies)
        reply, _ = await asyncio.gather(w.chat("[[clean]] about grumbletons"), decide(w, "release"))
        assert reply.json()["choices"][0]["message"]["content"] == CLEAN
        assert len(w.fake.bodies) == asked + 1

    run(tmp_path, test, policy)


def test_a_request_that_was_let_through_is_sent_again_with_its_ticket(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        first = await w.chat("[[clean]] about grumbletons", temperature=0.5)
        hold = first.headers["x-temper-hold"]
        assert w.fake.bodies == []
        w.client.headers["x-temper-hold"] = hold
        assert (await w.chat("[[clean]] about grumbletons", temperature=0.5)).json()["choices"][0]["message"]["content"] == ""
        assert await w.gateway.holds.claim(hold, WHO, 60)
        await w.gateway.holds.decide(hold, WHO, "release")
        other = await w.chat("[[clean]] about other grumbletons", temperature=0.5)
        assert other.json()["choices"][0]["finish_reason"] == "content_filter"
        again = await w.chat("[[clean]] about grumbletons", temperature=0.5)
        assert again.json()["choices"][0]["message"]["content"] == CLEAN

    run(tmp_path, test)


def test_a_store_that_is_away_answers_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(w: World) -> None:
        def full(self: Journal, row: object, scores: object = None) -> None:
            raise StorageError("the queue is full")

        monkeypatch.setattr(Journal, "response", full)
        for text in ("hi", "[[bad_out]] hi"):
            reply = await w.chat(text)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
            assert CLEAN not in reply.text

    run(tmp_path, test)


def test_tools_for_a_model_that_is_not_cleared_are_refused_with_the_reason(tmp_path: Path) -> None:
    policy = POLICY.replace('action = "allow"', 'action = "block"\ncleared = ["trusted"]', 1)

    async def test(w: World) -> None:
        reply = await w.chat("[[calls]] hi", tools=TOOLS)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")
        assert "agentic" in reply.text
        assert (await w.chat("[[calls]] hi", tools=TOOLS, model="trusted")).status_code == 200

    run(tmp_path, test, policy)


def test_lint_warns_rewrites_on_request_and_refuses(tmp_path: Path) -> None:
    async def warn(w: World) -> None:
        reply = await w.chat("help", temper={"lint": "rewrite"})
        assert reply.json()["lint"]["mode"] == "rewrite"
        assert "x-temper-lint" in reply.headers
        assert w.fake.bodies[-1]["messages"][-1]["content"].startswith("# ")
        assert (await w.chat("help")).json()["lint"]["mode"] == "warn"
        assert w.fake.bodies[-1]["messages"][-1]["content"] == "help"
        for empty in ("", [{"type": "text", "text": ""}]):
            messages = [{"role": "system", "content": "Write to ann@corp.test about it."}, {"role": "user", "content": empty}]
            body = {"model": "fake", "messages": messages, "temper": {"lint": "rewrite"}}
            assert (await w.client.post("/v1/chat/completions", json=body)).status_code == 200
            sent = w.fake.bodies[-1]["messages"][-1]["content"]
            assert "[email]" in sent and "ann@corp" not in sent, "what moved into the user's turn is read there"

    async def refuse(w: World) -> None:
        reply = await w.chat("help")
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "prompt_lint")

    run(tmp_path, warn, POLICY.replace('mode = "off"', 'mode = "warn"'))
    other = tmp_path / "other"
    other.mkdir()
    run(other, refuse, POLICY.replace('mode = "off"', 'mode = "refuse"'))


def test_disclosure_is_in_header_body_and_first_message(tmp_path: Path) -> None:
    policy = POLICY.replace("header = true", 'header = true\nfirst_message = "I am a machine."')

    async def test(w: World) -> None:
        reply = await w.chat("hi")
        assert reply.headers["x-temper-disclosure"].startswith("ai-generated")
        assert reply.json()["disclosure"]["ai_generated"] is True
        assert reply.json()["choices"][0]["message"]["content"].startswith("I am a machine.\n\n")
        frames, _ = await w.stream("hi")
        assert said(frames).startswith("I am a machine.\n\nThe committee")
        assert frames[-1]["disclosure"]["ai_generated"] is True

    run(tmp_path, test, policy)


def test_an_answer_for_a_program_fits_its_schema_and_has_nothing_before_it(tmp_path: Path) -> None:
    policy = POLICY.replace("header = true", 'header = true\nfirst_message = "I am a machine."') + "[filters.format]\n"
    number = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "integer"}}}
    wanted = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": number}}}

    async def test(w: World) -> None:
        for given in (wanted, {"response_format": {"type": "json_object"}}):
            assert json.loads((await w.chat("[[json]] hi", **given)).json()["choices"][0]["message"]["content"]) == {"answer": 42}
            frames, _ = await w.stream("[[json]] hi", **given)
            assert json.loads(said(frames)) == {"answer": 42}
            asked = len(w.fake.bodies)
            reply = await w.chat("hi", **given)  # prose, and prose again when it is told what does not fit
            assert reply.json()["choices"][0]["finish_reason"] == "content_filter"
            assert len(w.fake.bodies) == asked + 2
        twice = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)} | {"a40": {"type": "string"}}
        hostile = {"$defs": twice, "$ref": "#/$defs/a0"}
        reply = await w.chat("hi", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": hostile}})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format")

    run(tmp_path, test, policy)


def test_a_budget_counts_answers_whose_usage_nobody_told(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        frames, _ = await w.stream("[[no_usage]] hi")
        assert finish(frames) == "stop"
        assert (await w.chat("hi")).status_code == 429

    run(tmp_path, test, POLICY.replace("requests_per_minute = 0", "requests_per_minute = 0\ntokens_per_day = 30"))


def test_an_upstreams_error_is_told_by_its_status_alone(tmp_path: Path) -> None:
    told = {"500": 502, "401": 502, "302": 502, "400": 400, "404": 404, "429": 429, "503": 503, "garbage": 502, "empty": 502}

    async def test(w: World) -> None:
        for name, status in told.items():
            for stream in (False,) if name == "empty" else (False, True):
                reply = await w.chat(f"[[{name}]]", stream=stream)
                assert reply.status_code == status, name
                assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
                assert "zorblax" not in reply.text
                if status in (429, 503):
                    assert reply.headers["retry-after"] == "7"

    run(tmp_path, test)


def test_a_stream_that_breaks_does_not_look_like_success(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        for name in ("cut", "no_end", "mid_error", "huge"):
            frames, text = await w.stream(f"[[{name}]]")
            assert finish(frames) is None
            assert "zorblax" not in text
            error = frames[-1]["error"] if frames else json.loads(text)["error"]
            assert error["code"].startswith("upstream_")
        assert {r["finish"] for r in await w.rows()} == {"error"}

    run(tmp_path, test)


def test_a_stream_without_done_but_with_a_finish_is_whole(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        frames, text = await w.stream("[[no_done]]")
        assert (said(frames), finish(frames)) == (CLEAN, "stop")
        assert text.endswith("data: [DONE]\n\n")

    run(tmp_path, test)


def test_a_client_that_leaves_cancels_the_upstream(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        for name, stream in (("slow", True), ("hangs", True), ("hangs", False)):
            w.fake.bodies.clear()
            w.fake.broken_off.clear()
            body = {"model": "fake", "stream": stream, "messages": [{"role": "user", "content": f"[[{name}]]"}]}
            work = asyncio.ensure_future(w.client.post("/v1/chat/completions", json=body))
            await soon(lambda: w.fake.bodies, "the model server to be asked")
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await asyncio.wait_for(w.fake.broken_off.wait(), WAIT_S)
        for _ in range(1000):
            if len(rows := await w.rows()) == 3:
                break
            await asyncio.sleep(0.01)
        assert {(r["status"], r["finish"]) for r in rows} == {(499, "disconnected")}
        assert w.gateway.limits.under_way == 0

    run(tmp_path, test)


def test_deadlines_are_504s(tmp_path: Path) -> None:
    policy = POLICY.replace("requests_per_minute = 0", "requests_per_minute = 0\ndeadline_s = 0.2\nfirst_byte_s = 0.1")

    async def test(w: World) -> None:
        for stream in (False, True):
            reply = await w.chat("[[hangs]]", stream=stream)
            assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")

    run(tmp_path, test, policy)


def test_a_body_over_the_limit_is_a_413(tmp_path: Path) -> None:
    policy = POLICY.replace("requests_per_minute = 0", "requests_per_minute = 0\nrequest_bytes = 500")

    async def test(w: World) -> None:
        assert (await w.chat("x" * 600)).status_code == 413

        async def pieces() -> Any:
            for _ in range(10):
                yield b" " * 100

        reply = await w.client.post("/v1/chat/completions", content=pieces())
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
        assert (await w.chat("hi")).status_code == 200

    run(tmp_path, test, policy)


def test_keys_are_asked_for_once_there_is_one_and_their_limits_hold(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        make = w.gateway.keys.make
        _, one = await asyncio.to_thread(
            make, "one", ["chat", "models"], by="t", limits={"requests_per_minute": 1}, models=["fake"]
        )
        _, poor = await asyncio.to_thread(make, "poor", ["models"], by="t")
        assert (await w.chat("hi")).status_code == 401
        assert (await w.chat("hi")).json()["error"]["code"] == "invalid_api_key"
        w.client.headers["authorization"] = f"Bearer {poor}"
        assert (await w.chat("hi")).status_code == 403
        w.client.headers["authorization"] = f"Bearer {one}"
        assert (await w.chat("hi", model="other")).status_code == 404
        await asyncio.to_thread(make, "spare", ["chat"], by="t")
        refused = await w.chat("hi")
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1

    run(tmp_path, test)


def test_no_room_is_a_503_with_a_time_to_come_back(tmp_path: Path) -> None:
    policy = POLICY.replace("requests_per_minute = 0", "requests_per_minute = 0\nunder_way = 1")

    async def test(w: World) -> None:
        slow = asyncio.ensure_future(w.chat("[[slow]] hi", stream=True))
        await soon(lambda: w.fake.bodies, "the model server to be asked")
        reply = await w.chat("hi")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
        assert "retry-after" in reply.headers
        slow.cancel()

    run(tmp_path, test, policy)


def test_a_broken_filter_is_a_503_and_no_text_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(w: World) -> None:
        from temper.serve.filters.rules import Rules

        def fail(self: object, view: object) -> None:
            raise ValueError("secret text")

        monkeypatch.setattr(Rules, "__call__", fail)
        for stream in (False, True):
            reply = await w.chat("hi", stream=stream)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "guard_unavailable")
            assert "retry-after" in reply.headers
        assert w.fake.bodies == []

    run(tmp_path, test)


def test_no_text_of_a_request_or_answer_is_in_the_database_in_the_clear(tmp_path: Path) -> None:
    canary = "kwyjibo98765"

    async def test(w: World) -> None:
        for text in (f"[[clean]] {canary}", f"[[bad_out]] {canary}", f"[[review]] {canary}", f"{BANNED} {canary}"):
            await w.chat(text)
        await w.gateway.journal.settled()
        kept = await w.gateway.store.run(lambda c: c.execute(select(vault.c.id)).all())
        assert len(kept) >= 3

    run(tmp_path, test)
    held = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.name != "test.toml")
    assert canary.encode() not in held
    assert BANNED.encode() not in held


def test_a_block_is_committed_before_it_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = Journal.settled

    async def settled(self: Journal) -> None:
        await real(self)
        order.append("committed")

    async def test(w: World) -> None:
        order.clear()
        monkeypatch.setattr(Journal, "settled", settled)
        await w.chat("[[bad_out]] hi")
        order.append("answered")
        assert order == ["committed", "answered"]

    run(tmp_path, test)


def test_moderation_is_told_when_asked_for(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        assert "moderation" not in (await w.chat("hi")).json()
        told = (await w.chat("hi", moderation={"model": "x"})).json()["moderation"]
        assert told["input"]["type"] == told["output"]["type"] == "moderation_results"
        assert told["output"]["results"][0]["flagged"] is False

    run(tmp_path, test)


def test_logprobs_come_only_where_the_policy_allows_them(tmp_path: Path) -> None:
    async def none(w: World) -> None:
        reply = (await w.chat("[[logprobs]]", logprobs=True)).json()
        assert reply["choices"][0]["logprobs"] is None
        assert "logprobs" not in w.fake.bodies[-1]

    async def some(w: World) -> None:
        reply = (await w.chat("[[logprobs]]", logprobs=True)).json()
        assert [t["token"] for t in reply["choices"][0]["logprobs"]["content"]] == ["Hi", "."]
        assert "zorblax" not in json.dumps(reply)

    run(tmp_path, none)
    other = tmp_path / "other"
    other.mkdir()
    run(other, some, "logprobs = true\n" + POLICY)


def test_wrong_methods_and_paths_are_told_in_openais_shape(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        wrong = await w.client.get("/v1/chat/completions")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        lost = await w.client.get("/v1/nothing")
        assert (lost.status_code, set(lost.json()["error"])) == (404, {"message", "type", "param", "code"})
        broken: httpx.Response = await w.client.post("/v1/chat/completions", content=b"{")
        assert broken.status_code == 400

    run(tmp_path, test)
