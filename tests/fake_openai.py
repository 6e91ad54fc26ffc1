"""A model server for tests: an asyncio server that answers as the last user message names it, `[[scenario]]`, and keeps count."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

BANNED = "zorblax protocol"
EMAIL = "alice.example@corp.test"
CLEAN = "The committee reviewed the quarterly report and noted that shipping times improved while costs stayed flat. " * 6
TOOL = {"name": "sh", "arguments": json.dumps({"cmd": f"start the {BANNED} now"})}
ANSWERS: dict[str, dict[str, Any]] = {
    "clean": {"content": CLEAN},
    "reasons": {"reasoning_content": CLEAN, "content": "Done."},
    "thinks": {"content": f"<think>{CLEAN}</think>Done."},
    "unopened": {"content": f"{CLEAN}</think>Done."},
    "german": {"content": "Der Zug nach Hamburg fährt heute leider erst eine Stunde später, weil ein Signal gestört ist."},
    "calls": {"tool": {"name": "sh", "arguments": '{"cmd": "ls"}'}},
    "bad_out": {"content": CLEAN + f"start the {BANNED} now. " + CLEAN},
    "bad_tail": {"content": CLEAN + f"start the {BANNED}"},
    "bad_reason": {"reasoning_content": f"use the {BANNED} now. " + CLEAN, "content": CLEAN},
    "bad_think": {"content": f"<think>use the {BANNED} now.</think>{CLEAN}"},
    "bad_tool": {"tool": TOOL},
    "bad_name": {"tool": {"name": BANNED.replace(" ", "_"), "arguments": "{}"}},
    "email": {"content": f"Write to {EMAIL} today. " + CLEAN},
    "review": {"content": CLEAN + " the grumbletons are restless. " + CLEAN},
    "json": {"content": '{"answer": 42}'},
    "logprobs": {"content": "Hi."},
}


@dataclass
class Fake:
    """What the server saw: bodies, and how many of its streams were broken off by the reader."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    broken_off: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                if b"/models" in head.split(b"\r\n")[0]:
                    rows = [{"id": "fake", "object": "model", "created": 1, "owned_by": "test", "secret": BANNED}]
                    _json(writer, 200, {"object": "list", "data": rows})
                    continue
                asked = json.loads(body)
                self.bodies.append(asked)
                if not await self.answer(asked, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.broken_off.set()
        finally:
            writer.close()

    async def answer(self, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where the connection is to be closed."""
        name = _scenario(asked)
        if name.isdigit():
            _json(writer, int(name), {"error": {"message": f"the prompt was {BANNED}"}}, b"Retry-After: 7\r\n")
            return True
        if name == "hangs":
            await reader.read(1)  # nothing comes but the end
            self.broken_off.set()
            return False
        if not asked.get("stream"):
            return _plain(asked, name, writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in _events(asked, name):
            if event == b"hang up":
                return False
            _chunk(writer, event)
            await writer.drain()
            if name == "slow":
                await asyncio.sleep(0.02)
                if reader.at_eof():
                    self.broken_off.set()
                    return False
        _chunk(writer, b"")
        await writer.drain()
        return True


def _scenario(asked: dict[str, Any]) -> str:
    prompt = asked.get("prompt")
    said = [m["content"] or "" for m in asked.get("messages", ()) if m["role"] == "user"] or [str(prompt)]
    text = said[-1]
    again = "Answer again" in text
    name = text.split("[[", 1)[1].split("]]", 1)[0] if "[[" in text else "clean"
    return "clean" if again and name.startswith("once_") else name.removeprefix("once_")


def _plain(asked: dict[str, Any], name: str, writer: asyncio.StreamWriter) -> bool:
    if name == "garbage":
        _raw(writer, 200, b"{not json")
        return True
    if name == "empty":
        _json(writer, 200, {"choices": []})
        return True
    answer = ANSWERS.get(name, ANSWERS["clean"])
    message: dict[str, Any] = {"role": "assistant", "content": answer.get("content"), "annotations": [BANNED], "audio": BANNED}
    if "reasoning_content" in answer:
        message["reasoning_content"] = answer["reasoning_content"]
    if "tool" in answer:
        message["tool_calls"] = [{"id": "call_x", "type": "function", "function": answer["tool"]}]
    finish = "tool_calls" if "tool" in answer else "stop"
    choices = []
    for i in range(asked.get("n", 1) * len(asked.get("prompt", "1"))):
        choice: dict[str, Any] = {"index": i, "finish_reason": finish, "stop_reason": BANNED}
        choice |= {"text": answer["content"]} if "prompt" in asked else {"message": message}
        if asked.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.5, "x": BANNED}, {"token": ".", "logprob": -0.1}]}
        choices.append(choice)
    _json(writer, 200, {"id": BANNED, "model": BANNED, "choices": choices, "usage": USAGE, "system_fingerprint": BANNED})
    return True


USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 30,
    "total_tokens": 41,
    "completion_tokens_details": {"reasoning_tokens": 5, "note": BANNED},
}


def _events(asked: dict[str, Any], name: str) -> list[bytes]:
    answer = ANSWERS.get(name, ANSWERS["clean"])
    many = range(asked.get("n", 1) * len(asked.get("prompt", "1")))
    out = [_event(i, {"role": "assistant", "content": ""}, asked) for i in many]
    for i in many:
        for key in ("reasoning_content", "content"):
            text = answer.get(key, "")
            out += [_event(i, {key: text[k : k + 7]}, asked) for k in range(0, len(text), 7)]
        if "tool" in answer:
            tool = answer["tool"]
            out.append(_event(i, {"tool_calls": [{"index": 0, "id": "call_x", "function": {"name": tool["name"]}}]}, asked))
            text = tool["arguments"]
            out += [
                _event(i, {"tool_calls": [{"index": 0, "function": {"arguments": text[k : k + 5]}}]}, asked)
                for k in range(0, len(text), 5)
            ]
    finish = "tool_calls" if "tool" in answer else "stop"
    match name:
        case "no_end":
            return out
        case "cut":
            return [*out[:-2], b"hang up"]
        case "garbage":
            return [*out[:3], b"data: {not json\n\n"]
        case "huge":
            return [*out[:3], b"data: " + b"x" * (2**20 + 10)]
        case "mid_error":
            return [*out[:3], b'data: {"error": {"message": "' + BANNED.encode() + b'"}}\n\n']
    ends = [_event(i, {}, asked, finish) for i in many]
    after = [_event(0, {"content": f" start the {BANNED}"}, asked)] if name == "after_finish" else []
    usage = b"data: " + json.dumps({"id": BANNED, "choices": [], "usage": USAGE}).encode() + b"\n\n"
    usage = b"" if name == "no_usage" else usage
    done = [] if name == "no_done" else [b"data: [DONE]\n\n"]
    return [*out, *ends, *after, *filter(None, [usage]), *done]


def _event(i: int, delta: dict[str, Any], asked: dict[str, Any], finish: str | None = None) -> bytes:
    inner = {"text": delta.get("content", "")} if "prompt" in asked else {"delta": delta}
    event = {"id": BANNED, "model": BANNED, "choices": [{"index": i, **inner, "finish_reason": finish, "note": BANNED}]}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _json(writer: asyncio.StreamWriter, status: int, body: dict[str, Any], more: bytes = b"") -> None:
    _raw(writer, status, json.dumps(body).encode(), more)


def _raw(writer: asyncio.StreamWriter, status: int, body: bytes, more: bytes = b"") -> None:
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n" % (status, more, len(body))
    writer.write(head + body)


@asynccontextmanager
async def fake(tls: ssl.SSLContext | None = None) -> AsyncIterator[Fake]:
    """A running server on a free port of loopback; with `tls`, over https."""
    made = Fake()
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0, ssl=tls)
    made.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield made
    finally:
        server.close()
