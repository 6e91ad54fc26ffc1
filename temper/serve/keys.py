"""API keys: 256 random bits each, of which the database has a SHA-256 alone. Scoped, expiring, revocable.

A worker keeps the live keys in memory and reads them again after five seconds, or when a well-formed token is not among them, but
then at most four times a second: whoever guesses tokens costs the database nothing more.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from temper.errors import UnknownName, UsageError, nearest
from temper.serve import ids
from temper.serve.journal import Journal
from temper.serve.store import Store
from temper.serve.tables import keys
from temper.serve.verdict import Caller

log = logging.getLogger(__name__)
SCOPES = ("chat", "models", "moderations", "feedback", "holds", "guardrail", "metrics", "training", "admin")
USUAL = ("chat", "models", "moderations", "feedback", "holds")
LOCAL = Caller("local", "loopback", frozenset(USUAL))
"""Who asks from the same machine while no key exists."""
FRESH_S = 5.0  # a key that was revoked elsewhere works at most this long
STALE_S = 60.0  # how long the keys in memory stand in while the database is away
_AGAIN_S = 0.25
_TOKEN = re.compile(r"tmp-[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    sha256: str
    expires_at: float


class Keys:
    """The keys in the database, as this worker knows them."""

    def __init__(self, store: Store, journal: Journal, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.journal = journal
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def caller(self, token: str) -> Caller | None:
        """Who the token belongs to, None where it is unknown, expired or revoked."""
        if not _TOKEN.fullmatch(token):
            return None
        digest = _sha256(token)
        await self._refresh(FRESH_S)
        if digest not in self._known:
            await self._refresh(_AGAIN_S)
        known = self._known.get(digest)
        if known is None or not hmac.compare_digest(known.sha256, digest) or known.expires_at <= time.time():
            return None
        return known.caller

    async def any(self) -> bool:
        """Whether a key is live: without one, requests from the same machine need none."""
        await self._refresh(FRESH_S if self._known else _AGAIN_S)
        return any(k.expires_at > time.time() for k in self._known.values())

    def make(
        self,
        name: str,
        scopes: Sequence[str] = USUAL,
        *,
        by: str,
        expires_at: float | None = None,
        policy: str = "",
        models: Sequence[str] = (),
        limits: Mapping[str, Any] | None = None,
        disclosure: Mapping[str, Any] | None = None,
    ) -> tuple[str, str]:
        """A new key, its id and token; the token is shown once and cannot be had again. Blocks until it is committed.

        Raises `UsageError` for a scope or limit that is none.
        """
        _check(name, scopes, limits or {}, expires_at)
        id_, token = ids.new("key"), f"tmp-{secrets.token_urlsafe(32)}"
        row = {
            "id": id_,
            "name": name,
            "prefix": token[:10],
            "sha256": _sha256(token),
            "scopes": json.dumps(sorted(set(scopes))),
            "policy": policy,
            "models": json.dumps(list(models)),
            "limits": json.dumps(dict(limits or {})),
            "disclosure": json.dumps(dict(disclosure or {})),
            "made_at": time.time(),
            "made_by": by,
            "expires_at": expires_at,
        }
        told = {k: v for k, v in row.items() if k != "id"}
        self.journal.act("key.made", id_, told, lambda c: c.execute(insert(keys), row)).result()
        self._read_at = float("-inf")
        return id_, token

    def revoke(self, id_: str, *, by: str) -> None:
        """End a key now; other workers see it within five seconds. Raises `UnknownName`."""
        self.journal.act("key.revoked", id_, {"by": by}, lambda c: _revoked(c, id_)).result()
        self._read_at = float("-inf")

    def all(self) -> list[dict[str, Any]]:
        """Every key, the newest first, as rows of the table with their lists and tables read; without hashes."""
        found = self.store.now(
            lambda c: c.execute(select(keys).order_by(keys.c.made_at.desc())).mappings().all(),
            reads=True,
        )
        return [{k: json.loads(v) if k in _JSON else v for k, v in row.items() if k != "sha256"} for row in found]

    async def _refresh(self, age_s: float) -> None:
        if self._clock() - self._read_at <= age_s:
            return
        async with self._lock:
            if self._clock() - self._read_at <= age_s:
                return
            try:
                rows = await self.store.run(_live, reads=True)
            except (DBAPIError, PoolTimeout) as error:
                if self._clock() - self._read_at > STALE_S:
                    raise
                log.warning("keys: the database is away (%s); keys read before still count", type(error).__name__)
                return
            self._known = {row["sha256"]: _known(row) for row in rows}
            self._read_at = self._clock()


_JSON = ("scopes", "models", "limits", "disclosure")
LIMITS = ("requests_per_minute", "tokens_per_day", "max_tokens")


def _check(name: str, scopes: Sequence[str], limits: Mapping[str, Any], expires_at: float | None) -> None:
    if not name.strip() or len(name) > 200:
        raise UsageError("a key needs a name of 1 to 200 characters, by which a person knows it")
    if not scopes:
        raise UsageError(f"a key needs a scope; known: {', '.join(SCOPES)}")
    for scope in scopes:
        if scope not in SCOPES:
            raise UsageError(f"scope {scope!r}: {nearest(scope, SCOPES)}")
    for limit, value in limits.items():
        if limit not in LIMITS:
            raise UsageError(f"limit {limit!r}: {nearest(limit, LIMITS)}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"limit {limit} = {value!r}; wanted a whole number, 0 for none")
    if expires_at is not None and expires_at <= time.time():
        raise UsageError("a key that has expired already; give a time to come")


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _live(connection: Connection) -> Sequence[RowMapping]:
    return connection.execute(select(keys).where(keys.c.revoked_at.is_(None))).mappings().all()


def _known(row: RowMapping) -> _Known:
    caller = Caller(
        id=row["id"],
        name=row["name"],
        scopes=frozenset(json.loads(row["scopes"])),
        policy=row["policy"],
        models=tuple(json.loads(row["models"])),
        limits=json.loads(row["limits"]),
        disclosure=json.loads(row["disclosure"]),
    )
    return _Known(caller, row["sha256"], row["expires_at"] if row["expires_at"] is not None else float("inf"))


def _revoked(connection: Connection, id_: str) -> None:
    live = keys.c.id == id_, keys.c.revoked_at.is_(None)
    if not connection.execute(update(keys).where(*live).values(revoked_at=time.time())).rowcount:
        known = connection.execute(select(keys.c.id).where(keys.c.revoked_at.is_(None))).scalars()
        raise UnknownName(f"no live key has the id {id_!r}; {nearest(id_, known)}")
