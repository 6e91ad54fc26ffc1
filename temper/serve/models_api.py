"""GET /v1/models and /v1/models/{id}: what the model server has, as far as the caller may use it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp

from temper.serve.protocol import ApiError
from temper.serve.upstream import late
from temper.serve.verdict import Caller

if TYPE_CHECKING:
    from fastapi import APIRouter

    from temper.serve.state import Gateway

FRESH_S = 30.0


class Models:
    """The upstream's list, asked for at most every `FRESH_S` seconds, by one request at a time."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._rows: Sequence[Mapping[str, Any]] = ()
        self._at = float("-inf")
        self._lock = asyncio.Lock()

    async def seen_by(self, caller: Caller) -> list[dict[str, Any]]:
        """What the caller may ask for, written field by field. Raises `ApiError` where the upstream does not say."""
        async with self._lock:
            if time.monotonic() - self._at > FRESH_S:
                self._rows, self._at = await self._asked(), time.monotonic()
        allowed = caller.models or self._gateway.settings.models
        return [row for row in map(_row, self._rows) if not allowed or row["id"] in allowed]

    async def _asked(self) -> Sequence[Mapping[str, Any]]:
        try:
            return await self._gateway.upstream.models()
        except TimeoutError:
            raise late("list its models") from None
        except (aiohttp.ClientError, OSError):
            raise ApiError(502, "the model server cannot be reached", kind="server_error", code="upstream_unreachable") from None


def _row(given: Mapping[str, Any]) -> dict[str, Any]:
    created = given.get("created")
    owner = given.get("owned_by")
    return {
        "id": str(given.get("id", ""))[:200],
        "object": "model",
        "created": created if isinstance(created, int) else 0,
        "owned_by": owner[:200] if isinstance(owner, str) else "",
    }


def routes(gateway: "Gateway") -> "APIRouter":
    from fastapi import APIRouter, Depends

    from temper.serve.access import caller

    router, models = APIRouter(tags=["models"]), Models(gateway)

    @router.get("/v1/models")
    async def listed(who: Caller = Depends(caller("models"))) -> dict[str, Any]:  # noqa: B008
        """The models a caller may ask."""
        return {"object": "list", "data": await models.seen_by(who)}

    @router.get("/v1/models/{model:path}", responses={404: {"description": "No such model."}})
    async def one(model: str, who: Caller = Depends(caller("models"))) -> dict[str, Any]:  # noqa: B008
        """One model."""
        for row in await models.seen_by(who):
            if row["id"] == model:
                return row
        raise ApiError(404, "no such model here; GET /v1/models lists them", param="model", code="model_not_found")

    return router
