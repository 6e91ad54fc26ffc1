"""`temper people`: who may review and administer a gateway."""

import sys
from typing import Annotated

import typer

from temper.cli.keys import CHECKPOINTS, DATABASE, SECRET, Checkpoints, Database, Secret, opened

app = typer.Typer(help="Add, list and disable reviewers and admins of the gateway.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name to sign in with.")]


@app.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option(help="reviewer or admin.")] = "reviewer",
    database: Database = DATABASE,
    secret: Secret = SECRET,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Add a person; the password is asked for, or read from standard input."""
    from temper.serve.people import People

    password = given_password()
    with opened(database, secret, checkpoints, make=True) as (store, keyring, journal):
        made = People(store, keyring, journal).add(name, password, role, by="command line")
    typer.echo(f"{made.name} may sign in as {made.role}")


@app.command()
def password(name: Name, database: Database = DATABASE, secret: Secret = SECRET, checkpoints: Checkpoints = CHECKPOINTS) -> None:
    """Set a new password, asked for or read from standard input; every session of the person ends."""
    from temper.serve.people import People

    given = given_password()
    with opened(database, secret, checkpoints) as (store, keyring, journal):
        People(store, keyring, journal).password(name, given, by="command line")
    typer.echo(f"{name} has a new password")


@app.command()
def disable(name: Name, database: Database = DATABASE, secret: Secret = SECRET, checkpoints: Checkpoints = CHECKPOINTS) -> None:
    """End a person's access and sessions."""
    from temper.serve.people import People

    with opened(database, secret, checkpoints) as (store, keyring, journal):
        People(store, keyring, journal).disable(name, by="command line")
    typer.echo(f"{name} may no longer sign in")


@app.command("list")
def list_(database: Database = DATABASE, secret: Secret = SECRET, checkpoints: Checkpoints = CHECKPOINTS) -> None:
    """List every person: role, state, name."""
    from temper.serve.people import People

    with opened(database, secret, checkpoints) as (store, keyring, journal):
        found = People(store, keyring, journal).all()
    for row in found:
        typer.echo(f"{row['role']:<9} {'disabled' if row['disabled_at'] is not None else 'active':<9} {row['name']}")


def given_password(*, confirmed: bool = True) -> str:
    """Never an argument: the arguments of a process are open to everybody on its machine."""
    if sys.stdin.isatty():
        given: str = typer.prompt("Password", hide_input=True, confirmation_prompt=confirmed)
        return given
    return sys.stdin.readline().rstrip("\r\n")
