"""What became of a held answer, for the client that has its ticket: `GET /v1/holds/{id}`, which may wait for the verdict."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from temper.errors import UsageError
from temper.serve.access import caller
from temper.serve.policy import Policy
from temper.serve.protocol import ApiError
from temper.serve.review import Outcome
from temper.serve.state import Gateway
from temper.serve.verdict import Caller, Channel

LONGEST_WAIT_S = 60.0
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,4})(?:$|[,;\s])")


def routes(gateway: Gateway) -> APIRouter:
    """One route, for the key that asked, or one with the scope `admin`."""
    router = APIRouter()

    @router.get("/v1/holds/{id}", tags=["holds"])
    async def hold(id: str, request: Request, who: Annotated[Caller, Depends(caller("holds"))]) -> Response:
        """The state of a held item, and its answer once a person released or edited it.

        `state` is waiting, released, edited, refused or expired. With `Prefer: wait=N` the reply comes once it is decided, or
        after N seconds (60 at most). An item of another key is unknown.
        """
        try:
            found = await gateway.holds.outcome(id)
        except UsageError:
            raise _unknown() from None
        if found.key_id != who.id and "admin" not in who.scopes:
            raise _unknown()
        wait = _WAIT.search(request.headers.get("prefer", ""))
        if wait and found.state == "waiting":
            found = await gateway.holds.wait(id, min(float(wait[1]), LONGEST_WAIT_S))
        headers = {"Cache-Control": "no-store"}
        if wait:
            headers["Preference-Applied"] = f"wait={wait[1]}"
        if found.state == "waiting":
            headers["Retry-After"] = "2"
        return JSONResponse(described(found, _policy(gateway, who)), headers=headers)

    return router


def described(found: Outcome, policy: Policy) -> dict[str, Any]:
    """An outcome as JSON. `again` says that the request was let through before the model was asked: it may be sent once more, as
    it was, with the header `X-Temper-Hold`.
    """
    let_through = found.state in ("released", "edited")
    return {
        "id": found.id,
        "object": "hold",
        "state": found.state,
        "response_id": found.response_id,
        "created": int(found.made_at),
        "expires_at": int(found.expires_at),
        "result": _completion(found, policy) if found.answers else None,
        "refusal": found.message or None,
        "again": let_through and not found.answers and found.kind in ("input", "agentic"),
    }


def _completion(found: Outcome, policy: Policy) -> dict[str, Any]:
    """The answer as the chat route would have given it; thoughts only where the policy releases them."""
    thoughts = policy.channels[Channel.REASONING].policy == "filter"
    choices = []
    for i, answer in enumerate(found.answers or ()):
        content = found.first + answer.get("content", "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if thoughts and answer.get("reasoning"):
            message |= {"reasoning_content": answer["reasoning"], "reasoning": answer["reasoning"]}
        calls = [
            {
                "id": c.get("call_id") or f"call_{i}_{n}",
                "type": "function",
                "function": {"name": c["name"], "arguments": c["arguments"]},
            }
            for n, c in enumerate(answer.get("calls", ()))
        ]
        if calls:
            message["tool_calls"] = calls
        choices.append({"index": i, "message": message, "finish_reason": "tool_calls" if calls else "stop", "logprobs": None})
    made = {
        "id": found.response_id,
        "object": "chat.completion",
        "created": int(found.made_at),
        "model": found.model,
        "choices": choices,
    }
    return made if found.disclosure is None else {**made, "disclosure": found.disclosure}


def _policy(gateway: Gateway, who: Caller) -> Policy:
    return (gateway.guards.get(who.policy) or gateway.guard).policy


def _unknown() -> ApiError:
    return ApiError(404, "no held item of this key has this id", code="hold_not_found")
