"""Where a banned phrase comes through: every case of `cases`, plain and streamed, and what of it reached the client.

A leak is found in the bytes of the answer, head and body, and in every string of its JSON put together over all events, as a
reader sees it. The upstream tells which requests reached it.
"""

import argparse
import asyncio
import json
from collections import defaultdict
from typing import Any
from urllib.request import urlopen

import wire
from cases import CASES, OUTPUT, Case, body_of, holds, strings


def frames(answer: wire.Answer) -> list[Any]:
    """The JSON values of an answer, streamed or not."""
    text = answer.body.decode("utf-8", "replace")
    lines = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")] or [text]
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def leaks(answer: wire.Answer) -> list[str]:
    """The places of an answer that hold the phrase."""
    places: dict[str, str] = defaultdict(str)
    for frame in frames(answer):
        for path, text in strings(frame):
            places[path] += text
    found = [path.lstrip(".") for path, text in places.items() if holds(text)]
    found += ["head"] if holds(answer.head.decode("latin-1")) else []
    return found or (["bytes"] if holds(answer.body.decode("utf-8", "replace")) else [])


def delivered(answer: wire.Answer) -> tuple[dict[str, str], str]:
    """What a client reads of the first choice, by channel, and the finish reason."""
    said: dict[str, str] = defaultdict(str)
    finish = ""
    for frame in frames(answer):
        for choice in (frame.get("choices") or []) if isinstance(frame, dict) else []:
            if choice.get("index"):
                continue
            message = choice.get("delta") or choice.get("message") or {}
            said["content"] += message.get("content") or choice.get("text") or ""
            said["reasoning"] += message.get("reasoning_content") or message.get("reasoning") or ""
            for call in message.get("tool_calls") or []:
                said["arguments"] += (call.get("function") or {}).get("arguments") or ""
            finish = choice.get("finish_reason") or finish
    return dict(said), finish


def whole(case: Case, said: dict[str, str]) -> bool:
    """Whether a clean answer came through as it was; reasoning may come inside the content."""
    message = case.message
    if message.get("tool_calls"):
        return said.get("arguments") == message["tool_calls"][0]["function"]["arguments"]
    everything = said.get("reasoning", "") + said.get("content", "")
    return OUTPUT in said.get("content", "") and message.get("reasoning_content", "") in everything


async def probe(url: str, case: Case, stream: bool, model: str, headers: dict[str, str]) -> dict[str, Any]:
    reader, writer = await wire.connect(url)
    path = url.rsplit("/chat/completions", 1)[0] + "/" + case.route
    writer.write(wire.request(path, json.dumps(body_of(case, stream, model)).encode(), {**headers, "Connection": "close"}))
    row = {"case": case.name, "stream": stream}
    try:
        answer = await asyncio.wait_for(wire.read(reader), 60)
    except (TimeoutError, OSError, asyncio.IncompleteReadError, ValueError) as error:
        return {**row, "failed": type(error).__name__}
    finally:
        writer.close()
    said, finish = delivered(answer)
    row |= {"status": answer.status, "finish": finish, "cut": answer.cut, "chars": sum(map(len, said.values()))}
    return row | ({"whole": whole(case, said)} if case.clean else {"leaks": [] if case.asks else leaks(answer)})


async def every(url: str, upstream: str, model: str, headers: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for case in CASES.values():
        for stream in case.forms():
            row = await probe(url, case, stream, model, headers)
            seen = await asyncio.to_thread(_seen, upstream) if case.asks else []
            rows.append(row | ({"leaks": ["upstream"]} if case.name in seen else {}))
    return rows


def _seen(upstream: str) -> list[str]:
    with urlopen(f"{upstream}/seen") as told:
        return list(json.loads(told.read()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--header", action="append", default=[])
    given = parser.parse_args()
    with_headers = dict(header.split(":", 1) for header in given.header)
    for found in asyncio.run(every(given.url, given.upstream, given.model, with_headers)):
        print(json.dumps(found))
