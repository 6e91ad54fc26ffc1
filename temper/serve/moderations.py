"""POST /v1/moderations: the policy's filters of input, in the shape of OpenAI's moderation endpoint."""

from typing import TYPE_CHECKING, Any

from temper.serve import ids
from temper.serve.chat import limits_of, read_body
from temper.serve.protocol import ApiError, overloaded, parse_json, result
from temper.serve.reload import guard_of
from temper.serve.verdict import Caller, Channel, Turn, View
from temper.types import Example, Message

if TYPE_CHECKING:
    from fastapi import APIRouter

    from temper.serve.state import Gateway

MOST = 64


def texts_of(given: object) -> list[str]:
    """The texts to judge: one of a string or of content parts together, several of a list of strings. Raises `ApiError` 400."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not 0 < len(given) <= MOST:
        raise ApiError(400, f"input: wanted a string, or a list of 1 to {MOST} strings or text parts", param="input")
    if all(isinstance(item, str) for item in given):
        return given
    parts = []
    for i, part in enumerate(given):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            message = f"input.{i}: only text can be scanned; images are refused"
            raise ApiError(400, message, param=f"input.{i}", code="unscannable_content")
        parts.append(part["text"])
    return ["\n".join(parts)]


def routes(gateway: "Gateway") -> "APIRouter":
    from fastapi import APIRouter, Depends, Request

    from temper.serve.access import RETRY_S, admit, caller

    router = APIRouter(tags=["moderations"])

    @router.post("/v1/moderations", include_in_schema=False)
    async def moderate(request: Request, who: Caller = Depends(caller("moderations"))) -> dict[str, Any]:  # noqa: B008
        """Whether texts break the policy, by category."""
        guard = await guard_of(gateway, who)
        limits = limits_of(guard.policy.limits, who)
        await admit(gateway, who, limits)
        given = parse_json(await read_body(request.receive, limits.request_bytes))
        texts, id = texts_of(given.get("input")), ids.new("modr")
        rows = []
        for text in texts:
            turn = Turn(id, Example(id, (Message("user", text),)), key=who.id, policy=guard.policy.version)
            verdict = await guard.judge(View(Channel.INPUT, text, turn), pool=gateway.pool)
            if verdict.errors:
                raise overloaded("a filter failed, so this text could not be judged", RETRY_S, code="guard_unavailable")
            rows.append(result(verdict))
        return {"id": id, "model": f"temper/{guard.policy.name}@{guard.policy.version}", "results": rows}

    return router
