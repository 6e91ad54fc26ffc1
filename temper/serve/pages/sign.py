"""Signing in and out, and the two files that every page loads."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from temper.serve.access import SIGN_IN, next_page, sign_in, sign_out
from temper.serve.pages.frame import ASSETS, HEADERS, asset, away, page
from temper.serve.pages.session import Page, Public, Reviewer
from temper.serve.people import Throttled
from temper.serve.state import Gateway

HOME = "/review"


def routes(gateway: Gateway) -> APIRouter:
    """Public but for the sign-out."""
    router = APIRouter(route_class=Public)

    def form(back: str, *, wrong: str = "", status: int = 200) -> Response:
        return page("sign_in.html.j2", title="Sign in", narrow=True, back=back, action=SIGN_IN, wrong=wrong, status=status)

    @router.get(SIGN_IN)
    async def show(next: str = "") -> Response:
        return form(_back(next))

    @router.post(SIGN_IN)
    async def enter(
        request: Request, name: Annotated[str, Form()], password: Annotated[str, Form()], next: Annotated[str, Form()] = ""
    ) -> Response:
        response = away(_back(next))
        try:
            found = await sign_in(gateway, request, name, password, response)
        except Throttled as error:
            slow = form(_back(next), wrong=f"Too many attempts. Try again in {error.retry_after_s:.0f} seconds.", status=429)
            slow.headers["Retry-After"] = f"{error.retry_after_s:.0f}"
            return slow
        return response if found is not None else form(_back(next), wrong="Name or password is wrong.", status=401)

    @router.get("/review/static/{name}")
    async def static(name: str) -> Response:
        if name not in ASSETS:
            return page("gone.html.j2", title="No such file", status=404, narrow=True)
        headers = {**HEADERS, "Cache-Control": "no-cache"}
        return Response(asset(name), headers=headers, media_type=ASSETS[name])

    signed_in = APIRouter(route_class=Page)

    @signed_in.post("/sign-out")
    async def leave(signed: Reviewer, request: Request) -> Response:
        request.state.renewed_cookie = ""
        response = away(SIGN_IN)
        await sign_out(gateway, signed.person, response)
        return response

    router.include_router(signed_in)
    return router


def _back(given: str) -> str:
    """A page of ours to go to after the sign-in."""
    found = next_page(given)
    return found if found == HOME or found.startswith(f"{HOME}/") else HOME
