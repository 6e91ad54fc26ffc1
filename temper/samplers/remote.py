"""Ask any OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp, Ollama, hosted APIs); the only file that speaks HTTP.

`Remote` samples answers, `Chooser` lets a model choose among labels for a judge. Leaves out streaming and tools.
"""

import asyncio
import email.utils
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeVar

import httpx
from pydantic import ValidationError

from temper.errors import ModelError
from temper.files import digest, dumps
from temper.samplers.asking import Asked, Breaker, Chosen, Told
from temper.samplers.choices import AUTO, READING, Counts, Form, Reply, Spoken, form_fields, named, read_choice, spoken
from temper.text.invisible import visible
from temper.text.split import left_open, render, split
from temper.types import Completion, Example, Usage

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may pass: time-outs, conflicts, rate limits, server errors, and 529 (overloaded) of some hosts."""

_UNKNOWN_FIELD = frozenset({400, 422, 501})
_HOPELESS = frozenset({401, 403, 404, 405})
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

    async def gather(self, count: int, ask: Callable[[httpx.AsyncClient, int], Coroutine[object, object, T]]) -> list[T]:
        """`ask(client, i)` for every i below `count`, in order; the first `ModelError` cancels what is still under way."""
        gate = asyncio.Semaphore(self.concurrency)  # waiting here, unlike in the pool, does not use up a request's timeout

        async def one(index: int) -> T:
            async with gate:
                return await ask(client, index)

        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(headers=self._headers(), timeout=self.timeout, limits=limits) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(index)) for index in range(count)]
            except* ModelError as failures:
                failure = failures.exceptions[0]
            else:
                return [task.result() for task in tasks]
        raise failure

    async def ask(
        self, client: httpx.AsyncClient, body: Mapping[str, object], given_up: Callable[[], bool] = lambda: False
    ) -> _Received:
        """One reply, after as many tries as it takes or is allowed; `given_up` ends the trying early."""
        content = dumps(body).encode()  # unlike httpx's own encoding, this one survives half a surrogate pair
        for tried in range(self.retries + 1):
            try:
                async with asyncio.timeout(self.timeout):  # httpx's own time-outs begin anew with every byte
                    response = await client.post(self.address, content=content)
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise ModelError(f"{self.shown()}: {error}; wanted a URL such as http://localhost:8000/v1") from None
            except (httpx.TransportError, TimeoutError) as error:
                told, wait = f"{self.shown()}: {_lost(error, self.timeout)} ({tried + 1} tries)", 0.0
                failed = _HttpError(told, None, tried + 1)
            else:
                if response.is_success:
                    return _Received(self._parsed(response, tried + 1), tried)
                failed = _HttpError(self._refused(response, tried + 1), response.status_code, tried + 1)
                wait = _retry_after(response)
            if tried == self.retries or given_up() or failed.status not in {None, *RETRIED}:
                raise failed
            await asyncio.sleep(wait + self._pause(tried))
        raise AssertionError("the last try returns or raises")

    def _headers(self) -> dict[str, str]:
        key = self._key()
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ModelError(f"{self.shown()}: ${self.key_env} holds spaces or control characters; wanted a key")
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def _key(self) -> str:
        return os.environ.get(self.key_env, "").strip()

    def _pause(self, tried: int) -> float:
        """Doubles with every try; half of it is random, so that waiting requests do not return all at once."""
        longest: float = min(self.pause * 2.0**tried, _LONGEST_PAUSE)
        return longest * random.uniform(0.5, 1.0)

    def _parsed(self, response: httpx.Response, tries: int) -> Reply:
        try:
            return Reply.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise _HttpError(
                f"{self.shown()}: HTTP {response.status_code}, but not a chat completion ({field or 'body'}: {first['msg']}); "
                "is this an OpenAI-compatible endpoint?",
                response.status_code,
                tries,
            ) from None

    def _refused(self, response: httpx.Response, tries: int) -> str:
        hint = _HINTS.get(response.status_code, "").replace("${key}", f"${self.key_env}")
        said = visible(self._without_key(_said(response)))[:_SHOWN]  # a server's words end in a terminal
        tried = f" after {tries} tries" if tries > 1 else ""
        return "; ".join(filter(None, [f"{self.shown()}: HTTP {response.status_code}{tried}: {said}", hint]))

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key they refuse."""
        return text.replace(self._key(), "***") if self._key() else text

    def shown(self) -> str:
        """The endpoint as an error may show it: without a password or a query."""
        try:
            return str(httpx.URL(self.address).copy_with(userinfo=b"", query=None))
        except httpx.InvalidURL:
            return "the endpoint's URL"


@dataclass(frozen=True, slots=True)
class Remote:
    """A sampler over `POST {url}/chat/completions`.

    The key is read from the environment variable `key_env` when a request is sent, and is sent only to `url`; without the
    variable none is sent. Samples are asked for one by one, since not every server honours `n`; sample i gets `seed + i`.
    `timeout` is in seconds per request. Rate limits, server errors and lost connections are tried again `retries` times, after
    `pause`, 2 `pause`, … seconds on top of what the server's Retry-After says. `opened` says that the chat template opens the
    thought and the server does not split it off. `extra` goes into the body as it is; a None there removes a field
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

    async def _ask_all(self, asked: Sequence[tuple[Example, int]]) -> list[Reply]:
        server = _Endpoint(self.url, self.key_env, self.concurrency, self.timeout, self.retries, self.pause)

        async def one(client: httpx.AsyncClient, index: int) -> Reply:
            return (await server.ask(client, self._body(*asked[index]))).reply

        return await server.gather(len(asked), one)

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
        counts = reply.usage
        usage = Usage(counts.prompt_tokens or 0, counts.completion_tokens or 0, seconds) if counts else None
        return Completion(
            example,
            parts.answer,
            parts.reasoning,
            finish="length" if choice.finish_reason == "length" else "stop",
            thought=parts.thought,
            raw=text if choice.message.thought is None else _as_written(choice.message.thought, text),
            usage=usage,
        )


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

        async def one(client: httpx.AsyncClient, index: int) -> Chosen:
            began = time.perf_counter()
            spent: Counter[str] = Counter()
            chances, why = await self._choose(server, client, asked[index], spent)
            reply = (chances, why, {**spent, "seconds": time.perf_counter() - began})
            if told is not None:
                told(index, reply)
            return reply

        return await server.gather(len(asked), one)

    async def _choose(
        self, server: _Endpoint, client: httpx.AsyncClient, asked: Asked, spent: "Counter[str]"
    ) -> tuple[dict[str, float] | None, str]:
        """A distribution over the choices by the first form that yields one, else why there is none."""
        why, turned_down = "", []
        for form in self._forms():
            if refusal := self.breaker.refusal():
                spent["outages"] += 1
                return None, why or refusal
            try:
                received = await server.ask(client, self._body(asked, form), self.breaker.is_open)
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

        async def one(client: httpx.AsyncClient, index: int) -> Spoken | str:
            body = {**bodies[index], "model": self.model}
            server = chat if "messages" in body else text
            listed = {"logprobs": True, "top_logprobs": body["logprobs"]} if server is chat else {}
            reply, outage = await self._one(server, client, body | listed)
            outages.extend([index] * outage)
            return reply

        return await chat.gather(len(bodies), one)

    async def _one(self, server: _Endpoint, client: httpx.AsyncClient, body: Mapping[str, object]) -> tuple[Spoken | str, bool]:
        """A body's reply, or why there is none; and whether the server is to blame."""
        if refusal := self.breaker.refusal():
            return refusal, True
        try:
            received = await server.ask(client, body, self.breaker.is_open)
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
    if error.status not in {None, httpx.codes.OK, *RETRIED}:
        breaker.succeeded()
        return False
    breaker.failed(str(error))
    return True


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


def _lost(error: Exception, timeout: float) -> str:
    if isinstance(error, httpx.ConnectError):
        return f"cannot connect ({error}); is the server running and the URL right?"
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return f"no answer within {timeout:g} s; raise timeout or lower concurrency or max_tokens"
    return f"the connection was lost ({type(error).__name__}: {error})"


def _retry_after(response: httpx.Response) -> float:
    """Seconds the server asks to wait, as a number or a date; 0 if it does not say."""
    asked = response.headers.get("retry-after", "")
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
