"""`temper prove MODEL`: measure one model, endpoint or arm of a run."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

SUITES = ["harm", "over-refusal", "benign", "reasoning"]


def prove(
    model: Annotated[str, typer.Argument(help="Alias, folder, Hugging Face id, arm of a run (runs/x@hybrid), or http(s) URL.")],
    suite: Annotated[list[str], typer.Option(help="Suite by name, file or dataset id; repeat for several.")] = SUITES,
    out: Annotated[Path | None, typer.Option(help="Folder for rows and report.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Prompts per suite; 0 for all.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Answers per prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Token cap of an answer, its reasoning included.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 for greedy.")] = 0.7,
    grader: Annotated[
        list[str] | None, typer.Option(help="One more grader, by name or file.py:name; repeat for several.")
    ] = None,
    gold: Annotated[str, typer.Option(help="The judge; refused if it was a reward of this model.")] = "gold",
    seed: Annotated[int, typer.Option(help="Seed of the sampler.")] = 0,
    chat_template: Annotated[
        str | None, typer.Option(help='"chatml" or a Jinja file, for tokenizers without a template.')
    ] = None,
) -> None:
    """Measure a model: harm and over-refusal, language, format, cost; rows and a report."""
    from temper.cli.progress import watching
    from temper.cli.report import headline
    from temper.proof import prove_model
    from temper.train.recipe import Prove

    command = "temper " + shlex.join(sys.argv[1:])
    settings = Prove(
        gold=gold,
        graders=tuple(grader or ()),
        limit=limit,
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    try:
        with watching() as watch:
            folder = prove_model(
                model, suite, out=out, prove=settings, seed=seed, chat_template=chat_template, command=command, watch=watch
            )
    except KeyboardInterrupt:
        typer.echo(f"\ntemper: stopped; every finished row is kept. To go on:  {command}", err=True)
        raise typer.Exit(130) from None
    typer.echo(headline(folder))
