"""The policy, read again while the service runs: on SIGHUP, on POST /admin/reload, when its file changes or another is activated.

A guard is replaced as a whole, after it passed the self-test; requests under way keep the one they began with. A policy that
cannot be read or does not pass changes nothing, and the log says why.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from temper.errors import GuardError, PolicyError, UsageError
from temper.serve.canary import Readiness
from temper.serve.guard import Guard
from temper.serve.policy import Policy, parse_policy, read_policy
from temper.serve.protocol import ApiError
from temper.serve.state import Gateway
from temper.serve.tables import policies
from temper.serve.verdict import Caller

if TYPE_CHECKING:
    from fastapi import APIRouter

log = logging.getLogger(__name__)
EVERY_S = 2.0


class Reloader:
    """Watches where this worker's policies come from."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._asked = asyncio.Event()
        self._seen: object = None

    def soon(self) -> None:
        """Read it again at once; for a signal's handler."""
        self._seen = None
        self._asked.set()

    async def first(self) -> None:
        """At start: a policy that was activated in the database stands above the file. Raises `PolicyError`."""
        self._seen = await self._source()
        self.gateway.guard = _guard(self.gateway, await _read(self.gateway, self.gateway.settings.policy))

    async def watch(self) -> None:
        """Look again and again until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), EVERY_S)
            self._asked.clear()
            try:
                seen = await self._source()
                if seen != self._seen:
                    self._seen = seen
                    await reload(self.gateway)
            except (UsageError, GuardError, OSError) as error:
                log.error("the policy was not reloaded: %s", error)
            except SQLAlchemyError as error:
                self._seen = None  # read again once the store is back
                log.error("the policy was not reloaded, the store failed: %s", type(error).__name__)

    async def _source(self) -> object:
        """What changes when a policy does: the file's time and size, and which rows are active."""
        path = Path(self.gateway.settings.policy)
        stat = path.stat() if path.suffix == ".toml" and path.exists() else None
        active = await self.gateway.store.run(_active)
        return (stat.st_mtime_ns, stat.st_size) if stat else None, active


async def reload(gateway: Gateway) -> list[str]:
    """Read every policy in use again and put those that changed in place; gives the versions now in use.

    Raises `PolicyError` where one cannot be read, `GuardError` where one does not pass the self-test; then nothing has changed.
    """
    names = {"": gateway.settings.policy, **{name: name for name in gateway.guards}}
    made = {key: await _read(gateway, name) for key, name in names.items()}
    old = {"": gateway.guard, **gateway.guards}
    new = {key: _guard(gateway, p) for key, p in made.items() if p.version != old[key].policy.version}
    for guard in new.values():
        await _tested(gateway, guard)
    if any((gateway.guards[key] if key else gateway.guard) is not old[key] for key in new):
        return await reload(gateway)  # another reload was faster, and may have read what is newer
    for key, guard in new.items():
        if key:
            gateway.guards[key] = guard
        else:
            gateway.guard = guard
        gateway.journal.write("policy.loaded", guard.policy.version, {"name": guard.policy.name})
    return [g.policy.version for g in (gateway.guard, *gateway.guards.values())]


async def guard_of(gateway: Gateway, caller: Caller) -> Guard:
    """The guard of a caller's policy; one that a key names is read and tested at its first use. Raises `ApiError` 503."""
    if not caller.policy:
        return gateway.guard
    if caller.policy in gateway.guards:
        return gateway.guards[caller.policy]
    opening = gateway.opening.get(caller.policy)
    if opening is None:  # the requests that come meanwhile wait for this one's self-test; a client that leaves does not end it
        opening = gateway.opening[caller.policy] = asyncio.create_task(_opened(gateway, caller.policy))
        opening.add_done_callback(lambda _: gateway.opening.pop(caller.policy))
    try:
        return await asyncio.shield(opening)
    except (UsageError, GuardError) as error:
        log.error("the policy of key %s cannot be used: %s", caller.id, error)
        raise ApiError(503, "this key's policy cannot be used", kind="server_error", code="policy_unavailable") from None


async def _opened(gateway: Gateway, name: str) -> Guard:
    guard = _guard(gateway, await _read(gateway, name))
    await _tested(gateway, guard)
    gateway.guards[name] = guard
    return guard


async def _tested(gateway: Gateway, guard: Guard) -> None:
    trial = Readiness()
    if not await trial.check(guard, gateway.pool):
        raise GuardError(f"policy {guard.policy.name}: the self-test failed: {trial.why[0]}")
    gateway.ready.cells = {**gateway.ready.cells, **trial.cells}


def _guard(gateway: Gateway, policy: Policy) -> Guard:
    return Guard(policy, timed=gateway.meters.filter_ms)


async def _read(gateway: Gateway, name: str) -> Policy:
    found = await gateway.store.run(lambda conn: _text(conn, Path(name).stem))
    if found is not None:
        return await asyncio.to_thread(parse_policy, found, where=f"policy {name} in the database", name=Path(name).stem)
    return await asyncio.to_thread(read_policy, name)


def _text(conn: Connection, name: str) -> str | None:
    return conn.scalar(select(policies.c.text).where(policies.c.name == name, policies.c.active))


def _active(conn: Connection) -> tuple[str, ...]:
    return tuple(conn.scalars(select(policies.c.id).where(policies.c.active).order_by(policies.c.id)))


def routes(gateway: Gateway) -> "APIRouter":
    """`POST /admin/reload` for a key with the scope `admin`."""
    from fastapi import APIRouter, Depends

    from temper.serve.access import caller

    router = APIRouter()

    @router.post("/admin/reload", tags=["operations"], dependencies=[Depends(caller("admin"))])
    async def reload_now() -> dict[str, list[str]]:
        """Read this worker's policies again; the other workers follow within two seconds if a source changed."""
        try:
            return {"versions": await reload(gateway)}
        except (PolicyError, GuardError, UsageError) as error:
            raise ApiError(409, f"nothing was changed: {error}", code="policy_not_loaded") from None

    return router
