"""What a key may use: requests per minute, tokens per day, and how many requests one worker has under way.

Everything is decided in memory. The token bucket of a key is this worker's own, so that W workers together let through up to W
times the rate. The daily budget is shared: each worker adds what it saw to the table `spent` and reads the sum once a second, so
that a key overspends by at most what it is given in one second, on all workers together, and the answers then under way.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from temper.serve.policy import Limits
from temper.serve.store import Store
from temper.serve.tables import spent
from temper.serve.verdict import Caller

log = logging.getLogger(__name__)
EVERY_S = 1.0
BUCKETS = 10_000
MOST_TOKENS = 10**9  # of one answer: a model server may say anything, and the column ends at 2**63
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is not taken: an HTTP status, the code of the error, when to come back, and a sentence for the client."""

    status: int
    code: str
    retry_after_s: float
    why: str


class Limiter:
    """The limits of this worker; `under_way` is how many requests it serves now."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.under_way = 0
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was so
        self._day = self._today()
        self._total: dict[str, int] = {}  # tokens of the day, of all workers, when last read
        self._mine: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])  # requests and tokens not yet in the table
        self._task: asyncio.Task[None] | None = None

    def admit(self, caller: Caller, limits: Limits) -> Refused | None:
        """None where the request may begin; it then counts against its key's rate."""
        if limits.under_way and self.under_way >= limits.under_way:
            return Refused(503, "overloaded", 1.0, "the gateway has as many requests under way as it takes; come back shortly")
        day_left = self._over_budget(caller, _own(caller, "tokens_per_day", limits.tokens_per_day))
        if day_left is not None:
            return day_left
        per_minute = _own(caller, "requests_per_minute", limits.requests_per_minute)
        wait = self._taken(caller.id, per_minute) if per_minute else 0.0
        if wait:
            return Refused(429, "rate_limit_exceeded", wait, f"this key may send {per_minute} requests a minute")
        self._mine[caller.id][0] += 1
        return None

    def spend(self, caller: Caller, tokens: int) -> None:
        """Count tokens of an answer, and of its prompt, against the day."""
        self._mine[caller.id][1] += min(max(0, tokens), MOST_TOKENS)

    def enter(self) -> None:
        self.under_way += 1

    def leave(self) -> None:
        self.under_way -= 1

    def start(self) -> None:
        """Share totals with the other workers from now on."""
        self._task = asyncio.get_running_loop().create_task(self._share(), name="limits")

    async def close(self) -> None:
        """Stop, and save what this worker counted."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.sync()

    async def sync(self) -> None:
        """Add what this worker counted to the table, and read what all counted. Raises what the database raises."""
        today, mine = self._today(), dict(self._mine)
        self._mine.clear()
        try:
            total = await self.store.run(lambda connection: _shared(connection, today, mine))
        except (DBAPIError, PoolTimeout):
            for key, (requests, tokens) in mine.items():
                self._mine[key][0] += requests
                self._mine[key][1] += tokens
            raise
        self._day, self._total = today, total

    async def _share(self) -> None:
        away = False
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.sync()
                away = False
            except (DBAPIError, PoolTimeout) as error:
                if not away:
                    log.error("limits: totals cannot be shared: %s", type(error).__name__)
                away = True

    def _today(self) -> int:
        return int(self._clock() // _DAY)

    def _over_budget(self, caller: Caller, budget: int) -> Refused | None:
        if not budget:
            return None
        if self._today() != self._day:
            self._day, self._total = self._today(), {}
        used = self._total.get(caller.id, 0) + (self._mine[caller.id][1] if caller.id in self._mine else 0)
        if used < budget:
            return None
        left = (self._day + 1) * _DAY - self._clock()
        return Refused(429, "insufficient_quota", left, f"this key may use {budget} tokens a day (UTC), and has")

    def _taken(self, key: str, per_minute: int) -> float:
        """Take one request out of the key's bucket: 0, or the seconds until there is one."""
        now = self._clock()
        left, then = self._buckets.pop(key, (float(per_minute), now))
        # a clock that was set back gives nothing and takes nothing
        left = min(float(per_minute), left + max(0.0, now - then) * per_minute / 60)
        taken = left >= 1
        self._buckets[key] = (left - taken, now)
        if len(self._buckets) > BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - left) * 60 / per_minute


def _own(caller: Caller, name: str, shared: int) -> int:
    return int(caller.limits.get(name, shared))


def _shared(connection: Connection, today: int, mine: Mapping[str, list[int]]) -> dict[str, int]:
    window = f"day:{today}"
    if mine:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        made = insert(spent)
        added = {name: spent.c[name] + made.excluded[name] for name in ("requests", "tokens")}
        rows = [{"key_id": k, "window": window, "requests": r, "tokens": t} for k, (r, t) in sorted(mine.items())]
        connection.execute(made.on_conflict_do_update(index_elements=["key_id", "window"], set_=added), rows)
    rows_ = connection.execute(select(spent.c.key_id, spent.c.tokens).where(spent.c.window == window))
    return {row.key_id: row.tokens for row in rows_}


def sweep(connection: Connection, now: float) -> int:
    """Delete the totals of days before yesterday; gives how many rows. Run by a job."""
    kept = [f"day:{int(now // _DAY) - back}" for back in (-1, 0, 1)]
    return connection.execute(delete(spent).where(spent.c.window.not_in(kept))).rowcount
