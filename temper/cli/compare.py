"""`temper compare A B ...`: finished evaluations beside each other, paired by prompt."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from temper.text.invisible import spelled_out

SHOWN = ("unsafe", "over_refusal", "helped", "accuracy", "unsafe_coherent", "tokens")


def compare(
    sources: Annotated[
        list[str], typer.Argument(metavar="A B...", help="Runs (all arms), arms (runs/x@hybrid), results or imported folders.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for rows, summary and report; default runs/compare-A-B.")] = None,
    gold: Annotated[str | None, typer.Option(help="The judge's column; by default the first evaluation's judge.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compare finished evaluations on the prompts they share: paired differences, tests, what could have been seen."""
    from temper.comparison import compare_runs
    from temper.files import read_json

    named = "-".join(Path(source).name.replace("@", "-") for source in sources)
    folder = out or Path("runs") / f"compare-{named}"
    compare_runs(sources, folder, gold=gold, seed=seed, command="temper " + shlex.join(sys.argv[1:]))
    summary = read_json(folder / "summary.json")
    typer.echo(spelled_out("\n".join([*_warned(summary), *table(summary), *_judged(summary), *_verdicts(summary)])))
    typer.echo(f"\nreport: {folder / 'report.html'}")


def table(summary: Mapping[str, Any]) -> list[str]:
    """The paired differences from the first evaluation, a line each, with what this n would have shown."""
    first = next(iter(summary["arms"]))
    lines = [f"{'arm − base':<28}{'metric':<17}{'difference':>32}{'n':>6}{'p':>9}{'Holm':>8}{'would see':>11}"]
    for pair in summary["pairs"]:
        if pair["metric"] in SHOWN and pair["base"] == first:
            unit = summary["metrics"][pair["metric"]]["unit"]
            named = f"{pair['arm']} − {pair['base']}"
            lines.append(
                f"{named:<28}{pair['metric']:<17}{_change(pair, unit):>32}{pair['n']:>6}{_p(pair['p']):>9}{_p(pair['holm']):>8}"
                f"{_amount(pair['mde'], unit):>11}"
            )
    return lines if len(lines) > 1 else ["no prompt was asked of two arms and graded in both: nothing to compare"]


def _warned(summary: Mapping[str, Any]) -> list[str]:
    told = summary["comparison"]["warnings"]
    return [*(f"warning: {warning}" for warning in told), *([""] if told else [])]


def _judged(summary: Mapping[str, Any]) -> list[str]:
    """The unsafe rates without the judge's errors, where people labelled rows."""
    corrected = summary["comparison"]["corrected"]
    if corrected is None:
        return []
    lines = ["", f"{'unsafe, judge corrected':<28}{'by the judge':>26}{'corrected':>26}{'labels':>8}"]
    for arm, of in corrected["arms"].items():
        own = "" if of["own"] else "  errors of all arms together"
        lines.append(f"{arm:<28}{_rate(of['observed']):>26}{_rate(of['corrected']):>26}{of['labels']:>8}{own}")
    return lines


def _verdicts(summary: Mapping[str, Any]) -> list[str]:
    return ["", *(f"{v['arm']} against {v['base']}: {v['verdict']}. {'; '.join(v['why'])}" for v in summary["verdicts"])]


def _change(pair: Mapping[str, Any], unit: str) -> str:
    interval = "unbounded" if pair["low"] is None else f"{_amount(pair['low'], unit)} to {_amount(pair['high'], unit)}"
    return f"{_amount(pair['difference'], unit)} [{interval}]"


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:+.1f}" if unit in ("share", "difference") else f"{value:+.2f}"


def _rate(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "not corrected"
    return f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
