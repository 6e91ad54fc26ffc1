"""What tests of the gateway's operations share: its parts on a SQLite file, a policy of small filters, a client of its routes."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from serve_parts import opened
from sqlalchemy import insert

from temper.serve import ids
from temper.serve.canary import Readiness
from temper.serve.guard import Guard
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.keys import Keys
from temper.serve.limits import Limiter
from temper.serve.metrics import Meters
from temper.serve.policy import ChannelPolicy, Policy, Setting
from temper.serve.pool import Pool
from temper.serve.protocol import ApiError
from temper.serve.state import Gateway, Settings
from temper.serve.tables import responses
from temper.serve.vault import Vault
from temper.serve.verdict import Action, Canary, Channel, Finding, Pace, View, canary_turn
from temper.serve.webhooks import Hooks

EVERY = tuple(Channel)


@dataclass(frozen=True, slots=True)
class Word:
    """Fires on a word."""

    word: str = "forbidden"
    name: str = "word"
    pace: Pace = "window"
    heavy: bool = False
    category: str = "test"
    default_channels: tuple[Channel, ...] = EVERY
    default_action: Action = Action.BLOCK
    deaf: tuple[Channel, ...] = ()
    roles: tuple[str, ...] = ()
    """Whose texts alone it reads; everybody's if empty."""

    @property
    def reach(self) -> int:
        return len(self.word)

    def __call__(self, view: View, /) -> Sequence[Finding]:
        at = view.text.lower().find(self.word)
        if at < 0 or view.channel in self.deaf or (self.roles and view.role not in self.roles):
            return ()
        return (Finding(self.name, self.word, self.category, start=at, end=at + len(self.word), replacement="[word]"),)

    def canary(self, channel: Channel, /) -> Canary:
        text = (
            f'{{"note": "it is {self.word} to say"}}' if channel is Channel.TOOL_ARGS else f"well, it is {self.word} to say so."
        )
        return Canary(text, canary_turn())


def setting(made: Any, **changes: Any) -> Setting:
    given: dict[str, Any] = {"channels": made.default_channels, "action": made.default_action, **changes}
    return Setting(made.name, made.name, made, **given)


def policy(*settings: Setting, **changes: Any) -> Policy:
    channels = {c: ChannelPolicy() for c in Channel}
    return Policy(name="test", version="0123456789ab", filters=settings, channels=channels, **changes)


@asynccontextmanager
async def gateway(folder: Path, made: Policy, url: str = "") -> AsyncIterator[Gateway]:
    """The parts that operations use, at work; holds, people and the upstream are left out; a URL names another database."""
    keyring, store = Keyring([bytes(range(32))]), opened(url or f"sqlite:///{folder}/temper.db")
    journal = Journal(store, keyring, folder / "checkpoints")
    journal.start()
    pool = Pool()
    absent: Any = None
    yield Gateway(
        settings=Settings(upstream="http://127.0.0.1:9"),
        guard=Guard(made),
        keyring=keyring,
        store=store,
        vault=Vault(store, keyring),
        journal=journal,
        keys=Keys(store, journal),
        people=absent,
        limits=Limiter(store),
        hooks=Hooks(store, keyring, journal),
        holds=absent,
        upstream=absent,
        meters=Meters(models=["m"]),
        ready=Readiness(),
        pool=pool,
    )
    await pool.close()
    await journal.close()
    store.close()


def client(made: Gateway, *routers: APIRouter, token: str = "") -> httpx.AsyncClient:
    """A client of some routes, on loopback."""
    app = FastAPI()
    app.state.gateway = made
    for router in routers:
        app.include_router(router)

    async def told(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return JSONResponse({"error": {"message": error.message}}, error.status)

    app.add_exception_handler(ApiError, told)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)


def row(**changes: Any) -> dict[str, Any]:
    """A row of `responses`."""
    given: dict[str, Any] = {"id": ids.new("chatcmpl"), "at": time.time(), "key_id": "local", "route": "chat", "model": "m"}
    given |= {"policy": "0123456789ab", "stream": False, "status": 200, "finish": "stop", "action": "allow", "findings": "[]"}
    given |= {"scanned": 10, "released": 10, "prompt_tokens": 1, "completion_tokens": 2, "reasoning_tokens": 0}
    return {**given, "seconds": 0.1, "first_s": None, "language": "", "vault_id": None, **changes}


def put(made: Gateway, value: Mapping[str, Any] | None = None, *, purpose: str = "sample", **changes: Any) -> str:
    """A response on record, its text in the vault where it is given; its id."""

    def work(conn: Any) -> str:
        kept = None if value is None else made.vault.put(conn, purpose, value, 3600)
        given = row(**{"vault_id": kept, **changes})
        conn.execute(insert(responses).values(**given))
        return str(given["id"])

    return made.store.now(work)
