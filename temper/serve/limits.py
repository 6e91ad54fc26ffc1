"""What a key may use: requests per minute, tokens per day, and how many requests one worker has under way.

Everything is decided in memory, and shared through the table `spent`: each worker adds what it saw once a second, and reads what
all saw. A key overspends its tokens by at most what it is given in one second, on all workers together, and the answers then
under way. The rate is a bucket that all workers take from. Of W workers one asks the others, by the table, before it lets through
more than a (16 W)th of a key's minute that they have not heard of: a burst exceeds the rate by a sixteenth at most, or by one
request for each worker where these come at the same moment, and that is paid back. While the database is away each counts alone.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, delete, or_, select, update
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
ASK_S = 0.25  # a request waits so long for what the other workers let through
RATE = "rate"
"""The window whose `requests` is no count: the microsecond at which the key's minute is whole again."""
_DAY = 86_400
_MINUTE = 60_000_000  # in microseconds, in which rates are counted
_BLIND = 16
_DEBT = _MINUTE  # the most that is paid back: a clock that was set back shuts nobody out for longer


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is not taken: an HTTP status, the code of the error, when to come back, and a sentence for the client."""

    status: int
    code: str
    retry_after_s: float
    why: str


class Limiter:
    """The limits of one of `workers` workers; `under_way` is how many requests it serves now."""

    def __init__(self, store: Store, *, workers: int = 1, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.under_way = 0
        self._clock = clock
        self._blind = _MINUTE // (_BLIND * workers)
        self._whole: OrderedDict[str, int] = OrderedDict()  # when a key's minute is whole again, as far as this worker knows
        self._day = self._today()
        self._total: dict[str, int] = {}  # tokens of the day, of all workers, when last read
        # not yet in the table: requests, tokens, and the microseconds of their minute that the requests took
        self._mine: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._away = False
        self._turn = asyncio.Lock()
        self._asking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def admitted(self, caller: Caller, limits: Limits) -> Refused | None:
        """`admit`, after a look at what the other workers let through where this one let through much since the last."""
        per_minute = _own(caller, "requests_per_minute", limits.requests_per_minute)
        cost = _cost(per_minute) if per_minute else 0
        # who waited for the same answer as others asks again, until what they took is heard of too
        end, asked = time.monotonic() + ASK_S, False
        while cost and not self._away and self._wait(caller.id, cost) <= 0:
            unheard, left = self._mine[caller.id][2] if caller.id in self._mine else 0, end - time.monotonic()
            if cost + unheard <= self._blind or (asked and not unheard) or left <= 0:
                break
            await asyncio.wait({self._ask()}, timeout=left)
            asked = True
        refused = self.admit(caller, limits)
        if refused is None and cost > self._blind:
            self._ask()  # of a key that may send little the others hear at once
        return refused

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
        async with self._turn:  # what is on its way from memory to the table arrives
            for task in (self._task, self._asking):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
        await self.sync()

    async def sync(self) -> None:
        """Add what this worker counted to the table, and read what all counted. Raises what the database raises."""
        async with self._turn:
            today, now, mine = self._today(), self._now(), dict(self._mine)
            self._mine.clear()
            try:
                total, whole = await self.store.run(lambda connection: _shared(connection, today, now, mine))
            except (DBAPIError, PoolTimeout):
                for key, counted in mine.items():
                    self._mine[key] = [a + b for a, b in zip(self._mine[key], counted, strict=True)]
                raise
            self._day, self._total = today, total
            for key, at in whole.items():
                self._keep(key, at + (self._mine[key][2] if key in self._mine else 0))

    async def _share(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._synced()

    async def _synced(self) -> None:
        try:
            await self.sync()
            self._away = False
        except (DBAPIError, PoolTimeout) as error:
            if not self._away:
                log.error("limits: totals cannot be shared: %s", type(error).__name__)
            self._away = True

    def _ask(self) -> "asyncio.Task[None]":
        """Share at once; who asks meanwhile waits for the same answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._synced(), name="limits of a burst")
        return self._asking

    def _now(self) -> int:
        return int(self._clock() * 1e6)

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
        """Take one request out of the key's minute: 0, or the seconds until there is one."""
        cost = _cost(per_minute)
        wait = self._wait(key, cost)
        if wait > 0:
            return wait / 1e6
        self._mine[key][2] += cost
        self._keep(key, self._now() + _MINUTE + wait)
        return 0.0

    def _wait(self, key: str, cost: int) -> int:
        """Microseconds until the key's minute has room for a request; at most 0 where it has."""
        now = self._now()
        latest = now + _MINUTE + _DEBT
        if self._whole.get(key, 0) > latest:
            self._whole[key] = latest
        return max(self._whole.get(key, 0), now) + cost - now - _MINUTE

    def _keep(self, key: str, whole: int) -> None:
        self._whole[key] = whole
        self._whole.move_to_end(key)
        if len(self._whole) > BUCKETS:
            self._whole.popitem(last=False)


def _cost(per_minute: int) -> int:
    """What one request takes of its key's minute, in microseconds."""
    return max(1, _MINUTE // per_minute)


def _own(caller: Caller, name: str, shared: int) -> int:
    return int(caller.limits.get(name, shared))


def _shared(connection: Connection, today: int, now: int, mine: Mapping[str, list[int]]) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens of the day, and when the minute of each key is whole again that is not whole now."""
    day, insert = f"day:{today}", sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    made = insert(spent)
    if mine:
        added = {name: spent.c[name] + made.excluded[name] for name in ("requests", "tokens")}
        rows = [{"key_id": k, "window": day, "requests": r, "tokens": t} for k, (r, t, _) in sorted(mine.items())]
        connection.execute(made.on_conflict_do_update(index_elements=["key_id", "window"], set_=added), rows)
    if rated := [{"key_id": k, "window": RATE, "requests": now + us, "tokens": 0} for k, (*_, us) in sorted(mine.items()) if us]:
        begun = case((spent.c.requests < now, now), else_=spent.c.requests)
        later = {"requests": begun + made.excluded.requests - now}
        connection.execute(made.on_conflict_do_update(index_elements=["key_id", "window"], set_=later), rated)
    late = now + _MINUTE + _DEBT  # of a clock that was set back
    connection.execute(update(spent).where(spent.c.window == RATE, spent.c.requests > late).values(requests=late))
    total = connection.execute(select(spent.c.key_id, spent.c.tokens).where(spent.c.window == day))
    whole = connection.execute(select(spent.c.key_id, spent.c.requests).where(spent.c.window == RATE, spent.c.requests > now))
    return {row.key_id: row.tokens for row in total}, {row.key_id: row.requests for row in whole}


def sweep(connection: Connection, now: float) -> int:
    """Delete the totals of days before yesterday, and minutes that are whole again; gives how many rows. Run by a job."""
    kept = [f"day:{int(now // _DAY) - back}" for back in (-1, 0, 1)]
    whole = and_(spent.c.window == RATE, spent.c.requests < int(now * 1e6))
    return connection.execute(delete(spent).where(or_(whole, spent.c.window.not_in([*kept, RATE])))).rowcount
