"""The running service: its parts made from settings, its routes as one ASGI application, its background work, its end.

The two hot routes are dispatched by hand, past the web framework; everything else is FastAPI.
"""

import asyncio
import importlib
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from temper.errors import StorageError
from temper.serve import canary, limits, nightly, telemetry, webhooks
from temper.serve.access import RETRY_S, Renewal, SignIn
from temper.serve.canary import Readiness
from temper.serve.chat import Exchange
from temper.serve.guard import Guard
from temper.serve.jobs import Jobs
from temper.serve.journal import Journal
from temper.serve.keyring import open_keyring
from temper.serve.keys import Keys
from temper.serve.limits import Limiter
from temper.serve.metrics import Meters
from temper.serve.openapi import described
from temper.serve.people import People
from temper.serve.policy import read_policy
from temper.serve.pool import Pool
from temper.serve.protocol import ApiError, error_object, overloaded
from temper.serve.reload import Reloader
from temper.serve.review import Holds
from temper.serve.state import Gateway, Settings
from temper.serve.store import Store
from temper.serve.upstream import Remote, Upstream
from temper.serve.vault import Vault
from temper.serve.webhooks import Hooks

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
log = logging.getLogger(__name__)

HOT: Final = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}
ROUTERS: Final = (
    "models_api",
    "moderations",
    "reload",
    "canary",
    "metrics",
    "feedback",
    "export",
    "nightly",
    "litellm",
    "holds_api",
    "pages",
)
"""Modules of this package that have routes."""
LEARN_S: Final = 60.0
SETTINGS: Final = "TEMPER_SERVE_SETTINGS"
"""Where worker processes find their settings: JSON of `Settings`."""


def build(settings: Settings, *, upstream: Upstream | None = None) -> Gateway:
    """Make every part; nothing is started. Raises `UsageError`, `PolicyError`, `StorageError`."""
    keyring = open_keyring(settings.secret)
    store = Store(settings.database)
    vault = Vault(store, keyring)
    journal = Journal(store, keyring, settings.checkpoints)
    hooks = Hooks(store, keyring, journal)
    meters = Meters(worker=str(os.getpid()), models=settings.models, telemetry=telemetry.from_environment())
    return Gateway(
        settings=settings,
        guard=Guard(read_policy(settings.policy), timed=meters.filter_ms),
        keyring=keyring,
        store=store,
        vault=vault,
        journal=journal,
        keys=Keys(store, journal),
        people=People(store, keyring, journal),
        limits=Limiter(store, workers=settings.workers),
        hooks=hooks,
        holds=Holds(store, vault, journal, hooks),
        upstream=upstream or Remote(settings.upstream, settings.upstream_key, ca=settings.upstream_ca),
        meters=meters,
        ready=Readiness(),
        pool=Pool(),
    )


def application(gateway: Gateway) -> "App":
    """The service as an ASGI application; its lifespan starts and ends the background work."""
    return App(gateway, _api(gateway))


def from_environment() -> "App":
    """What a worker process runs: the settings are in the environment, put there by `temper serve`."""
    given: dict[str, Any] = json.loads(os.environ[SETTINGS])
    given |= {"secret": Path(given["secret"]), "checkpoints": Path(given["checkpoints"]), "models": tuple(given["models"])}
    return application(build(Settings(**given)))


def to_environment(settings: Settings) -> str:
    """Settings as `from_environment` reads them. The upstream's key is among them: child processes inherit it anyway."""
    return json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()})


class App:
    """The ASGI application."""

    def __init__(self, gateway: Gateway, api: FastAPI) -> None:
        self.gateway, self.api = gateway, api
        self._work: list[asyncio.Task[Any]] = []
        self._jobs = Jobs(gateway.store)
        self._reloader = Reloader(gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kind = HOT.get(scope["path"])
            if kind is None:
                await self.api(scope, receive, send)
            elif scope["method"] == "POST":
                await Exchange(self.gateway, scope, receive, send, kind=kind).run()
            else:
                await _not_allowed(send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"the gateway speaks HTTP, not {scope['type']}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                    raise
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        """Open the store, test every filter, begin the background work."""
        g = self.gateway
        await asyncio.to_thread(g.store.migrate)
        await asyncio.to_thread(g.journal.start, g.guard.policy.version)
        await self._reloader.first()
        await canary.check_all(g)
        g.limits.start()
        self._schedule()
        g.meters.watch("temper_journal_queue", "Rows that wait to be committed.", lambda: float(g.journal.waiting))
        failing = "1 where no signed checkpoint of the audit can be written."
        g.meters.watch("temper_checkpoint_failing", failing, lambda: float(bool(g.journal.checkpoint_trouble)))
        work = [canary.watch(g, g.settings.selftest_every_s), g.meters.watch_loop(), self._reloader.watch(), self._learn()]
        self._work = [asyncio.create_task(w) for w in work]
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGHUP, self._reloader.soon)
        except (ValueError, RuntimeError, NotImplementedError):
            log.debug("SIGHUP is not ours to handle in this thread")

    async def _learn(self) -> None:
        """Learn the names of the models there are, again and again: no other name goes on record."""
        while True:
            try:
                self.gateway.meters.learn([str(row.get("id", "")) for row in await self.gateway.upstream.models()])
            except aiohttp.ClientConnectorCertificateError as error:
                code = getattr(error.certificate_error, "verify_code", 0)
                log.error(
                    "the model server's certificate is not trusted (OpenSSL's code %d); --upstream-ca names who signs it", code
                )
            except (ApiError, aiohttp.ClientError, OSError) as error:
                log.warning("the model server does not list its models: %s", type(error).__name__)
            await asyncio.sleep(LEARN_S)

    def _schedule(self) -> None:
        g, jobs = self.gateway, self._jobs
        jobs.every("holds.expire", 10.0, self._expired)
        jobs.every("sweep", 300.0, self._swept)
        jobs.every("audit", g.guard.policy.audit.every_s, partial(nightly.run, g))
        jobs.start()
        g.hooks.start()

    async def _expired(self) -> str:
        return f"{await self.gateway.holds.expire()} items refused for time"

    async def _swept(self) -> str:
        boxes = await self.gateway.store.run(self.gateway.vault.sweep)
        days = await self.gateway.store.run(lambda conn: limits.sweep(conn, time.time()))
        sent = await self.gateway.store.run(lambda conn: webhooks.sweep(conn, time.time()))
        return f"{boxes} boxes, {days} totals and {sent} deliveries deleted"

    async def close(self) -> None:
        """Stop taking part: what is under way has ended by now, what is on record is committed."""
        g = self.gateway
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._jobs.close()
        await g.hooks.close()
        await g.upstream.close()
        await g.limits.close()
        await g.pool.close()
        await g.journal.close()
        if g.meters.telemetry is not None:
            await asyncio.to_thread(g.meters.telemetry.close)
        await asyncio.to_thread(g.store.close)


def _api(gateway: Gateway) -> FastAPI:
    api = FastAPI(title="temper", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    api.state.gateway = gateway
    api.add_middleware(Renewal, gateway=gateway)
    api.add_exception_handler(ApiError, _told)
    api.add_exception_handler(SignIn, _sign_in)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(SQLAlchemyError, _away)
    api.add_exception_handler(StorageError, _away)
    api.add_exception_handler(Exception, _crashed)

    @api.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        """Whether the process answers at all; `/readyz` says whether it should be asked."""
        return {"status": "ok"}

    for name in ROUTERS:
        api.include_router(importlib.import_module(f"temper.serve.{name}").routes(gateway))
    made = api.openapi
    api.openapi = lambda: described(made())  # type: ignore[method-assign]
    return api


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(error.body(), error.status, error.headers, "application/json")


async def _sign_in(_: Request, error: Exception) -> Response:
    assert isinstance(error, SignIn)
    return RedirectResponse(error.location, 303)


async def _http(_: Request, error: Exception) -> Response:
    """The framework's own errors in OpenAI's shape; a body that has it already is kept."""
    assert isinstance(error, HTTPException)
    detail: Any = error.detail
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    shaped = detail if isinstance(detail, dict) and "error" in detail else error_object(str(detail), kind)
    return JSONResponse(shaped, error.status_code, dict(error.headers or {}))


async def _invalid(_: Request, error: Exception) -> Response:
    """Which field is wrong and why, without what was in it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(p) for p in first["loc"][1:]) or None
    return JSONResponse(
        error_object(f"{param or 'body'}: {first['type'].replace('_', ' ')}", "invalid_request_error", param), 400
    )


async def _away(_: Request, error: Exception) -> Response:
    log.error("a route failed, the store is away: %s", type(error).__name__)
    return await _told(_, overloaded("the store is away; come back shortly", RETRY_S))


async def _crashed(_: Request, error: Exception) -> Response:
    log.error("a route failed: %s", type(error).__name__)
    return JSONResponse(error_object("the gateway failed; the error is in its log", "server_error"), 500)


async def _not_allowed(send: Send) -> None:
    body = orjson.dumps(error_object("wanted POST", "invalid_request_error", None, "method_not_allowed"))
    headers: Sequence[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"allow", b"POST"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 405, "headers": headers})
    await send({"type": "http.response.body", "body": body})
