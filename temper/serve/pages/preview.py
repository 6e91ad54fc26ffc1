"""What each filter of a policy says of a text that somebody pastes. The text is neither kept nor written down."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form
from starlette.responses import Response

from temper.errors import UsageError
from temper.serve.guard import Guard, opinion, summed
from temper.serve.pages.frame import finding_rows, page
from temper.serve.pages.marks import of, pieces
from temper.serve.pages.session import Page, Reviewer
from temper.serve.policy import read_policy, shipped
from temper.serve.state import Gateway
from temper.serve.verdict import Channel, Turn, View
from temper.types import Example, Message

LONGEST = 20_000
AT = "/review/preview"


def routes(gateway: Gateway) -> APIRouter:
    """The preview, for reviewers."""
    router = APIRouter(prefix=AT, route_class=Page)

    def show(signed: Reviewer, chosen: Mapping[str, str], result: Mapping[str, Any] | None = None, **told: Any) -> Response:
        policies = [("", f"in force: {gateway.guard.policy.name}"), *((n, n) for n in _offered(gateway))]
        return page(
            "preview.html.j2",
            title="Policy preview",
            at=AT,
            **signed.shown,
            policies=policies,
            channels=[str(c) for c in Channel],
            longest=LONGEST,
            chosen=chosen,
            result=result,
            **told,
        )

    @router.get("")
    async def empty(signed: Reviewer) -> Response:
        return show(signed, {"policy": "", "channel": "content", "text": ""})

    @router.post("")
    async def scan(
        signed: Reviewer,
        text: Annotated[str, Form()],
        policy: Annotated[str, Form()] = "",
        channel: Annotated[str, Form()] = "content",
    ) -> Response:
        text = text.replace("\r\n", "\n")  # browsers send line ends this way, whatever was pasted
        chosen = {"policy": policy, "channel": channel, "text": text}
        try:
            result = await asyncio.to_thread(_scanned, _guard(gateway, policy), _channel(channel), _bounded(text))
        except UsageError as error:
            return show(signed, {**chosen, "text": text[:LONGEST]}, wrong=f"{error}.", status=400)
        gateway.journal.write(
            "policy.previewed", signed.person.id, {"policy": policy, "channel": channel, "characters": len(text)}
        )
        return show(signed, chosen, result)

    return router


def _offered(gateway: Gateway) -> list[str]:
    return sorted({*gateway.guards, *shipped()})


def _guard(gateway: Gateway, name: str) -> Guard:
    """The guard of a policy that the form offers: any other name may be a file's, which a reviewer has no business to read."""
    if not name:
        return gateway.guard
    if name not in _offered(gateway):
        raise UsageError("policy: wanted one that the form offers")
    return gateway.guards[name] if name in gateway.guards else Guard(read_policy(name))


def _channel(name: str) -> Channel:
    if name not in list(Channel):
        raise UsageError(f"channel: wanted one of {', '.join(Channel)}")
    return Channel(name)


def _bounded(text: str) -> str:
    if not 0 < len(text) <= LONGEST:
        raise UsageError(f"text: {len(text)} characters; wanted 1 to {LONGEST}")
    return text


def _scanned(guard: Guard, channel: Channel, text: str) -> dict[str, Any]:
    """Every filter's opinion of the text as the whole of its channel, with the time it took."""
    example = Example("preview", (Message("user", text if channel is Channel.INPUT else ""),))
    view = View(channel, text, Turn("preview", example, policy=guard.policy.version))
    opinions, filters = [], []
    for setting in guard.of[channel]:
        start = time.perf_counter()
        found, failed = opinion(setting, view)
        ms = (time.perf_counter() - start) * 1000
        opinions.append((found, failed))
        says = "failed" if failed else f"{len(found)} finding{'' if len(found) == 1 else 's'}" if found else "nothing"
        filters.append({"name": setting.name, "says": says, "shadow": setting.shadow, "ms": ms})
    verdict = summed(opinions)
    rows = finding_rows(
        tuple(
            {
                "channel": str(channel),
                "filter": f.filter,
                "rule": f.rule,
                "category": f.category,
                "action": f.action.label if f.action is not None else "",
                "start": f.start,
                "end": f.end,
                "score": f.score,
                "why": f.why,
                "shadow": f.shadow,
            }
            for f in verdict.findings
        )
    )
    by = verdict.deciding.filter if verdict.deciding else ""
    return {"action": verdict.action.label, "by": by, "pieces": pieces(text, of(rows)), "filters": filters, "findings": rows}
