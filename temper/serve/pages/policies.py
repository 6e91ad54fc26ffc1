"""Versions of policies: stored, compared line by line, activated and rolled back. What is activated takes effect at once."""

import asyncio
import difflib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form
from sqlalchemy import Connection, insert, select, update
from starlette.responses import Response

from temper.errors import GuardError, UsageError
from temper.serve import ids
from temper.serve.chain import clean
from temper.serve.pages.frame import away, loose, page
from temper.serve.pages.session import Admin, Page, Reviewer, Signed
from temper.serve.policy import parse_policy
from temper.serve.reload import reload
from temper.serve.state import Gateway
from temper.serve.tables import policies
from temper.serve.verify import text_digest

AT = "/review/policies"
LONGEST = 200_000
_KINDS = {"+": "add", "-": "del", "@": "at"}


def routes(gateway: Gateway) -> APIRouter:
    """Reviewers read, admins change."""
    router = APIRouter(prefix=AT, route_class=Page)
    name = Path(gateway.settings.policy).stem  # the policy that keys without one of their own are under

    async def listed(signed: Signed, draft: Mapping[str, str] | None = None, **told: Any) -> Response:
        blank = {"name": name, "note": "", "text": ""}
        return page(
            "policies.html.j2",
            title="Policies",
            at=AT,
            **signed.shown,
            active=gateway.guard.policy,
            loose=loose(gateway),
            versions=await gateway.store.run(_versions, reads=True),
            draft=draft or blank,
            **told,
        )

    async def missing(signed: Signed) -> Response:
        return page("gone.html.j2", title="No such version", at=AT, **signed.shown, status=404)

    @router.get("")
    async def all_versions(signed: Reviewer) -> Response:
        return await listed(signed)

    @router.post("")
    async def store(
        signed: Admin, name: Annotated[str, Form()], note: Annotated[str, Form()], text: Annotated[str, Form()]
    ) -> Response:
        text = text.replace("\r\n", "\n")
        draft = {"name": clean(name, 200), "note": clean(note, 2_000), "text": clean(text, LONGEST)}
        try:
            if len(text) > LONGEST:
                raise UsageError(f"text: {len(text)} characters; wanted at most {LONGEST}")
            parsed = await asyncio.to_thread(parse_policy, text, where="policy.toml", name=name)
        except UsageError as error:
            return await listed(signed, draft, wrong=str(error), status=400)
        id = ids.new("policy")
        row = {**draft, "id": id, "version": parsed.version, "made_at": time.time(), "made_by": signed.person.name}
        told = {"name": row["name"], "version": row["version"], "by": signed.person.id, "sha256": text_digest(draft["text"])}
        await _act(gateway, "policy.stored", id, told, lambda conn: conn.execute(insert(policies).values(**row, active=False)))
        return away(f"{AT}/{id}")

    @router.post("/file")
    async def file(signed: Admin, note: Annotated[str, Form()]) -> Response:
        return await change(signed, "", note)

    @router.get("/{id}")
    async def version(signed: Reviewer, id: str, against: str = "") -> Response:
        return await shown(signed, id, against)

    async def shown(signed: Signed, id: str, against: str = "", **told: Any) -> Response:
        found = {v["id"]: v for v in await gateway.store.run(_versions, reads=True)}
        if id not in found:
            return await missing(signed)
        this = found.pop(id)
        usual = next((v["id"] for v in found.values() if v["active"] and v["name"] == this["name"]), next(iter(found), ""))
        against = against if against in found else usual
        active_at = max((v["made_at"] for v in found.values() if v["active"] and v["name"] == this["name"]), default=0.0)
        return page(
            "policy.html.j2",
            title=f"{this['name']} {this['version']}",
            at=AT,
            **signed.shown,
            version=this,
            others=list(found.values()),
            against=against,
            diff=_diff(found[against], this) if against else [],
            older=this["made_at"] < active_at,
            **told,
        )

    @router.post("/{id}/activate")
    async def activate(signed: Admin, id: str, note: Annotated[str, Form()]) -> Response:
        return await change(signed, id, note)

    async def change(signed: Signed, id: str, note: str) -> Response:
        """Put a version in force, or with no id the file the gateway was started with. What fails the self-test is taken back."""
        rows = await gateway.store.run(_versions, reads=True)
        this = next((v for v in rows if v["id"] == id), None)
        if id and this is None:
            return await missing(signed)
        of = this["name"] if this else name
        before = next((v["id"] for v in rows if v["active"] and v["name"] == of), "")
        told = {"name": of, "from": before, "by": signed.person.id, "note": note[:500]}
        await _act(gateway, "policy.activated", id or of, told, lambda conn: _activated(conn, of, id))
        try:
            await reload(gateway)
        except (UsageError, GuardError) as error:
            undone = {**told, "from": id, "note": "it did not pass the self-test"}
            await _act(gateway, "policy.activated", before or of, undone, lambda conn: _activated(conn, of, before))
            wrong = f"Nothing was changed: {error}"
            return await (shown(signed, id, wrong=wrong, status=409) if id else listed(signed, wrong=wrong, status=409))
        return away(AT)

    return router


async def _act(gateway: Gateway, kind: str, subject: str, body: Mapping[str, Any], work: Any) -> None:
    await asyncio.wrap_future(gateway.journal.act(kind, subject, body, work))


def _versions(conn: Connection) -> list[dict[str, Any]]:
    return [dict(r) for r in conn.execute(select(policies).order_by(policies.c.made_at.desc(), policies.c.id)).mappings()]


def _activated(conn: Connection, name: str, id: str) -> None:
    """One version of a name is active at most."""
    conn.execute(update(policies).where(policies.c.name == name).values(active=False))
    conn.execute(update(policies).where(policies.c.id == id).values(active=True))


def _diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """The lines of a unified diff, each with the class of its first character."""
    before, after = (f"{v['name']} {v['version']}" for v in (old, new))
    lines = difflib.unified_diff(old["text"].splitlines(), new["text"].splitlines(), before, after, lineterm="")
    return [("at" if line[:3] in ("---", "+++") else _KINDS.get(line[:1], "same"), line) for line in lines]
