"""`temper holds`: the queue of a gateway in a terminal, for who has no browser at hand."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.keys import CHECKPOINTS, DATABASE, SECRET, Checkpoints, Database, Secret, opened
from temper.cli.people import given_password
from temper.errors import UsageError, nearest
from temper.text.invisible import spelled_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from temper.serve.people import Person
    from temper.serve.review import Holds, Item

app = typer.Typer(help="List, read and decide what a gateway holds for review.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(metavar="ID", help="The item's id, as listed; it is the ticket of the client.")]
Name = Annotated[str, typer.Option("--as", metavar="NAME", help="Who you are; the password is asked for, or read from stdin.")]
VERDICTS = ("release", "refuse")
STATES = ("waiting", "released", "edited", "refused", "expired")


@app.command("list")
def list_(
    state: Annotated[str, typer.Option(help="waiting, released, edited, refused, expired; empty for all.")] = "waiting",
    database: Database = DATABASE,
    secret: Secret = SECRET,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """List items without their texts: id, state, kind, category, and where two people must agree, that."""
    if state not in ("", *STATES):
        raise UsageError(f"--state {state!r}; {nearest(state, STATES)}")
    with opened(database, secret, checkpoints) as (store, keyring, journal):
        found = asyncio.run(_holds(store, keyring, journal).items(state=state))
    for item in found:
        typer.echo(f"{item.id}  {item.state:<9} {item.kind:<8} {item.category}{'  two people' * (item.wanted > 1)}")


@app.command()
def show(
    id: Id, name: Name, database: Database = DATABASE, secret: Secret = SECRET, checkpoints: Checkpoints = CHECKPOINTS
) -> None:
    """Show what was asked and answered; the audit keeps who looked."""
    with opened(database, secret, checkpoints) as (store, keyring, journal):
        person = _signed_in(store, keyring, journal, name)
        item = asyncio.run(_holds(store, keyring, journal).item(id, person))
    typer.echo(spelled_out("\n".join(_lines(item))))


@app.command()
def decide(
    id: Id,
    verdict: Annotated[str, typer.Argument(metavar="release|refuse", help="An answer is edited on the review page.")],
    name: Name,
    note: Annotated[str, typer.Option(help="For other reviewers.")] = "",
    message: Annotated[str, typer.Option(help="For the client, with a refusal.")] = "",
    database: Database = DATABASE,
    secret: Secret = SECRET,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Release or refuse one item, which is shown first."""
    if verdict not in VERDICTS:
        raise UsageError(f"verdict {verdict!r}; {nearest(verdict, VERDICTS)}")
    with opened(database, secret, checkpoints) as (store, keyring, journal):
        person, queue = _signed_in(store, keyring, journal, name), _holds(store, keyring, journal)
        state = asyncio.run(_decided(queue, id, person, verdict, note, message))
    typer.echo(f"{id} is {state}{'; another person has to agree' * (state == 'waiting')}")


async def _decided(queue: "Holds", id: str, person: "Person", verdict: str, note: str, message: str) -> str:
    """Read, leased, decided: nobody decides what they were not shown."""
    item = await queue.item(id, person)
    typer.echo(spelled_out("\n".join(_lines(item))))
    if not await queue.claim(id, person, 60):
        taken = "somebody else has it" if item.state == "waiting" else item.state
        raise UsageError(f"{id}: {taken}; temper holds list shows what waits")
    return await queue.decide(id, person, verdict, note=note, message=message, seen=item.seen)


def _lines(item: "Item") -> list[str]:
    """All that would be released, and what others said: a person at a terminal decides on no less than one at the page."""
    from temper.serve.nightly import messages_of

    lines = [f"{item.id}  {item.kind}  {item.category}"]
    # a rule that fired at several places is told once
    lines += dict.fromkeys(
        f"  {f.get('filter')}: {f.get('rule')} on {f.get('channel')}: {f.get('why') or f.get('action')}" for f in item.findings
    )
    lines += [f"appeal: {item.why}"] * bool(item.why)
    lines += ["the text is no longer kept"] * (not item.kept)
    lines += [f"{m.role}: {m.content}" for m in messages_of(item.request or {})]
    lines += _answers("answer", item.answers)
    lines += [f"{r.person}: {r.verdict} {r.label} {r.note}".rstrip() for r in item.ratings]
    return lines + _answers("edited, and what a release releases", item.proposal or ())


def _answers(name: str, answers: "Sequence[Mapping[str, Any]]") -> list[str]:
    lines = []
    for answer in answers:
        lines += [f"reasoning: {answer['reasoning']}"] * bool(answer.get("reasoning"))
        lines += [f"{name}: {answer['content']}"] * bool(answer.get("content"))
        lines += [f"call: {call['name']}({call['arguments']})" for call in answer.get("calls", ())]
    return lines


def _holds(store: Any, keyring: Any, journal: Any) -> "Holds":
    from temper.serve.review import Holds
    from temper.serve.vault import Vault
    from temper.serve.webhooks import Hooks

    return Holds(store, Vault(store, keyring), journal, Hooks(store, keyring, journal))


def _signed_in(store: Any, keyring: Any, journal: Any, name: str) -> "Person":
    from temper.serve.people import People

    person = People(store, keyring, journal).check(name, given_password(confirmed=False))
    if person is None:
        raise UsageError(f"--as {name}: name or password is wrong; temper people list shows who may review")
    return person
