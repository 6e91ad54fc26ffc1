"""What people who got an answer say of it: a rating, a label, a comment, the answer they expected.

Everything is kept, and the latest word of a key on a response counts. Comments and expected answers are text, so they lie in the
vault; the label is one of a few words, because it lies in the clear.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, insert, select

from temper.serve import ids
from temper.serve.tables import feedback, responses
from temper.serve.verdict import Caller

if TYPE_CHECKING:
    from fastapi import APIRouter
    from fastapi.responses import JSONResponse

    from temper.serve.state import Gateway
    from temper.serve.vault import Vault

KEEP_S = 30 * 86_400.0
BYTES = 131_072
LABELS = ("safe", "unsafe", "over-refusal", "incorrect", "unhelpful", "language", "format", "privacy", "other")
Label = Literal["safe", "unsafe", "over-refusal", "incorrect", "unhelpful", "language", "format", "privacy", "other", ""]
RATINGS: Mapping[object, int] = {"up": 1, "down": -1, 1: 1, -1: -1}


def _no_bool(value: object) -> object:
    return "" if isinstance(value, bool) else value  # true is 1 to Python, and no rating to anybody


class Given(BaseModel):
    """The body of `POST /v1/feedback`."""

    model_config = ConfigDict(extra="forbid")
    response_id: str = Field(max_length=48, pattern=r"^[A-Za-z0-9_-]+$")
    rating: Annotated[Literal["up", "down", 1, -1] | None, BeforeValidator(_no_bool)] = None
    label: Label = ""
    comment: str = Field(default="", max_length=8_000)
    expected: str = Field(default="", max_length=40_000)
    value: float | None = Field(default=None, allow_inf_nan=False)


def parse(raw: bytes) -> Given | str:
    """The feedback in a body, or the name of the field that is wrong ("" for the whole); never what was in it."""
    try:
        given = Given.model_validate_json(raw)
    except ValidationError as error:
        place = error.errors(include_input=False, include_url=False, include_context=False)[0]["loc"]
        first = str(place[0]) if place else ""
        return first if first in Given.model_fields else ""
    said = given.rating is not None or given.label or given.comment.strip() or given.expected.strip() or given.value is not None
    return given if said else "rating"


def keep(conn: Connection, vault: "Vault", given: Given, caller: Caller) -> str | None:
    """Write feedback down and return its id; None where the caller has no such response."""
    owner = conn.execute(select(responses.c.key_id).where(responses.c.id == given.response_id)).scalar_one_or_none()
    if owner is None or (owner != caller.id and "admin" not in caller.scopes):
        return None
    texts = {"comment": given.comment, "expected": given.expected, "value": given.value}
    row = {
        "id": ids.new("fb"),
        "response_id": given.response_id,
        "key_id": caller.id,
        "at": time.time(),
        "rating": None if given.rating is None else RATINGS[given.rating],
        "label": given.label,
        "vault_id": vault.put(conn, "feedback", texts, KEEP_S) if any(v not in ("", None) for v in texts.values()) else None,
    }
    conn.execute(insert(feedback).values(**row))
    return str(row["id"])


def current(conn: Connection, response_id: str | None = None) -> list[dict[str, Any]]:
    """The latest feedback of each key on each response, oldest first; of one response where it is named."""
    wanted = select(feedback).order_by(feedback.c.at, feedback.c.id)
    if response_id is not None:
        wanted = wanted.where(feedback.c.response_id == response_id)
    latest = {(r["response_id"], r["key_id"]): dict(r) for r in conn.execute(wanted).mappings()}
    return sorted(latest.values(), key=lambda r: (r["at"], r["id"]))


def read(conn: Connection, vault: "Vault", *, response_id: str | None, limit: int) -> list[dict[str, Any]]:
    """All feedback, newest first, with its texts where they are still kept."""
    wanted = select(feedback).order_by(feedback.c.at.desc(), feedback.c.id.desc()).limit(limit)
    if response_id is not None:
        wanted = wanted.where(feedback.c.response_id == response_id)
    rows: Sequence[Any] = conn.execute(wanted).mappings().all()
    return [_told(dict(row), (vault.get(conn, row["vault_id"]) if row["vault_id"] else None) or {}) for row in rows]


def _told(row: dict[str, Any], texts: Mapping[str, Any]) -> dict[str, Any]:
    box = row.pop("vault_id")
    return {**row, **{k: texts.get(k) for k in ("comment", "expected", "value")}, "kept": box is None or bool(texts)}


def routes(gateway: "Gateway") -> "APIRouter":
    """`POST /v1/feedback` with the scope `feedback`, `GET /v1/feedback` with the scope `admin`."""
    from fastapi import APIRouter, Depends, Query, Request
    from fastapi.responses import JSONResponse

    from temper.serve.access import admit, caller
    from temper.serve.chat import limits_of, read_body
    from temper.serve.reload import guard_of

    router = APIRouter(tags=["feedback"])

    async def give(request: Request, who: Caller = Depends(caller("feedback"))) -> JSONResponse:  # noqa: B008
        """Say what you think of an answer you got."""
        guard = await guard_of(gateway, who)
        await admit(gateway, who, limits_of(guard.policy.limits, who), judges=False)
        given = parse(await read_body(request.receive, BYTES))
        if isinstance(given, str):
            return wrong(400, f"{given or 'the body'} is not as documented", given or None)
        await gateway.journal.settled()  # the answer may be younger than the next batch of rows
        body = {"rating": given.rating, "label": given.label, "by": who.id}
        done = gateway.journal.act("feedback.given", given.response_id, body, lambda conn: _kept(conn, gateway.vault, given, who))
        try:
            made = await asyncio.wrap_future(done)
        except LookupError:
            return wrong(404, "this key has no response of that id", "response_id")
        gateway.meters.feedback(None if given.rating is None else RATINGS[given.rating], given.response_id)
        return JSONResponse({"id": made, "object": "feedback", "response_id": given.response_id}, 201)

    async def listed(
        who: Caller = Depends(caller("admin")),  # noqa: B008
        response_id: str | None = Query(None, max_length=48),
        limit: int = Query(100, ge=1, le=1000),
    ) -> JSONResponse:
        """What was said, with comments; reading it is on record."""
        rows = await gateway.store.run(lambda conn: read(conn, gateway.vault, response_id=response_id, limit=limit))
        gateway.journal.write("feedback.read", who.id, {"rows": len(rows)})
        return JSONResponse({"object": "list", "data": rows})

    shape = {"requestBody": {"required": True, "content": {"application/json": {"schema": Given.model_json_schema()}}}}
    told: dict[int | str, dict[str, Any]] = {
        400: {"description": "A field is wrong."},
        404: {"description": "No such response of this key."},
    }
    router.add_api_route("/v1/feedback", give, methods=["POST"], status_code=201, openapi_extra=shape, responses=told)
    router.add_api_route("/v1/feedback", listed, methods=["GET"])
    return router


def _kept(conn: Connection, vault: "Vault", given: Given, who: Caller) -> str:
    made = keep(conn, vault, given, who)
    if made is None:
        raise LookupError
    return made


def wrong(status: int, message: str, param: str | None) -> "JSONResponse":
    """An error in OpenAI's shape. The message never quotes the request."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}, status)
