"""The queue, one item with its texts and verdict, and the blind second ratings."""

import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from sqlalchemy import select
from starlette.responses import Response

from temper.errors import TemperError, UsageError
from temper.serve.pages.frame import away, finding_rows, loose, page
from temper.serve.pages.marks import of, pieces
from temper.serve.pages.session import Page, Reviewer, Signed
from temper.serve.review import KINDS, Conflict, Item
from temper.serve.state import Gateway
from temper.serve.tables import keys
from temper.text.invisible import visible

AGES = (("0", "any"), ("900", "over 15 min"), ("3600", "over 1 h"), ("21600", "over 6 h"))
SHOWN = 200
STATES = ("waiting", "released", "edited", "refused", "expired", "any")


def routes(gateway: Gateway) -> APIRouter:
    """The queue and its items, for reviewers."""
    router = APIRouter(prefix="/review", route_class=Page)

    @router.get("")
    async def queue(
        signed: Reviewer, state: str = "waiting", kind: str = "", category: str = "", older: str = "0", sort: str = "oldest"
    ) -> Response:
        chosen = _chosen(state, kind, category, older, sort)
        return page(
            "queue.html.j2",
            title="Queue",
            at="/review",
            **signed.shown,
            **await _rows(signed, chosen),
            kinds=KINDS,
            ages=AGES,
            categories=await gateway.holds.categories(),
            loose=loose(gateway),
            live=f"/review/rows?{urlencode(chosen)}",
        )

    @router.get("/rows")
    async def rows(
        signed: Reviewer, state: str = "waiting", kind: str = "", category: str = "", older: str = "0", sort: str = "oldest"
    ) -> Response:
        return page("rows.html.j2", title="", **signed.shown, **await _rows(signed, _chosen(state, kind, category, older, sort)))

    async def _rows(signed: Signed, chosen: Mapping[str, str]) -> dict[str, Any]:
        items = await gateway.holds.items(
            state="" if chosen["state"] == "any" else chosen["state"],
            kind=chosen["kind"],
            category=chosen["category"],
            older_s=float(chosen["older"]),
            sort=chosen["sort"],
            limit=SHOWN,
        )
        waits = chosen["state"] == "waiting"
        if not waits:  # what this person may still rate blind would be told by its state
            blind = await gateway.holds.unseen(signed.person, gateway.guard.policy.review.second)
            items = [item for item in items if item.id not in blind]
        many = f"the first {SHOWN} items" if len(items) == SHOWN else f"{len(items)} item{'' if len(items) == 1 else 's'}"
        told = f"{many} {'waiting' if waits else 'found'}"
        nothing = "Nothing waits for a person." if waits else "No item fits."
        return {"items": items, "told": told, "nothing": nothing, "base": "/review/items", "chosen": chosen}

    async def _item(
        signed: Signed,
        id: str,
        *,
        blind: bool = False,
        wrong: str = "",
        status: int = 200,
        good: str = "",
        edits: list[str] | None = None,
    ) -> Response:
        try:
            item = await gateway.holds.item(id, signed.person, blind=blind)
        except UsageError as error:
            return page("gone.html.j2", title="No such item", **signed.shown, wrong=str(error), status=404)
        review = gateway.guard.policy.review
        return page(
            "item.html.j2",
            title=item.category or "Item",
            at="/review/second" if blind else "/review",
            **signed.shown,
            **_texts(item, edits),
            item=item,
            blind=blind,
            mine=item.leased(time.time()) and item.lease_by == signed.person.id,
            renew=max(review.lease_s / 3, 1),
            key_name=await _key_name(item.key_id),
            categories=await gateway.holds.categories(),
            back="/review/second" if blind else "/review",
            post=f"/review/{'second' if blind else 'items'}/{id}",
            wrong=wrong,
            good=good,
            status=status,
        )

    async def _key_name(key_id: str) -> str:
        named = await gateway.store.run(lambda conn: conn.scalar(select(keys.c.name).where(keys.c.id == key_id)), reads=True)
        return named or key_id or "none"

    @router.get("/items/{id}")
    async def item(signed: Reviewer, id: str) -> Response:
        return await _item(signed, id)

    @router.post("/items/{id}/lease")
    async def lease(signed: Reviewer, id: str, act: Annotated[str, Form()]) -> Response:
        if act == "free":
            await gateway.holds.give_back(id, signed.person)
        elif not await gateway.holds.claim(id, signed.person, gateway.guard.policy.review.lease_s):
            return await _item(signed, id, wrong="Somebody else took this item, or it is decided.", status=409)
        return away(f"/review/items/{id}")

    @router.post("/items/{id}")
    async def decide(
        signed: Reviewer,
        request: Request,
        id: str,
        verdict: Annotated[str, Form()],
        label: Annotated[str, Form()] = "",
        category: Annotated[str, Form()] = "",
        note: Annotated[str, Form()] = "",
        message: Annotated[str, Form()] = "",
        seen: Annotated[str, Form()] = "",
    ) -> Response:
        edits = [str(e).replace("\r\n", "\n") for e in (await request.form()).getlist("edit")]
        try:
            state = await gateway.holds.decide(
                id,
                signed.person,
                verdict,
                edit=edits if verdict == "edit" else None,
                label=label,
                category=category,
                note=note,
                message=message,
                seen=seen,
            )
        except (Conflict, UsageError) as error:
            return await _item(signed, id, wrong=_sentence(error), status=409, edits=edits)
        if state == "waiting":
            return await _item(signed, id, good="Your verdict is on record. Another person has to agree.")
        return away("/review")

    @router.get("/second")
    async def second(signed: Reviewer) -> Response:
        items = await gateway.holds.second(signed.person, gateway.guard.policy.review.second)
        return page(
            "second.html.j2",
            title="Second ratings",
            at="/review/second",
            **signed.shown,
            items=items,
            told=f"{len(items)} to rate",
            nothing="Nothing is to be rated a second time by you.",
            base="/review/second",
            chosen={"state": "second"},
        )

    @router.get("/second/{id}")
    async def blind(signed: Reviewer, id: str) -> Response:
        return await _item(signed, id, blind=True)

    @router.post("/second/{id}")
    async def rate(
        signed: Reviewer,
        id: str,
        verdict: Annotated[str, Form()],
        label: Annotated[str, Form()] = "",
        category: Annotated[str, Form()] = "",
        note: Annotated[str, Form()] = "",
    ) -> Response:
        try:
            await gateway.holds.rate(id, signed.person, verdict, label=label, category=category, note=note)
        except (Conflict, UsageError) as error:
            return await _item(signed, id, blind=True, wrong=_sentence(error), status=409)
        return away("/review/second")

    return router


def _chosen(state: str, kind: str, category: str, older: str, sort: str) -> dict[str, str]:
    """What a query asks for; what no form offers falls back to the first choice."""
    return {
        "state": state if state in STATES else "waiting",
        "kind": kind if kind in KINDS else "",
        "category": category[:64],
        "older": older if older in dict(AGES) else "0",
        "sort": sort if sort in ("oldest", "newest", "expires") else "oldest",
    }


def _sentence(error: TemperError) -> str:
    said = str(error)
    return f"{said[:1].upper()}{said[1:]}."


def _texts(item: Item, edits: list[str] | None) -> dict[str, Any]:
    """The conversation and the answers in marked pieces, and what the edit boxes begin with."""
    found = item.findings
    answers = [
        {
            "reasoning": pieces(a.get("reasoning", ""), of(found, channel="reasoning", choice=i)),
            "content": pieces(a.get("content", ""), of(found, channel="content", choice=i)),
            "calls": [
                {"name": c["name"], "pieces": pieces(c["arguments"], of(found, channel="tool_args", choice=i, call=n))}
                for n, c in enumerate(a.get("calls", ()))
            ],
        }
        for i, a in enumerate(item.answers)
    ]
    for shown, a in zip(answers, item.answers, strict=True):
        for name in ("reasoning", "content"):
            shown[name] = shown[name] if a.get(name) else []
    # A reviewer's text has no characters that a reader does not see.
    boxes = edits or [visible(a.get("content", "")) for a in item.proposal or item.answers]
    return {"said": _said(item), "answers": answers, "boxes": boxes, "label": "", "findings": finding_rows(found)}


def _said(item: Item) -> list[dict[str, Any]]:
    """The conversation, message by message. A finding in it is marked where its row says in which message it lies."""
    request = item.request or {}
    located = [(n, f) for n, f in of(item.findings, channel="input") if f.get("message") is not None]
    said = []
    for i, message in enumerate(request.get("messages") or _prompts(request)):
        for j, text in enumerate(_parts(message)):
            here = [(n, f) for n, f in located if f["message"] == i and (f.get("part") or 0) == j]
            said.append({"role": str(message.get("role", "")), "pieces": pieces(text, here)})
    return said


def _prompts(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompt of the older completions route, as messages."""
    prompt = request.get("prompt")
    given = prompt if isinstance(prompt, list) else [prompt] if prompt else []
    return [{"role": "prompt", "content": str(p)} for p in given]


def _parts(message: Mapping[str, Any]) -> list[str]:
    """The texts of a message: its content, or each part of it, and the calls it tells of."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [str(p.get("text", "")) for p in content or () if isinstance(p, Mapping)]
    calls = [c.get("function", {}) for c in message.get("tool_calls") or () if isinstance(c, Mapping)]
    return [*texts, *(f"{c.get('name', '')}({c.get('arguments', '')})" for c in calls)]
