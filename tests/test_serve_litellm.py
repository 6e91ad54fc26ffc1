"""LiteLLM's guard contract is kept: what it posts is judged on the right channel, and what it is told is what it acts on."""

import asyncio
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from ops_parts import Word, client, gateway, policy, setting
from sqlalchemy import select

from temper.serve import litellm
from temper.serve.guard import Guard
from temper.serve.litellm import PATH, Asked, Told
from temper.serve.policy import Policy
from temper.serve.tables import responses
from temper.serve.verdict import Action, Channel

BLOCKS = policy(setting(Word()), setting(Word("redactme", name="mask"), action=Action.REDACT))


def told(made: Policy = BLOCKS, **given: Any) -> Told:
    return asyncio.run(litellm.judge(Guard(made), Asked(**given)))[0]


def call(arguments: str) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize("kind", ["request", "response"])
def test_clean_text_passes_redacted_text_is_changed_and_bad_text_blocks(kind: str) -> None:
    assert told(input_type=kind, texts=["fine"]).action == "NONE"
    changed = told(input_type=kind, texts=["fine", "please redactme now"])
    assert (changed.action, changed.texts) == ("GUARDRAIL_INTERVENED", ["fine", "please [word] now"])
    blocked = told(input_type=kind, texts=["redactme", "a Forbidden one"])
    assert blocked.action == "BLOCKED" and blocked.texts is None
    assert blocked.blocked_reason == "Blocked by policy: word (test)."


def test_requests_are_input_answers_are_content_and_calls_are_arguments() -> None:
    deaf = Word(deaf=(Channel.INPUT,))
    assert told(policy(setting(deaf)), input_type="request", texts=["forbidden"]).action == "NONE"
    assert told(policy(setting(deaf)), input_type="response", texts=["forbidden"]).action == "BLOCKED"
    only = policy(setting(Word(), channels=(Channel.TOOL_ARGS,)))
    assert told(only, input_type="response", texts=["forbidden"]).action == "NONE"
    assert told(only, input_type="response", texts=[], tool_calls=[call('{"a": "forbidden"}')]).action == "BLOCKED"


@pytest.mark.parametrize("content", [5, {"a": 1}, ["x", None, {"text": 7}], None, True])
def test_messages_of_any_shape_are_no_reason_to_fail(content: Any) -> None:
    given = [{"role": "user", "content": content}, {"role": ["x"], "content": "y"}, {}]
    assert told(input_type="request", texts=["forbidden"], structured_messages=given).action == "BLOCKED"


def test_a_filter_knows_what_a_tool_said() -> None:
    deafer = policy(setting(Word(roles=("tool",))))
    said = [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "text", "text": "it up"}]}]
    said.append({"role": "tool", "content": "forbidden"})
    texts = ["look", "it up", "forbidden"]
    assert told(deafer, input_type="request", texts=texts, structured_messages=said).action == "BLOCKED"
    said[1]["role"] = "user"
    assert told(deafer, input_type="request", texts=texts, structured_messages=said).action == "NONE"
    assert told(deafer, input_type="request", texts=texts[1:], structured_messages=said).action == "NONE"


def test_definitions_of_tools_are_read_and_what_cannot_be_given_back_changed_blocks() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "forbidden"}}
    assert told(input_type="request", texts=["x"], tools=[tool]).action == "BLOCKED"
    assert told(input_type="response", texts=["x"], tool_calls=[call('{"a": "redactme"}')]).action == "BLOCKED"


def test_images_are_refused_because_nobody_can_read_them() -> None:
    assert "images cannot be scanned" in str(told(input_type="request", texts=["x"], images=["data:..."]).blocked_reason)


def test_a_filter_that_fails_blocks() -> None:
    class Broken(Word):
        def __call__(self, view: Any, /) -> Any:
            raise ValueError("x")

    assert told(policy(setting(Broken())), input_type="request", texts=["x"]).action == "BLOCKED"


def test_an_answer_that_streams_is_held_back_by_the_longest_rule() -> None:
    assert told(input_type="response", texts=["x", "y"]).stream_holdback_chars == [9, 9]
    assert told(input_type="request", texts=["x"]).stream_holdback_chars is None


def test_the_endpoint_wants_a_key_with_its_scope_and_writes_a_row_without_text(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, BLOCKS) as made:
            assert await made.ready.check(made.guard)
            body = {"input_type": "request", "texts": ["alice@example.org is forbidden"], "model": "alice@example.org", "new": 1}
            async with client(made, litellm.routes(made)) as http:
                assert (await http.post(PATH, json=body)).json()["action"] == "BLOCKED"
            _, token = await asyncio.to_thread(made.keys.make, "l", ("guardrail",), by="test")
            _, other = await asyncio.to_thread(made.keys.make, "o", ("chat",), by="test")
            async with client(made, litellm.routes(made)) as http:
                assert (await http.post(PATH, json=body)).status_code == 401
                assert (await http.post(PATH, json=body, headers={"x-api-key": other})).status_code == 401
                assert (await http.post(PATH, json=body, headers={"x-api-key": token})).status_code == 200
                assert (await http.post(PATH, json={"texts": ["alice"]}, headers={"x-api-key": token})).status_code == 400
            rows = made.store.now(lambda c: c.execute(select(responses)).mappings().all())
            assert [(r["action"], r["released"], r["model"]) for r in rows] == [("block", 0, "other")] * 2
            assert "alice" not in str([dict(r) for r in rows])

    asyncio.run(main())


# The real proxy, where TEMPER_LITELLM names the Python of an environment that has it: pip install 'litellm[proxy]'.

PROXY = os.environ.get("TEMPER_LITELLM", "")
REPLIES = {"say": "this is forbidden here", "mask": "please redactme now"}


class Upstream(BaseHTTPRequestHandler):
    """A model server that says what its last word asks for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = REPLIES.get(given["messages"][-1]["content"].split()[-1], "fine")
        if given.get("stream"):
            self.stream(f"All is well and it goes on until it says {said}")
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        body = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, said: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        deltas = [({"content": said[i : i + 4]}, None) for i in range(0, len(said), 4)]
        for delta, finish in [*deltas, ({}, "stop")]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def free() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def streamed(port: int, text: str) -> str:
    """The text that a client of a stream sees."""
    lines = [json.loads(line[6:]) for line in ask(port, text, stream=True)[1].splitlines() if line.startswith("data: {")]
    return "".join(c["delta"].get("content") or "" for line in lines for c in line.get("choices", ()))


def ask(port: int, text: str, *, stream: bool = False) -> tuple[int, str]:
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer sk-test"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.skipif(not PROXY, reason="TEMPER_LITELLM names no Python with litellm[proxy]")
def test_a_real_litellm_proxy_blocks_and_masks_by_our_filters(tmp_path: Path) -> None:
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    ours, theirs = free(), free()
    guards = {
        "guardrail": "generic_guardrail_api",
        "mode": ["pre_call", "post_call"],
        "api_base": f"http://127.0.0.1:{ours}",
        "default_on": True,
        "streaming_transform_mode": "incremental_diff",
    }
    model = {"model": "openai/m", "api_base": f"http://127.0.0.1:{upstream.server_port}/v1", "api_key": "x"}
    config = {
        "model_list": [{"model_name": "m", "litellm_params": model}],
        "guardrails": [{"guardrail_name": "temper", "litellm_params": guards}],
        "general_settings": {"master_key": "sk-test"},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))

    async def main() -> None:
        async with gateway(tmp_path, BLOCKS) as made:
            app = FastAPI()
            app.state.gateway = made
            app.include_router(litellm.routes(made))
            server = uvicorn.Server(uvicorn.Config(app, port=ours, log_level="error"))
            serving = asyncio.create_task(server.serve())
            command = [PROXY, "-c", "from litellm import run_server; run_server()", "--config", str(tmp_path / "config.yaml")]
            environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}
            out = (tmp_path / "litellm.log").open("w")
            command += ["--port", str(theirs), "--host", "127.0.0.1"]
            proxy = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
            try:
                await asyncio.to_thread(up, theirs, proxy)
                assert "fine" in (await asyncio.to_thread(ask, theirs, "hello there"))[1]
                status, body = await asyncio.to_thread(ask, theirs, "this is forbidden")
                assert status == 400 and "Blocked by policy: word (test)." in body
                status, body = await asyncio.to_thread(ask, theirs, "please say")
                assert status == 400 and "this is forbidden here" not in body
                status, body = await asyncio.to_thread(ask, theirs, "please mask")
                assert status == 200 and "please [word] now" in body and "redactme" not in body
                assert await asyncio.to_thread(streamed, theirs, "hi") == "All is well and it goes on until it says fine"
                masked = await asyncio.to_thread(streamed, theirs, "please mask")
                assert masked == "All is well and it goes on until it says please [word] now"
                cut = await asyncio.to_thread(streamed, theirs, "please say")
                assert "All is well and it goes on".startswith(cut[:20]) and "forbidden" not in cut
            finally:
                proxy.terminate()
                proxy.wait(10)
                server.should_exit = True
                await serving
                upstream.shutdown()

    asyncio.run(main())


def up(port: int, proxy: "subprocess.Popen[bytes]") -> None:
    """Wait until the proxy answers."""
    end = time.monotonic() + 120
    while time.monotonic() < end and proxy.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the proxy did not start")
