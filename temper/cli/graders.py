"""`temper graders`: what can be named in a recipe; the card of one; a grader calibrated on labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from temper.errors import UsageError, nearest

app = typer.Typer(help="List the graders, show or measure the card of one, calibrate one on labels.", rich_markup_mode=None)

METHODS = ("isotonic", "platt")
AXES = ("arm", "language", "source")
Name = Annotated[str, typer.Argument(metavar="NAME", help="Short name, entry point, or file.py:name.")]
Files = Annotated[list[str] | None, typer.Option("--labels", help="File of labelled rows; repeat for several.")]
TargetName = Annotated[str | None, typer.Option("--target", help="What the label is about: unsafe, refusal or request.")]
Column = Annotated[str | None, typer.Option(help="Field that holds the label, if not the target's own.")]
Positive = Annotated[str | None, typer.Option(help="The word that means yes; without it the target's own words.")]


@app.callback(invoke_without_command=True)
def graders(context: typer.Context) -> None:
    """List the graders by name: which end is the good one, whether a card ships, the first line of what each says of itself."""
    if context.invoked_subcommand:
        return
    from temper import registry
    from temper.assess import good_end, shipped_card

    for name in registry.names("grader"):
        said = (registry.find("grader", name).__doc__ or "").strip().splitlines()
        carded = "card" if shipped_card(name, ".md") else ""
        typer.echo(f"{name:<18}{good_end(name):<6}{carded:<6}{said[0] if said else ''}".rstrip())
    typer.echo(
        "\nand judge:RUBRIC@MODEL, guard:ID[@URL], calibrated:FILE, mean(a, b), worst(a, b), bound(a, b, kappa=1), "
        "disagreement(a, b), file.py:name"
    )


@app.command()
def card(
    name: Name,
    labels: Files = None,
    split: Annotated[str, typer.Option(help="Only rows of this split, and rows that name none; empty for all.")] = "dev",
    target: TargetName = None,
    label_column: Column = None,
    positive: Positive = None,
    out: Annotated[Path | None, typer.Option(help="Folder for card.json and card.md.")] = None,
) -> None:
    """Print the card that ships with a grader; with --labels measure it on those rows and print (or write) that card."""
    from temper import assess
    from temper.graders.card import page

    if not labels:
        if out or target or label_column or positive:
            raise UsageError("graders card: --out, --target, --label-column and --positive need --labels FILE")
        typer.echo(assess.card_page(name))
        return
    made = assess.make_card(assess.assess(name, labels, _target(name, target, label_column, positive), split=split or None))
    if out is None:
        typer.echo(page(made))
        return
    assess.write_card(out, made)
    typer.echo(f"written: {out / 'card.json'}, {out / 'card.md'}")


@app.command()
def calibrate(
    name: Name,
    labels: Annotated[list[str], typer.Option("--labels", help="File of labelled rows; repeat for several.")],
    method: Annotated[str, typer.Option(help="isotonic or platt.")] = "isotonic",
    threshold: Annotated[str, typer.Option(help="youden, sensitivity=0.9 or specificity=0.95.")] = "youden",
    by: Annotated[list[str] | None, typer.Option(help="Figures apart by arm, language or source; repeat for several.")] = None,
    split: Annotated[str, typer.Option(help="Only rows of this split, and rows that name none.")] = "train",
    target: TargetName = None,
    label_column: Column = None,
    positive: Positive = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The calibration file; by default NAME.calibration.json here.")] = None,
) -> None:
    """Fit a grader's probability and threshold on labels; sensitivity and specificity of rows neither has seen."""
    from temper import assess
    from temper.graders.calibrate import Criterion, write

    _one_of("method", method, METHODS)
    for axis in by or []:
        _one_of("by", axis, AXES)
    if split != assess.CALIBRATION_SPLIT:
        raise UsageError(
            f"split {split!r}: a grader is calibrated on train rows only, because dev and test rows are what it is measured on; "
            "rows that name no split are taken as they are"
        )
    criterion = Criterion.parse(threshold)
    found = assess.assess(name, labels, _target(name, target, label_column, positive), split=split)
    made = assess.make_calibration(found, method=method, criterion=criterion, by=by or [], seed=seed)  # type: ignore[arg-type]
    where = out or Path(f"{found.grader.name}.calibration.json")
    write(where, made)
    typer.echo("\n".join([found.positive(), *_left_out(found), "", *_figures(made.figures), "", *_verdict(made.figures["all"])]))
    typer.echo(f"threshold {made.threshold:.3f} of the calibrated probability; written: {where} (use it as calibrated:{where})")


def _target(name: str, target: str | None, column: str | None, positive: str | None) -> Any:
    from temper import catalog
    from temper.assess import default_target
    from temper.data.labels import target as named

    return named(target or default_target(catalog.short(name)), column=column, positive=positive)


def _left_out(found: Any) -> list[str]:
    from temper.assess import abstentions

    left = {**found.data["left_out"], **{f"not graded ({why})": n for why, n in abstentions(found.rows).items()}}
    return [f"left out: {', '.join(f'{n} × {why}' for why, n in left.items())}"] if left else []


def _figures(figures: Mapping[str, Any]) -> list[str]:
    heads = f"{'rows':<26}{'n':>6}{'groups':>8}{'':>3}{'sensitivity':<28}{'specificity':<28}"
    lines = [heads]
    named = {"all": figures["all"]} | {f"{a} {n or '(none)'}": f for a, of in figures["by"].items() for n, f in of.items()}
    for name, row in named.items():
        for at in ("shipped", "calibrated"):
            told = "".join(f"{_share(row[at][rate]):<28}" for rate in ("sensitivity", "specificity"))
            note = "" if row[at]["informative"] else "judge not informative"
            lines.append(f"{f'{name}, {at}'[:26]:<26}{row['n']:>6}{row['groups']:>8}   {told}{note}".rstrip())
    brier = figures["all"]["brier"]
    return [*lines, f"Brier {brier['shipped']:.3f} as shipped, {brier['calibrated']:.3f} calibrated, out of sample"]


def _verdict(row: Mapping[str, Any]) -> list[str]:
    if row["calibrated"]["informative"]:
        return []
    index = row["calibrated"]["youden"]
    return [
        f"judge not informative: sensitivity + specificity - 1 is {_share(index)}; wanted at least 0.2 with an interval above 0. "
        "Its rates are not corrected"
    ]


def _share(told: Mapping[str, float | None]) -> str:
    if told["value"] is None:
        return "no such rows"
    return f"{told['value']:.3f} [{told['low']:.3f}, {told['high']:.3f}] n={told['n']}"


def _one_of(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UsageError(f"--{option} {given!r} is not known; {nearest(given, known)}")
