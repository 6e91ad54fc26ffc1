"""A model in this process as an upstream: one answer at a time in a thread of its own, a short queue before it.

Who speaks is handed in, so that nothing here needs torch. What a client leaves is ended at its next token.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from temper.errors import UsageError
from temper.serve.protocol import ApiError, added, overloaded
from temper.serve.upstream import broken

log = logging.getLogger(__name__)
WAITING = 8
"""Answers that may wait for the one under way; more are told to come back."""


class Spoken(Protocol):
    """A piece of an answer. The last one has a `finish` (stop or length); the counts are those so far."""

    @property
    def text(self) -> str: ...
    @property
    def finish(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


Speak = Callable[[Mapping[str, Any], int, Callable[[], bool]], Iterator[Spoken]]
"""(body, number of the choice, whether it was cancelled) -> its pieces. Raises `UsageError` for what it cannot do."""


class InProcess:
    """An upstream of one model, known as `name`."""

    def __init__(self, speak: Speak, name: str, *, waiting: int = WAITING) -> None:
        self._speak, self._name, self._most = speak, name, waiting + 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="speak")
        self._made = int(time.time())
        self._lock = threading.Lock()
        self._open = 0

    async def models(self) -> Sequence[Mapping[str, Any]]:
        return [{"id": self._name, "object": "model", "created": self._made, "owned_by": "temper"}]

    async def plain(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """All choices, one after the other."""
        answer = await self.stream(path, body)
        texts: dict[int, list[str]] = {}
        finishes: dict[int, str] = {}
        usage: Mapping[str, Any] | None = None
        try:
            while (events := await answer.read()) is not None:
                for event in events:
                    usage = event.get("usage") or usage
                    for choice in event["choices"]:
                        texts.setdefault(choice["index"], []).append(_text(choice))
                        finishes[choice["index"]] = choice["finish_reason"]
        finally:
            await answer.close()
        return {"choices": [_choice(path, i, "".join(t), finishes[i]) for i, t in sorted(texts.items())], "usage": usage}

    async def stream(self, path: str, body: Mapping[str, Any]) -> "_Speech":
        if body["model"] != self._name:
            raise ApiError(404, "no such model here; GET /v1/models lists them", param="model", code="model_not_found")
        if body.get("tools") or any(m["role"] == "tool" or m.get("tool_calls") for m in body.get("messages", ())):
            raise ApiError(400, "the model in this process takes no tools", param="tools")
        if self._open >= self._most:
            raise overloaded("the model has as many answers to give as it takes", 2, code="upstream_overloaded")
        with self._lock:
            self._open += 1
        speech = _Speech(asyncio.get_running_loop())
        work = self._thread.submit(self._speech, speech, path, body)
        work.add_done_callback(self._ended)
        return speech

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    def _speech(self, speech: "_Speech", path: str, body: Mapping[str, Any]) -> None:
        """In the thread: every choice of every prompt, piece by piece."""
        usage: dict[str, Any] | None = None
        prompts = body.get("prompt") if path == "completions" else None
        asked = [dict(body)] if prompts is None else [{**body, "prompt": p} for p in prompts]
        n = body.get("n", 1)
        try:
            if speech.cancelled():  # left while it waited
                return None
            for k, one in enumerate(asked):
                for i in range(n):
                    last: Spoken | None = None
                    for piece in self._speak(one, i, speech.cancelled):
                        last = piece
                        speech.tell(_event(path, k * n + i, piece))
                    if last is None or not last.finish:
                        return speech.tell(None)
                    usage = added(usage, _usage(last))
            speech.tell({"choices": [], "usage": usage})
            speech.tell(None)
        except UsageError as error:
            speech.tell(ApiError(400, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it was, somebody waits for an answer
            log.error("the model in this process failed: %s", type(error).__name__)
            speech.tell(broken("the model in this process failed"))

    def _ended(self, _: object) -> None:
        with self._lock:
            self._open -= 1


class _Speech:
    """An answer under way, from the thread to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._told: list[Mapping[str, Any] | ApiError | None] = []
        self._news = asyncio.Event()
        self._left = threading.Event()
        self._end = False

    def cancelled(self) -> bool:
        return self._left.is_set()

    def tell(self, event: Mapping[str, Any] | ApiError | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._heard, event)

    def _heard(self, event: Mapping[str, Any] | ApiError | None) -> None:
        self._told.append(event)
        self._news.set()

    async def read(self) -> Sequence[Mapping[str, Any]] | None:
        while not self._end:
            await self._news.wait()
            self._news.clear()
            told, self._told = self._told, []
            events: list[Mapping[str, Any]] = []
            for event in told:
                if isinstance(event, ApiError):
                    raise event
                if event is None:
                    self._end = True
                else:
                    events.append(event)
            if events:
                return events
        return None

    async def close(self) -> None:
        self._left.set()


def _event(path: str, i: int, piece: Spoken) -> dict[str, Any]:
    inner = {"text": piece.text} if path == "completions" else {"delta": {"content": piece.text}}
    return {"choices": [{"index": i, **inner, "finish_reason": piece.finish or None}]}


def _text(choice: Mapping[str, Any]) -> str:
    return str(choice["text"] if "text" in choice else choice["delta"]["content"])


def _choice(path: str, i: int, text: str, finish: str) -> dict[str, Any]:
    inner = {"text": text} if path == "completions" else {"message": {"role": "assistant", "content": text}}
    return {"index": i, **inner, "finish_reason": finish}


def _usage(last: Spoken) -> dict[str, Any]:
    prompt, completion = last.prompt_tokens, last.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
