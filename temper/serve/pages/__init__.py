"""The pages where people review, look and administer: made on the server, without a build step, and whole with scripts off."""

from fastapi import APIRouter

from temper.serve.pages import admin, appeal, board, policies, preview, queue, sign, trail
from temper.serve.state import Gateway


def routes(gateway: Gateway) -> APIRouter:
    """Every page. None is part of the API's description."""
    router = APIRouter(include_in_schema=False)
    for part in (sign, queue, board, preview, policies, trail, admin, appeal):
        router.include_router(part.routes(gateway))
    return router
