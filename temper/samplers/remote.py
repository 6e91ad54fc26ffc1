"""Ask any OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp, Ollama, hosted APIs).

`Remote` samples answers, `Chooser` lets a model choose among labels for a judge; `link` carries what they send. Leaves out
streaming and tools.
"""

import asyncio
import email.utils
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar, NamedTuple, TypeVar

import httpcore
from pydantic import ValidationError

from temper.errors import ModelError
from temper.files import digest, dumps
from temper.samplers.asking import Asked, Breaker, Chosen, Told
from temper.samplers.choices import (
    AUTO,
    CONTENT_FILTER,
    READING,
    Counts,
    Form,
    Reply,
    Spoken,
    form_fields,
    named,
    read_choice,
    spoken,
)
from temper.samplers.flow import Put, flow
from temper.samplers.link import LOST, WRONG_URL, Answered, Link, secured, shown
from temper.text.invisible import visible
from temper.text.split import left_open, render, split
from temper.types import Completion, Example, Usage

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may pass: time-outs, conflicts, rate limits, server errors, and 529 (overloaded) of some hosts."""

_MAY_PASS = frozenset({None, 200, *RETRIED})
"""What may be otherwise at the next try; None is a lost connection, 200 a reply that is garbage."""

_UNKNOWN_FIELD = frozenset({400, 422, 501})
_PATIENCE = 5  # requests in a row that come to nothing, or as many as are under way: then the server is taken to be down
_AHEAD = 64  # answers, or twice what is under way, that may wait for a grader; a killed process asks for them again
_HOPELESS = frozenset({401, 403, 404, 405})
_FLAGGED = 403  # where others were answered it is one prompt's: some hosts so refuse what their moderation flags
# vLLM and SGLang go on from the last assistant message with these; so do newer versions of llama.cpp, others by themselves.
_CONTINUE: Mapping[str, object] = {"add_generation_prompt": False, "continue_final_message": True}
_JSON_TOKENS = 32
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


class _HttpError(ModelError):
    """A request that came to nothing; `status` is the server's, None if there was no answer, 200 if it was not understood."""

    def __init__(self, message: str, status: int | None, tries: int) -> None:
        super().__init__(message)
        self.status, self.tries = status, tries


class _Received(NamedTuple):
    """A reply, and how often it was asked for in vain before."""

    reply: Reply
    retries: int


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """`POST {url}/{path}` with retries: what every caller of a server here shares."""

    url: str
    key_env: str
    concurrency: int
    timeout: float
    retries: int
    pause: float
    path: str = "chat/completions"

    @property
    def address(self) -> str:
        return f"{self.url.rstrip('/')}/{self.path}"

    async def gather(self, count: int, ask: Callable[[Link, int], Coroutine[object, object, T]]) -> list[T]:
        """`ask(link, i)` for every i below `count`, in order; the first `ModelError` cancels what is still under way."""
        found: dict[int, T] = {}

        async def one(link: Link, index: int) -> None:
            found[index] = await ask(link, index)

        await self.spread(count, one)
        return [found[index] for index in range(count)]

    async def spread(self, count: int, ask: Callable[[Link, int], Coroutine[object, object, None]]) -> None:
        """`ask(link, i)` for every i below `count` by `concurrency` workers, each of which takes the next i when it is done."""
        waiting = iter(range(count))
        headers, secure = self._headers(), secured(self.url)

        async def worker() -> None:
            async with Link(self.url, headers, secure) as link:
                for index in waiting:
                    await ask(link, index)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, count)):
                    group.create_task(worker())
        except* ModelError as failures:
            failure = failures.exceptions[0]
        else:
            return
        raise failure

    async def ask(
        self,
        link: Link,
        body: Mapping[str, object],
        given_up: Callable[[], bool] = lambda: False,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> _Received:
        """One reply, after as many tries as it takes or is allowed; `given_up` ends the trying early, and perhaps a `pause`."""
        content = dumps(body).encode()  # unlike httpx's own encoding, this one survives half a surrogate pair
        for tried in range(self.retries + 1):
            found, wait = await self._once(link, content, tried)
            if isinstance(found, Reply):
                return _Received(found, tried)
            if tried == self.retries or given_up() or found.status not in _MAY_PASS:
                raise found
            await pause(wait + self._pause(tried))
            if given_up():
                raise found
        raise AssertionError("the last try returns or raises")

    async def _once(self, link: Link, content: bytes, tried: int) -> "tuple[Reply | _HttpError, float]":
        """A reply, or why there is none and the seconds that the server asks to wait."""
        try:
            async with asyncio.timeout(self.timeout):
                answered = await link.post(self.address, content)
        except WRONG_URL as error:
            raise ModelError(f"{self.shown()}: {error}; wanted a URL such as http://localhost:8000/v1") from None
        except (*LOST, TimeoutError) as error:
            return _HttpError(f"{self.shown()}: {_lost(error, self.timeout)} ({tried + 1} tries)", None, tried + 1), 0.0
        if answered.is_success:
            return self._parsed(answered, tried + 1), 0.0
        if (stopped := _stopped(answered)) is not None:
            return stopped, 0.0
        return _HttpError(self._refused(answered, tried + 1), answered.status, tried + 1), _retry_after(answered)

    def _headers(self) -> dict[str, str]:
        key = self._key()
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ModelError(f"{self.shown()}: ${self.key_env} holds spaces or control characters; wanted a key")
        plain = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "gzip"}
        return plain | ({"Authorization": f"Bearer {key}"} if key else {})

    def _key(self) -> str:
        return os.environ.get(self.key_env, "").strip()

    def _pause(self, tried: int) -> float:
        """Doubles with every try; half of it is random, so that waiting requests do not return all at once."""
        longest: float = min(self.pause * 2.0**tried, _LONGEST_PAUSE)
        return longest * random.uniform(0.5, 1.0)

    def _parsed(self, answered: Answered, tries: int) -> Reply | _HttpError:
        try:
            return Reply.model_validate_json(answered.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            return _HttpError(
                f"{self.shown()}: HTTP {answered.status}, but not a chat completion ({field or 'body'}: {first['msg']}; "
                f"{tries} tries); is this an OpenAI-compatible endpoint?",
                HTTPStatus.OK,
                tries,
            )

    def _refused(self, answered: Answered, tries: int) -> str:
        hint = _HINTS.get(answered.status, "").replace("${key}", f"${self.key_env}")
        said = visible(self._without_key(_said(answered)))[:_SHOWN]  # a server's words end in a terminal
        tried = f" after {tries} tries" if tries > 1 else ""
        return "; ".join(filter(None, [f"{self.shown()}: HTTP {answered.status}{tried}: {said}", hint]))

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key they refuse."""
        return text.replace(self._key(), "***") if self._key() else text

    def shown(self) -> str:
        """The endpoint as an error may show it: without a password or a query."""
        return shown(self.address)


@dataclass(frozen=True, slots=True)
class Remote:
    """A sampler over `POST {url}/chat/completions`.

    The key is read from the environment variable `key_env` when a request is sent, and is sent only to `url`; without the
    variable none is sent. Samples are asked for one by one, since not every server honours `n`; sample i gets `seed + i`.
    `timeout` is in seconds per request. Rate limits, server errors and lost connections are tried again `retries` times, after
    `pause`, 2 `pause`, … seconds on top of what the server's Retry-After says. `opened` says that the chat template opens the
    thought and the server does not split it off. `extra` goes into the body as it is; a None there removes a field
    (`{"max_tokens": None, "max_completion_tokens": 512}`).

    A request that comes to nothing after every try becomes a completion that finished by `error` and says why, and the others go
    on. `ModelError`, with URL, status and a hint, is raised only where asking on is vain: the address or the key is wrong, no
    request was ever answered, or as many in a row as are under way (at least 5) came to nothing; what the server still answers of
    those under way comes first. The failures of such an outage are no completions, so that they are asked again.
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
    breaker: Breaker = field(init=False, repr=False, compare=False)
    answered: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "breaker", Breaker(limit=max(_PATIENCE, self.concurrency)))

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        asked = [(example, sample) for example in examples for sample in range(n)]
        made = dict(answer for batch in self._answers(asked) for answer in batch)
        return [[made[k * n + sample] for sample in range(n)] for k in range(len(examples))]

    def stream(
        self, asked: Sequence[tuple[Example, int]], /, *, answered: bool = False
    ) -> Iterator[list[tuple[int, Completion]]]:
        """(sample, completion) of each (example, sample) as it comes, in batches; `concurrency` are under way all the time.

        `answered` says that this server answered others before, in an attempt that this one goes on with.
        """
        if answered:
            self.answered.set()
        for batch in self._answers(asked):
            yield [(asked[index][1], completion) for index, completion in batch]

    @property
    def endpoint(self) -> str:
        return f"{self.url.rstrip('/')}/chat/completions"

    def _answers(self, asked: Sequence[tuple[Example, int]]) -> "Iterator[list[_Answer]]":
        server = _Endpoint(self.url, self.key_env, self.concurrency, self.timeout, self.retries, self.pause)
        return (
            flow(lambda put: _Asking(self, server, put).all(asked), ahead=max(_AHEAD, 2 * self.concurrency))
            if asked
            else iter(())
        )

    def _body(self, example: Example, sample: int) -> dict[str, object]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": system + [{"role": m.role, "content": m.content} for m in example.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": None if self.seed is None else self.seed + sample,
            **(_CONTINUE if example.prefill else {}),
            **self.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _completion(self, example: Example, reply: Reply, seconds: float) -> Completion:
        choice = reply.choices[0]
        text = choice.message.content or choice.message.refusal or ""
        # some servers repeat the beginning that they were handed, which the model did not write
        text = text.removeprefix(example.prefill)
        opened = left_open(example.prefill, opened=self.opened)
        parts = split(text, opened=opened, reasoning_content=choice.message.thought)
        return Completion(
            example,
            parts.answer,
            parts.reasoning,
            finish="length" if choice.finish_reason == "length" else "stop",
            thought=parts.thought,
            raw=text if choice.message.thought is None else _as_written(choice.message.thought, text),
            usage=_usage(reply.usage, seconds),
            facts=_guarded(reply),
        )


_Answer = tuple[int, Completion]  # its place among those asked


@dataclass(slots=True)
class _Asking:
    """One stream of a `Remote`: what is under way, and the failures that may yet turn out to be the server's.

    `shared` is the time that passed so far, each moment of it divided by the requests then under way: what one of them took of
    the whole is the difference between its end and its beginning. `vain` is why asking on is; then `over` is set, nothing more is
    asked, and what is under way is waited for: its answers are paid for.
    """

    remote: Remote
    server: _Endpoint
    put: Put[_Answer]
    under_way: int = 0
    changed: float = 0.0
    shared: float = 0.0
    doubtful: list[_Answer] = field(default_factory=list)
    vain: ModelError | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def all(self, asked: Sequence[tuple[Example, int]]) -> None:
        async def one(link: Link, index: int) -> None:
            if self.vain is None:
                await self._one(link, index, *asked[index])

        await self.server.spread(len(asked), one)
        await self._settle()
        if self.vain is not None:
            raise self.vain

    async def _one(self, link: Link, index: int, example: Example, sample: int) -> None:
        began = self._under_way(1)
        try:
            received = await self.server.ask(link, self.remote._body(example, sample), self._given_up, self._pause)
        except _HttpError as error:
            await self._failed(index, example, error)
            return
        finally:
            seconds = self._under_way(-1) - began
        self.remote.breaker.succeeded()
        self.remote.answered.set()
        await self._settle()
        await self.put((index, self.remote._completion(example, received.reply, seconds)))

    def _given_up(self) -> bool:
        return self.vain is not None or self.remote.breaker.is_open()

    async def _pause(self, seconds: float) -> None:
        """Until the time has passed, or asking is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)

    def _end(self, why: ModelError) -> None:
        self.vain = self.vain or why
        self.over.set()

    def _under_way(self, change: int) -> float:
        now = time.perf_counter()
        self.shared += (now - self.changed) / self.under_way if self.under_way else 0.0
        self.changed, self.under_way = now, self.under_way + change
        return self.shared

    async def _failed(self, index: int, example: Example, error: _HttpError) -> None:
        """One request came to nothing: by itself, or with all others because the server is down."""
        breaker, failed = self.remote.breaker, Completion(example, "", finish="error", error=str(error))
        if error.status in _HOPELESS and not (error.status == _FLAGGED and self.remote.answered.is_set()):
            self._end(error)
            return
        if self.remote.answered.is_set() and error.status not in {*_MAY_PASS, _FLAGGED}:
            breaker.succeeded()
            await self.put((index, failed))
            return
        breaker.failed(str(error))
        self.doubtful.append((index, failed))
        if breaker.is_open():
            self._end(ModelError(f"{error}; {len(self.doubtful)} requests in a row came to nothing, and asking ended there"))

    async def _settle(self) -> None:
        """Failures from before an answer were those of their requests; where no answer ever came, the server's."""
        if self.vain is not None:
            return
        if self.doubtful and not self.remote.answered.is_set():
            raise ModelError(self.doubtful[-1][1].error)
        failed, self.doubtful = self.doubtful, []
        for each in failed:
            await self.put(each)


def _usage(counts: Counts | None, seconds: float) -> Usage | None:
    """None where the server does not say both counts: unknown is not 0."""
    if counts is None or counts.prompt_tokens is None or counts.completion_tokens is None:
        return None
    return Usage(counts.prompt_tokens, counts.completion_tokens, seconds, counts.thought)


def _stopped(answered: Answered) -> Reply | None:
    """The reply to a prompt that a guard before the model did not let through: nothing, and no token of it."""
    if answered.status != HTTPStatus.BAD_REQUEST:
        return None
    try:
        told = json.loads(answered.content)
    except ValueError:
        return None
    error = told.get("error") if isinstance(told, dict) else None
    if not isinstance(error, dict) or error.get("code") != CONTENT_FILTER:
        return None
    choice = {"message": {"content": ""}, "finish_reason": CONTENT_FILTER}
    counts = {"prompt_tokens": 0, "completion_tokens": 0}
    return Reply.model_validate({"choices": [choice], "usage": counts, "moderation": told.get("moderation")})


def _guarded(reply: Reply) -> dict[str, object]:
    """What a guard before the model told: that it withheld something, or everything, and its verdicts."""
    choice = reply.choices[0]
    stopped = choice.finish_reason == CONTENT_FILTER
    told = {
        "finish_reason": choice.finish_reason if stopped else None,
        # a refusal in the place of the content is the guard's own words
        "withheld": stopped and bool(choice.message.refusal) and not choice.message.content,
        "results": choice.content_filter_results,
        "verdicts": reply.guard or reply.moderation,
    }
    found = {name: value for name, value in told.items() if value}
    return {"guard": found} if found else {}


@dataclass(frozen=True, slots=True)
class Chooser:
    """A model behind `POST {url}/chat/completions` that chooses one of a few strings: what a judge asks (graders.judge.Asker).

    `form` says how the choice is asked for: "logprobs" (probabilities of the first token of a free reply), the same within what
    one server's own field allows ("vllm": structured_outputs, "sglang": regex, "llama.cpp": grammar), "json" (response_format
    with a schema), or "plain" (the reply must be the label). "auto" asks for logprobs, and goes on to json and plain where the
    server refuses the field or the reply is no label. Reasoning models need `max_tokens` for their thought.

    Key, `timeout`, `retries`, `pause` and `extra` are as those of `Remote`; a temperature above 0 gets `seed` + vote. `breaker`
    (samplers.asking) ends calling for a while after failures in a row. A call that fails has no chances and says why; where not
    one reply of a batch could be had, or the address or the key is wrong, `ModelError` is raised.
    """

    url: str
    model: str
    key_env: str = "TEMPER_JUDGE_KEY"
    form: Form = "auto"
    max_tokens: int = 16
    temperature: float = 0.0
    seed: int = 0
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 4
    pause: float = 0.5
    extra: Mapping[str, object] = field(default_factory=dict)
    breaker: Breaker = field(default_factory=Breaker, repr=False, compare=False)
    # forms that the server refused while it took a later one
    refused: set[str] = field(default_factory=set, repr=False, compare=False)
    answered: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    slow: ClassVar[bool] = True

    @property
    def weights(self) -> str:
        """One model id is one model, wherever it is served and however it is asked."""
        return digest(["endpoint", self.model])

    @property
    def settings(self) -> str:
        """Hash of all but the messages that decides a reply; no key is in it."""
        shown = self._server().shown()
        return digest([READING, shown, self.model, self.form, self.max_tokens, self.temperature, self.seed, dict(self.extra)])

    def __call__(self, asked: Sequence[Asked], /, *, told: Told | None = None) -> list[Chosen]:
        """Replies in the order of `asked`; `told(i, reply)` hears of each as soon as it is there."""
        if not asked:
            return []
        chosen = _run(lambda: self._choose_all(asked, told))
        replies, outages = (sum(spent.get(name, 0) for _, _, spent in chosen) for name in ("replies", "outages"))
        if replies == 0 and (outages or not self.answered.is_set()):
            raise ModelError(f"judge {self.model}: not one of {len(asked)} calls was answered: {chosen[0][1]}")
        return chosen

    def _server(self) -> _Endpoint:
        return _Endpoint(self.url, self.key_env, self.concurrency, self.timeout, self.retries, self.pause)

    async def _choose_all(self, asked: Sequence[Asked], told: Told | None) -> list[Chosen]:
        server = self._server()

        async def one(link: Link, index: int) -> Chosen:
            began = time.perf_counter()
            spent: Counter[str] = Counter()
            chances, why = await self._choose(server, link, asked[index], spent)
            reply = (chances, why, {**spent, "seconds": time.perf_counter() - began})
            if told is not None:
                told(index, reply)
            return reply

        return await server.gather(len(asked), one)

    async def _choose(
        self, server: _Endpoint, link: Link, asked: Asked, spent: "Counter[str]"
    ) -> tuple[dict[str, float] | None, str]:
        """A distribution over the choices by the first form that yields one, else why there is none."""
        why, turned_down = "", []
        for form in self._forms():
            if refusal := self.breaker.refusal():
                spent["outages"] += 1
                return None, why or refusal
            try:
                received = await server.ask(link, self._body(asked, form), self.breaker.is_open)
            except _HttpError as error:
                self._failed(error, spent)
                why = str(error)
                if error.status not in _UNKNOWN_FIELD:
                    return None, why
                turned_down.append(form)
                continue
            self._succeeded(received, spent, turned_down)
            chances, told = read_choice(received.reply, asked[1], named(asked[0][-1].content, asked[1]))
            if chances is not None:
                return chances, ""
            why = why or told
        return None, why

    def _forms(self) -> list[str]:
        return [form for form in AUTO if form not in self.refused] if self.form == "auto" else [self.form]

    def _succeeded(self, received: _Received, spent: "Counter[str]", turned_down: Sequence[str]) -> None:
        self.breaker.succeeded()
        self.answered.set()
        self.refused.update(turned_down)
        usage = received.reply.usage or Counts()
        spent.update(calls=received.retries + 1, retries=received.retries, replies=1)
        spent.update(prompt_tokens=usage.prompt_tokens or 0, completion_tokens=usage.completion_tokens or 0)

    def _failed(self, error: _HttpError, spent: "Counter[str]") -> None:
        spent["outages"] += _outage(error, self.breaker)
        spent.update(calls=error.tries, retries=error.tries - 1)

    def _body(self, asked: Asked, form: str) -> dict[str, object]:
        messages, choices, vote = asked
        body = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "max_tokens": self.max_tokens if form != "json" else max(self.max_tokens, _JSON_TOKENS),
            "temperature": self.temperature,
            "seed": self.seed + vote if self.temperature > 0 else None,
            **form_fields(form, choices),
            **self.extra,
        }
        return {name: value for name, value in body.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Completer:
    """Sends bodies as they are and gives back texts with the odds of their tokens: what a served guard asks (`Speaking`).

    A body with "messages" goes to /chat/completions, one with "prompt" to /completions; its "logprobs" is the number of
    alternatives wanted. Key, `timeout`, `retries` and `pause` are as those of `Remote`, `breaker` as that of `Chooser`. A body
    that fails gives the reason in place of a reply; where not one reply of a batch could be had, or the address or the key is
    wrong, `ModelError` is raised. A batch that a server in working order will not take (too long) is no such case.
    """

    url: str
    model: str
    key_env: str = "TEMPER_JUDGE_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    pause: float = 0.5
    breaker: Breaker = field(default_factory=Breaker, repr=False, compare=False)
    answered: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def __call__(self, bodies: Sequence[Mapping[str, object]], /) -> list[Spoken | str]:
        if not bodies:
            return []
        outages: list[int] = []
        replies = _run(lambda: self._all(bodies, outages))
        reasons = [reply for reply in replies if isinstance(reply, str)]
        if len(reasons) == len(replies) and (outages or not self.answered.is_set()):
            raise ModelError(f"guard {self.model}: not one of {len(replies)} calls was answered: {reasons[0]}")
        return replies

    async def _all(self, bodies: Sequence[Mapping[str, object]], outages: list[int]) -> list[Spoken | str]:
        """Replies or reasons in order; `outages` gets the places of calls that failed because of the server."""
        chat, text = self._server("chat/completions"), self._server("completions")

        async def one(link: Link, index: int) -> Spoken | str:
            body = {**bodies[index], "model": self.model}
            server = chat if "messages" in body else text
            listed = {"logprobs": True, "top_logprobs": body["logprobs"]} if server is chat else {}
            reply, outage = await self._one(server, link, body | listed)
            outages.extend([index] * outage)
            return reply

        return await chat.gather(len(bodies), one)

    async def _one(self, server: _Endpoint, link: Link, body: Mapping[str, object]) -> tuple[Spoken | str, bool]:
        """A body's reply, or why there is none; and whether the server is to blame."""
        if refusal := self.breaker.refusal():
            return refusal, True
        try:
            received = await server.ask(link, body, self.breaker.is_open)
        except _HttpError as error:
            return str(error), _outage(error, self.breaker)
        self.breaker.succeeded()
        self.answered.set()
        return spoken(received.reply.choices[0]), False

    def _server(self, path: str) -> _Endpoint:
        return _Endpoint(self.url, self.key_env, self.concurrency, self.timeout, self.retries, self.pause, path)


def _outage(error: _HttpError, breaker: Breaker) -> bool:
    """Whether a failed call speaks against the server, which the breaker is told; a wrong address or key ends everything.

    A request that this server will not take says nothing about the server. Raises the error where nothing else can help.
    """
    if error.status in _HOPELESS:
        raise error
    if error.status not in _MAY_PASS:
        breaker.succeeded()
        return False
    breaker.failed(str(error))
    return True


def _as_written(thought: str, text: str) -> str:
    """The tags back around a thought that the server split off; a thought without an answer was never closed."""
    return render(thought, text) if text else f"<think>\n{thought}"


def _said(answered: Answered) -> str:
    """The server's own words: `error.message` where the body has one."""
    try:
        body = json.loads(answered.content)
    except ValueError:
        return " ".join(answered.content.decode(errors="replace").split()) or answered.reason
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _lost(error: Exception, timeout: float) -> str:
    if isinstance(error, httpcore.ConnectError):
        return f"cannot connect ({error}); is the server running and the URL right?"
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s; raise timeout or lower concurrency or max_tokens"
    return f"the connection was lost ({type(error).__name__}: {error})"


def _retry_after(answered: Answered) -> float:
    """Seconds the server asks to wait, as a number or a date; 0 if it does not say."""
    asked = answered.header("retry-after")
    if asked.replace(".", "", 1).isdecimal() and asked.isascii():
        return min(float(asked), _LONGEST_PAUSE)
    try:
        until = email.utils.parsedate_to_datetime(asked).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, until - time.time()), _LONGEST_PAUSE)


def _run(make: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run to the end, also where a loop already runs (a notebook): then in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(lambda: asyncio.run(make())).result()
