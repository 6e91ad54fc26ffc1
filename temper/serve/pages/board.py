"""Dashboards: traffic, blocks, holds, filters and latency of the last day, counters day by day, and how far reviewers agree."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, func, select
from starlette.responses import Response

from temper.serve.pages.chart import bars, figure
from temper.serve.pages.frame import loose, page
from temper.serve.pages.session import Page, Reviewer
from temper.serve.state import Gateway
from temper.serve.tables import audits, counters, responses

AT = "/review/board"
HOURS = 24
DAYS = 14
LOOKED = 5_000  # responses that are read for latency and filters
TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
MEANS = ("score:", "characters", "language-switch", "first_s", *TOKENS)  # whose mean is shown, not their number


def routes(gateway: Gateway) -> APIRouter:
    """The dashboards, for reviewers."""
    router = APIRouter(prefix=AT, route_class=Page)

    @router.get("")
    async def board(signed: Reviewer) -> Response:
        now = time.time()
        day = await gateway.store.run(lambda conn: _day(conn, now), reads=True)
        series = await gateway.store.run(lambda conn: _series(conn, now), reads=True)
        waits, oldest = await gateway.holds.waiting()
        return page(
            "board.html.j2",
            title="Dashboards",
            at=AT,
            **signed.shown,
            loose=loose(gateway),
            hours=HOURS,
            days=DAYS,
            tiles=[*day["tiles"], *_held(waits, oldest, now)],
            filters=day["filters"],
            looked=day["looked"],
            audit=await gateway.store.run(_audited, reads=True),
            over=await gateway.holds.overblocked(),
            kappa=await gateway.holds.agreement(),
            charts=[_chart(name, days) for name, days in series.items()],
        )

    return router


def _audited(conn: Connection) -> dict[str, Any] | None:
    """The last scheduled audit that judged anything."""
    wanted = select(audits).where(audits.c.judged > 0).order_by(audits.c.at.desc()).limit(1)
    row = conn.execute(wanted).mappings().first()
    return None if row is None else {**row, "value": json.loads(row["report"])["rate"]["value"]}


def _day(conn: Connection, now: float) -> dict[str, Any]:
    """What the responses of the last day say: tiles, and the filters that found something."""
    since = responses.c.at > now - HOURS * 3600
    by = {a: int(n) for a, n in conn.execute(select(responses.c.action, func.count()).where(since).group_by(responses.c.action))}
    latest = select(responses.c.findings, responses.c.seconds, responses.c.first_s).where(since)
    rows = conn.execute(latest.order_by(responses.c.at.desc()).limit(LOOKED)).all()
    total = sum(by.values())
    tiles = [
        {"name": "requests", "value": figure(total)},
        {"name": "blocked", "value": _of(by.get("block", 0), total)},
        {"name": "held for a person", "value": _of(by.get("review", 0), total)},
        {"name": "redacted", "value": _of(by.get("redact", 0), total)},
        *_latency("whole answer", [r.seconds for r in rows]),
        *_latency("first text", [r.first_s for r in rows if r.first_s is not None]),
    ]
    return {"tiles": tiles, "filters": _filters(rows), "looked": len(rows)}


def _filters(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """In how many responses each filter found something, by itself and in shadow."""
    counted: Counter[str] = Counter()
    shadow: Counter[str] = Counter()
    for row in rows:
        found = json.loads(row.findings)
        counted.update({f["filter"] for f in found if not f.get("shadow")})
        shadow.update({f["filter"] for f in found if f.get("shadow")})
    names = sorted({*counted, *shadow}, key=lambda n: (-counted[n], n))
    return [{"name": n, "counted": counted[n], "shadow": shadow[n]} for n in names]


def _latency(name: str, seconds: Sequence[float]) -> list[dict[str, str]]:
    if len(seconds) < 2:
        return []
    cuts = quantiles(seconds, n=100, method="inclusive")
    return [{"name": f"{name}, p50 / p99", "value": f"{_seconds(cuts[49])} / {_seconds(cuts[98])}"}]


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def _held(waits: int, oldest: float | None, now: float) -> list[dict[str, str]]:
    tiles = [{"name": "waiting now", "value": figure(waits)}]
    if oldest is not None:
        tiles.append({"name": "oldest waits", "value": f"{(now - oldest) / 60:.0f} min"})
    return tiles


def _of(n: int, total: int) -> str:
    return f"{n:,} ({100 * n / total:.1f} %)" if total else "0"


def _series(conn: Connection, now: float) -> dict[str, list[tuple[str, float]]]:
    """The counters of the last days: the number of each day, or the mean where it is a score."""
    first = int(now // 86_400) - DAYS + 1
    wanted = select(counters.c.name, counters.c.hour, func.sum(counters.c.n), func.sum(counters.c.total))
    grouped = wanted.where(counters.c.hour >= first * 24).group_by(counters.c.name, counters.c.hour)
    sums: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for name, hour, n, total in conn.execute(grouped):
        cell = sums[name][hour // 24]
        cell[0] += float(n)
        cell[1] += float(total)
    # "requests" leads, scores come last
    names = sorted(sums, key=lambda n: (n != "requests", n.startswith(MEANS), n))
    return {name: [(_date(d), _value(name, sums[name].get(d))) for d in range(first, first + DAYS)] for name in names}


def _value(name: str, cell: Sequence[float] | None) -> float:
    if not cell or not cell[0]:
        return 0.0
    return cell[1] / cell[0] if name.startswith(MEANS) else cell[0]


def _date(day: int) -> str:
    return f"{datetime.fromtimestamp(day * 86_400, UTC):%d %b}"


def _title(name: str) -> str:
    kind, _, of = name.partition(":")
    if name.startswith(MEANS):
        return f"mean of {of or name.replace('_', ' ')}"
    match kind:
        case "action":
            return f"action: {of}"
        case "filter":
            return f"found by {of}"
        case "language":
            return f"answers in {of}"
    return name


def _chart(name: str, days: Sequence[tuple[str, float]]) -> Mapping[str, Any]:
    title = _title(name)
    return {"title": title, "svg": bars(days, title), "days": [(d, figure(v)) for d, v in days]}
