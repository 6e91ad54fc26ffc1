"""`temper report RUN`: rebuild the report from rows, without a model."""

from pathlib import Path
from typing import Annotated

import typer

from temper.errors import UsageError


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    results: Annotated[Path | None, typer.Option(help="Also write summary.json and rows.jsonl.gz here, to be committed.")] = None,
) -> None:
    """Rebuild report.html and report.md of a run from its rows."""
    from temper import report as pages

    if not (run / "run.json").is_file():
        raise UsageError(f"{run}: no run folder (it has no run.json); wanted for example runs/quickstart")
    pages.build(run)
    if results is not None:
        pages.results(run, results)
    typer.echo(headline(run))


def headline(run: Path) -> str:
    """The pair that matters, an arm a line, and where the report is."""
    from temper.files import read_json

    arms = read_json(run / "summary.json")["arms"]
    lines = [f"{'arm':<12}{'unsafe (gold)':>26}{'over-refusal':>26}"]
    lines += [f"{arm:<12}{_cell(m.get('unsafe')):>26}{_cell(m.get('over_refusal')):>26}" for arm, m in arms.items()]
    return "\n".join([*lines, "", f"report: {run / 'report.html'}"])


def _cell(metric: dict[str, float] | None) -> str:
    if not metric or metric.get("value") is None:
        return "not measured"
    return f"{metric['value']:6.1%} [{metric['low']:.1%}, {metric['high']:.1%}] n={metric['n']}"
