"""Signed webhooks (Standard Webhooks): events go to an outbox in the transaction that made them, and are delivered with retries.

Bodies hold ids and counts, never text of a request or an answer. A receiver is only reached at a public address: the address that
is checked is the one connected to, so that a name which changes its meaning between the two gains nothing; redirects are not
followed.
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import secrets
import socket
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from standardwebhooks import Webhook
from yarl import URL

from temper.errors import StorageError, UnknownName, UsageError, nearest
from temper.files import dumps
from temper.serve import ids
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import deliveries, hooks
from temper.serve.vault import Box

log = logging.getLogger(__name__)
EVENTS = ("hold.made", "hold.decided", "alert", "audit.finished")
RETRIES_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0)  # after the n-th failure; then the delivery is given up
TIMEOUT_S = 10.0
LOOK_S = 1.0
AT_ONCE = 16
KEEP_S = 7 * 86_400.0
_CLAIM_S = 3 * TIMEOUT_S  # a worker that dies while it delivers blocks a delivery this long
_GONE = 410


class Refused(aiohttp.ClientError, OSError):
    """A receiver at an address that webhooks must not reach."""


@dataclass(frozen=True, slots=True)
class _Delivery:
    id: str
    hook: str
    url: str
    secret: bytes  # encrypted
    body: str
    tries: int


class Hooks:
    """The receivers, and this worker's part in delivering to them."""

    def __init__(self, store: Store, keyring: Keyring, journal: Journal, *, allow_private: bool = False) -> None:
        self.store = store
        self.journal = journal
        self.allow_private = allow_private
        self._box = Box(keyring, "hooks")
        self._task: asyncio.Task[None] | None = None

    def add(self, url: str, events: Sequence[str] = EVENTS, *, by: str) -> tuple[str, str]:
        """A new receiver, its id and secret (`whsec_...`), which is shown once. Blocks. Raises `UsageError`."""
        self._check(url, events)
        id_, key = ids.new("hook"), secrets.token_bytes(32)
        row = {"id": id_, "url": url, "secret": self._box.seal(key, id_), "events": json.dumps(sorted(set(events)))}
        told = {"host": urlsplit(url).hostname, "events": sorted(set(events)), "by": by}
        self.journal.act("hook.made", id_, told, lambda c: c.execute(insert(hooks), {**row, "made_at": time.time()})).result()
        return id_, f"whsec_{b64encode(key).decode()}"

    def disable(self, id_: str, *, by: str) -> None:
        """Send no more to a receiver. Blocks. Raises `UnknownName`."""
        self.journal.act("hook.disabled", id_, {"by": by}, lambda c: _disabled(c, id_)).result()

    def all(self) -> list[dict[str, Any]]:
        """Every receiver without its secret, the newest first."""
        kept = [hooks.c[n] for n in ("id", "url", "events", "made_at", "disabled_at")]
        found = self.store.now(lambda c: c.execute(select(*kept).order_by(hooks.c.made_at.desc())).mappings().all(), reads=True)
        return [{**row, "events": json.loads(row["events"])} for row in found]

    def queue(self, connection: Connection, event: str, body: Mapping[str, Any]) -> None:
        """Put an event into the outbox of each receiver that wants it, in the caller's transaction."""
        now = time.time()
        live = select(hooks.c.id, hooks.c.events).where(hooks.c.disabled_at.is_(None))
        wanting = [row.id for row in connection.execute(live) if event in json.loads(row.events)]
        if not wanting:
            return
        at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        text = dumps({"type": event, "timestamp": at, "data": dict(body)})
        common = {"event": event, "body": text, "made_at": now, "due_at": now, "tries": 0, "last_error": ""}
        connection.execute(insert(deliveries), [{"id": ids.new("msg"), "hook_id": hook, **common} for hook in wanting])

    def start(self) -> None:
        """Deliver from now on."""
        self._task = asyncio.get_running_loop().create_task(self._deliver_all(), name="webhooks")

    async def close(self) -> None:
        """Stop; what is not delivered stays in the outbox."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def deliver(self) -> int:
        """Try every delivery that is due, each by one worker; gives how many were tried."""
        batch = await self.store.run(self._claimed)
        if not batch:
            return 0
        connector = aiohttp.TCPConnector(resolver=_Public(self.allow_private), use_dns_cache=False, force_close=True)
        limits = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=limits, cookie_jar=aiohttp.DummyCookieJar()) as session:
            ended = await asyncio.gather(*(self._try(session, delivery) for delivery in batch), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error
        return len(batch)

    async def _deliver_all(self) -> None:
        while True:
            try:
                tried = await self.deliver()
            except (DBAPIError, PoolTimeout, StorageError) as error:
                log.warning("webhooks: what was delivered cannot be noted: %s", type(error).__name__)
                tried = 0
            if tried < AT_ONCE:
                await asyncio.sleep(LOOK_S)

    def _claimed(self, connection: Connection) -> list[_Delivery]:
        now = time.time()
        due = deliveries.c.done_at.is_(None), deliveries.c.due_at <= now
        query = (
            select(deliveries, hooks.c.url, hooks.c.secret, hooks.c.disabled_at)
            .join(hooks, hooks.c.id == deliveries.c.hook_id)
            .where(*due)
            .order_by(deliveries.c.due_at)
            .limit(AT_ONCE)
        )
        if connection.dialect.name == "postgresql":
            query = query.with_for_update(of=deliveries, skip_locked=True)
        found = connection.execute(query).mappings().all()
        if not found:
            return []
        ids_ = [row["id"] for row in found]
        connection.execute(update(deliveries).where(deliveries.c.id.in_(ids_)).values(due_at=now + _CLAIM_S))
        dead = [row["id"] for row in found if row["disabled_at"] is not None]
        if dead:
            ended = {"done_at": now, "last_error": "the receiver was disabled"}
            connection.execute(update(deliveries).where(deliveries.c.id.in_(dead)).values(ended))
        names = ("id", "hook_id", "url", "secret", "body", "tries")
        return [_Delivery(*(row[name] for name in names)) for row in found if row["disabled_at"] is None]

    async def _try(self, session: aiohttp.ClientSession, delivery: _Delivery) -> None:
        status, error = await self._send(session, delivery)
        await self.store.run(lambda c: _noted(c, delivery, status, error))
        if status == _GONE:
            gone = self.journal.act("hook.disabled", delivery.hook, {"by": "410 Gone"}, lambda c: _gone(c, delivery.hook))
            await asyncio.wrap_future(gone)

    async def _send(self, session: aiohttp.ClientSession, delivery: _Delivery) -> tuple[int, str]:
        """The status of the answer, and what went wrong, "" for nothing."""
        try:
            headers = _signed(delivery, self._box.open(delivery.secret, delivery.hook))
            _literal(delivery.url, self.allow_private)
            posted = session.post(delivery.url, data=delivery.body.encode(), headers=headers, allow_redirects=False)
            async with posted as response:
                return response.status, "" if 200 <= response.status < 300 else f"HTTP {response.status}"
        except (aiohttp.ClientError, OSError, ValueError, StorageError) as error:
            # the class alone: its text may hold what the other side sent
            return 0, str(error) if isinstance(error, Refused) else type(error).__name__

    def _check(self, url: str, events: Sequence[str]) -> None:
        for event in events:
            if event not in EVENTS:
                raise UsageError(f"event {event!r}: {nearest(event, EVENTS)}")
        if not events:
            raise UsageError(f"a webhook needs an event; known: {', '.join(EVENTS)}")
        try:
            parts = urlsplit(url)
            named = parts.hostname is not None and (parts.port is None or parts.port > 0)
        except ValueError:
            named = False
        allowed = ("https", "http") if self.allow_private else ("https",)
        if not named or parts.scheme not in allowed or parts.username is not None:
            raise UsageError(f"webhook URL: wanted {' or '.join(allowed)}://HOST/..., without a user name")
        try:
            _literal(url, self.allow_private)
        except Refused as error:
            raise UsageError(f"webhook URL: {error}") from None
        except ValueError:
            raise UsageError("webhook URL: its host cannot be read") from None


class _Public(AbstractResolver):
    """Resolves names to public addresses only."""

    def __init__(self, allow_private: bool) -> None:
        self._inner = DefaultResolver()
        self._allow_private = allow_private

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        kept = [r for r in found if self._allow_private or public(r["host"])]
        if not kept:
            raise Refused("the receiver's name leads to a private address")
        return kept

    async def close(self) -> None:
        await self._inner.close()


def _literal(url: str, allow_private: bool) -> None:
    """An address written into the URL is not resolved, so it is checked here, as the client will read it. Raises `Refused`."""
    host = URL(url).raw_host or ""  # full-width digits and escapes become plain ones on the way to the socket
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    if not allow_private and not public(host):
        raise Refused("the receiver has a private address")


def public(address: str) -> bool:
    """Whether an IP address is one of the open internet; an IPv4 address inside an IPv6 one counts as itself."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if inner is not None:
            return public(str(inner))
    return found.is_global and not found.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _noted(connection: Connection, delivery: _Delivery, status: int, error: str) -> None:
    now, tries = time.time(), delivery.tries + 1
    values: dict[str, Any] = {"tries": tries, "last_error": error}
    if not error or status == _GONE or tries > len(RETRIES_S):
        values["done_at"] = now
    else:
        # spread out, so that a receiver that comes back is not met by everything at once
        values["due_at"] = now + RETRIES_S[tries - 1] * (1 + secrets.randbelow(1000) / 10_000)
    connection.execute(update(deliveries).where(deliveries.c.id == delivery.id).values(values))


def _signed(delivery: _Delivery, key: bytes) -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "user-agent": "temper-webhooks",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(key).sign(delivery.id, now, delivery.body),
    }


def _gone(connection: Connection, id_: str) -> bool:
    """Whether a live receiver was disabled."""
    live = hooks.c.id == id_, hooks.c.disabled_at.is_(None)
    return bool(connection.execute(update(hooks).where(*live).values(disabled_at=time.time())).rowcount)


def _disabled(connection: Connection, id_: str) -> None:
    if not _gone(connection, id_):
        known = connection.execute(select(hooks.c.id).where(hooks.c.disabled_at.is_(None))).scalars()
        raise UnknownName(f"no live webhook has the id {id_!r}; {nearest(id_, known)}")


def sweep(connection: Connection, now: float) -> int:
    """Delete deliveries that ended a week ago; gives how many. Run by a job."""
    old = deliveries.c.done_at < now - KEEP_S
    return connection.execute(delete(deliveries).where(old)).rowcount
