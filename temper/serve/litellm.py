"""LiteLLM's contract for a guard behind HTTP, so that a team with a LiteLLM proxy uses these filters without moving.

LiteLLM posts the texts of a request, or of an answer so far, and does what it is told: NONE, BLOCKED, or GUARDRAIL_INTERVENED
with changed texts. It sends no reasoning, so only requests, answers and the arguments of tool calls are guarded this way.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from temper.serve import ids
from temper.serve.guard import Guard, redacted
from temper.serve.nightly import messages_of, said
from temper.serve.verdict import Action, Caller, Channel, Finding, Turn, Verdict, View
from temper.types import Example

if TYPE_CHECKING:
    from fastapi import APIRouter

    from temper.serve.pool import Pool
    from temper.serve.state import Gateway

PATH = "/beta/litellm_basic_guardrail_api"


class Asked(BaseModel):
    """What LiteLLM posts, of the fields that matter here; others are ignored, as its next version may add some."""

    model_config = ConfigDict(extra="ignore")
    input_type: Literal["request", "response"]
    texts: list[str] | None = None
    images: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    structured_messages: list[dict[str, Any]] | None = None
    litellm_call_id: str | None = None
    model: str | None = Field(default=None, max_length=200)


class Told(BaseModel):
    """What it is told. `stream_holdback_chars` are the last characters of each text that may still become part of a finding."""

    action: Literal["NONE", "BLOCKED", "GUARDRAIL_INTERVENED"]
    blocked_reason: str | None = None
    texts: list[str] | None = None
    stream_holdback_chars: list[int] | None = None


async def judge(guard: Guard, asked: Asked, *, key: str = "", pool: "Pool | None" = None) -> tuple[Told, list[Any], int]:
    """The answer for LiteLLM, the verdicts with their channels, and how many characters were read."""
    turn = _turn(guard, asked, key)
    texts, out = asked.texts or [], []
    channel = Channel.INPUT if asked.input_type == "request" else Channel.CONTENT
    found: list[tuple[Channel, Verdict]] = []
    for text, role in zip(texts, _roles(asked), strict=True):
        verdict = await guard.judge(View(channel, text, turn, role=role), pool=pool)
        found.append((channel, verdict))
        out.append(redacted(text, verdict.findings))
    rest = list(_rest(asked))
    for where, text in rest:
        found.append((where, await guard.judge(View(where, text, turn), pool=pool)))
    read = sum(map(len, texts)) + sum(len(text) for _, text in rest)
    return _told(guard, asked, found, len(texts), out), found, read


def _told(guard: Guard, asked: Asked, found: Sequence[tuple[Channel, Verdict]], texts: int, out: list[str]) -> Told:
    strictest = max((verdict for _, verdict in found), key=lambda v: v.action, default=Verdict())
    if strictest.action > Action.REDACT:
        return Told(action="BLOCKED", blocked_reason=_reason(strictest))
    if asked.images:
        return Told(action="BLOCKED", blocked_reason="Blocked by policy: images cannot be scanned.")
    if any(verdict.action is Action.REDACT for _, verdict in found[texts:]):
        # the contract can only give texts back, so what stands elsewhere cannot be taken out
        return Told(action="BLOCKED", blocked_reason=_reason(next(v for _, v in found[texts:] if v.action is Action.REDACT)))
    held = [guard.reach(Channel.CONTENT)] * texts if asked.input_type == "response" else None
    if strictest.action is Action.REDACT:
        return Told(action="GUARDRAIL_INTERVENED", texts=out, stream_holdback_chars=held)
    return Told(action="NONE", stream_holdback_chars=held)


def routes(gateway: "Gateway") -> "APIRouter":
    """`POST /beta/litellm_basic_guardrail_api`, with the scope `guardrail`."""
    from fastapi import APIRouter, Depends, Request
    from fastapi.responses import JSONResponse, Response

    from temper.serve.access import admit, identify, open_to
    from temper.serve.chat import limits_of, read_body
    from temper.serve.feedback import wrong
    from temper.serve.keys import LOCAL
    from temper.serve.protocol import ApiError
    from temper.serve.reload import guard_of

    router = APIRouter(tags=["litellm"])

    async def known(request: Request) -> Caller:
        """LiteLLM sends its `api_key` as x-api-key; a key in Authorization is read as everywhere."""
        given = request.headers.get("x-api-key")
        if await open_to(gateway, request):
            return LOCAL
        if given is None or "authorization" in request.headers:
            return await identify(gateway, request, "guardrail")
        found = await gateway.keys.caller(given)
        if found is None or "guardrail" not in found.scopes:
            raise ApiError(401, "the API key is unknown or lacks the scope 'guardrail'", kind="authentication_error")
        return found

    async def check(request: Request, who: Caller = Depends(known)) -> Response:  # noqa: B008
        """Judge the texts of a request or an answer for a LiteLLM proxy."""
        began, at = time.perf_counter(), time.time()
        guard = await guard_of(gateway, who)
        limits = limits_of(guard.policy.limits, who)
        await admit(gateway, who, limits)
        try:
            asked = Asked.model_validate_json(await read_body(request.receive, limits.request_bytes))
        except ValidationError:
            return wrong(400, "the body is not what LiteLLM's guardrail API posts", None)
        told, found, read = await judge(guard, asked, key=who.id, pool=gateway.pool)
        model = gateway.meters.named(asked.model or "")
        row = _row(guard, model, told, found, read, who, at, time.perf_counter() - began)
        gateway.journal.response(row)
        gateway.meters.response(row)
        if told.action == "BLOCKED":
            await gateway.journal.settled()
        return JSONResponse(told.model_dump(exclude_none=True))

    shape = {"requestBody": {"required": True, "content": {"application/json": {"schema": Asked.model_json_schema()}}}}
    router.add_api_route(PATH, check, methods=["POST"], response_model=Told, openapi_extra=shape)
    return router


def _turn(guard: Guard, asked: Asked, key: str) -> Turn:
    named = ids.new("check")
    messages = tuple(messages_of({"messages": asked.structured_messages or ()}))
    system = "\n".join(m.content for m in messages if m.role == "system")
    tools = tuple(str(t["function"].get("name", "")) for t in asked.tools or () if isinstance(t.get("function"), Mapping))
    return Turn(named, Example(named, messages), system=system, tools=tools, key=key, policy=guard.policy.version)


def _roles(asked: Asked) -> list[str]:
    """Who said each text; the user where the texts are not those of the messages one by one."""
    each = [(role, text) for role, texts in said({"messages": asked.structured_messages or ()}) for text in texts]
    texts = asked.texts or []
    return [role for role, _ in each] if [text for _, text in each] == texts else ["user"] * len(texts)


def _rest(asked: Asked) -> Iterator[tuple[Channel, str]]:
    """Texts beside `texts`: definitions of tools, which the model reads, and arguments of calls, which it wrote."""
    for tool in asked.tools or ():
        yield Channel.INPUT, json.dumps(tool, ensure_ascii=False)  # orjson fails on numbers of more than 64 bits
    for call in asked.tool_calls or ():
        function = call.get("function")
        given = function.get("arguments") if isinstance(function, Mapping) else None
        if given:
            yield Channel.TOOL_ARGS, given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _reason(verdict: Verdict) -> str:
    """What the client is told: the filter and its category, never the text."""
    found: Finding | None = verdict.deciding
    return (
        f"Blocked by policy: {found.filter}{f' ({found.category})' if found.category else ''}." if found else "Blocked by policy."
    )


def _row(
    guard: Guard, model: str, told: Told, found: Sequence[tuple[Channel, Verdict]], read: int, who: Caller, at: float, s: float
) -> dict[str, Any]:
    from temper.serve.chat import finding_row

    findings = [finding_row(channel, f) for channel, verdict in found for f in verdict.findings]
    action = {"NONE": "allow", "BLOCKED": "block", "GUARDRAIL_INTERVENED": "redact"}[told.action]
    return {
        "id": ids.new("check"),
        "at": at,
        "key_id": who.id,
        "route": "litellm",
        "model": model,
        "policy": guard.policy.version,
        "stream": False,
        "status": 200,
        "finish": "content_filter" if told.action == "BLOCKED" else "stop",
        "action": action,
        "findings": orjson.dumps(findings).decode(),
        "scanned": read,
        "released": 0 if told.action == "BLOCKED" else read,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "reasoning_tokens": 0,
        "seconds": s,
        "first_s": None,
        "language": "",
        "vault_id": None,
    }
