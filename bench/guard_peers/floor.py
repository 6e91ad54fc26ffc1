"""The floor: what a Python proxy of Starlette and aiohttp pays before it guards anything, and with the rules in one RE2 set.

`UPSTREAM=http://host:port RULES=0|1 uvicorn floor:app`. Not a product: no key, no record, and many cases get through.
"""

import os
from collections.abc import AsyncIterator

import aiohttp
import orjson
import re2
from cases import PHRASES, REGEXES
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

UPSTREAM = os.environ["UPSTREAM"] + "/v1/chat/completions"
RULES = os.environ.get("RULES") == "1"
EVERY, HELD, BACK = 128, 64, 512
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}\n\ndata: [DONE]\n\n'
REFUSED = b'{"choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"content_filter"}]}'
JSON = {"content-type": "application/json"}

rules = re2.Set.SearchSet()
for pattern in (*REGEXES, *map(re2.escape, PHRASES)):
    rules.Add(pattern)
rules.Compile()
sessions: list[aiohttp.ClientSession] = []


def session() -> aiohttp.ClientSession:
    if not sessions:
        sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    return sessions[0]


def words(message: dict) -> str:
    calls = "".join((call.get("function") or {}).get("arguments") or "" for call in message.get("tool_calls") or ())
    return (message.get("content") or "") + (message.get("reasoning_content") or "") + calls


async def relayed(body: bytes) -> AsyncIterator[bytes]:
    async with session().post(UPSTREAM, data=body, headers=JSON) as reply:
        async for piece in reply.content.iter_any():
            yield piece


async def held(body: bytes) -> AsyncIterator[bytes]:
    """Events wait until 128 new characters are scanned in one search; 64 are held back."""
    rest, waiting, text, scanned = b"", [], "", 0
    async for piece in relayed(body):
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                text += "".join(words(choice["delta"]) for choice in orjson.loads(event[6:])["choices"])
            waiting.append((len(text), event + b"\n\n"))
        done = bool(waiting) and waiting[-1][1].startswith(b"data: [DONE]")
        if len(text) - scanned < EVERY and not done:
            continue
        if rules.Match(text[max(0, scanned - BACK) :]):
            yield STOP
            return
        scanned = len(text)
        ready = len(waiting) if done else next((i for i, (at, _) in enumerate(waiting) if at > scanned - HELD), len(waiting))
        yield b"".join(event for _, event in waiting[:ready])
        del waiting[:ready]


async def chat(request: Request) -> Response:
    body = await request.body()
    asked = orjson.loads(body)
    if RULES and any(isinstance(m.get("content"), str) and rules.Match(m["content"]) for m in asked["messages"]):
        return JSONResponse({"error": {"message": "blocked", "code": "content_filter"}}, 400)
    if asked.get("stream"):
        return StreamingResponse(held(body) if RULES else relayed(body), media_type="text/event-stream")
    async with session().post(UPSTREAM, data=body, headers=JSON) as reply:
        status, out = reply.status, await reply.read()
    if RULES and status == 200 and rules.Match(words(orjson.loads(out)["choices"][0]["message"])):
        out = REFUSED
    return Response(out, status, media_type="application/json")


async def health(request: Request) -> Response:
    return JSONResponse({"ok": True})


app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/health", health)])
