"""A model in the gateway's own process: streamed from a thread, one at a time, and let go when nobody listens."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bounded import WAIT_S
from serve_world import World, finish, run, said

from temper.errors import UsageError
from temper.serve.inprocess import InProcess
from temper.serve.protocol import ApiError

WORDS = ["one", "two", "three", "four", "five"]


@dataclass(frozen=True)
class Piece:
    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


class Talker:
    """Says five words; waits before the third where it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.cancelled = threading.Event()
        self.begun = threading.Event()

    def __call__(self, body: Mapping[str, Any], index: int, cancelled: Callable[[], bool]) -> Iterator[Piece]:
        if body.get("seed") == 13:
            raise UsageError("no luck")
        self.begun.set()
        for i, word in enumerate(WORDS):
            while i == 2 and not self.go.wait(0.01):
                if cancelled():
                    self.cancelled.set()
                    return
            yield Piece(f"{word} ", "stop" if i == 4 else "", 7, i + 1)


def test_plain_and_streamed_answers_are_the_same_and_counted(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        plain = (await w.chat("hi", model="tiny", n=2)).json()
        assert [c["message"]["content"] for c in plain["choices"]] == ["one two three four five "] * 2
        assert plain["usage"] == {"prompt_tokens": 14, "completion_tokens": 10, "total_tokens": 24}
        frames, _ = await w.stream("hi", model="tiny")
        assert (said(frames), finish(frames)) == ("one two three four five ", "stop")
        old = (await w.client.post("/v1/completions", json={"model": "tiny", "prompt": ["a", "b"]})).json()
        assert [c["text"] for c in old["choices"]] == ["one two three four five "] * 2
        assert (await w.client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
        assert (await w.chat("hi", model="other")).status_code == 404
        wrong = await w.chat("hi", model="tiny", seed=13)
        assert (wrong.status_code, wrong.json()["error"]["message"]) == (400, "no luck")

    run(tmp_path, test, upstream=InProcess(Talker(), "tiny"))


def test_a_client_that_leaves_ends_the_answer(tmp_path: Path) -> None:
    talker = Talker()
    talker.go.clear()

    async def test(w: World) -> None:
        work = asyncio.ensure_future(w.chat("hi", model="tiny", stream=True))
        assert await asyncio.to_thread(talker.begun.wait, WAIT_S)
        work.cancel()
        assert await asyncio.to_thread(talker.cancelled.wait, WAIT_S)

    run(tmp_path, test, upstream=InProcess(talker, "tiny"))


def test_a_full_queue_tells_when_to_come_back() -> None:
    talker = Talker()
    talker.go.clear()
    upstream = InProcess(talker, "tiny", waiting=1)

    async def test() -> None:
        first = await upstream.stream("chat/completions", {"model": "tiny", "messages": []})
        second = await upstream.stream("chat/completions", {"model": "tiny", "messages": []})
        with pytest.raises(ApiError) as told:
            await upstream.stream("chat/completions", {"model": "tiny", "messages": []})
        assert (told.value.status, told.value.headers) == (503, {"Retry-After": "2"})
        await first.close()
        talker.go.set()
        texts = []
        while (events := await second.read()) is not None:
            texts += [c["delta"]["content"] for e in events for c in e["choices"]]
        assert texts == [f"{w} " for w in WORDS]
        await upstream.close()

    asyncio.run(test())


def test_tools_are_refused_where_the_model_cannot_use_them() -> None:
    async def test() -> None:
        upstream = InProcess(Talker(), "tiny")
        with pytest.raises(ApiError, match="takes no tools"):
            await upstream.stream("chat/completions", {"model": "tiny", "messages": [], "tools": [{}]})
        await upstream.close()

    asyncio.run(test())
