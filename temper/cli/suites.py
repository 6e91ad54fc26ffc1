"""`temper suites`: the published suites that can be named; what one is, how it was run, what was reproduced; a file checked."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from temper.prove.suites.form import Protocol, Published

app = typer.Typer(help="List the published suites, show one, check a file of one.", rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A published suite, as listed by `temper suites`.")]
Spec = Annotated[str, typer.Argument(metavar="NAME[@WHERE]", help="NAME, NAME@FILE, NAME@FOLDER or NAME@hf:org/name@revision.")]


@app.callback(invoke_without_command=True)
def suites(context: typer.Context) -> None:
    """List the bundled suites and the published ones, and whether these are read from the hub or from a file."""
    if context.invoked_subcommand:
        return
    from temper.data.read import read
    from temper.data.rows import bundled
    from temper.prove.suites import PUBLISHED

    for name in bundled(["suites"]):
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(e.klass for e in read(name)).most_common())
        typer.echo(f"{name:<26}{'own':<6}{kinds}")
    for published in PUBLISHED.values():
        where = "hub" if published.origins else "file"
        typer.echo(f"{published.name:<26}{where:<6}{published.title}")
    typer.echo("\nown: ships with temper; hub: temper prove MODEL --suite NAME; any published one: --suite NAME@FILE.")
    typer.echo("No row of a published suite ships with temper.")


@app.command()
def show(name: Name) -> None:
    """Print a suite's outcome rule, published protocol, differences, licence, citation and reproduction record."""
    typer.echo("\n".join(_page(_named(name))))


@app.command()
def check(spec: Spec) -> None:
    """Read a suite and print what was found: rows by class, language and category, what was left out, what was read exactly."""
    from temper.prove.suites import load

    suite = load(spec)
    if suite is None:
        _named(spec.partition("@")[0])
        return
    typer.echo(f"{suite.name}: {len(suite.examples):,} prompts in {len({e.group for e in suite.examples}):,} groups")
    counts = {
        "class": Counter(e.klass for e in suite.examples),
        "language": Counter(e.language for e in suite.examples),
        "category": Counter(t[9:] for e in suite.examples for t in e.tags if t.startswith("category:")),
        "left out": suite.facts["left_out"],
    }
    for what, found in counts.items():
        told = ", ".join(f"{n} {name}" for name, n in Counter(found).most_common())  # type: ignore[call-overload]
        typer.echo(f"{what:<10}{told or 'none'}")
    for origin in suite.facts["origin"]:  # type: ignore[attr-defined]
        typer.echo(f"{'read':<10}{', '.join(f'{key} {value}' for key, value in origin.items())}")
    typer.echo(f"{'licence':<10}{suite.facts['license']}")


def _named(name: str) -> "Published":
    from temper.errors import UnknownName, nearest
    from temper.prove.suites import PUBLISHED

    if name not in PUBLISHED:
        raise UnknownName(f"no published suite is called {name!r}; {nearest(name, PUBLISHED)}")
    return PUBLISHED[name]


def _page(published: "Published") -> Iterator[str]:
    hub = [":".join(filter(None, (o.hub, o.config, o.split))) for o in published.origins]
    yield f"{published.title} ({published.name})"
    yield f"outcome    {published.outcome}"
    yield f"metrics    {', '.join(published.measures)}"
    yield f"published  {_protocol(published.protocol)}"
    yield f"differs    {published.differs}"
    yield f"seen by    {published.seen or 'no shipped judge in training'}"
    yield f"read from  {', '.join(hub) or published.needs}"
    yield f"licence    {published.license}"
    yield f"citation   {published.citation}"
    for record in published.reproductions:
        if record.ours is None:
            yield f"reproduced not run here: {record.note}"
            continue
        told = f"{record.figure} of {record.model}: published {record.expected}, ours {record.ours} (n {record.n})"
        yield f"reproduced {told}: {record.verdict}. {record.note} {record.command}".rstrip()


def _protocol(protocol: "Protocol") -> str:
    told = {
        "token cap": protocol.max_tokens,
        "temperature": protocol.temperature,
        "top-p": protocol.top_p,
        "samples": protocol.samples,
        "few-shot examples": protocol.shots,
        "judge": protocol.judge or None,
    }
    stated = "; ".join(f"{name} {value}" for name, value in told.items() if value is not None)
    return f"{stated or 'no setting stated'} ({protocol.said_by})"
