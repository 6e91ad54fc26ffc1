"""Samplers: the scripted double, the replay of stored rows, and the remote one against a real local HTTP server."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from temper.errors import DataError, ModelError
from temper.files import append_rows
from temper.samplers.remote import Remote
from temper.samplers.replay import Replay
from temper.samplers.scripted import Scripted
from temper.types import Example, Message, Usage

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
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(payload))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def sampler(self, **settings: Any) -> Remote:
        return Remote(self.url, "tiny", pause=0.001, **settings)


def said(content: str | None, *, finish: str = "stop", **fields: object) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **fields}, "finish_reason": finish}
    return {"id": "x", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "TEMPER_API_KEY"):
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


@pytest.mark.parametrize(("status", "hint"), [(400, "too long"), (404, "does the URL end where"), (422, "too long")])
def test_a_request_that_is_wrong_is_not_tried_again(status: int, hint: str, stub: Stub) -> None:
    stub.script = lambda body, count: (status, {}, {"error": {"message": "prompt too long"}})
    with pytest.raises(ModelError, match=hint):
        stub.sampler()([ASK])
    assert len(stub.requests) == 1


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
        time.sleep(0.02)
        return 200, {}, said("Yes.")

    stub.script = held
    stub.sampler(concurrency=3)([ASK], n=12)
    assert 1 < stub.most_at_once <= 3


def test_waiting_for_its_turn_does_not_use_up_a_request_s_time(stub: Stub) -> None:
    def held(body: dict[str, Any], count: int) -> Answer:
        time.sleep(0.05)
        return 200, {}, said("Yes.")

    stub.script = held
    assert len(stub.sampler(concurrency=1, timeout=0.25, retries=0)([ASK], n=8)[0]) == 8


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
