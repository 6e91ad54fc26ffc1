"""`temper plan RECIPE`: what a run would take on this machine, before anything runs."""

from pathlib import Path
from typing import Annotated

import typer


def plan(recipe: Annotated[Path, typer.Argument(help="A recipe file (TOML).")]) -> None:
    """Show stages, tokens, FLOPs, expected time and memory; exit 1 if the recipe cannot fit, and say what would."""
    from temper.cli.progress import clock
    from temper.train.plan import plan_recipe
    from temper.train.recipe import read_recipe

    made = plan_recipe(read_recipe(recipe))
    typer.echo(f"{'step':<28}{'tokens':>10}{'TFLOP':>9}{'time':>9}{'memory':>10}")
    for step in made.steps:
        memory = f"{step.memory_bytes / 1e9:.1f} GB"
        typer.echo(f"{step.name:<28}{step.tokens:>10,}{step.flops / 1e12:>9.1f}{clock(step.seconds):>9}{memory:>10}")
    total = sum(s.seconds for s in made.steps)
    typer.echo(f"\ntotal about {clock(total)} at {made.gflops:.0f} GFLOP/s; memory {made.available / 1e9:.1f} GB available")
    made.refuse()
