"""API keys, people and webhooks, for admins."""

import asyncio
import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from sqlalchemy import Connection, case, func, select
from starlette.responses import Response

from temper.errors import UsageError
from temper.serve.keys import SCOPES, USUAL
from temper.serve.pages.frame import away, page
from temper.serve.pages.session import Admin, Page, Signed
from temper.serve.people import SHORTEST
from temper.serve.state import Gateway
from temper.serve.tables import deliveries, hooks
from temper.serve.webhooks import EVENTS

KEYS, PEOPLE, HOOKS = "/review/keys", "/review/people", "/review/hooks"


def routes(gateway: Gateway) -> APIRouter:
    """Three pages, and the forms on them."""
    router = APIRouter(route_class=Page)

    async def keys(signed: Signed, **told: Any) -> Response:
        found = await asyncio.to_thread(gateway.keys.all)
        shown = {"token": "", **told, "keys": found, "scopes": SCOPES, "usual": USUAL}
        return page("keys.html.j2", title="API keys", at=KEYS, **signed.shown, **shown)

    @router.get(KEYS)
    async def show_keys(signed: Admin) -> Response:
        return await keys(signed)

    @router.post(KEYS)
    async def make_key(
        signed: Admin,
        request: Request,
        name: Annotated[str, Form()],
        days: Annotated[int, Form()] = 0,
        policy: Annotated[str, Form()] = "",
    ) -> Response:
        scopes = [str(s) for s in (await request.form()).getlist("scopes")]
        expires_at = time.time() + days * 86_400 if days else None

        def make() -> str:
            return gateway.keys.make(name, scopes, by=signed.person.name, expires_at=expires_at, policy=policy)[1]

        try:
            # Not behind a redirect: the token is on this one page and nowhere else.
            return await keys(signed, token=await asyncio.to_thread(make))
        except UsageError as error:
            return await keys(signed, wrong=f"{error}.", status=400)

    @router.post(KEYS + "/{id}/revoke")
    async def revoke(signed: Admin, id: str) -> Response:
        try:
            await asyncio.to_thread(lambda: gateway.keys.revoke(id, by=signed.person.name))
        except UsageError:
            return await keys(signed, wrong="No live key has this id: it was revoked already.", status=409)
        return away(KEYS)

    async def people(signed: Signed, **told: Any) -> Response:
        found = await asyncio.to_thread(gateway.people.all)
        return page("people.html.j2", title="People", at=PEOPLE, **signed.shown, people=found, shortest=SHORTEST, **told)

    @router.get(PEOPLE)
    async def show_people(signed: Admin) -> Response:
        return await people(signed)

    @router.post(PEOPLE)
    async def add(
        signed: Admin, name: Annotated[str, Form()], password: Annotated[str, Form()], role: Annotated[str, Form()]
    ) -> Response:
        try:
            await asyncio.to_thread(lambda: gateway.people.add(name, password, role, by=signed.person.name))
        except UsageError as error:
            return await people(signed, wrong=f"{error}.", status=400)
        return away(PEOPLE)

    @router.post(PEOPLE + "/{id}/disable")
    async def disable(signed: Admin, id: str) -> Response:
        found = next((p for p in await asyncio.to_thread(gateway.people.all) if p["id"] == id), None)
        if found is None or id == signed.person.id:
            return await people(signed, wrong="Nobody else has this id.", status=409)
        await asyncio.to_thread(lambda: gateway.people.disable(found["name"], by=signed.person.name))
        return away(PEOPLE)

    async def hooked(signed: Signed, **told: Any) -> Response:
        found = await gateway.store.run(_hooks, reads=True)
        return page(
            "hooks.html.j2", title="Webhooks", at=HOOKS, **signed.shown, **{"secret": "", **told}, hooks=found, events=EVENTS
        )

    @router.get(HOOKS)
    async def show_hooks(signed: Admin) -> Response:
        return await hooked(signed)

    @router.post(HOOKS)
    async def make_hook(signed: Admin, request: Request, url: Annotated[str, Form()]) -> Response:
        events = [str(e) for e in (await request.form()).getlist("events")]
        try:
            made = await asyncio.to_thread(lambda: gateway.hooks.add(url, events, by=signed.person.name))
        except UsageError as error:
            return await hooked(signed, wrong=f"{error}.", status=400)
        return await hooked(signed, secret=made[1])

    @router.post(HOOKS + "/{id}/disable")
    async def disable_hook(signed: Admin, id: str) -> Response:
        try:
            await asyncio.to_thread(lambda: gateway.hooks.disable(id, by=signed.person.name))
        except UsageError:
            return await hooked(signed, wrong="No live webhook has this id.", status=409)
        return away(HOOKS)

    return router


def _hooks(conn: Connection) -> list[dict[str, Any]]:
    """Each webhook with what became of its deliveries; never its secret."""
    done = func.sum(case((deliveries.c.done_at.is_not(None), 1), else_=0))
    wanted = (
        select(hooks.c.id, hooks.c.url, hooks.c.events, hooks.c.made_at, hooks.c.disabled_at, done, func.count(deliveries.c.id))
        .outerjoin(deliveries, deliveries.c.hook_id == hooks.c.id)
        .group_by(hooks.c.id, hooks.c.url, hooks.c.events, hooks.c.made_at, hooks.c.disabled_at)
        .order_by(hooks.c.made_at.desc())
    )
    last = select(deliveries.c.last_error).where(deliveries.c.last_error != "").order_by(deliveries.c.made_at.desc()).limit(1)
    return [
        {
            "id": id,
            "url": url,
            "events": json.loads(events),
            "made_at": made_at,
            "disabled_at": disabled_at,
            "done": int(n or 0),
            "open": total - int(n or 0),
            "error": conn.scalar(last.where(deliveries.c.hook_id == id)) or "",
        }
        for id, url, events, made_at, disabled_at, n, total in conn.execute(wanted)
    ]
