"""`temper keys`: the API keys of a gateway's database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.errors import UsageError

if TYPE_CHECKING:
    from temper.serve.journal import Journal
    from temper.serve.keyring import Keyring
    from temper.serve.store import Store

app = typer.Typer(help="Make, list and revoke API keys of the gateway.", no_args_is_help=True, rich_markup_mode=None)

DATABASE_VARIABLE = "TEMPER_DATABASE"
Database = Annotated[
    str, typer.Option(envvar=DATABASE_VARIABLE, help="SQLAlchemy URL of the gateway's database; PostgreSQL as postgresql://...")
]
Secret = Annotated[Path, typer.Option(help="File of the master secret; the variable TEMPER_SECRET comes first.")]
Checkpoints = Annotated[Path, typer.Option(help="Folder of the audit's signed checkpoints.")]
DATABASE, SECRET, CHECKPOINTS = "sqlite:///temper.db", Path("temper.secret"), Path("checkpoints")


@app.command()
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people know the key by.")],
    scope: Annotated[list[str] | None, typer.Option(help="What it may do; by default what a client needs.")] = None,
    days: Annotated[float, typer.Option(min=0, help="Days until it expires; 0 for never.")] = 90,
    policy: Annotated[str, typer.Option(help="Name of another policy than the gateway's own.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; by default all.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=0, help="Requests a minute; by default the policy's.")] = None,
    per_day: Annotated[int | None, typer.Option(min=0, help="Tokens a day; by default the policy's.")] = None,
    database: Database = DATABASE,
    secret: Secret = SECRET,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Make a key and print its token, which cannot be shown again."""
    from temper.serve.keys import USUAL, Keys

    limits = {"requests_per_minute": per_minute, "tokens_per_day": per_day}
    with opened(database, secret, checkpoints, make=True) as (store, _, journal):
        id_, token = Keys(store, journal).make(
            name,
            scope or USUAL,
            by="command line",
            expires_at=time.time() + days * 86_400 if days else None,
            policy=policy,
            models=model or (),
            limits={k: v for k, v in limits.items() if v is not None},
        )
    typer.echo(f"{id_}: keep this token, it is not shown again", err=True)
    typer.echo(token)


@app.command("list")
def list_(
    database: Database = DATABASE,
    secret: Secret = SECRET,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """List every key: id, first characters, state, scopes, name."""
    from temper.serve.keys import Keys

    with opened(database, secret, checkpoints) as (store, _, journal):
        found = Keys(store, journal).all()
    for row in found:
        typer.echo(f"{row['id']}  {row['prefix']}…  {_state(row):<22}  {','.join(row['scopes'])}  {row['name']}")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as listed.")],
    database: Database = DATABASE,
    secret: Secret = SECRET,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """End a key; gateways at work notice within five seconds."""
    from temper.serve.keys import Keys

    with opened(database, secret, checkpoints) as (store, _, journal):
        Keys(store, journal).revoke(key, by="command line")
    typer.echo(f"{key} is revoked")


@contextmanager
def opened(database: str, secret: Path, checkpoints: Path, *, make: bool = False) -> "Iterator[tuple[Store, Keyring, Journal]]":
    """The gateway's database with an open journal, for the length of a command. `make` says whether one that is missing is made.

    Raises `UsageError` where it is away.
    """
    from sqlalchemy.exc import DBAPIError

    from temper.serve.journal import Journal
    from temper.serve.keyring import open_keyring
    from temper.serve.store import Store

    # where a path is misspelt, an empty database would say that nothing waits, and a new secret would sign what is done
    keyring = open_keyring(secret, make=make)
    store = Store(database, make=make)
    try:
        try:
            store.migrate()
        except DBAPIError as error:
            raise UsageError(f"database {store.url.render_as_string()}: {type(error.orig).__name__}; is it running?") from None
        journal = Journal(store, keyring, checkpoints)
        journal.start()
        try:
            yield store, keyring, journal
        finally:
            journal.stop()
    finally:
        store.close()


def _state(row: dict[str, Any]) -> str:
    if row["revoked_at"] is not None:
        return "revoked"
    if row["expires_at"] is None:
        return "live"
    day = datetime.fromtimestamp(row["expires_at"], UTC).strftime("%Y-%m-%d")
    return f"expired {day}" if row["expires_at"] <= time.time() else f"live until {day}"
