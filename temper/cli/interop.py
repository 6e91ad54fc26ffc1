"""`temper import FILE...` and `temper export RUN`: evaluations of other tools read, ours written for them."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from temper.errors import UsageError
from temper.types import CLASSES

FORMATS = "inspect, lm-eval, garak, csv, parquet, junit, card"


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="inspect .eval or .json, lm-eval results or samples, garak report or hitlog, JailbreakBench, promptfoo."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the evaluation.")],
    klass: Annotated[
        str, typer.Option("--class", help="Class of prompts that do not say theirs: harmful, borderline, benign, reasoning.")
    ] = "",
    arm: Annotated[str, typer.Option(help="Name of the arm; default: the model's.")] = "",
    suite: Annotated[str, typer.Option(help="Name of the suite; default: the task's.")] = "",
    low: Annotated[list[str] | None, typer.Option(help="A score whose high values are bad, as inspect:NAME; repeat.")] = None,
    grader: Annotated[list[str] | None, typer.Option(help="A grader of ours that reads the answers too; repeat.")] = None,
    gold: Annotated[str, typer.Option(help="The judge of harmful prompts; default: none, their scores are no gold.")] = "",
) -> None:
    """Read evaluations of other tools into a folder that report and compare read; their scores keep their names."""
    from temper import catalog
    from temper.cli.report import headline
    from temper.prove.evaluate import Panel
    from temper.prove.interop import folder, read
    from temper.report import build

    if klass and klass not in CLASSES:
        raise UsageError(f"--class {klass}: no such class; wanted one of {', '.join(CLASSES)}")
    logs = [(path, read(path)) for path in files]
    refusal = catalog.grader("refusal")
    panel = Panel((refusal, *map(catalog.grader, grader or ())), refusal, catalog.grader(gold) if gold else None)
    wanted = folder.Wanted(klass, arm, suite, tuple(low or ()), tuple(grader or ()), gold)
    made = folder.write(logs, out, panel, wanted, command="temper " + shlex.join(sys.argv[1:]))
    build(made)
    for path, log in logs:
        typer.echo(f"{path}: {len(log.replies)} replies by {log.tool}")
        for unknown in log.unknown:
            typer.echo(f"  unknown: {unknown}")
    typer.echo("\n" + headline(made))


def export(
    run: Annotated[str, typer.Argument(help="A run, an arm of one (runs/x@hybrid), or the results folder made from one.")],
    to: Annotated[str, typer.Option(help=f"Format: {FORMATS}.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
) -> None:
    """Write a finished evaluation in another tool's format."""
    from temper.prove.interop.export import export as write

    for path in write(run, to, out):
        typer.echo(str(path))
