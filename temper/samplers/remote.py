"""Ask any OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp, Ollama, hosted APIs); the only file that speaks HTTP.

Leaves out streaming, tools and log-probabilities.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from temper.errors import ModelError
from temper.text.split import render, split
from temper.types import Completion, Example, Usage

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may pass: time-outs, conflicts, rate limits, server errors, and 529 (overloaded) of some hosts."""

_LONGEST_PAUSE = 60.0  # seconds, whatever a server asks for
_SHOWN = 300  # characters of an error body
_HINTS = {
    401: "the key was refused: put the right one into ${key}",
    403: "the key may not use this model: check ${key}",
    404: "is the model served there, and does the URL end where /chat/completions begins (often /v1)?",
    405: "does the URL end where /chat/completions begins (often /v1)?",
    413: "the prompt is too long for this server",
    429: "rate limit: lower concurrency or raise retries",
}


class _Message(BaseModel):
    content: str | None = None
    thought: str | None = Field(default=None, validation_alias=AliasChoices("reasoning_content", "reasoning"))
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Counts(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Counts | None = None


@dataclass(frozen=True, slots=True)
class Remote:
    """A sampler over `POST {url}/chat/completions`.

    The key is read from the environment variable `key_env` when a request is sent, and is sent only to `url`; without the
    variable none is sent. Samples are asked for one by one, since not every server honours `n`; sample i gets `seed + i`.
    `timeout` is in seconds per request. Rate limits, server errors and lost connections are tried again `retries` times, after
    `pause`, 2 `pause`, … seconds or what the server's Retry-After says. `opened` says that the chat template opens the thought
    and the server does not split it off. `extra` goes into the body as it is; a None there removes a field
    (`{"max_tokens": None, "max_completion_tokens": 512}`).

    Raises `ModelError` with URL, status and a hint.
    """

    url: str
    model: str
    key_env: str = "TEMPER_API_KEY"
    max_tokens: int = 1024
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int | None = None
    system: str = ""
    opened: bool = False
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    pause: float = 0.5
    extra: Mapping[str, object] = field(default_factory=dict)

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        began = time.perf_counter()
        asked = [(example, sample) for example in examples for sample in range(n)]
        replies = _run(lambda: self._ask_all(asked))
        share = (time.perf_counter() - began) / max(len(asked), 1)
        made = [self._completion(example, reply, share) for (example, _), reply in zip(asked, replies, strict=True)]
        return [made[k * n : (k + 1) * n] for k in range(len(examples))]

    @property
    def endpoint(self) -> str:
        return f"{self.url.rstrip('/')}/chat/completions"

    async def _ask_all(self, asked: Sequence[tuple[Example, int]]) -> list[_Reply]:
        """All replies in order; the first failure cancels what is still under way."""
        gate = asyncio.Semaphore(self.concurrency)  # waiting here, unlike in the pool, does not use up a request's timeout

        async def one(example: Example, sample: int) -> _Reply:
            async with gate:
                return await self._ask(client, self._body(example, sample))

        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(headers=self._headers(), timeout=self.timeout, limits=limits) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(example, sample)) for example, sample in asked]
            except* ModelError as failures:
                failure = failures.exceptions[0]
            else:
                return [task.result() for task in tasks]
        raise failure

    def _headers(self) -> dict[str, str]:
        key = self._key()
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ModelError(f"{self._shown()}: ${self.key_env} holds spaces or control characters; wanted a key")
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _key(self) -> str:
        return os.environ.get(self.key_env, "").strip()

    def _body(self, example: Example, sample: int) -> dict[str, object]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": system + [{"role": m.role, "content": m.content} for m in example.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": None if self.seed is None else self.seed + sample,
            **self.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    async def _ask(self, client: httpx.AsyncClient, body: Mapping[str, object]) -> _Reply:
        """One reply, after as many tries as it takes or is allowed."""
        for tried in range(self.retries + 1):
            last = tried == self.retries
            try:
                response = await client.post(self.endpoint, json=body)
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise ModelError(f"{self._shown()}: {error}; wanted a URL such as http://localhost:8000/v1") from None
            except httpx.TransportError as error:
                if last:
                    raise ModelError(f"{self._shown()}: {_lost(error, self.timeout)} ({tried + 1} tries)") from None
                await asyncio.sleep(self._pause(tried))
                continue
            if response.is_success:
                return self._parsed(response)
            if last or response.status_code not in RETRIED:
                raise ModelError(self._refused(response, tried + 1))
            await asyncio.sleep(_retry_after(response) or self._pause(tried))
        raise AssertionError("the last try returns or raises")

    def _pause(self, tried: int) -> float:
        """Doubles with every try; half of it is random, so that waiting requests do not return all at once."""
        longest: float = min(self.pause * 2.0**tried, _LONGEST_PAUSE)
        return longest * random.uniform(0.5, 1.0)

    def _parsed(self, response: httpx.Response) -> _Reply:
        try:
            return _Reply.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise ModelError(
                f"{self._shown()}: HTTP {response.status_code}, but not a chat completion ({field or 'body'}: {first['msg']}); "
                "is this an OpenAI-compatible endpoint?"
            ) from None

    def _refused(self, response: httpx.Response, tries: int) -> str:
        hint = _HINTS.get(response.status_code, "").replace("${key}", f"${self.key_env}")
        said = self._without_key(_said(response))[:_SHOWN]
        tried = f" after {tries} tries" if tries > 1 else ""
        return "; ".join(filter(None, [f"{self._shown()}: HTTP {response.status_code}{tried}: {said}", hint]))

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key they refuse."""
        return text.replace(self._key(), "***") if self._key() else text

    def _shown(self) -> str:
        """The endpoint as an error may show it: without a password or a query."""
        try:
            return str(httpx.URL(self.endpoint).copy_with(userinfo=b"", query=None))
        except httpx.InvalidURL:
            return "the endpoint's URL"

    def _completion(self, example: Example, reply: _Reply, seconds: float) -> Completion:
        choice = reply.choices[0]
        text = choice.message.content or choice.message.refusal or ""
        parts = split(text, opened=self.opened, reasoning_content=choice.message.thought)
        counts = reply.usage
        usage = Usage(counts.prompt_tokens, counts.completion_tokens, seconds) if counts else None
        return Completion(
            example,
            parts.answer,
            parts.reasoning,
            finish="length" if choice.finish_reason == "length" else "stop",
            thought=parts.thought,
            raw=text if choice.message.thought is None else _as_written(choice.message.thought, text),
            usage=usage,
        )


def _as_written(thought: str, text: str) -> str:
    """The tags back around a thought that the server split off; a thought without an answer was never closed."""
    return render(thought, text) if text else f"<think>\n{thought}"


def _said(response: httpx.Response) -> str:
    """The server's own words: `error.message` where the body has one."""
    try:
        body = response.json()
    except ValueError:
        return " ".join(response.text.split()) or response.reason_phrase
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _lost(error: httpx.TransportError, timeout: float) -> str:
    if isinstance(error, httpx.ConnectError):
        return f"cannot connect ({error}); is the server running and the URL right?"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout:g} s; raise timeout or lower concurrency or max_tokens"
    return f"the connection was lost ({type(error).__name__}: {error})"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait; a date is left to the usual pause."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), _LONGEST_PAUSE) if asked.replace(".", "", 1).isdigit() else None


def _run(make: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run to the end, also where a loop already runs (a notebook): then in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(lambda: asyncio.run(make())).result()
