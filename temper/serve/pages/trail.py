"""The audit journal as a page, and the check of its whole chain. Who reads it is on record there too."""

import asyncio
from collections.abc import Container
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter
from sqlalchemy import and_, or_, select
from starlette.responses import Response

from temper.serve.chain import clean
from temper.serve.pages.frame import page
from temper.serve.pages.session import Admin, Page, Reviewer, Signed
from temper.serve.state import Gateway
from temper.serve.tables import journal
from temper.serve.verify import verify

AT = "/review/trail"
PAGE = 100
HIDDEN = "shown once you have rated this item, or opened it"


def routes(gateway: Gateway) -> APIRouter:
    """The trail, for reviewers; its verification, for admins."""
    router = APIRouter(prefix=AT, route_class=Page)

    async def show(signed: Signed, kind: str, subject: str, before: str, report: Any = None) -> Response:
        rows = await gateway.store.run(lambda conn: conn.execute(_wanted(kind, subject, before)).mappings().all(), reads=True)
        kinds = await gateway.store.run(lambda conn: conn.scalars(select(journal.c.kind).distinct()).all(), reads=True)
        older = ""
        if len(rows) > PAGE:
            last = rows[PAGE - 1]
            marked = {"kind": kind, "subject": subject, "before": f"{last['at']!r} {last['lane']} {last['seq']}"}
            older = f"{AT}?{urlencode(marked)}"
        blind = await gateway.holds.unseen(signed.person, gateway.guard.policy.review.second)
        gateway.journal.write("trail.viewed", signed.person.id, {"kind": kind[:32], "subject": subject[:48]})
        await gateway.journal.settled()
        return page(
            "trail.html.j2",
            title="Audit trail",
            at=AT,
            **signed.shown,
            rows=[{**row, "body": HIDDEN} if _tells(row["kind"], row["subject"], blind) else row for row in rows[:PAGE]],
            kinds=sorted(kinds),
            chosen={"kind": kind, "subject": subject},
            older=older,
            report=report,
        )

    @router.get("")
    async def trail(signed: Reviewer, kind: str = "", subject: str = "", before: str = "") -> Response:
        return await show(signed, kind, subject, before)

    @router.post("/verify")
    async def check(signed: Admin) -> Response:
        await gateway.journal.settled()
        report = await asyncio.to_thread(verify, gateway.store, gateway.keyring, gateway.settings.checkpoints)
        return await show(signed, "", "", "", report)

    return router


def _tells(kind: str, subject: str, blind: Container[str]) -> bool:
    """Whether a row holds the verdict of an item that its reader may still rate blind."""
    return kind in ("hold.rated", "hold.decided") and subject in blind


def _wanted(kind: str, subject: str, before: str) -> Any:
    """The newest rows that fit; `before` is the place of the last row shown, as "at lane seq"."""
    wanted = select(journal).order_by(journal.c.at.desc(), journal.c.lane.desc(), journal.c.seq.desc()).limit(PAGE + 1)
    if kind:
        wanted = wanted.where(journal.c.kind == clean(kind, 32))
    if subject:
        wanted = wanted.where(journal.c.subject == clean(subject, 48))
    match before.split(" "):
        case [at, lane, seq] if _number(at) and seq.isdecimal() and len(seq) < 20:
            here = float(at)
            same = and_(
                journal.c.at == here,
                or_(
                    journal.c.lane < clean(lane, 48),
                    and_(journal.c.lane == clean(lane, 48), journal.c.seq < min(int(seq), 2**31 - 1)),
                ),
            )
            wanted = wanted.where(or_(journal.c.at < here, same))
    return wanted


def _number(given: str) -> bool:
    return len(given) < 40 and given.replace(".", "", 1).isdecimal()
