"""`temper hacks`: the known hacks, where each is penalised and how well it is seen; one of them shown on a pair of answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from temper.errors import UsageError
from temper.text.invisible import spelled_out

GRAMS = 12  # shown of a candidate

app = typer.Typer(help="List the known reward hacks with their measured errors, or show one.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def hacks(context: typer.Context) -> None:
    """List every entry of the bank."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """List every entry: what it is, where it is penalised, recall and false positives with n and their 95 % intervals."""
    from temper.rewards.hacks import bank, figures

    known = figures()
    for hack in bank():
        typer.echo(f"{hack.name:20} {hack.title}")
        typer.echo(f"{'':20} penalised: {_streams(hack.where)}; prompts: {', '.join(sorted(hack.classes))}")
        typer.echo(f"{'':20} {_figures(known, hack.name)}")


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of an entry, file.py:name, or the file of a mined candidate.")
    ],
) -> None:
    """Print a good answer and the same answer hacked, and what is left when the suspicious span is taken out."""
    if name.endswith(".json"):
        _candidate(Path(name))
        return
    from temper.rewards.hacks import bank, pairs

    if name == "all" or name.startswith("-"):
        raise UsageError(f"hacks show {name}: wanted the name of one entry, such as prompt-copy; `temper hacks` lists them")
    [hack] = bank([name])
    twin = pairs(hack)[0]
    typer.echo(spelled_out(f"{hack.name}: {hack.title}\nprompt: {twin.clean.example.prompt}"))
    for title, completion in (("clean", twin.clean), ("hacked", twin.hacked), ("span taken out", hack.strip(twin.hacked))):
        if completion is not None:
            _told(hack, title, completion, completion.raw)


def _candidate(path: Path) -> None:
    """What a person reads before accepting: the answers, each also without the span; thoughts are not mined."""
    from temper.rewards.mining import look

    hack, twins, grams = look(path)
    typer.echo(spelled_out(f"{hack.name}: {hack.title}\nheaviest n-grams: {', '.join(map(repr, grams[:GRAMS]))}"))
    for number, twin in enumerate(twins, 1):
        typer.echo(spelled_out(f"\n{number} of {len(twins)}, prompt: {twin.clean.example.prompt}"))
        _told(hack, "as it was paid", twin.hacked, twin.hacked.answer)
        _told(hack, "span taken out", twin.clean, twin.clean.answer)


def _told(hack: Any, title: str, completion: Any, text: str) -> None:
    from temper.rewards.hacks import SHIPPED, flags

    seen = flags([hack], [completion], SHIPPED)[hack.name][0]
    typer.echo(spelled_out(f"\n{title} ({'flagged' if seen else 'not flagged'})\n{text}"))


def _streams(where: str) -> str:
    return {"all": "thought and answer", "think": "thought", "answer": "answer"}[where]


def _figures(known: Mapping[str, Any], name: str) -> str:
    if name not in known:
        return "not measured"
    found = known[name]
    return f"recall {_share(found.recall)}; false positives {_share(found.false_positive)}"


def _share(estimate: Any) -> str:
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}] of {estimate.n}"
