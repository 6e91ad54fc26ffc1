"""The public page behind a block message's link: whoever was stopped asks for a person, once, and may say why."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from temper.errors import UsageError
from temper.serve.pages.frame import page
from temper.serve.pages.session import Public
from temper.serve.policy import Limits
from temper.serve.review import Conflict, Links, Outcome, appeal_id
from temper.serve.state import Gateway
from temper.serve.verdict import Caller

PER_MINUTE = Limits(requests_per_minute=20, under_way=0)
BUCKETS = 256  # addresses share them, so that nobody can make the limiter remember without bound
WORDS = {
    "waiting": ("A person will look at it", "Your appeal is on record. This page will say what came of it."),
    "released": (
        "It was released",
        "A reviewer found that it should not have been stopped.",
    ),
    "edited": ("It was released in an edited form", "A reviewer has edited the answer. The application can fetch it."),
    "refused": ("It stays as it is", ""),
    "expired": ("It stays as it is", "Nobody could look at it in time."),
}


def routes(gateway: Gateway) -> APIRouter:
    """The appeal page. It shows no text of the request or the answer."""
    router = APIRouter(prefix="/appeal", route_class=Public)
    links = Links(gateway.keyring)

    async def state(response_id: str) -> Outcome | None:
        try:
            return await gateway.holds.outcome(appeal_id(response_id))
        except UsageError:
            return None

    @router.get("/{token}")
    async def show(token: str, request: Request) -> Response:
        if (slow := await _slowed(gateway, request)) is not None:
            return slow
        response_id = links.response(token)
        if response_id is None:
            return _void()
        found = await state(response_id)
        if found is not None:
            return _told(found)
        asked = "An answer or a request was stopped by a filter. You can ask for a person to look at it."
        return _page("Was this stopped by mistake?", asked, form=True)

    @router.post("/{token}")
    async def send(token: str, request: Request, why: Annotated[str, Form()] = "") -> Response:
        if (slow := await _slowed(gateway, request)) is not None:
            return slow
        response_id = links.response(token)
        if response_id is None:
            return _void()
        try:
            await gateway.holds.appeal(response_id, why.replace("\r\n", "\n"), gateway.guard.policy.review)
        except Conflict:
            pass  # sent twice: the page says how the first one stands
        except UsageError as error:
            return _page("This cannot be appealed", f"{error}.", status=400)
        return _told(await gateway.holds.outcome(appeal_id(response_id)))

    return router


def _told(found: Outcome) -> Response:
    heading, words = WORDS[found.state]
    fetched = " The application can fetch the answer." if found.state == "released" and found.answers else ""
    return _page(heading, (words or found.message) + fetched)


def _void() -> Response:
    return _page("This link is not valid", "It is too old, or was not copied whole.", status=404)


def _page(heading: str, words: str, *, form: bool = False, status: int = 200) -> Response:
    return page("appeal.html.j2", title=heading, heading=heading, words=words, form=form, narrow=True, status=status)


async def _slowed(gateway: Gateway, request: Request) -> Response | None:
    address = request.client.host if request.client else ""
    bucket = int.from_bytes(hashlib.sha256(address.encode()).digest()[:4]) % BUCKETS
    refused = await gateway.limits.admitted(Caller(f"appeal_{bucket}"), PER_MINUTE)
    if refused is None:
        return None
    response = _page("Too many requests", "Please try again in a minute.", status=429)
    response.headers["Retry-After"] = f"{max(1, round(refused.retry_after_s))}"
    return response
