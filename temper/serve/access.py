"""Who may use a route: an API key with a scope, or a signed-in person with a role; FastAPI dependencies and plain calls.

The gateway is `app.state.gateway`. Errors of API routes are `ApiError`s; a page that wants a person sends others to the sign-in.
"""

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from temper.serve.keys import LOCAL
from temper.serve.people import Person, Role, Session
from temper.serve.policy import Limits
from temper.serve.protocol import ApiError, overloaded
from temper.serve.state import Gateway
from temper.serve.verdict import Caller

SIGN_IN = "/sign-in"
RETRY_S = 5
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class SignIn(Exception):
    """Nobody is signed in; pages answer with a redirect to `location`."""

    def __init__(self, location: str) -> None:
        super().__init__("sign in first")
        self.location = location


def caller(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller of an API route, who must have the scope. Raises `ApiError` 401 or 403."""

    async def dependency(request: Request) -> Caller:
        return await identify(request.app.state.gateway, request, scope)

    return dependency


def person(role: Role = "reviewer") -> Callable[[Request], Awaitable[Person]]:
    """A dependency: the signed-in person of a page, who must have the role; requests that change something bring the CSRF token.

    Raises `SignIn` where nobody is signed in, `ApiError` 403 where the role or the token is wrong. `request.state.session` has
    the `Session`, whose `csrf` goes into forms (field or header `x-csrf-token`).
    """

    async def dependency(request: Request) -> Person:
        gateway: Gateway = request.app.state.gateway
        found = await session(gateway, request)
        if found is None:
            back = request.url.path if request.method == "GET" else ""
            raise SignIn(f"{SIGN_IN}?next={quote(back)}" if back else SIGN_IN)
        if not found.person.may(role):
            raise ApiError(403, f"this needs the role {role}", kind="permission_error", code="role")
        if request.method not in ("GET", "HEAD", "OPTIONS") and not await _from_our_form(request, found):
            raise ApiError(403, "the form is too old or not ours; load the page again", kind="permission_error", code="csrf")
        request.state.session = found
        request.state.renewed_cookie = found.cookie
        return found.person

    return dependency


async def identify(gateway: Gateway, request: HTTPConnection, scope: str) -> Caller:
    """The caller of a request, who must have the scope. Raises `ApiError` 401 or 403."""
    given = request.headers.get("authorization", "")
    kind, _, token = given.partition(" ")
    if not given:
        if await open_to(gateway, request):
            found: Caller | None = LOCAL
        else:
            raise _unauthorised("no API key; send Authorization: Bearer tmp-...")
    else:
        found = await gateway.keys.caller(token.strip()) if kind.lower() == "bearer" else None
        if found is None and await open_to(gateway, request):
            found = LOCAL  # stock clients send some key, whatever the server wants
    if found is None:
        raise _unauthorised("the API key is unknown, expired or revoked")
    if scope not in found.scopes:
        raise ApiError(403, f"this API key lacks the scope {scope!r}", kind="permission_error", code="scope")
    return found


async def admit(gateway: Gateway, who: Caller, limits: Limits, *, judges: bool = True) -> None:
    """Let a request begin, which then counts against its key's rate. `judges` says that filters answer it, and its row tells.

    Raises `ApiError` 429 for a limit of the key, 503 where there is no room, the self-test fails, or nothing can go on record.
    """
    refused = await gateway.limits.admitted(who, limits)
    if refused is not None:
        gateway.meters.shed(refused.code)
        raise overloaded(refused.why, refused.retry_after_s, status=refused.status, code=refused.code)
    if judges and not gateway.ready.ok:
        gateway.meters.shed("self-test")
        raise overloaded("the self-test of the filters has not passed; /readyz says more", RETRY_S, code="not_ready")
    if judges and not gateway.journal.accepts:
        gateway.meters.shed("journal")
        raise overloaded("what is answered cannot be put on record just now", RETRY_S)


async def open_to(gateway: Gateway, request: HTTPConnection) -> bool:
    """Whether the request needs no key: it comes from this machine and from no web page, and nobody has made a key yet."""
    settings = gateway.settings
    if not (settings.open_loopback and loopback(settings.host) and request.client and loopback(request.client.host)):
        return False
    # behind a proxy every client looks local; a page of another site, or one whose name was pointed here, is not the owner
    if any(name in request.headers for name in _FORWARDED):
        return False
    if not loopback(_host(f"//{request.headers.get('host', '')}")):
        return False
    origin = request.headers.get("origin")
    if origin is not None and not loopback(_host(origin)):
        return False
    return not await gateway.keys.any()


@lru_cache(maxsize=256)
def loopback(host: str) -> bool:
    """Whether a host is this machine: 127.0.0.0/8, ::1 or localhost."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def session(gateway: Gateway, request: HTTPConnection) -> Session | None:
    """The session that the request's cookie belongs to."""
    cookie = request.cookies.get(cookie_name(gateway), "")
    return await asyncio.to_thread(gateway.people.session, cookie) if cookie else None


async def sign_in(gateway: Gateway, request: Request, name: str, password: str, response: Response) -> Person | None:
    """Check name and password; where they are right, the response sets the cookie. Raises `people.Throttled`."""
    address = request.client.host if request.client else ""
    found = await asyncio.to_thread(gateway.people.check, name, password, address)
    if found is not None:
        set_cookie(gateway, response, await asyncio.to_thread(gateway.people.cookie, found))
    return found


async def sign_out(gateway: Gateway, who: Person, response: Response) -> None:
    """End all sessions of the person, and have the browser forget the cookie."""
    await asyncio.to_thread(gateway.people.sign_out, who)
    response.delete_cookie(cookie_name(gateway), path="/")


def next_page(given: str) -> str:
    """Where to go after the sign-in: a path of this site, nothing else."""
    parts = urlsplit(given)
    safe = given.startswith("/") and not given.startswith(("//", "/\\")) and not parts.netloc and given.isprintable()
    return given if safe else "/"


def cookie_name(gateway: Gateway) -> str:
    return "__Host-temper" if _https(gateway) else "temper_session"


def set_cookie(gateway: Gateway, response: Response, cookie: str) -> None:
    response.set_cookie(cookie_name(gateway), cookie, path="/", secure=_https(gateway), httponly=True, samesite="strict")


class Renewal:
    """ASGI middleware: a session in use gets a new cookie, whatever kind of response the page made."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self.app = app
        self.gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def renewing(message: Message) -> None:
            cookie = scope.get("state", {}).get("renewed_cookie", "")
            if message["type"] == "http.response.start" and cookie:
                carrier = Response()
                set_cookie(self.gateway, carrier, cookie)
                MutableHeaders(scope=message).append("set-cookie", carrier.headers["set-cookie"])
            await send(message)

        await self.app(scope, receive, renewing)


async def _from_our_form(request: Request, found: Session) -> bool:
    given: Any = request.headers.get("x-csrf-token", "")
    if not given and request.headers.get("content-type", "").startswith(_FORMS):
        given = (await request.form()).get("csrf", "")  # Starlette keeps the form for the route
    return isinstance(given, str) and hmac.compare_digest(given.encode(), found.csrf.encode())


def _unauthorised(message: str) -> ApiError:
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, kind="authentication_error", code="invalid_api_key", headers=headers)


def _https(gateway: Gateway) -> bool:
    return gateway.settings.public_url.startswith("https://")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
