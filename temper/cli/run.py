"""`temper run RECIPE`: train the arms, prove them, write the report."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file (TOML), or the name of a shipped one, such as quickstart.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<recipe name>. An unfinished run continues.")] = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the recipe's seed.")] = None,
) -> None:
    """Train every arm of a recipe, measure all of them on the same prompts, and write one report."""
    from temper.ablate import run as run_recipe
    from temper.cli.progress import watching
    from temper.cli.report import headline
    from temper.train.recipe import find_recipe

    command = "temper " + shlex.join(sys.argv[1:])
    try:
        with watching() as watch:
            folder = run_recipe(find_recipe(recipe), out=out, seed=seed, command=command, watch=watch)
    except KeyboardInterrupt:
        typer.echo(f"\ntemper: stopped; nothing finished is lost. To go on:  {command}", err=True)
        raise typer.Exit(130) from None
    typer.echo(headline(folder))
