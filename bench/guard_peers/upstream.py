"""An upstream without a model: canned replies at once, by hand, so that it costs little CPU beside the gateway.

`python upstream.py --port N [--first-ms 0] [--event-ms 0]`. `GET /seen` lists the cases whose request held the phrase
since it was last asked.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from cases import BANNED, CASES, Case, holds, named

CHUNKED = "Transfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n"
USAGE = {"prompt_tokens": 150, "completion_tokens": 300, "total_tokens": 450}
SEEN: set[str] = set()


def wrapped(case: Case, kind: str, choices: list[Any], **more: Any) -> str:
    whole = {"id": "chatcmpl-1", "object": kind, "created": int(time.time()), "model": "fake", "choices": choices}
    return json.dumps({**whole, **more, **case.top})


def cut(text: str, size: int) -> Iterator[str]:
    return (text[i : i + size] for i in range(0, len(text), size))


def deltas(message: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """A message in events: long strings in pieces, the rest as it is."""
    yield {"role": "assistant", "content": ""}
    for name, value in message.items():
        if isinstance(value, str):
            yield from ({name: piece} for piece in cut(value, size))
        elif name == "tool_calls":
            for place, call in enumerate(value):
                function = {"name": call["function"]["name"], "arguments": ""}
                yield {name: [{"index": place, "id": call["id"], "type": "function", "function": function}]}
                for piece in cut(call["function"]["arguments"], size):
                    yield {name: [{"index": place, "function": {"arguments": piece}}]}
        elif value is not None:
            yield {name: value}


def finish(message: Mapping[str, Any]) -> str:
    return "tool_calls" if message.get("tool_calls") else "function_call" if message.get("function_call") else "stop"


@cache
def plain(name: str) -> bytes:
    case = CASES[name]
    messages = [case.message] if case.second is None else [case.message, case.second]
    if case.route == "completions":
        choices: list[Any] = [{"index": 0, "text": case.message["content"], "finish_reason": "stop"}]
        return wrapped(case, "text_completion", choices, usage=USAGE).encode()
    choices = [
        {"index": i, "message": {"role": "assistant", **m}, "finish_reason": finish(m), **case.choice}
        for i, m in enumerate(messages)
    ]
    return wrapped(case, "chat.completion", choices, usage=USAGE).encode()


@cache
def events(name: str, usage: bool) -> tuple[bytes, ...]:
    case, kind = CASES[name], "chat.completion.chunk"
    messages = [case.message] if case.second is None else [case.message, case.second]
    made = [f": {case.comment}"] if case.comment else []
    if case.route == "completions":
        pieces = cut(case.message["content"], case.piece)
        made += ["data: " + wrapped(case, "text_completion", [{"index": 0, "text": p, "finish_reason": None}]) for p in pieces]
        made += ["data: " + wrapped(case, "text_completion", [{"index": 0, "text": "", "finish_reason": "stop"}])]
    else:
        for i, message in enumerate(messages):
            for delta in deltas(message, case.piece):
                choice = {"index": i, "delta": delta, "finish_reason": None, **case.choice}
                made.append("data: " + wrapped(case, kind, [choice]))
        for i, message in enumerate(messages):
            made.append("data: " + wrapped(case, kind, [{"index": i, "delta": {}, "finish_reason": finish(message)}]))
    if case.after:
        made.append("data: " + wrapped(case, kind, [{"index": 0, "delta": dict(case.after), "finish_reason": None}]))
    if case.error:
        made = [*made[: len(made) // 2], "data: " + refused(case)]
    elif usage:
        made.append("data: " + wrapped(case, kind, [], usage=USAGE))
    return tuple(f"{event}\n\n".encode() for event in (*made, "data: [DONE]"))


def refused(case: Case) -> str:
    return json.dumps({"error": {"message": f"cannot start the {BANNED}", "type": "server_error", "param": BANNED, "code": None}})


def head(status: int, headers: str) -> bytes:
    return f"HTTP/1.1 {status} X\r\n{headers}\r\n".encode()


def whole(status: int, body: bytes, more: str = "") -> bytes:
    return head(status, f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}") + body


async def answer(first_line: bytes, body: bytes, writer: asyncio.StreamWriter, wait: tuple[float, float]) -> None:
    if b"/seen" in first_line:
        writer.write(whole(200, json.dumps(sorted(SEEN)).encode()))
        SEEN.clear()
        return
    if b"completions" not in first_line:
        writer.write(whole(200, b'{"object": "list", "data": [{"id": "fake", "object": "model"}]}'))
        return
    name, asked = named(body), json.loads(body)
    case = CASES[name]
    if case.asks and holds(json.dumps(asked, ensure_ascii=False)):
        SEEN.add(name)
    more = "".join(f"{key}: {value}\r\n" for key, value in case.headers.items())
    if wait[0]:
        await asyncio.sleep(wait[0])
    if case.error >= 400:
        writer.write(whole(case.error, refused(case).encode(), more))
    elif not asked.get("stream"):
        writer.write(whole(200, plain(name), more))
    else:
        writer.write(head(200, CHUNKED + more))
        for event in events(name, bool((asked.get("stream_options") or {}).get("include_usage"))):
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            if wait[1]:
                await asyncio.sleep(wait[1])
        writer.write(b"0\r\n\r\n")


async def serve(port: int, wait: tuple[float, float]) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                top = await reader.readuntil(b"\r\n\r\n")
                lines = top.lower().split(b"\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
                await answer(top.split(b"\r\n", 1)[0], await reader.readexactly(length) if length else b"", writer, wait)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first-ms", type=float, default=0)
    parser.add_argument("--event-ms", type=float, default=0)
    given = parser.parse_args()
    asyncio.run(serve(given.port, (given.first_ms / 1000, given.event_ms / 1000)))
