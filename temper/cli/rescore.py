"""`temper rescore RUN`: grade stored answers again, without asking the model."""

from pathlib import Path
from typing import Annotated

import typer


def rescore(
    run: Annotated[Path, typer.Argument(help="A run folder of `temper prove`, or an imported one.")],
    grader: Annotated[
        list[str] | None,
        typer.Option(
            help="A grader to add or to grade by again; repeat for several. Default: those that were away or whose code changed."
        ),
    ] = None,
    gold: Annotated[str, typer.Option(help="Another judge; refused if it was a reward of this model.")] = "",
) -> None:
    """Grade stored answers again, by new graders or by ones that were away, and rebuild the report; nobody is asked."""
    from temper.cli.progress import watching
    from temper.cli.report import headline
    from temper.rescore import rescore as again

    with watching() as watch:
        done = again(run, graders=tuple(grader or ()), gold=gold, watch=watch)
    told = [f"{name} ({done.opinions[name]:,} with an opinion)" if name in done.opinions else name for name in done.graders]
    by = f" by {', '.join(told)}" if told else ": every grader of the run is as it was; name one with --grader"
    typer.echo(f"{done.rows:,} rows graded again in {done.seconds:.1f} s{by}")
    typer.echo(headline(run))
