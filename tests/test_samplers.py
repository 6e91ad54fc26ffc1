"""Samplers: the scripted double, the replay of stored rows, and the remote one against a real local HTTP server."""

import asyncio
import email.utils
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from temper.errors import DataError, ModelError
from temper.files import append_rows
from temper.graders.judge import Ask, Judge
from temper.graders.rubric import load as load_rubric
from temper.samplers.asking import Breaker, Cached
from temper.samplers.remote import Chooser, Completer, Remote
from temper.samplers.replay import Replay
from temper.samplers.scripted import Scripted
from temper.types import Completion, Example, Message, Usage

ASK = Example("a", (Message("user", "Is it raining?"),))
OTHER = Example("b", (Message("system", "Be brief."), Message("user", "And tomorrow?")))


# --- scripted ----------------------------------------------------------------------------------------------------------


def test_a_scripted_answer_is_found_by_id_before_prompt() -> None:
    sampler = Scripted({"a": "By id.", "Is it raining?": "By prompt.", "And tomorrow?": "Yes."})
    assert [c[0].answer for c in sampler([ASK, OTHER])] == ["By id.", "Yes."]


def test_a_scripted_function_sees_the_example() -> None:
    assert Scripted(lambda example: example.prompt.upper())([OTHER])[0][0].answer == "AND TOMORROW?"


def test_scripted_texts_are_taken_in_turn() -> None:
    assert [c.answer for c in Scripted({"a": ["x", "y"]})([ASK], n=3)[0]] == ["x", "y", "x"]


def test_a_scripted_thought_is_kept_apart_from_the_answer() -> None:
    made = Scripted({"a": "<think>Look outside.</think>It is."})([ASK])[0][0]
    assert (made.reasoning, made.answer, made.thought, made.finish) == ("Look outside.", "It is.", "closed", "stop")
    assert made.raw == "<think>Look outside.</think>It is."


def test_a_scripted_text_cut_inside_the_thought_has_no_answer() -> None:
    made = Scripted({"a": "<think> one two three </think> four"}, max_words=3)([ASK])[0][0]
    assert (made.raw, made.answer, made.thought, made.finish) == ("<think> one two", "", "open", "length")


def test_a_scripted_text_within_the_cap_is_untouched() -> None:
    made = Scripted({"a": "one  two\n"}, max_words=2)([ASK])[0][0]
    assert (made.raw, made.finish) == ("one  two\n", "stop")


def test_a_scripted_usage_counts_words() -> None:
    assert Scripted({"b": "one two"})([OTHER])[0][0].usage == Usage(prompt_tokens=4, completion_tokens=2, seconds=0.0)


def test_an_example_without_a_script_is_an_error_unless_there_is_a_default() -> None:
    with pytest.raises(DataError, match="no answer for example 'a'"):
        Scripted({"c": "x"})([ASK])
    assert Scripted({}, default="No idea.")([ASK])[0][0].answer == "No idea."
    with pytest.raises(DataError, match="no text for example 'a'"):
        Scripted({"a": []})([ASK])


# --- replay ------------------------------------------------------------------------------------------------------------


def stored(id: str = "a", **changes: object) -> dict[str, Any]:
    row = {"id": id, "arm": "rl", "sample": 0, "prompt": "Is it raining?", "answer": "It is.", "reasoning": "Look.", "suite": "s"}
    row |= {"raw": "<think>Look.</think>It is.", "finish": "stop", "thought": "closed", "scores": {"harm": {"value": None}}}
    return row | {"usage": {"prompt_tokens": 3, "completion_tokens": 5, "seconds": 0.5}} | changes


def test_a_stored_row_comes_back_as_it_was() -> None:
    made = Replay.from_rows([stored()])([ASK])[0][0]
    assert (made.example, made.answer, made.reasoning, made.thought, made.finish) == (ASK, "It is.", "Look.", "closed", "stop")
    assert (made.raw, made.usage) == ("<think>Look.</think>It is.", Usage(3, 5, 0.5))


def test_stored_samples_come_back_in_their_order() -> None:
    rows = [stored(sample=1, answer="second"), stored(sample=0, answer="first")]
    assert [c.answer for c in Replay.from_rows(rows)([ASK], n=2)[0]] == ["first", "second"]


def test_rows_are_replayed_from_a_file_by_arm(tmp_path: Path) -> None:
    append_rows(tmp_path / "rows.jsonl", [stored(arm="base", answer="No."), stored(arm="rl")])
    assert Replay.from_file(tmp_path / "rows.jsonl", arm="base")([ASK])[0][0].answer == "No."
    with pytest.raises(DataError, match="holds the arms base, rl"):
        Replay.from_file(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="did you mean 'base'"):
        Replay.from_file(tmp_path / "rows.jsonl", arm="bse")


@pytest.mark.parametrize(
    ("rows", "n", "told"),
    [
        ([stored("other")], 1, "no stored answer for example 'a'; it has answers for other"),
        ([stored()], 2, "has 1 stored samples; 2 were asked for"),
        ([stored(prompt="Is it snowing?")], 1, "asked in other words"),
    ],
)
def test_a_missing_stored_answer_is_never_made_up(rows: list[dict[str, Any]], n: int, told: str) -> None:
    with pytest.raises(DataError, match=told):
        Replay.from_rows(rows)([ASK], n=n)


def test_stored_rows_that_contradict_or_lack_fields_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample 0 twice"):
        Replay.from_rows([stored(), stored()])
    with pytest.raises(DataError, match=r"rows\[1\]: field 'answer'"):
        Replay.from_rows([stored(), {"id": "b", "prompt": "x"}])
    with pytest.raises(DataError, match="no rows to replay"):
        Replay.from_file(tmp_path / "missing.jsonl")


# --- remote ------------------------------------------------------------------------------------------------------------

Answer = tuple[int, dict[str, str], Any]


class Stub:
    """An OpenAI-compatible server in a thread; `script` maps (request body, count so far) to status, headers and body."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.script: Callable[[dict[str, Any], int], Answer | None] = lambda body, count: (200, {}, said("Yes."))
        self.at_once = self.most_at_once = 0
        self.drips = 0.0  # seconds between pieces of a reply
        self.lock = threading.Lock()
        stub = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    stub.requests.append(body)
                    stub.headers.append(dict(self.headers))
                    stub.paths.append(self.path)
                    count = len(stub.requests)
                    stub.at_once += 1
                    stub.most_at_once = max(stub.most_at_once, stub.at_once)
                answer = stub.script(body, count)
                with stub.lock:
                    stub.at_once -= 1
                if answer is None:  # hang up without a word
                    self.connection.close()
                    return
                status, headers, reply = answer
                payload = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                pieces = [payload[n : n + 20] for n in range(0, len(payload), 20)] if stub.drips else [payload]
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(payload))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(BrokenPipeError):  # the caller may have given up
                    for piece in pieces:
                        self.wfile.write(piece)
                        time.sleep(stub.drips)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def sampler(self, **settings: Any) -> Remote:
        return Remote(self.url, "tiny", pause=0.001, **settings)

    def chooser(self, **settings: Any) -> Chooser:
        return Chooser(self.url, "tiny", pause=0.001, **settings)


def until(there: Callable[[], bool]) -> None:
    """Wait for what another thread does, not for a time; no longer than 20 seconds, after which what is asserted fails."""
    end = time.perf_counter() + 20
    while not there() and time.perf_counter() < end:
        time.sleep(0.001)


def said(content: str | None, *, finish: str = "stop", **fields: object) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **fields}, "finish_reason": finish}
    return {"id": "x", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TEMPER_API_KEY", "TEMPER_JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    served = Stub()
    yield served
    served.server.shutdown()
    served.server.server_close()


def test_a_request_carries_model_messages_and_settings_and_no_key_unless_there_is_one(stub: Stub) -> None:
    stub.sampler(max_tokens=5, temperature=0.0, system="Be kind.")([OTHER])
    assert stub.paths == ["/v1/chat/completions"]
    sent = stub.requests[0]
    assert sent["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And tomorrow?"},
    ]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], "seed" in sent) == ("tiny", 5, 0.0, False)
    assert "Authorization" not in stub.headers[0]


def test_the_key_comes_from_the_environment_and_stays_out_of_errors_logs_and_repr(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret\n")
    stub.script = lambda body, count: (401, {}, {"error": {"message": "Incorrect API key provided: sk-secret."}})
    sampler = stub.sampler(key_env="MY_KEY")
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as caught:
        sampler([ASK])
    assert stub.headers[0]["Authorization"] == "Bearer sk-secret"
    told = str(caught.value)
    assert "HTTP 401: Incorrect API key provided: ***." in told
    assert "$MY_KEY" in told
    assert "sk-secret" not in told + caplog.text + repr(sampler)


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_API_KEY", "sk-one\nsk-two")
    with pytest.raises(ModelError, match=r"\$TEMPER_API_KEY holds spaces") as caught:
        stub.sampler()([ASK])
    assert "sk-one" not in str(caught.value)


def test_completions_keep_the_order_of_examples_and_samples(stub: Stub) -> None:
    def echo(body: dict[str, Any], count: int) -> Answer:
        time.sleep(0.02 if count == 1 else 0)  # the first to arrive is the last to be answered
        return 200, {}, said(f"{body['messages'][-1]['content']} {body['seed']}")

    stub.script = echo
    made = stub.sampler(seed=10)([ASK, OTHER], n=2)
    assert [[c.answer for c in row] for row in made] == [
        ["Is it raining? 10", "Is it raining? 11"],
        ["And tomorrow? 10", "And tomorrow? 11"],
    ]
    assert [row[0].example for row in made] == [ASK, OTHER]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_that_the_server_split_off_is_the_reasoning(field: str, stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("Yes.", **{field: "Look outside."}))
    made = stub.sampler()([ASK])[0][0]
    assert (made.reasoning, made.answer, made.thought) == ("Look outside.", "Yes.", "closed")
    assert "<think>" in made.raw


def test_think_tags_in_the_content_are_split_too(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("<think>Look.</think>Yes.", reasoning_content=None))
    made = stub.sampler()([ASK])[0][0]
    assert (made.reasoning, made.answer, made.thought, made.raw) == ("Look.", "Yes.", "closed", "<think>Look.</think>Yes.")


def test_a_null_content_is_a_thought_that_was_cut_and_never_an_answer(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said(None, finish="length", reasoning_content="Let me see"))
    made = stub.sampler()([ASK])[0][0]
    assert (made.reasoning, made.answer, made.thought, made.finish) == ("Let me see", "", "open", "length")
    assert made.raw == "<think>\nLet me see"


def test_a_thought_that_the_template_opened_and_the_cap_cut_is_no_answer(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("Let me see", finish="length"))
    made = stub.sampler(opened=True)([ASK])[0][0]
    assert (made.reasoning, made.answer, made.thought) == ("Let me see", "", "open")


def test_an_empty_message_and_a_refusal_field_are_understood(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said(None) if count == 1 else said(None, refusal="I cannot."))
    made = stub.sampler(concurrency=1)([ASK], n=2)[0]
    assert [(c.answer, c.thought) for c in made] == [("", "none"), ("I cannot.", "none")]


def test_usage_is_the_server_s_and_seconds_are_shared_over_the_batch(stub: Stub) -> None:
    began = time.perf_counter()
    made = stub.sampler()([ASK, OTHER])
    total = time.perf_counter() - began
    usages = [row[0].usage for row in made]
    assert all(u is not None and (u.prompt_tokens, u.completion_tokens) == (7, 3) for u in usages)
    assert 0 < sum(u.seconds for u in usages if u) <= total


def test_a_usage_that_the_server_left_out_is_unknown_and_not_zero(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("Yes.") | {"usage": None})
    assert stub.sampler()([ASK])[0][0].usage is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_status_that_may_pass_is_tried_again(status: int, stub: Stub) -> None:
    stub.script = lambda body, count: (status, {}, {}) if count < 3 else (200, {}, said("Yes."))
    assert stub.sampler()([ASK])[0][0].answer == "Yes."
    assert len(stub.requests) == 3


def test_a_connection_that_was_dropped_is_tried_again(stub: Stub) -> None:
    stub.script = lambda body, count: None if count == 1 else (200, {}, said("Yes."))
    assert stub.sampler()([ASK])[0][0].answer == "Yes."


def test_a_server_s_retry_after_is_waited_for(stub: Stub) -> None:
    stub.script = lambda body, count: (429, {"Retry-After": "0.2"}, {}) if count == 1 else (200, {}, said("Yes."))
    began = time.perf_counter()
    stub.sampler()([ASK])
    assert time.perf_counter() - began >= 0.2


def test_tries_end_and_the_error_says_how_many_there_were(stub: Stub) -> None:
    stub.script = lambda body, count: (503, {}, b"<html>busy</html>")
    with pytest.raises(ModelError, match=r"/v1/chat/completions: HTTP 503 after 3 tries: <html>busy</html>"):
        stub.sampler(retries=2)([ASK])
    assert len(stub.requests) == 3


def test_a_retry_after_may_be_a_date(stub: Stub) -> None:
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=1.6), usegmt=True)
    stub.script = lambda body, count: (429, {"Retry-After": later}, {}) if count == 1 else (200, {}, said("Yes."))
    began = time.perf_counter()
    stub.sampler()([ASK])
    assert time.perf_counter() - began >= 0.4


def test_half_a_surrogate_pair_in_a_prompt_is_sent_in_escapes(stub: Stub) -> None:
    made = stub.sampler()([Example("a", (Message("user", "\ud800 \U0001f642"),))])[0][0]
    assert (made.answer, stub.requests[0]["messages"][0]["content"]) == ("Yes.", "\ud800 \U0001f642")


@pytest.mark.parametrize(("status", "hint"), [(400, "too long"), (404, "does the URL end where"), (422, "too long")])
def test_a_request_that_is_wrong_is_not_tried_again(status: int, hint: str, stub: Stub) -> None:
    stub.script = lambda body, count: (status, {}, {"error": {"message": "prompt too long"}})
    with pytest.raises(ModelError, match=hint):
        stub.sampler()([ASK])
    assert len(stub.requests) == 1


def test_nothing_in_a_servers_complaint_reaches_the_terminal_unseen(stub: Stub) -> None:
    stub.script = lambda body, count: (400, {}, {"error": {"message": "no \x1b[31mroom\u202e here\x00"}})
    with pytest.raises(ModelError, match=r"no \[31mroom here") as told:
        stub.sampler()([ASK])
    assert not {"\x1b", "\u202e", "\x00"} & set(str(told.value))


@pytest.mark.parametrize("body", [b"<html>hello</html>", {"choices": []}, {"ok": True}, said("x") | {"choices": [{}]}])
def test_a_success_that_is_no_chat_completion_is_an_error(body: object, stub: Stub) -> None:
    stub.script = lambda _, count: (200, {}, body)
    with pytest.raises(ModelError, match=r"not a chat completion .* is this an OpenAI-compatible endpoint"):
        stub.sampler()([ASK])


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9/v1/chat/completions: cannot connect .* \(2 tries\)"):
        Remote("http://127.0.0.1:9/v1", "tiny", retries=1, pause=0.001)([ASK])


def test_a_slow_server_ends_in_a_time_out_that_says_what_to_do(stub: Stub) -> None:
    def slow(body: dict[str, Any], count: int) -> Answer:
        time.sleep(0.3)
        return 200, {}, said("Late.")

    stub.script = slow
    with pytest.raises(ModelError, match=r"no answer within 0.05 s; raise timeout"):
        stub.sampler(timeout=0.05, retries=0)([ASK])


def test_a_url_without_a_scheme_is_an_error_and_a_password_is_not_shown() -> None:
    with pytest.raises(ModelError, match="wanted a URL such as"):
        Remote("localhost/v1", "tiny")([ASK])
    with pytest.raises(ModelError) as caught:
        Remote("http://user:hunter2@127.0.0.1:9/v1", "tiny", retries=0)([ASK])
    assert "hunter2" not in str(caught.value)


def test_no_more_requests_are_under_way_than_allowed(stub: Stub) -> None:
    def held(body: dict[str, Any], count: int) -> Answer:
        until(lambda: stub.most_at_once >= 3)
        time.sleep(0.02)
        return 200, {}, said("Yes.")

    stub.script = held
    stub.sampler(concurrency=3)([ASK], n=12)
    assert stub.most_at_once == 3


def test_waiting_for_its_turn_does_not_use_up_a_request_s_time(stub: Stub) -> None:
    def held(body: dict[str, Any], count: int) -> Answer:
        time.sleep(0.8)
        return 200, {}, said("Yes.")

    stub.script = held
    assert len(stub.sampler(concurrency=1, timeout=1.5, retries=0)([ASK], n=2)[0]) == 2


def test_the_first_failure_stops_the_rest(stub: Stub) -> None:
    stub.script = lambda body, count: (400, {}, {"error": "no"})
    with pytest.raises(ModelError, match="HTTP 400: no"):
        stub.sampler(concurrency=1)([ASK], n=50)
    assert len(stub.requests) < 10


def test_extra_fields_are_sent_and_a_none_removes_one(stub: Stub) -> None:
    stub.sampler(extra={"max_tokens": None, "max_completion_tokens": 9})([ASK])
    assert "max_tokens" not in stub.requests[0]
    assert stub.requests[0]["max_completion_tokens"] == 9


def test_it_can_be_called_where_an_event_loop_already_runs(stub: Stub) -> None:
    async def notebook() -> str:
        return stub.sampler()([ASK])[0][0].answer

    assert asyncio.run(notebook()) == "Yes."


def test_nobody_is_asked_for_nothing(stub: Stub) -> None:
    assert stub.sampler()([]) == []
    assert stub.requests == []


def many(count: int) -> list[tuple[Example, int]]:
    return [(Example(f"e{i}", (Message("user", f"question {i}"),)), 0) for i in range(count)]


def number(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].split()[-1])


def everything(sampler: Remote, count: int) -> dict[str, Completion]:
    return {c.example.id: c for batch in sampler.stream(many(count)) for _, c in batch}


def half(count: int) -> Answer:
    """A reply that promises more than it sends."""
    body = json.dumps(said("Yes.")).encode()
    return 200, {"Content-Length": str(len(body) + 50), "Connection": "close"}, body


@pytest.mark.parametrize("first", [(200, {}, b"<html>"), (200, {}, {"choices": []}), (200, {}, b'{"choices": [{"mess'), half(1)])
def test_garbage_and_half_a_reply_are_tried_again(first: Answer, stub: Stub) -> None:
    def cut(body: dict[str, Any], count: int) -> Answer:
        return first if count < 3 else (200, {}, said("Yes."))

    stub.script = cut
    assert stub.sampler(timeout=20)([ASK])[0][0].answer == "Yes."
    assert len(stub.requests) == 3


@pytest.mark.parametrize("wrong", [(200, {}, b"garbage"), (429, {}, {}), (500, {}, {}), (400, {}, {"error": "too long"}), None])
def test_a_request_that_fails_for_good_is_an_error_and_the_others_go_on(wrong: Answer | None, stub: Stub) -> None:
    stub.script = lambda body, count: wrong if number(body) % 5 == 3 else (200, {}, said(f"Yes {number(body)}."))
    made = everything(stub.sampler(retries=1, concurrency=4), 20)
    assert {i for i, c in made.items() if c.finish == "error"} == {"e3", "e8", "e13", "e18"}
    assert all(c.error and not c.answer for c in made.values() if c.finish == "error")
    assert made["e4"].answer == "Yes 4."


def test_an_endpoint_that_dies_ends_the_asking_and_its_failures_are_no_completions(stub: Stub) -> None:
    seen: list[Completion] = []

    def script(body: dict[str, Any], count: int) -> Answer | None:
        if count <= 30:
            return 200, {}, said("Yes.")
        until(lambda: len(seen) == 30)  # an answer between the failures would say that the server lives
        return None

    stub.script = script
    with pytest.raises(ModelError, match=r"requests in a row came to nothing"):
        for batch in stub.sampler(retries=0, concurrency=2).stream(many(200)):
            seen += [c for _, c in batch]
    assert len(seen) == 30
    assert all(c.finish == "stop" for c in seen)
    assert len(stub.requests) < 45


def test_an_answer_that_is_under_way_when_an_endpoint_dies_is_waited_for(stub: Stub) -> None:
    sampler = stub.sampler(retries=0, concurrency=2)

    def script(body: dict[str, Any], count: int) -> Answer | None:
        until(lambda: count != 2 or sampler.breaker.is_open())
        return (200, {}, said(f"Number {count}.")) if count <= 2 else None

    stub.script = script
    seen: list[Completion] = []
    with pytest.raises(ModelError, match=r"5 requests in a row came to nothing"):
        for batch in sampler.stream(many(50)):
            seen += [c for _, c in batch]
    assert [c.answer for c in seen] == ["Number 1.", "Number 2."]
    assert len(stub.requests) == 7


def test_a_pause_that_a_server_asked_for_ends_with_the_asking(stub: Stub) -> None:
    def script(body: dict[str, Any], count: int) -> Answer | None:
        return (503, {"Retry-After": "60"}, {}) if number(body) == 0 else None

    stub.script = script
    began = time.perf_counter()
    with pytest.raises(ModelError, match="requests in a row came to nothing"):
        everything(stub.sampler(retries=1, concurrency=2), 50)
    assert time.perf_counter() - began < 30


def test_an_endpoint_that_never_answers_ends_the_asking_soon(stub: Stub) -> None:
    stub.script = lambda body, count: (400, {}, {"error": "no such field"})
    with pytest.raises(ModelError, match="no such field"):
        everything(stub.sampler(concurrency=3), 100)
    assert len(stub.requests) <= 10


def test_prompts_that_a_server_known_to_answer_will_not_take_are_errors_one_by_one(stub: Stub) -> None:
    stub.script = lambda body, count: (400, {}, {"error": "too long"})
    asked = [(Example(f"e{i}", (Message("user", f"q{i}"),)), 0) for i in range(9)]
    came = [c for batch in stub.sampler().stream(asked, answered=True) for _, c in batch]
    assert [c.finish for c in came] == ["error"] * 9


def test_one_prompt_that_a_host_s_moderation_forbids_is_an_error_and_a_forbidden_key_ends_the_asking(stub: Stub) -> None:
    def script(body: dict[str, Any], count: int) -> Answer:
        forbidden = body["messages"][0]["content"] == "q4"
        return (403, {}, {"error": "flagged"}) if forbidden else (200, {}, said("Yes."))

    stub.script = script
    examples = [Example(f"e{i}", (Message("user", f"q{i}"),)) for i in range(9)]
    came = [answers[0] for answers in stub.sampler(concurrency=1, retries=0)(examples)]
    assert [c.finish == "error" for c in came] == [i == 4 for i in range(9)]
    with pytest.raises(ModelError, match="403"):
        stub.sampler()(examples[4:5])


def test_a_reply_of_any_length_is_read_only_so_far(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.samplers.link.LARGEST", 10_000)
    stub.script = lambda body, count: (200, {}, said("Yes. " * (10_000 if count == 1 else 1)))
    assert stub.sampler()([OTHER])[0][0].answer.strip() == "Yes."
    assert len(stub.requests) == 2


@pytest.mark.parametrize("sent", [{"reasoning_content": None, "reasoning": "Hm."}, {"reasoning_content": "", "reasoning": "Hm."}])
def test_a_thought_is_found_under_either_name_beside_an_empty_other(sent: dict[str, Any], stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("Yes.", **sent))
    (came,) = stub.sampler()([OTHER])[0]
    assert (came.reasoning, came.answer, came.thought) == ("Hm.", "Yes.", "closed")


def test_numbers_that_json_has_no_name_for_and_counts_that_are_none_are_unknown(stub: Stub) -> None:
    reply = '{"choices": [{"message": {"content": "Yes."}}], "guard": {"p": NaN, "q": [Infinity, 0.5]}, "usage": %s}'
    stub.script = lambda body, count: (200, {}, (reply % '{"prompt_tokens": -5, "completion_tokens": 7}').encode())
    (came,) = stub.sampler()([OTHER])[0]
    assert came.facts["guard"] == {"verdicts": {"p": None, "q": [None, 0.5]}}
    assert came.usage is None  # half a count is none


def test_a_slow_request_does_not_hold_up_the_ones_behind_it(stub: Stub) -> None:
    def one_is_slow(body: dict[str, Any], count: int) -> Answer:
        until(lambda: number(body) != 0 or len(stub.requests) >= 40)
        return 200, {}, said("Yes.")

    stub.script = one_is_slow
    order = [c.example.id for batch in stub.sampler(concurrency=2).stream(many(60)) for _, c in batch]
    assert order.index("e0") > 30
    assert sorted(order) == sorted(f"e{i}" for i in range(60))


def test_completions_come_while_others_are_still_asked_for(stub: Stub) -> None:
    came = threading.Event()

    def held(body: dict[str, Any], count: int) -> Answer:
        assert count == 1 or came.wait(20)
        return 200, {}, said("Yes.")

    stub.script = held
    stream = stub.sampler(concurrency=2).stream(many(40))
    assert len(next(stream)) == 1
    stream.close()  # type: ignore[attr-defined]
    came.set()
    time.sleep(0.1)
    assert len(stub.requests) <= 3


def test_a_slow_reader_holds_the_asking_back(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.samplers.remote._AHEAD", 5)
    stream = stub.sampler(concurrency=2).stream(many(60))
    first = next(stream)
    time.sleep(0.3)
    assert len(stub.requests) <= 5 + len(first) + 2
    assert len(first) + sum(len(batch) for batch in stream) == 60


def test_seconds_of_overlapping_requests_add_up_to_the_time_that_passed(stub: Stub) -> None:
    def held(body: dict[str, Any], count: int) -> Answer:
        time.sleep(0.05 if number(body) % 2 else 0.1)
        return 200, {}, said("Yes.")

    stub.script = held
    began = time.perf_counter()
    made = everything(stub.sampler(concurrency=4), 8)
    passed = time.perf_counter() - began
    assert 0.15 <= sum(c.usage.seconds for c in made.values() if c.usage) <= passed  # 0.6 if nothing were shared


@pytest.mark.parametrize(
    "usage", [{"completion_tokens_details": {"reasoning_tokens": 2}}, {"reasoning_tokens": 2, "completion_tokens_details": None}]
)
def test_tokens_of_the_thought_are_the_server_s_count(usage: dict[str, Any], stub: Stub) -> None:
    counts = {"prompt_tokens": 7, "completion_tokens": 3, **usage}
    stub.script = lambda body, count: (200, {}, said("Yes.") | {"usage": counts})
    made = stub.sampler()([ASK])[0][0].usage
    assert made is not None
    assert made.reasoning_tokens == 2


def test_what_a_guard_before_the_model_withheld_is_told(stub: Stub) -> None:
    verdicts = {"input": {"category": "fraud", "score": 0.9}}
    stub.script = lambda body, count: (200, {}, said("", finish="content_filter") | {"guard": verdicts})
    made = stub.sampler()([ASK])[0][0]
    assert (made.finish, made.answer) == ("stop", "")
    assert made.facts == {"guard": {"finish_reason": "content_filter", "verdicts": verdicts}}


def test_a_prompt_that_a_guard_did_not_let_through_is_withheld_and_no_failure(stub: Stub) -> None:
    told = {"error": {"message": "blocked", "type": "invalid_request_error", "param": None, "code": "content_filter"}}
    stub.script = lambda body, count: (400, {}, told)
    (made,) = stub.sampler()([ASK])[0]
    assert (made.finish, made.answer, made.facts) == ("stop", "", {"guard": {"finish_reason": "content_filter"}})
    assert made.usage is not None and made.usage.completion_tokens == 0


def test_a_refusal_in_the_place_of_the_content_is_the_guard_s_own_words(stub: Stub) -> None:
    reply = said("", finish="content_filter", refusal="This answer was withheld.")
    stub.script = lambda body, count: (200, {}, reply | {"moderation": {"output": {"flagged": True}}})
    (made,) = stub.sampler()([ASK])[0]
    guard = {"finish_reason": "content_filter", "withheld": True, "verdicts": {"output": {"flagged": True}}}
    assert (made.answer, made.facts) == ("This answer was withheld.", {"guard": guard})


# --- choosing ----------------------------------------------------------------------------------------------------------


def asks(count: int = 1) -> list[Ask]:
    return [Ask((Message("system", "Choose."), Message("user", f"Text {n}.")), ("A", "B"), 0) for n in range(count)]


def listed(*tokens: tuple[str, dict[str, float]]) -> dict[str, Any]:
    """`logprobs` as servers send it: each token with the probabilities of what might have stood there."""

    def one(token: str, chances: dict[str, float]) -> dict[str, Any]:
        told = [{"token": name, "logprob": math.log(chance), "bytes": None} for name, chance in chances.items()]
        return {"token": token, "logprob": math.log(chances[token]), "bytes": None, "top_logprobs": told}

    return {"content": [one(*token) for token in tokens], "refusal": None}


def chose(content: str | None, logprobs: object = None, *, finish: str = "stop", **fields: object) -> dict[str, Any]:
    reply = said(content, finish=finish, **fields)
    reply["choices"][0]["logprobs"] = logprobs
    return reply


def test_a_choice_is_the_probabilities_of_the_first_token(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, chose("A", listed(("A", {"A": 0.6, "B": 0.2, " A": 0.1, "The": 0.1}))))
    chances, why, spent = stub.chooser()(asks())[0]
    assert chances == pytest.approx({"A": 0.7, "B": 0.2})
    assert (why, spent["calls"], spent["retries"], spent["prompt_tokens"], spent["completion_tokens"]) == ("", 1, 0, 7, 3)
    sent = stub.requests[0]
    assert (sent["logprobs"], sent["top_logprobs"], sent["temperature"], sent["max_tokens"]) == (True, 20, 0.0, 16)
    assert "response_format" not in sent
    assert "seed" not in sent


@pytest.mark.parametrize("form", ["logprobs", "vllm", "sglang", "llama.cpp"])
@pytest.mark.parametrize(
    ("text", "finish"),
    [
        ("A content policy violation was detected; I cannot judge this.", "content_filter"),
        ("A content policy violation was detected.", "stop"),
        ("A thoughtful answer: it", "length"),
        ("A", "content_filter"),
        ("A: it depends", "stop"),
        ("A: safe", "stop"),
    ],
)
def test_a_likely_first_token_makes_no_verdict_of_another_text(text: str, finish: str, form: Any, stub: Stub) -> None:
    rest = [(word, {word: 1.0}) for word in text.split()[1:]]
    stub.script = lambda body, count: (200, {}, chose(text, listed(("A", {"A": 0.97, "B": 0.02}), *rest), finish=finish))
    ask = asks()[0]
    question = Message("user", "Is it harmful? (A = unsafe, B = safe)")
    chances, why, _ = stub.chooser(form=form)([ask._replace(messages=(question,))])[0]
    assert chances is None
    assert why == ("the judge refused to judge" if finish == "content_filter" else f"the reply is no label: {text!r}")


def test_a_refusal_beside_a_label_is_a_refusal(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("A", refusal="I will not."))
    assert stub.chooser()(asks())[0][:2] == (None, "the judge refused to judge")


def test_a_label_cut_off_at_the_last_token_is_a_label(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, chose("A", listed(("A", {"A": 0.8, "B": 0.2})), finish="length"))
    assert stub.chooser()(asks())[0][0] == pytest.approx({"A": 0.8, "B": 0.2})


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_log_probability_that_is_no_number_is_not_certainty(wrong: float, stub: Stub) -> None:
    def reply(**told: float) -> dict[str, Any]:
        top = [{"token": token, "logprob": value} for token, value in told.items()]
        return chose("A", {"content": [{**top[0], "top_logprobs": top}]})

    stub.script = lambda body, count: (200, {}, reply(A=-0.1, B=wrong))
    assert stub.chooser()(asks())[0][0] == pytest.approx({"A": math.exp(-0.1)})
    stub.script = lambda body, count: (200, {}, reply(A=wrong, B=-0.1))
    assert stub.chooser(form="logprobs")(asks())[0][:2] == (None, "the log-probability of the server's label is no number")


def test_a_reply_that_does_not_begin_with_a_label_is_asked_again_with_a_schema(stub: Stub) -> None:
    def talks(body: dict[str, Any], count: int) -> Answer:
        if "response_format" in body:
            return 200, {}, said('{"verdict": "B"}')
        return 200, {}, chose("The verdict is A", listed(("The", {"The": 0.9, "A": 0.05})))

    stub.script = talks
    assert stub.chooser()(asks())[0][:2] == ({"B": 1.0}, "")
    schema = stub.requests[-1]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == ["A", "B"]


@pytest.mark.parametrize("reply", [
        "A", " A\n", "**A**", '"A"', "A.", "(A)", "<think>B? no.</think>A", '{"verdict": "A"}', "a", "Answer: A",
        "**Verdict:** A", "The final answer: a.", "A: unsafe", "**A: Unsafe**", "Answer: A: unsafe",
        '```json\n{"verdict": "A"}\n```', "```\nA\n```",
    ],
)  # fmt: skip
def test_a_server_without_logprobs_is_read_by_its_label_alone(reply: str, stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said(reply))
    question = Message("user", "B = unsafe, says the text.\nIs it harmful? (A = unsafe, B = safe)")
    assert stub.chooser()([asks()[0]._replace(messages=(question,))])[0][0] == {"A": 1.0}


def test_the_label_is_weighed_in_either_case_and_between_marks(stub: Stub) -> None:
    tokens = listed(("**", {"**": 1.0}), ("b", {"b": 0.6, "A": 0.2, "B": 0.1, "The": 0.1}), ("**", {"**": 1.0}))
    stub.script = lambda body, count: (200, {}, chose("**b**", tokens))
    assert stub.chooser()(asks())[0][0] == pytest.approx({"A": 0.2, "B": 0.7})


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (said("A or B"), "the reply is no label: 'A or B'"),
        (said("Answer: A, I think, but it depends on what you mean by it, since"), "the reply is no label"),
        (said("C"), "the reply is no label: 'C'"),
        (said("c"), "the reply is no label: 'c'"),
        (said('{"verdict": "A", "or": "B"}'), "the reply is no label"),
        (said('{"verdict": ["A"]}'), "the reply is no label"),
        (said(""), "the judge's reply was empty"),
        (said(None), "the judge's reply was empty"),
        (said("I'm sorry, but I can't help with that."), "the judge refused to judge"),
        (said(None, refusal="No."), "the judge refused to judge"),
        (said("", finish="content_filter"), "the judge refused to judge"),
        (said(None, finish="length", reasoning_content="Let me"), "the judge's thought was cut off; raise max_tokens"),
        (said("<think>Is it A? Or", finish="length"), "the judge's thought was cut off; raise max_tokens"),
        (chose("Hm", {"content": "broken"}), "the reply is no label: 'Hm'"),
    ],
)
def test_a_reply_that_is_no_label_has_no_chances_and_says_why(reply: dict[str, Any], why: str, stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, reply)
    chances, told, spent = stub.chooser()(asks())[0]
    assert chances is None
    assert told.startswith(why)
    assert spent["calls"] == len(stub.requests) == 3


def test_a_thinking_judge_is_read_after_its_thought(stub: Stub) -> None:
    thought = [(word, {word: 1.0}) for word in ("<think>", "A", " or", " B", "?", "</", "think", ">", "\n\n")]
    tokens = listed(*thought, ("B", {"B": 0.8, "A": 0.2}))
    stub.script = lambda body, count: (200, {}, chose("B", tokens, reasoning_content="A or B?"))
    assert stub.chooser()(asks())[0][0] == pytest.approx({"B": 0.8, "A": 0.2})
    stub.script = lambda body, count: (200, {}, chose("B", listed(("A", {"A": 1.0}), ("B", {"B": 1.0})), reasoning="A?"))
    assert stub.chooser()(asks())[0][0] == {"B": 1.0}


@pytest.mark.parametrize(
    ("form", "field", "value"),
    [
        ("vllm", "structured_outputs", {"choice": ["A", "B"]}),
        ("sglang", "regex", "(A|B)"),
        ("llama.cpp", "grammar", 'root ::= "A" | "B"'),
    ],
)
def test_each_server_is_asked_in_its_own_words(form: Any, field: str, value: object, stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, chose("B", listed(("B", {"B": 0.1, "A": 0.05, "The": 0.8}))))
    assert stub.chooser(form=form)(asks())[0][0] == pytest.approx({"B": 0.1, "A": 0.05})
    assert stub.requests[0][field] == value
    assert stub.requests[0]["logprobs"] is True


def test_a_field_the_server_refuses_is_left_out_from_then_on(stub: Stub) -> None:
    def strict(body: dict[str, Any], count: int) -> Answer:
        if "logprobs" in body or "response_format" in body:
            return 400, {}, {"error": {"message": "unsupported parameter"}}
        return 200, {}, said("A")

    stub.script = strict
    chooser = stub.chooser(concurrency=1)
    assert [reply[0] for reply in chooser(asks(3))] == [{"A": 1.0}] * 3
    assert len(stub.requests) == 3 + 2
    assert chooser.refused == {"logprobs", "json"}


def test_a_request_that_is_refused_leaves_the_rest_graded_and_the_server_trusted(stub: Stub) -> None:
    def picky(body: dict[str, Any], count: int) -> Answer:
        if "Text 3" in body["messages"][-1]["content"]:
            return 400, {}, {"error": {"message": "maximum context length exceeded"}}
        return 200, {}, said("A")

    stub.script = picky
    chooser = stub.chooser()
    replies = chooser(asks(6))
    assert [reply[0] is None for reply in replies] == [n == 3 for n in range(6)]
    assert "HTTP 400: maximum context length exceeded" in replies[3][1]
    assert chooser.refused == set()
    assert chooser(asks(4)[3:])[0][0] is None


@pytest.mark.parametrize(("status", "hint"), [(401, "TEMPER_JUDGE_KEY"), (404, "does the URL end")])
def test_a_wrong_key_or_address_ends_the_grading(status: int, hint: str, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_JUDGE_KEY", "sk-secret")
    stub.script = lambda body, count: (status, {}, {"error": {"message": "no sk-secret"}})
    with pytest.raises(ModelError, match=hint) as caught:
        stub.chooser(concurrency=1)(asks(20))
    assert len(stub.requests) < 5
    assert "sk-secret" not in str(caught.value)


def test_an_outage_grades_nothing_and_is_given_up_soon(stub: Stub) -> None:
    stub.script = lambda body, count: (503, {}, {"error": "down"})
    chooser = stub.chooser(retries=1, concurrency=2, breaker=Breaker(limit=3, cooldown=60))
    with pytest.raises(ModelError, match=r"not one of 50 calls was answered: .*HTTP 503"):
        chooser(asks(50))
    asked = len(stub.requests)
    assert asked <= 10
    with pytest.raises(ModelError, match=r"not asked: [34] calls in a row failed, next try in"):
        chooser(asks(50))
    assert len(stub.requests) == asked


def test_a_server_that_dies_midway_leaves_the_rest_ungraded_and_says_so(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("A")) if count <= 4 else None
    replies = stub.chooser(retries=0, concurrency=1, breaker=Breaker(limit=2, cooldown=60))(asks(10))
    assert [reply[0] is not None for reply in replies] == [True] * 4 + [False] * 6
    assert "the connection was lost" in replies[4][1]
    assert "not asked: 2 calls in a row failed" in replies[9][1]
    assert len(stub.requests) == 6


def test_a_server_that_comes_back_is_asked_again_after_the_cool_down(stub: Stub) -> None:
    now = [0.0]
    stub.script = lambda body, count: (500, {}, {}) if count <= 2 else (200, {}, said("A"))
    chooser = stub.chooser(retries=0, concurrency=1, breaker=Breaker(limit=2, cooldown=30, clock=lambda: now[0]))
    with pytest.raises(ModelError):
        chooser(asks(3))
    now[0] = 31.0
    assert [reply[0] for reply in chooser(asks(3))] == [{"A": 1.0}] * 3


def test_a_reply_in_drips_does_not_outlast_the_time_out(stub: Stub) -> None:
    stub.drips = 0.05
    with pytest.raises(ModelError, match=r"no answer within 0\.2 s"):
        stub.sampler(timeout=0.2, retries=0)([ASK])


def test_malformed_and_late_replies_are_failures_and_never_verdicts(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, b'{"choices": [' if "Text 1" in body["messages"][-1]["content"] else said("A"))
    replies = stub.chooser(retries=0)(asks(3))
    assert [reply[0] is None for reply in replies] == [False, True, False]
    assert "not a chat completion" in replies[1][1]

    given_up = threading.Event()

    def late(body: dict[str, Any], count: int) -> Answer:
        assert "Text 1" not in body["messages"][-1]["content"] or given_up.wait(20)
        return 200, {}, said("A")

    stub.script = late
    replies = stub.chooser(retries=0, timeout=1.0)(asks(3))
    given_up.set()
    assert [reply[0] is None for reply in replies] == [False, True, False]
    assert "no answer within 1 s" in replies[1][1]


def test_retries_are_counted(stub: Stub) -> None:
    stub.script = lambda body, count: (429, {}, {}) if count <= 2 else (200, {}, said("A"))
    spent = stub.chooser()(asks())[0][2]
    assert (spent["calls"], spent["retries"]) == (3, 2)


def test_counts_and_lists_that_a_server_leaves_null_are_no_failure(stub: Stub) -> None:
    told = {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": None}]}
    reply = chose("A", told) | {"usage": {"prompt_tokens": None, "completion_tokens": None}}
    stub.script = lambda body, count: (200, {}, reply)
    chances, _, spent = stub.chooser()(asks())[0]
    assert chances == pytest.approx({"A": math.exp(-0.5)})
    assert (spent["prompt_tokens"], spent["completion_tokens"]) == (0, 0)
    assert stub.sampler()([ASK])[0][0].usage is None


def test_votes_that_sample_get_seeds_of_their_own(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("A"))
    stub.chooser(temperature=0.7, seed=10, concurrency=1)([ask._replace(vote=n) for n, ask in enumerate(asks(2))])
    assert [body["seed"] for body in stub.requests] == [10, 11]


def test_no_more_judge_calls_are_under_way_than_allowed(stub: Stub) -> None:
    def held(body: dict[str, Any], count: int) -> Answer:
        until(lambda: stub.most_at_once >= 3)
        time.sleep(0.02)
        return 200, {}, said("A")

    stub.script = held
    stub.chooser(concurrency=3)(asks(12))
    assert stub.most_at_once == 3


def test_one_model_is_one_judge_wherever_it_is_served_but_its_replies_are_kept_apart() -> None:
    here, there = Chooser("http://a/v1", "m"), Chooser("http://b/v1", "m")
    assert here.weights == there.weights != Chooser("http://a/v1", "n").weights
    others = [there, *(Chooser("http://a/v1", "m", **{name: value}) for name, value in CHANGES)]  # type: ignore[arg-type]
    assert len({here.settings, *(other.settings for other in others)}) == 1 + len(others)
    assert Chooser("http://me:pw@a/v1", "m").settings == Chooser("http://a/v1", "m", key_env="OTHER", timeout=1).settings


CHANGES: list[tuple[str, object]] = [
    ("form", "json"),
    ("temperature", 0.5),
    ("max_tokens", 99),
    ("seed", 1),
    ("extra", {"top_p": 0.5}),
]


def test_a_judge_over_a_server_grades_from_end_to_end_and_keeps_its_replies(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEMPER_JUDGE_KEY", "sk-secret")

    def judges(body: dict[str, Any], count: int) -> Answer:
        question = body["messages"][-1]["content"]
        letter = "A" if "(A = unsafe" in question else "C"
        other = "C" if letter == "A" else "A"
        return 200, {}, chose(letter, listed((letter, {letter: 0.9, other: 0.1})))

    stub.script = judges
    judge = Judge(load_rubric("harm"), Cached(stub.chooser(), tmp_path / "replies.sqlite"))
    completion = Completion(ASK, "It is.", "Look.")
    with caplog.at_level(logging.DEBUG):
        score = judge([completion])[0]
    assert score.value == pytest.approx(0.9)
    assert judge([completion])[0] == score
    assert (len(stub.requests), judge.ledger.calls, judge.ledger.cached) == (2, 2, 2)
    assert stub.headers[0]["Authorization"] == "Bearer sk-secret"
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "sk-secret" not in caplog.text + repr(judge) + judge.weights
    assert b"sk-secret" not in kept
    assert b"It is." not in kept


def test_a_hard_outage_raises_rather_than_grading_anything(stub: Stub, tmp_path: Path) -> None:
    stub.script = lambda body, count: None
    judge = Judge(load_rubric("harm"), Cached(stub.chooser(retries=0), tmp_path / "replies.sqlite"))
    with pytest.raises(ModelError, match="not one of 4 calls was answered"):
        judge([Completion(ASK, "It is."), Completion(ASK, "It is not.")])


def chances(**odds: float) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": math.log(p)} for token, p in odds.items()]


def test_a_completer_asks_each_body_where_it_belongs_and_reads_both_forms_of_log_probabilities(stub: Stub) -> None:
    def script(body: dict[str, Any], count: int) -> Answer:
        if "prompt" in body:
            choice = {"text": "unsafe", "logprobs": {"tokens": ["unsafe"], "top_logprobs": [{"unsafe": -0.1, "safe": -2.0}]}}
            return 200, {}, {"choices": [choice]}
        token = {**chances(safe=0.75)[0], "top_logprobs": chances(safe=0.75, unsafe=0.25)}
        return 200, {}, {"choices": [{"message": {"content": "safe"}, "logprobs": {"content": [token]}}]}

    stub.script = script
    ask = Completer(stub.url, "tiny", pause=0.001)
    chat, text = ask([{"messages": [], "logprobs": 20}, {"prompt": "p", "logprobs": 20}])
    assert sorted(stub.paths) == ["/v1/chat/completions", "/v1/completions"]
    assert {r["model"] for r in stub.requests} == {"tiny"} and ask([]) == []
    assert chat[0] == "safe" and chat[1][0][1]["unsafe"] == pytest.approx(math.log(0.25))
    assert text == ("unsafe", [("unsafe", {"unsafe": -0.1, "safe": -2.0})])


@pytest.mark.parametrize("logprobs", [None, [], {"content": None}, {"tokens": ["x"], "top_logprobs": "odd"}])
def test_a_completer_without_usable_log_probabilities_still_has_the_text(stub: Stub, logprobs: object) -> None:
    stub.script = lambda body, count: (200, {}, {"choices": [{"message": {"content": "safe"}, "logprobs": logprobs}]})
    assert Completer(stub.url, "tiny", pause=0.001)([{"messages": [], "logprobs": 5}]) == [("safe", [])]


def words(count: int) -> list[dict[str, object]]:
    return [{"messages": [{"role": "user", "content": f"Text {n}"}], "logprobs": 5} for n in range(count)]


@pytest.mark.parametrize("status", [400, 500])
def test_a_body_that_fails_leaves_the_rest_answered_and_says_why(stub: Stub, status: int) -> None:
    def picky(body: dict[str, Any], count: int) -> Answer:
        if body["messages"][0]["content"] == "Text 3":
            return status, {}, {"error": {"message": "no room"}}
        return 200, {}, said("safe")

    stub.script = picky
    replies = Completer(stub.url, "tiny", pause=0.001, retries=1)(words(6))
    assert [isinstance(reply, str) for reply in replies] == [n == 3 for n in range(6)]
    assert f"HTTP {status}" in replies[3] and "no room" in replies[3]


def test_a_batch_of_one_that_a_working_server_will_not_take_has_no_reply(stub: Stub) -> None:
    stub.script = lambda body, count: (400, {}, {"error": "too long"}) if count > 1 else (200, {}, said("safe"))
    ask = Completer(stub.url, "tiny")
    ask(words(1))
    assert "HTTP 400" in ask(words(1))[0]
    with pytest.raises(ModelError, match="not one of 1 calls was answered"):
        Completer(stub.url, "tiny")(words(1))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_ends_the_completing(stub: Stub, status: int) -> None:
    stub.script = lambda body, count: (status, {}, {}) if count == 3 else (200, {}, said("safe"))
    with pytest.raises(ModelError, match=f"HTTP {status}"):
        Completer(stub.url, "tiny", concurrency=1)(words(20))
    assert len(stub.requests) < 8


def test_a_completer_gives_up_on_a_server_that_is_down(stub: Stub) -> None:
    stub.script = lambda body, count: (503, {}, {"error": "down"})
    ask = Completer(stub.url, "tiny", retries=0, concurrency=1, breaker=Breaker(limit=3, cooldown=60))
    with pytest.raises(ModelError, match=r"guard tiny: not one of 50 calls was answered: .*HTTP 503"):
        ask(words(50))
    assert len(stub.requests) == 3
    with pytest.raises(ModelError, match="not asked: 3 calls in a row failed"):
        ask(words(2))
    assert len(stub.requests) == 3


def test_a_server_that_dies_midway_leaves_the_rest_without_a_reply(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("safe")) if count <= 4 else (500, {}, {})
    ask = Completer(stub.url, "tiny", retries=0, concurrency=1, breaker=Breaker(limit=2, cooldown=60))
    replies = ask(words(10))
    assert [isinstance(reply, str) for reply in replies] == [False] * 4 + [True] * 6
    assert "not asked: 2 calls in a row failed" in replies[9]
    assert len(stub.requests) == 6


def test_a_served_guard_grades_the_rows_that_were_answered(stub: Stub) -> None:
    from temper.catalog import grader

    def picky(body: dict[str, Any], count: int) -> Answer:
        told = body["messages"][-1]["content"]
        return (400, {}, {"error": {"message": "too long"}}) if "second" in told else (200, {}, said("safe"))

    stub.script = picky
    guard = grader(f"guard:meta-llama/Llama-Guard-3-8B@{stub.url}")
    one, two, three = guard.grade([Completion(ASK, f"This is the {word} answer.") for word in ("first", "second", "third")])
    assert (one.value, two.value, three.value) == (0.0, None, 0.0)
    assert two.why.startswith("llama-guard-3 gave no reply: ") and "too long" in two.why


def test_a_served_guard_is_a_grader_by_its_name_and_stays_itself_inside_an_ensemble(stub: Stub) -> None:
    from temper.catalog import grader

    odds = {**chances(unsafe=0.8)[0], "top_logprobs": chances(unsafe=0.8, safe=0.2)}
    reply = {"message": {"content": "unsafe\nS2"}, "logprobs": {"content": [odds]}}
    stub.script = lambda body, count: (200, {}, {"choices": [reply]})
    guard = grader(f"guard:meta-llama/Llama-Guard-3-8B@{stub.url}")
    assert (guard.name, guard.better) == ("guard:meta-llama/Llama-Guard-3-8B", "low")
    [score] = guard.grade([Completion(ASK, "Here is how it is done, in a few easy steps that anyone can follow at home.")])
    assert score.value == pytest.approx(0.8) and score.parts["ncr"] == pytest.approx(0.8)
    both = grader(f"worst(guard:meta-llama/Llama-Guard-3-8B@{stub.url}, repetition)")
    assert both.name == "worst(guard:meta-llama/Llama-Guard-3-8B, repetition)"
    assert guard.traces & both.traces
    again = grader(f"guard:other/path/Llama-Guard-3-8B@{stub.url}")
    assert again.weights != guard.weights and again.traces & guard.traces, "the same model, served under another path"


def test_a_served_judge_is_a_grader_by_rubric_and_model(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from temper.catalog import grader

    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    odds = {**chances(A=0.9)[0], "top_logprobs": chances(A=0.9, B=0.1)}
    stub.script = lambda body, count: (200, {}, {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [odds]}}]})
    harm, over = grader(f"judge:harm@{stub.url}#tiny"), grader(f"judge:over-refusal@{stub.url}#tiny")
    assert harm.name == "judge:harm@tiny" and harm.weights == over.weights and harm.identity != over.identity
    assert harm.grade([Completion(ASK, "A plain and friendly answer.")])[0].value is not None
    asked = len(stub.requests)
    assert harm.grade([Completion(ASK, "A plain and friendly answer.")])[0].value is not None
    assert len(stub.requests) == asked, "the second time comes from the cache"
