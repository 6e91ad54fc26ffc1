"""`temper experiment RECIPE`: one recipe over many seeds, and what became of its predictions."""

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from temper.experiment.seeds import News


def experiment(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe file (TOML) whose [experiment] table says what is planned, or the name of a shipped one."),
    ],
    out: Annotated[Path | None, typer.Option(help="Experiment folder; default runs/<recipe name>.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds; 0 only puts the finished ones together.", min=0)] = 8,
    first_seed: Annotated[int, typer.Option(help="The first seed; the others follow it.")] = 0,
    results: Annotated[Path | None, typer.Option(help="Also write the tables and the values behind them here.")] = None,
    jobs: Annotated[int, typer.Option(help="Seeds at a time, each on its own cores.", min=1)] = 1,
) -> None:
    """Run a recipe with several seeds, compare its arms over them, and check what it predicted. A stopped one continues.

    Shipped: baseline-sft, reward-hacking, hybrid-ablation, distillation-transfer, adaptive-reward, prompt-sensitivity,
    language-tradeoff, compute.
    """
    from temper.experiment import write
    from temper.experiment.aggregate import aggregate, gather
    from temper.experiment.seeds import run_seeds, seeds_in, told_failures
    from temper.train.recipe import find_recipe

    path = find_recipe(recipe)
    folder, command = out or Path("runs") / path.stem, "temper " + shlex.join(sys.argv[1:])
    wanted: Sequence[int] = range(first_seed, first_seed + seeds)
    # a supervisor ends a job with SIGTERM; as an exit it passes through the code that ends the children
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        failed = run_seeds(path, folder, wanted, jobs=jobs, tell=_say)
    except KeyboardInterrupt:
        typer.echo(f"\ntemper: stopped; nothing finished is lost. To go on:  {command}", err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if failed and len(failed) == len(wanted):
        raise told_failures(failed, folder)
    table = gather(path, folder, wanted or seeds_in(folder))
    found = aggregate(table, command=command)
    paths = write.write(folder, found)
    if results is not None:
        write.results(results, table, found)
    for prediction in found["predictions"]:
        typer.echo(f"{prediction['verdict']:<12} {prediction['says']}  [{prediction['check']}]")
    typer.echo(f"{write.seeds(found)}: {paths[1]}, {paths[2].name}")
    if failed:
        raise told_failures(failed, folder)


def _say(news: "News") -> None:
    from temper.cli.progress import clock

    took = f" after {clock(news.seconds)}" if news.seconds else ""
    typer.echo(f"seed {news.seed}: {news.state}{took}{' · ' + news.line if news.line else ''}", err=True)
