"""Who looks at a page, and the routes of pages: a person's errors are pages, not JSON, and bodies have a bound."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from temper.serve.access import SignIn, person
from temper.serve.pages.frame import away, page
from temper.serve.people import Person
from temper.serve.protocol import ApiError

LARGEST = 2_000_000  # bytes of a form: an edited answer in the longest encoding
LARGEST_PUBLIC = 32_768


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed-in person, and the token their forms carry."""

    person: Person
    csrf: str

    @property
    def shown(self) -> dict[str, Any]:
        """What every page of theirs is made with."""
        return {"person": self.person, "csrf": self.csrf}


async def _reviewer(request: Request, who: Annotated[Person, Depends(person("reviewer"))]) -> Signed:
    return Signed(who, request.state.session.csrf)


async def _admin(request: Request, who: Annotated[Person, Depends(person("admin"))]) -> Signed:
    return Signed(who, request.state.session.csrf)


Reviewer = Annotated[Signed, Depends(_reviewer)]
Admin = Annotated[Signed, Depends(_admin)]


class Page(APIRoute):
    """A route of a page."""

    largest = LARGEST

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            if request.method == "POST" and (wrong := self._refused(request)):
                return page("gone.html.j2", title="Not taken", wrong=wrong, status=413, narrow=True)
            try:
                return await handle(request)
            except SignIn as error:
                return away(error.location)
            except ApiError as error:
                return page("gone.html.j2", title="Not allowed", wrong=f"{error}.", status=error.status, narrow=True)

        return guarded

    def _refused(self, request: Request) -> str:
        length = request.headers.get("content-length", "")
        # with both headers servers differ in which one counts
        if "transfer-encoding" in request.headers or not length.isdecimal() or int(length[:20]) > self.largest:
            return f"A form has a length, of at most {self.largest} bytes."
        return ""


class Public(Page):
    """A route of a page that anybody may open; its forms come from itself and are short."""

    largest = LARGEST_PUBLIC

    def _refused(self, request: Request) -> str:
        return super()._refused(request) or ("" if _from_here(request) else "This form was sent from another site.")


def _from_here(request: Request) -> bool:
    """Whether a browser says that the form came from our own page. Clients that are no browsers say nothing."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    return site in ("same-origin", "none") and (origin is None or urlsplit(origin).netloc == request.headers.get("host"))
