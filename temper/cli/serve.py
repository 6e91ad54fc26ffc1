"""`temper serve MODEL_OR_URL`: the guarded gateway, before a model server or with a model in its own process."""

import asyncio
import logging
import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from temper.cli.keys import CHECKPOINTS, DATABASE, DATABASE_VARIABLE, SECRET, Checkpoints, Database, Secret

if TYPE_CHECKING:
    from temper.serve.inprocess import InProcess
    from temper.serve.state import Settings


def serve(
    model: Annotated[str, typer.Argument(help="A URL that speaks OpenAI's protocol, or a model: an alias, a folder, org/name.")],
    policy: Annotated[str, typer.Option(help="A shipped policy by name, or a .toml file.")] = "chat",
    host: Annotated[str, typer.Option(help="The address to listen on. Beyond loopback it takes an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8080,
    database: Database = DATABASE,
    secret: Secret = SECRET,
    checkpoints: Checkpoints = CHECKPOINTS,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes; a model in process has one.")] = 1,
    models: Annotated[list[str] | None, typer.Option("--model", help="Only this model may be asked; may be repeated.")] = None,
    upstream_key_env: Annotated[str, typer.Option(help="The variable with the model server's key.")] = "",
    upstream_ca: Annotated[str, typer.Option(help="PEM file of who signs an https model server, in place of the system's.")] = "",
    public_url: Annotated[str, typer.Option(help="What links in messages begin with.")] = "",
    drain: Annotated[float, typer.Option(min=0, help="Seconds that answers under way get at a stop.")] = 30.0,
) -> None:
    """Serve a model behind a policy: every text in and out is scanned before anybody reads it."""
    from temper.serve.state import Settings

    remote = "://" in model
    settings = Settings(
        upstream=model,
        models=tuple(models or ()),
        upstream_key=_key(upstream_key_env),
        upstream_ca=upstream_ca,
        policy=policy,
        database=database,
        secret=secret,
        checkpoints=checkpoints,
        host=host,
        port=port,
        workers=workers,
        public_url=public_url,
        drain_s=drain,
    )
    _check(settings, remote=remote)
    _tell(settings)
    _run(settings, remote=remote)


def _key(variable: str) -> str:
    from temper.errors import UsageError

    if variable and variable not in os.environ:
        raise UsageError(f"--upstream-key-env {variable}: no such variable is set")
    return os.environ.get(variable, "") if variable else ""


def _check(settings: "Settings", *, remote: bool) -> None:
    """Fail before anything is served: a wrong policy, URL or database, or an open door."""
    from temper.errors import UsageError
    from temper.serve.access import loopback
    from temper.serve.policy import read_policy
    from temper.serve.upstream import endpoint, trusted

    read_policy(settings.policy)
    if settings.upstream_ca and not settings.upstream.startswith("https://"):
        raise UsageError(f"--upstream-ca {settings.upstream_ca}: {settings.upstream} is not asked over https")
    trusted(settings.upstream_ca)
    if remote:
        endpoint(settings.upstream)
    elif settings.workers > 1:
        raise UsageError(f"--workers {settings.workers}: a model in this process is served by one worker")
    if not loopback(settings.host) and not _has_key(settings):
        raise UsageError(
            f"--host {settings.host} can be reached from other machines, and there is no API key; "
            f"make one first: temper keys make NAME {_store(settings)}"
        )


def _has_key(settings: "Settings") -> bool:
    from temper.serve.journal import Journal
    from temper.serve.keyring import open_keyring
    from temper.serve.keys import Keys
    from temper.serve.store import Store

    store = Store(settings.database)
    try:
        store.migrate()
        return asyncio.run(Keys(store, Journal(store, open_keyring(settings.secret), settings.checkpoints)).any())
    finally:
        store.close()


def _tell(settings: "Settings") -> None:
    base = settings.public_url or f"http://{settings.host}:{settings.port}"
    typer.echo(f"serving {settings.upstream} under the policy {settings.policy}")
    typer.echo(f"  OpenAI's API     {base}/v1")
    typer.echo(f"  review and admin {base}/review   (temper people add NAME --role admin {_store(settings)})")
    typer.echo(f"  API keys         temper keys make NAME {_store(settings)}")


def _store(settings: "Settings") -> str:
    """The flags by which another command finds this gateway's store; the usual ones need none, nor what the environment says."""
    given = {
        "--database": (settings.database, os.environ.get(DATABASE_VARIABLE) or DATABASE),
        "--secret": (settings.secret, SECRET),
        "--checkpoints": (settings.checkpoints, CHECKPOINTS),
    }
    return shlex.join(str(word) for flag, (own, usual) in given.items() if own != usual for word in (flag, own))


def _run(settings: "Settings", *, remote: bool) -> None:
    import uvicorn

    from temper.serve import gateway, logs

    logs.setup()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    options = {
        "host": settings.host,
        "port": settings.port,
        "lifespan": "on",
        "proxy_headers": False,
        "server_header": False,
        "timeout_graceful_shutdown": int(settings.drain_s),
        "http": "httptools",
        **logs.uvicorn_settings(),
    }
    if settings.workers > 1:
        os.environ[gateway.SETTINGS] = gateway.to_environment(settings)
        uvicorn.run("temper.serve.gateway:from_environment", factory=True, workers=settings.workers, **options)
        return
    made = gateway.build(settings, upstream=None if remote else _in_process(settings.upstream))
    uvicorn.run(gateway.application(made), **options)


def _in_process(model: str) -> "InProcess":
    from temper.models.speak import speaker
    from temper.serve.inprocess import InProcess

    return InProcess(speaker(model), model)
