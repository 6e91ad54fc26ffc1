"""The guarded routes, /v1/chat/completions and /v1/completions, plain and streamed: one pipeline from the first byte to the row.

A request is known, admitted, parsed and scanned; the model server is asked; what it says goes into a `Release`, and only what
comes out is written. Whatever happens on the way, the request ends with one row on record.
"""

import asyncio
import copy
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

import orjson
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import HTTPConnection

from temper import types
from temper.errors import DataError, StorageError
from temper.serve import agentic, ids, lint, logs, nightly
from temper.serve.access import RETRY_S, admit, identify
from temper.serve.filters import format as formats
from temper.serve.filters.language import Language, spoken
from temper.serve.guard import AT_ONCE, Guard, redacted
from temper.serve.notice import Notice, notice
from temper.serve.policy import Limits, Policy
from temper.serve.protocol import (
    ALIVE,
    DONE,
    ApiError,
    Asked,
    Said,
    Wire,
    added,
    chat_choice,
    error_frame,
    finish_of,
    logprobs_of,
    moderation,
    overloaded,
    parse_chat,
    parse_completion,
    text_choice,
    usage_of,
)
from temper.serve.release import Answer, Delta, Release
from temper.serve.reload import guard_of
from temper.serve.review import Links, Outcome
from temper.serve.state import Gateway
from temper.serve.think import presumed
from temper.serve.upstream import Stream, broken, late
from temper.serve.verdict import Action, Caller, Channel, Finding, Turn, Verdict, View

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger(__name__)
ALIVE_S: Final = 10.0
"""A stream on which nothing is released says so this often, in seconds, so that nobody between takes it for dead."""
BODY_S: Final = 60.0
TELL_S: Final = 10.0
"""A client that does not read what went wrong in so many seconds is not told; its connection is closed."""
WATCH_S: Final = 0.05
"""After so many seconds a request is ended at once when its client leaves; until then it is nearly over anyway."""
DRAINED: Final = 4 * 2**20
_LIMITS = frozenset(f.name for f in fields(Limits))
_THINKS = {"auto": None, "yes": True, "no": False}
_BROKEN = "a filter failed, and text that cannot be scanned is not let through; try again"
_JSON = (b"content-type", b"application/json")
_SSE = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class Gone(Exception):
    """The client left."""


class Exchange:
    """One request under way. `kind` is the route's name on record: chat or completions."""

    def __init__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send, *, kind: str) -> None:
        self.gateway, self.kind = gateway, kind
        self._scope, self._receive, self._send = scope, receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.id = ids.new("chatcmpl" if kind == "chat" else "cmpl")
        self.at, self.started = time.time(), time.monotonic()
        self.guard: Guard = gateway.guard
        self.begun = self.ended = self.gone = False
        self.first_s: float | None = None
        self.sent_at = self.started
        self.status, self.finish, self.action = 200, "stop", Action.ALLOW
        self.asked: Asked
        self.turn: Turn
        self.caller: Caller
        self.limits: Limits
        self.input = Verdict()
        self.release: Release | None = None
        self.findings: list[dict[str, Any]] = []
        self.finishes: dict[int, str] = {}
        self.names: dict[tuple[int, int], tuple[str, str]] = {}
        self.logprobs: dict[int, Any] = {}
        self.usage: dict[str, Any] | None = None
        self.spent: dict[str, Any] | None = None
        self.scanned = self.released = 0
        self.wire: Wire
        self.notice = Notice({}, None)
        self.lint: Mapping[str, Any] | None = None
        self.lint_header = ""
        self.original: dict[str, Any] | None = None
        self.hold = ""
        self.vault_id: str | None = None
        self.row: dict[str, Any] = {}
        self.unrecorded = False
        self.fed_at: float | None = None
        self._watch_task: asyncio.Task[None] | None = None

    @property
    def policy(self) -> Policy:
        return self.guard.policy

    async def run(self) -> None:
        """Answer the request. Never raises for what a client or a model server did."""
        self.caller = Caller("")
        try:
            await self._admitted()
        except ApiError as error:
            await self._failed(error)
        except (StorageError, SQLAlchemyError) as error:
            log.error("request %s: the store failed: %s", self.id, type(error).__name__)
            await self._failed(overloaded("the store is away; come back shortly", RETRY_S))
        except Gone:
            return

    # Admission.

    async def _admitted(self) -> None:
        self.caller = await self._known()
        self.guard = await guard_of(self.gateway, self.caller)
        self.limits = limits_of(self.policy.limits, self.caller)
        await admit(self.gateway, self.caller, self.limits)
        raw = await read_body(self._receive, self.limits.request_bytes)
        self.gateway.limits.enter()
        self.gateway.meters.under_way.inc()
        # no task for each request: most are over before anybody could leave
        later = asyncio.get_running_loop().call_later(WATCH_S, self._watched, asyncio.current_task())
        try:
            await self._recorded(raw)
        finally:
            later.cancel()
            if self._watch_task is not None:
                self._watch_task.cancel()
            self.gateway.limits.leave()
            self.gateway.meters.under_way.dec()

    async def _known(self) -> Caller:
        """Who asks; a good key is known without a look at the rest of the request."""
        given = self.headers.get(b"authorization", b"")
        if given.startswith(b"Bearer "):
            found = await self.gateway.keys.caller(given[7:].decode("latin-1"))
            if found is not None and "chat" in found.scopes:
                return found
        return await identify(self.gateway, HTTPConnection(self._scope), "chat")

    def _watched(self, work: "asyncio.Task[Any] | None") -> None:
        self._watch_task = asyncio.ensure_future(self._watch(work))

    async def _watch(self, work: "asyncio.Task[Any] | None") -> None:
        """Ends the work when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self.ended:  # the server says so too once the answer is out
            return
        self.gone = True
        if work is not None:
            work.cancel()

    async def _recorded(self, raw: bytes) -> None:
        """The work under its deadline, and its row, whatever became of it. A request that cannot be read leaves no row."""
        self.asked = self._parsed(raw)
        try:
            async with asyncio.timeout(self.limits.deadline_s or None) as self._deadline:
                await self._answered()
        except TimeoutError:
            await self._failed(late("finish its answer"))
        except ApiError as error:
            await self._failed(error)
        except asyncio.CancelledError:
            if not self.gone:  # the gateway stops, and this took longer than it waits
                await self._failed(overloaded("the gateway is stopping", RETRY_S))
                return
            self.status, self.finish = 499, "disconnected"
        except (StorageError, SQLAlchemyError) as error:
            log.error("request %s: the store failed: %s", self.id, type(error).__name__)
            self.unrecorded = True
            await self._failed(overloaded("what is answered cannot be put on record just now", RETRY_S))
        except Exception as error:
            log.exception("request %s failed: %s", self.id, type(error).__name__)
            await self._failed(ApiError(500, "the gateway failed; its log says more", kind="server_error", code="internal_error"))
        finally:
            self._note()

    def _parsed(self, raw: bytes) -> Asked:
        most = self.limits.max_tokens
        if self.kind == "chat":
            asked = parse_chat(raw, max_tokens=most, logprobs=self.policy.logprobs)
        else:
            asked = parse_completion(raw, max_tokens=most)
        allowed = self.caller.models or self.gateway.settings.models
        if allowed and asked.model not in allowed:
            raise ApiError(404, "no such model here; GET /v1/models lists them", param="model", code="model_not_found")
        return asked

    # The input.

    async def _answered(self) -> None:
        asked, policy = self.asked, self.policy
        self.wire = Wire(self.id, int(self.at), self.asked.model, chat=self.kind == "chat", functions=self.asked.functions)
        self.turn = Turn(
            id=self.id,
            example=asked.example(self.id),
            system=asked.system,
            language="" if policy.language.target == "prompt" else policy.language.target,
            schema=self._schema(),
            tools=agentic.offered(asked.body),
            key=self.caller.id,
            policy=policy.version,
        )
        self._lint()
        self.input = await self._heard()
        if not await self._let_in():
            return
        self._seal()
        self.notice = notice(
            policy.disclosure, asked.messages, self.input.findings, caller=self.caller, model=asked.model, policy=policy.name
        )
        if self.turn.schema is not None:
            self.notice = replace(self.notice, first="")  # a program parses the answer; header and object tell
        await (self._streamed() if asked.stream else self._plain())

    def _schema(self) -> Mapping[str, Any] | None:
        """What the answer must fit, bounded: a schema comes with a request and may be hostile."""
        try:
            return formats.target(self.asked.body.get("response_format"), self.policy.output)
        except DataError as error:
            raise ApiError(400, str(error), param="response_format") from None

    async def _heard(self) -> Verdict:
        """Every text the model will read, scanned; redactions are written into the body."""
        guard, asked = self.guard, self.asked
        heard: list[Verdict] = []
        read = 0
        for holder, key in asked.pieces:
            if read > AT_ONCE:  # many messages that are each read at once hold up the others together
                await asyncio.sleep(0)
                read = 0
            read += len(holder[key])
            view = View(Channel.INPUT, holder[key], self.turn, role=_role(holder))
            verdict = await guard.judge(view, pool=self.gateway.pool)
            if _redacts(verdict) and verdict.action is not Action.BLOCK:  # a person may let through what is held
                self._keep_original()
                holder[key] = redacted(holder[key], verdict.findings)
            heard.append(verdict)
            if verdict.findings:
                place = _place(asked.body, holder, key)
                self.findings += [finding_row(Channel.INPUT, f) | place for f in verdict.findings]
        located = len(heard)
        if asked.rest:
            text = "\n".join(asked.rest)
            verdict = await guard.judge(View(Channel.INPUT, text, self.turn, role="system"), pool=self.gateway.pool)
            # names and schemas cannot be rewritten in part, so what would be redacted there is refused
            heard.append(replace(verdict, action=Action.BLOCK) if _redacts(verdict) else verdict)
        gated = agentic.gate(self.turn, asked.model, self.policy.agentic)
        if gated is not None:
            heard.append(Verdict(gated.action or Action.BLOCK, (gated,)))
        for verdict in heard[located:]:
            self.findings += [finding_row(Channel.INPUT, f) for f in verdict.findings]
        return Verdict(
            max((v.action for v in heard), default=Action.ALLOW),
            tuple(f for v in heard for f in v.findings),
            tuple(e for v in heard for e in v.errors),
        )

    def _keep_original(self) -> None:
        if self.original is None:
            self.original = copy.deepcopy(self.asked.body | self._prompts())

    def _prompts(self) -> dict[str, Any]:
        return {} if self.asked.prompts is None else {"prompt": self.asked.prompts}

    def _seal(self) -> None:
        """After the last change to its texts: the thoughts of earlier answers go on under both names."""
        for message in self.asked.body.get("messages", ()):
            if "reasoning_content" in message:
                message["reasoning"] = message["reasoning_content"]

    def _lint(self) -> None:
        """What prompt linting says, and where it was asked for, the structured prompt in place of the last user message."""
        settings, asked = self.policy.lint, self.asked
        if self.kind != "chat":
            return
        try:
            mode = lint.mode(settings, asked.lint)
        except DataError as error:
            raise ApiError(400, str(error), param="temper.lint") from None
        if mode == "off":
            return
        temperature = asked.body.get("temperature")
        formatted = self.turn.schema is not None
        language = self.turn.language
        remarks = lint.lint(asked.messages, settings, language=language, formatted=formatted, temperature=temperature)
        if not remarks:
            return
        self.lint = lint.body(remarks, mode)
        self.lint_header = lint.header(remarks)
        if mode == "refuse":
            raise ApiError(400, "; ".join(f"{r.why}. {r.fix}" for r in remarks), param="messages", code="prompt_lint")
        if mode == "rewrite":
            self._rewrite(lint.rewritten(asked.messages, settings, language=language))

    def _rewrite(self, messages: Sequence[types.Message]) -> None:
        """The rewritten turn in place of the last one, and no system turns where they moved into it."""
        body = self.asked.body
        if all(m.role != "system" for m in messages):
            body["messages"] = [m for m in body["messages"] if m["role"] not in ("system", "developer")]
        last = next((m for m in reversed(body["messages"]) if m["role"] == "user"), None)
        said = next((m.content for m in reversed(messages) if m.role == "user"), "")
        if last is not None and said:
            last["content"] = said
            # an empty turn was no text to read, and one in parts was read as its parts, which are not sent any more
            if all(holder is not last for holder, _ in self.asked.pieces):
                self.asked.pieces.append((last, "content"))
            self.asked.messages = tuple(messages)
            self.turn = replace(self.turn, example=self.asked.example(self.id), system=self.asked.system)

    async def _let_in(self) -> bool:
        """Whether the model may be asked; if not, the answer is given already."""
        action = self.input.action
        if action <= Action.REDACT:
            return True
        if action is Action.REVIEW:
            approved = self.headers.get(b"x-temper-hold", b"").decode("latin-1")
            if approved and await self.gateway.holds.admits(approved, self.caller.id, self._request()):
                return True
            deciding = self.input.deciding
            kind = "agentic" if deciding is not None and deciding.filter == "agentic" else "input"
            return await self._held(kind, ())
        self.action = Action.BLOCK
        self._guard_holds(self.input)
        await self._kept_for_appeal(())
        raise ApiError(400, self._blocked("request"), code="content_filter", headers={"X-Temper-Request-Id": self.id})

    def _guard_holds(self, verdict: Verdict) -> None:
        """A text that a broken filter could not read is no fault of its author: 503, to be tried again."""
        deciding = verdict.deciding
        if deciding is not None and deciding.category == "error" and deciding.action is Action.BLOCK:
            raise overloaded(_BROKEN, RETRY_S, code="guard_unavailable")

    def _request(self) -> dict[str, Any]:
        """What was asked, as it stood before anything was redacted."""
        return self.original or (self.asked.body | self._prompts())

    # Asking.

    def _body(self, *, stream: bool) -> dict[str, Any]:
        body = self.asked.body | self._prompts()
        return body | {"stream": True, "stream_options": {"include_usage": True}} if stream else body

    @property
    def _path(self) -> str:
        return "chat/completions" if self.kind == "chat" else "completions"

    def _fresh(self, *, strict: bool) -> Release:
        thinks = _THINKS[self.policy.thinks]
        wary = self._may_think() and (self.asked.model in self.gateway.unopened or presumed(self.asked.model))
        self.release = Release(self.guard, self.turn, thinks=thinks, wary=wary, pool=self.gateway.pool, strict=strict)
        self.finishes, self.names, self.usage, self.logprobs = {}, {}, None, {}
        return self.release

    def _may_think(self) -> bool:
        """Whether the request lets the model think, by the switches that chat templates know."""
        return False not in self.asked.body.get("chat_template_kwargs", {}).values()

    def _tries(self) -> int:
        return max(1, self.policy.output.retries)

    def _instruct(self, finding: Finding | None) -> None:
        """Say what was wrong with the last answer, at the end of the last message, where every chat template allows it."""
        why = finding.why if finding is not None and finding.why else "it broke a rule"
        self._keep_original()
        said = f"\n\n(Your last answer could not be given: {why}. Answer again without that.)"
        if self.asked.prompts is not None:
            self.asked.prompts[:] = [p + said for p in self.asked.prompts]
            return
        last = self.asked.body["messages"][-1]
        last["content"] = (last.get("content") or "") + said

    def _count(self, given: object) -> None:
        found = usage_of(given)
        if found is not None:
            self.usage = found

    def _close_try(self) -> None:
        """Add one try's cost and findings to the request's."""
        self.spent = added(self.spent, self.usage)
        if self.release is not None:
            self.scanned += self.release.scanned
            self.released += self.release.released
            whole = self.release.stopped is None and set(self.finishes.values()) == {"stop"}
            if self.policy.thinks == "auto" and (whole or self.release.unopened) and self._may_think():
                self.gateway.learn(self.asked.model, unopened=self.release.unopened)
            self.findings += [
                finding_row(place.channel, finding, place.choice, place.call) for place, finding in self.release.found
            ]

    # Plain.

    async def _plain(self) -> None:
        for left in range(self._tries(), -1, -1):
            release = self._fresh(strict=True)
            reply = await self.gateway.upstream.plain(self._path, self._body(stream=False))
            try:
                self._feed_reply(reply, release)
                out = await release.end()
            finally:
                self._close_try()
            if release.stopped is not Action.REWRITE or not left:
                break
            self.action = Action.REWRITE
            self._instruct(release.verdict.deciding)
        if release.stopped is not None:
            await self._stopped(release)
            return
        self.action = max(self.action, release.verdict.action)
        said = {i: Said() for i in self.finishes}
        for d in out:
            said.setdefault(d.choice, Said()).add(d.channel, d.text, d.call, *self._called(d))
        await self._sampled(release)
        await self._write_plain([self._choice(i, s) for i, s in sorted(said.items())])

    def _choice(self, i: int, said: Said) -> dict[str, Any]:
        finish = self.finishes.get(i, "stop")
        if self.notice.first:
            said.content = self.notice.first + said.content
        if self.kind != "chat":
            return text_choice(i, said, finish)
        logprobs = None
        if self.asked.logprobs and self.policy.logprobs and i in self.logprobs:
            logprobs = logprobs_of(self.logprobs[i], said.content)
        return chat_choice(i, said, finish, functions=self.asked.functions, logprobs=logprobs)

    def _feed_reply(self, reply: Mapping[str, Any], release: Release) -> None:
        choices = reply.get("choices")
        if not isinstance(choices, list) or not choices:
            raise broken("it has no choices")
        self._count(reply.get("usage"))
        for choice in choices:
            if not isinstance(choice, dict):
                raise broken("a choice is not an object")
            i = self._index(choice)
            if choice.get("finish_reason") is None:
                raise broken("it is not finished")
            self.finishes[i] = finish_of(choice["finish_reason"])
            self.logprobs[i] = choice.get("logprobs")
            for delta in self._deltas(i, choice.get("message") if self.kind == "chat" else choice):
                release.feed(delta)

    def _index(self, choice: Mapping[str, Any]) -> int:
        i = choice.get("index", 0)
        if not isinstance(i, int) or not 0 <= i < self.asked.n * len(self.asked.prompts or "1"):
            raise broken("it has more choices than were asked for")
        return i

    def _deltas(self, choice: int, given: object) -> list[Delta]:
        """A message, or the part of one, as deltas; fields that nobody scans are not looked at."""
        if not isinstance(given, dict):
            raise broken("a message is not an object")
        out: list[Delta] = []
        thought = given.get("reasoning_content") or given.get("reasoning")
        if thought and isinstance(thought, str):
            out.append(Delta(choice, Channel.REASONING, thought))
        content = given.get("content") or given.get("text") or given.get("refusal")
        if content and isinstance(content, str):
            out.append(Delta(choice, Channel.CONTENT, content))
        calls = given.get("tool_calls")
        if isinstance(given.get("function_call"), dict):
            calls = [{"index": 0, "function": given["function_call"]}]
        if isinstance(calls, list):
            out += [self._call(choice, j, call) for j, call in enumerate(calls)]
        return out

    def _call(self, choice: int, j: int, call: object) -> Delta:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            raise broken("a tool call is not a function's")
        number = call.get("index", j)
        if not isinstance(number, int) or not 0 <= number < 128:
            raise broken("a tool call has no number")
        known = (choice, number) in self.names
        name = function.get("name")
        if not known:
            if name not in self.asked.tools:
                raise broken("it called a tool that it was not given")
            self.names[choice, number] = (name, ids.new("call"))
        elif name and name != self.names[choice, number][0]:
            raise broken("two of its tool calls have one number")
        text = function.get("arguments")
        if text is not None and not isinstance(text, str):
            raise broken("the arguments of a tool call are not a string")
        named = ("", "") if known else self.names[choice, number]
        return Delta(choice, Channel.TOOL_ARGS, text or "", number, *named)

    def _called(self, delta: Delta) -> tuple[str, str]:
        return self.names.get((delta.choice, delta.call or 0), ("", ""))

    # Streamed.

    async def _streamed(self) -> None:
        for left in range(self._tries(), -1, -1):
            release = self._fresh(strict=self._whole())
            source = await self._opened()
            try:
                await self._pumped(source, release)
            finally:
                self._close_try()
                await source.close()
            if release.stopped is not Action.REWRITE or self.first_s is not None or not left:
                break
            self.action = Action.REWRITE
            self._instruct(release.verdict.deciding)
        if release.stopped is not None:
            await self._stopped(release)
            return
        self.action = max(self.action, release.verdict.action)
        await self._sampled(release)
        await self._write_end({i: self.finishes.get(i, "stop") for i in range(self._expected())})

    def _whole(self) -> bool:
        """Whether a filter judges the answer's format, so that it may have to be asked again before a word is out."""
        return any(s.kind == "format" and not s.shadow for s in self.guard.of[Channel.CONTENT]) and (
            self.asked.format != "" or self.policy.output.format != "free"
        )

    def _expected(self) -> int:
        return self.asked.n * len(self.asked.prompts or "1")

    async def _opened(self) -> Stream:
        try:
            async with asyncio.timeout(self.limits.first_byte_s or None):
                return await self.gateway.upstream.stream(self._path, self._body(stream=True))
        except TimeoutError:
            raise late("begin its answer") from None

    async def _pumped(self, source: Stream, release: Release) -> None:
        """Text in, released text out, until the upstream ends or a verdict stops it; what is to be reviewed is read on."""
        patience = self.limits.first_byte_s
        while (events := await self._next(source, release, patience)) is not None:
            patience = self.limits.idle_s
            if self.fed_at is None:
                self.fed_at = time.monotonic()
            if self._feed_events(events, release) and release.stopped is None:
                await self._put(await release.scan())
            if release.stopped is not None and release.stopped is not Action.REVIEW:
                return
        if len(self.finishes) < self._expected():
            await self._put(await release.end())
            if release.stopped is None:
                raise broken("it ended before it was finished")
            return
        await self._put(await release.end())

    async def _next(self, source: Stream, release: Release, patience: float) -> Sequence[Mapping[str, Any]] | None:
        """The next events; while they are awaited, what falls due is scanned and the client's connection is kept."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience if patience else float("inf")
        while True:
            due = release.due if release.stopped is None else None
            alive = self.sent_at + ALIVE_S
            when = min(give_up, alive if due is None else min(due, alive))
            try:
                async with asyncio.timeout_at(when):
                    return await source.read()
            except TimeoutError:
                now = loop.time()
            if now >= give_up:
                raise late("go on with its answer")
            if due is not None and now >= due:
                await self._put(await release.scan())
            if now >= alive:
                await self._write(ALIVE)

    def _feed_events(self, events: Sequence[Mapping[str, Any]], release: Release) -> bool:
        """Take in what one read brought, neighbouring pieces of one channel as one; True when a scan is due."""
        due, i, texts = False, 0, list[str]()
        for event in events:
            if event.get("usage"):
                self._count(event["usage"])
            choices = event.get("choices")
            for choice in choices if isinstance(choices, list) else ():
                if not isinstance(choice, dict):
                    raise broken("a choice is not an object")
                given = choice.get("delta") if self.kind == "chat" else choice
                if (
                    type(given) is dict
                    and len(given) == 1
                    and type(text := given.get("content")) is str
                    and choice.get("index") == i
                ):
                    texts.append(text)
                elif given:
                    if texts:
                        due = release.feed(Delta(i, Channel.CONTENT, "".join(texts))) or due
                        texts = []
                    i = self._index(choice)
                    for delta in self._deltas(i, given):
                        due = release.feed(delta) or due
                if choice.get("finish_reason") is not None:
                    self.finishes[self._index(choice)] = finish_of(choice["finish_reason"])
        if texts:
            due = release.feed(Delta(i, Channel.CONTENT, "".join(texts))) or due
        return due

    async def _put(self, deltas: Sequence[Delta]) -> None:
        """Write released text."""
        if not deltas:
            return
        frames = []
        now = time.monotonic()
        if self.fed_at is not None:
            self.gateway.meters.lag(now - self.fed_at)
            self.fed_at = None
        if self.first_s is None:
            self.first_s = now - self.started
            if self.notice.first:
                frames += [self.wire.text(i, Channel.CONTENT, self.notice.first) for i in range(self._expected())]
        frames += [self.wire.text(d.choice, d.channel, d.text, d.call, *self._called(d)) for d in deltas]
        await self._write(b"".join(frames))

    async def _sampled(self, release: Release) -> None:
        """Keep what passed, encrypted, for the scheduled audit, where it was drawn."""
        if not nightly.chosen(self.policy):
            return
        box = nightly.box(self.policy, self._request(), [answer_row(a) for a in release.answers()])
        keep_s = self.policy.audit.keep_s
        self.vault_id = await self.gateway.store.run(lambda conn: self.gateway.vault.put(conn, "sample", box, keep_s))

    # What was stopped.

    async def _stopped(self, release: Release) -> None:
        """A verdict stopped the answer: a refusal takes its place, or a ticket."""
        self._guard_holds(release.verdict)
        if release.stopped is Action.REVIEW:
            await self._held("output", [answer_row(a) for a in release.answers()])
            return
        self.action = Action.BLOCK
        await self._kept_for_appeal([answer_row(a) for a in release.answers()])
        await self._refused(self._blocked("answer", release.verdict))

    async def _refused(self, said: str) -> None:
        self.finish = "content_filter"
        if self.asked.stream:
            await self._write_end(dict.fromkeys(range(self._expected()), "content_filter"), refusal=said)
            return
        choices = [
            chat_choice(i, Said(), "content_filter", refusal=said)
            if self.kind == "chat"
            else text_choice(i, Said(), "content_filter", refusal=said)
            for i in range(self._expected())
        ]
        await self._write_plain(choices)

    def _blocked(self, what: str, verdict: Verdict | None = None) -> str:
        deciding = (verdict or self.input).deciding
        why = f" ({_reason(deciding)})" if deciding is not None else ""
        reason = f" {deciding.why}." if deciding is not None and deciding.filter == "agentic" else ""
        url = Links(self.gateway.keyring).url(public_url(self.gateway), self.id)
        return f"This {what} was stopped by the policy {self.policy.name}{why}.{reason} If that is wrong, ask for a review: {url}"

    async def _kept_for_appeal(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self.vault_id = await self.gateway.holds.keep(
            request=self._request(), answers=answers, review=self.policy.review, notice=self.notice
        )

    async def _held(self, kind: str, answers: Sequence[Mapping[str, Any]]) -> bool:
        """Put the request or its answer before a person; True where a request was let through while it waited."""
        self.action = Action.REVIEW
        verdict = self.input if self.release is None else self.release.verdict
        deciding = verdict.deciding
        self.hold = await self.gateway.holds.hold(
            self.turn,
            kind=kind,
            category=(deciding.category or deciding.filter) if deciding is not None else "",
            findings=self.findings,
            request=self._request(),
            answers=answers,
            review=self.policy.review,
            notice=self.notice,
        )
        if self._deadline.when() is not None:  # the reviewers' time is not the model server's
            now = asyncio.get_running_loop().time()
            self._deadline.reschedule(now + self.policy.review.wait_s + self.limits.deadline_s)
        if b"respond-async" in self.headers.get(b"prefer", b"") and not self.begun:
            await self._ticket()
            return False
        outcome = await self._waited(self.policy.review.wait_s)
        if outcome is not None and outcome.state in ("released", "edited"):
            if kind in ("input", "agentic"):
                return True
            if outcome.answers is None:  # its text expired before it could be delivered
                await self._refused(outcome.message or "The reviewed answer is no longer kept.")
                return False
            await self._deliver(outcome.answers)
            return False
        await self._refused(self._waiting() if outcome is None or outcome.state == "waiting" else outcome.message)
        return False

    async def _waited(self, seconds: float) -> Outcome | None:
        """The outcome, waiting for it in steps short enough to keep a stream alive."""
        end = time.monotonic() + seconds
        outcome = None
        while (left := end - time.monotonic()) > 0:
            outcome = await self.gateway.holds.wait(self.hold, min(left, ALIVE_S))
            if outcome.state != "waiting":
                return outcome
            if self.asked.stream and self.release is not None:
                await self._write(ALIVE)
        return outcome

    def _waiting(self) -> str:
        where = f"{public_url(self.gateway)}/v1/holds/{self.hold}"
        return f"A person will review this before it is answered. Ticket {self.hold}: {where}"

    async def _ticket(self) -> None:
        self.status, self.finish = 202, "content_filter"
        await self._committed()
        body = {"id": self.hold, "object": "hold", "state": "waiting", "message": self._waiting()}
        headers = [(b"location", f"/v1/holds/{self.hold}".encode()), (b"preference-applied", b"respond-async")]
        await self._write_json(202, orjson.dumps(body), headers)

    async def _deliver(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """A reviewed answer, in place of what waited; a stream that had begun to give text is told where it is."""
        thoughts = self.policy.channels[Channel.REASONING].policy == "filter"
        said = [
            Said(
                str(a.get("reasoning", "")) if thoughts else "",
                self.notice.first + str(a.get("content", "")),
                {j: (c["name"], c.get("call_id") or ids.new("call"), c["arguments"]) for j, c in enumerate(a.get("calls", ()))},
            )
            for a in answers
        ]
        finish = {i: "tool_calls" if s.calls else "stop" for i, s in enumerate(said)}
        if not self.asked.stream:
            choice = self._reviewed_choice
            await self._write_plain([choice(i, s, finish[i]) for i, s in enumerate(said)])
            return
        if self.first_s is not None:
            await self._refused(f"The reviewed answer is at {public_url(self.gateway)}/v1/holds/{self.hold}")
            return
        frames = [
            self.wire.text(i, channel, text)
            for i, s in enumerate(said)
            for channel, text in ((Channel.REASONING, s.reasoning), (Channel.CONTENT, s.content))
            if text
        ]
        frames += [
            self.wire.text(i, Channel.TOOL_ARGS, text, j, name, id)
            for i, s in enumerate(said)
            for j, (name, id, text) in s.calls.items()
        ]
        await self._write(b"".join(frames))
        await self._write_end(finish)

    def _reviewed_choice(self, i: int, said: Said, finish: str) -> dict[str, Any]:
        if self.kind != "chat":
            return text_choice(i, said, finish)
        return chat_choice(i, said, finish, functions=self.asked.functions)

    # Writing.

    def _extra(self) -> dict[str, Any]:
        """The gateway's own objects beside the choices."""
        extra: dict[str, Any] = {}
        output = self.release.verdict if self.release is not None else None
        if self.asked.moderated or self.action > Action.REDACT:
            extra["moderation"] = moderation(self.input, output, f"temper/{self.policy.name}")
        if self.notice.body is not None:
            extra["disclosure"] = self.notice.body
        if self.lint is not None:
            extra["lint"] = self.lint
        if self.hold:
            extra["hold"] = {"id": self.hold, "url": f"/v1/holds/{self.hold}"}
        return extra

    async def _write_plain(self, choices: Sequence[Mapping[str, Any]]) -> None:
        self.finish = str(choices[0]["finish_reason"]) if choices else "stop"
        body: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion" if self.kind == "chat" else "text_completion",
            "created": int(self.at),
            "model": self.asked.model,
            "choices": choices,
        }
        if self.spent is not None:
            body["usage"] = self.spent
        self.first_s = time.monotonic() - self.started
        await self._committed()
        await self._write_json(200, orjson.dumps(body | self._extra()))

    async def _write_end(self, finishes: Mapping[int, str], refusal: str = "") -> None:
        self.finish = next(iter(finishes.values()), "stop")
        await self._committed()
        last = len(finishes) - 1
        frames = [
            self.wire.finish(i, reason, refusal, self._extra() if k == last else None)
            for k, (i, reason) in enumerate(finishes.items())
        ]
        if self.asked.include_usage and self.spent is not None:
            frames.append(self.wire.usage(self.spent))
        await self._write(b"".join([*frames, DONE]), more=False)

    async def _committed(self) -> None:
        """The row is written before the answer's end; that of an answer which was withheld is committed too."""
        self._note()
        if self.action >= Action.REVIEW and not self.unrecorded:
            await self.gateway.journal.settled()

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        if not self.begun:
            self.begun = True
            headers = [*_SSE, *self._own_headers()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self.ended = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.sent_at = time.monotonic()

    async def _write_json(self, status: int, body: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.begun = self.ended = True
        length = (b"content-length", str(len(body)).encode())
        headers = [_JSON, length, *more, *self._own_headers()]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"x-temper-request-id", self.id.encode()),
            (b"x-temper-policy", f"{self.policy.name}@{self.policy.version}".encode()),
            (b"x-temper-scanned", str(self.scanned).encode()),
        ]
        if self.hold:
            headers.append((b"x-temper-hold", self.hold.encode()))
        if self.lint_header:
            headers.append((lint.HEADER.lower().encode(), self.lint_header.encode()))
        return headers + [(k.lower().encode(), v.encode("latin-1", "replace")) for k, v in self.notice.headers.items()]

    async def _failed(self, error: ApiError) -> None:
        """An error instead of the answer, or, where the answer has begun, as its last frame."""
        self.status, self.finish = error.status, "content_filter" if error.code == "content_filter" else "error"
        if self.ended:
            return
        if self.begun:
            messages: list[Message] = []
            body = error_frame(error) + DONE
        else:
            if self.action >= Action.REVIEW:
                await self._committed()
            own = {k.lower().encode(): v.encode("latin-1", "replace") for k, v in error.headers.items()}
            own.setdefault(b"x-temper-request-id", self.id.encode())
            body = error.body()
            headers = [_JSON, (b"content-length", str(len(body)).encode()), *own.items()]
            messages = [{"type": "http.response.start", "status": error.status, "headers": headers}]
        self.begun = self.ended = True
        try:
            async with asyncio.timeout(TELL_S):
                for message in [*messages, {"type": "http.response.body", "body": body, "more_body": False}]:
                    await self._send(message)
        except TimeoutError:
            log.warning("request %s: its client did not read what went wrong", self.id)

    # The record.

    def _note(self) -> None:
        """The row of this request, once."""
        if self.row or self.unrecorded:
            return
        usage = self.spent or {}
        details = usage.get("completion_tokens_details", {})
        self.row = {
            "id": self.id,
            "at": self.at,
            "key_id": self.caller.id,
            "route": self.kind,
            "model": self.gateway.meters.named(self.asked.model),
            "policy": self.policy.version,
            "stream": self.asked.stream,
            "status": self.status,
            "finish": self.finish,
            "action": self.action.label,
            "findings": orjson.dumps(self.findings).decode() if self.findings else "[]",
            "scanned": self.scanned,
            "released": self.released,
            "prompt_tokens": usage.get("prompt_tokens", 0),
            "completion_tokens": usage.get("completion_tokens", 0),
            "reasoning_tokens": details.get("reasoning_tokens", 0),
            "seconds": time.monotonic() - self.started,
            "first_s": self.first_s,
            "language": self._language(),
            "vault_id": self.vault_id,
        }
        self.gateway.limits.spend(self.caller, usage.get("total_tokens") or self._guessed())
        self.gateway.meters.response(self.row, traceparent=self.headers.get(b"traceparent", b"").decode("latin-1"))
        if self.status != 200 or self.action > Action.ALLOW:  # what simply passed is in the database
            logs.response(self.row)
        self.gateway.journal.response(self.row)

    def _language(self) -> str:
        """The language of a whole answer, where a filter read it for that; of no other, since it would take a millisecond."""
        whole = self.status == 200 and self.release is not None and self.release.stopped is None
        length = self.release.length(Channel.CONTENT) if whole and self.release is not None else 0
        reader = next((s for s in self.guard.of[Channel.CONTENT] if s.kind == "language"), None) if length else None
        if reader is None or not isinstance(reader.filter, Language):
            return ""
        found = Counter[str]()
        for f in self.findings:
            if f["filter"] == reader.name and f["channel"] == Channel.CONTENT.value:
                found[f["rule"]] += f["end"] - f["start"]
        return spoken(reader.filter, self.turn, found, length)

    def _guessed(self) -> int:
        """Tokens where the model server told none (its client left, or it never does): four characters each."""
        return (self.scanned + sum(len(m.content) for m in self.asked.messages)) // 4 if self.release is not None else 0


def finding_row(channel: Channel, finding: Finding, choice: int = 0, call: int | None = None) -> dict[str, Any]:
    """A finding as it goes on record: places and names, never text."""
    return {
        "filter": finding.filter,
        "rule": finding.rule,
        "category": finding.category,
        "channel": channel.value,
        "choice": choice,
        "call": call,
        "action": (finding.action or Action.ALLOW).label,
        "start": finding.start,
        "end": finding.end,
        "score": finding.score,
        "shadow": finding.shadow,
        "why": finding.why,
    }


def _redacts(verdict: Verdict) -> bool:
    return any(f.action is Action.REDACT and not f.shadow for f in verdict.findings)


def _role(holder: object) -> str:
    """Who said a text: a message's role, the assistant for the arguments of its calls, the user for a bare prompt."""
    return str(holder.get("role", "assistant")) if isinstance(holder, Mapping) else "user"


def _place(body: Mapping[str, Any], holder: object, key: object) -> dict[str, int]:
    """In which message, and which part of it, a scanned text stands: where a reviewer's page marks what was found."""
    for i, message in enumerate(body.get("messages", ())):
        content = message.get("content")
        if holder is message and key == "content":
            return {"message": i, "part": 0}
        if isinstance(content, list):
            for j, part in enumerate(content):
                if part is holder:
                    return {"message": i, "part": j}
    return {}


def _reason(finding: Finding) -> str:
    """What a client is told that a text was stopped for; a rule without a category is told by its id."""
    if finding.category == "rule":
        return re.sub(r"[-_]+", " ", finding.rule)
    return finding.category or finding.filter


def answer_row(answer: Answer) -> dict[str, Any]:
    """A whole answer as it waits for a person."""
    calls = [{"name": c.name, "call_id": c.call_id, "arguments": c.arguments} for c in answer.calls]
    return {"reasoning": answer.reasoning, "content": answer.content, "calls": calls}


def limits_of(limits: Limits, caller: Caller) -> Limits:
    """The policy's limits under those of the key."""
    own = {k: v for k, v in caller.limits.items() if k in _LIMITS}
    return replace(limits, **own) if own else limits


def public_url(gateway: Gateway) -> str:
    """What links in messages begin with."""
    settings = gateway.settings
    return settings.public_url.rstrip("/") or f"http://{settings.host}:{settings.port}"


async def read_body(receive: Receive, most: int) -> bytes:
    """The whole body, at most `most` bytes (0: any). Raises `ApiError` 408 and 413, `Gone`."""
    try:
        async with asyncio.timeout(BODY_S):
            return await _read(receive, most)
    except TimeoutError:
        raise ApiError(408, "the request did not arrive in time", code="request_timeout") from None


async def _read(receive: Receive, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        data = message.get("body", b"")
        size += len(data)
        ends = not message.get("more_body", False)
        if most and size > most:
            # read on for a while: a client that is still sending would see a broken connection instead of the answer
            parts.clear()
            if ends or size > most + DRAINED:
                raise _too_large(most)
            continue
        parts.append(data)
        if ends:
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the request is larger than {most} bytes", code="request_too_large", headers={"Connection": "close"})
