"""The gateway's parts, made once at start and handed to every route."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from temper.serve.guard import Guard

if TYPE_CHECKING:
    import asyncio

    from temper.serve.canary import Readiness
    from temper.serve.journal import Journal
    from temper.serve.keyring import Keyring
    from temper.serve.keys import Keys
    from temper.serve.limits import Limiter
    from temper.serve.metrics import Meters
    from temper.serve.people import People
    from temper.serve.pool import Pool
    from temper.serve.review import Holds
    from temper.serve.store import Store
    from temper.serve.upstream import Upstream
    from temper.serve.vault import Vault
    from temper.serve.webhooks import Hooks


log = logging.getLogger(__name__)
UNOPENED = 1000  # models that are told apart: a client may name any


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the service is run: what the command line says. What it enforces is the policy.

    `database` is a SQLAlchemy URL; `secret` the file of the master key, which is never in the database; `checkpoints` a folder
    (best on another disk) where the audit's signed checkpoints go; `public_url` is what links in messages begin with;
    `upstream_ca` a PEM file of the authorities that may sign the model server's certificate ("": the system's).
    """

    upstream: str
    models: tuple[str, ...] = ()
    upstream_key: str = ""
    upstream_ca: str = ""
    policy: str = "chat"
    database: str = "sqlite:///temper.db"
    secret: Path = Path("temper.secret")
    checkpoints: Path = Path("checkpoints")
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    public_url: str = ""
    open_loopback: bool = True
    selftest_every_s: float = 300.0
    drain_s: float = 30.0


@dataclass(slots=True, kw_only=True)
class Gateway:
    """Everything a route needs. `guard` is replaced as a whole when the policy is reloaded; requests keep the one they began
    with.

    `guards` holds the guards of other policies that keys name, by name; `opening` those that are being read and tested now.
    `unopened` are models whose last answer, of this worker's, ended a thought that nothing had opened.
    """

    settings: Settings
    guard: Guard
    keyring: "Keyring"
    store: "Store"
    vault: "Vault"
    journal: "Journal"
    keys: "Keys"
    people: "People"
    limits: "Limiter"
    hooks: "Hooks"
    holds: "Holds"
    upstream: "Upstream"
    meters: "Meters"
    ready: "Readiness"
    pool: "Pool"
    guards: dict[str, Guard] = field(default_factory=dict)
    opening: "dict[str, asyncio.Task[Guard]]" = field(default_factory=dict)
    unopened: set[str] = field(default_factory=set)

    def learn(self, model: str, *, unopened: bool) -> None:
        """Whether the model's next stream is to wait until it is certain what is thought: its last answer tells.

        One answer that merely speaks of the tag thus costs one stream its pace, not all.
        """
        if not unopened:
            self.unopened.discard(model)
        elif model not in self.unopened and len(self.unopened) < UNOPENED:
            log.warning("model %s ended a thought that nothing opened; its next streams wait for that end", model)
            self.unopened.add(model)
