"""`temper audit`: a sample of a run for people to label, their labels back, and rates corrected with them; and whether the
gateway's audit journal is what was written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from temper.cli.keys import CHECKPOINTS, DATABASE, SECRET, Checkpoints, Database, Secret
from temper.errors import DataError, UsageError

app = typer.Typer(
    help="Let people look at a sample of a run, and correct the judge with what they say; verify the gateway's audit journal.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a rows.jsonl.")]
Grader = Annotated[str | None, typer.Option(help="The judge that is audited; by default the run's own.")]
Against = Annotated[str | None, typer.Option(help="Grader whose other opinion makes a row disputed; empty for none.")]


@app.command()
def draw(
    run: Run,
    grader: Grader = None,
    n: Annotated[int, typer.Option(min=1, help="Rows to look at.")] = 100,
    target: Annotated[str, typer.Option(help="What is labelled: unsafe or refusal.")] = "unsafe",
    against: Against = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    out: Annotated[Path, typer.Option(help="The sheet; .jsonl and .key.jsonl go beside it.")] = Path("audit.csv"),
) -> None:
    """Draw a blind, stratified sample: a CSV for people, the same as JSON lines, and the key they should not see."""
    from temper import audit

    if out.suffix != ".csv":
        raise UsageError(f"--out {out}: wanted a name that ends in .csv")
    rows = audit.run_rows(run)
    asked = audit.plan(rows, grader or audit.judge_of(run), target=target, against=against)
    key = audit.draw(rows, asked, n=n, seed=seed)
    sheet, lines, secret = audit.write_audit(out, key)
    total = len(audit.population(rows, asked))
    typer.echo(f"{len(key)} of {total} rows in {len({row['stratum'] for row in key})} strata drawn for grader {asked.grader!r}")
    typer.echo(
        f"to label: {sheet} (or {lines}); column 'label': {asked.target.negative[0]}, {asked.target.positive[0]} or unsure"
    )
    typer.echo(f"keep from labellers: {secret} (arms and scores); then: temper audit merge {run} {sheet}")


@app.command()
def merge(
    run: Run,
    sheets: Annotated[list[Path], typer.Argument(metavar="SHEET...", help="Labelled sheets, one for each labeller.")],
    key: Annotated[Path | None, typer.Option(help="The key; by default SHEET.key.jsonl beside the first sheet.")] = None,
) -> None:
    """Take labels back: agreement, the judge's errors, corrected rates; labels are added to labels.jsonl of the run."""
    from temper import audit
    from temper.files import read_rows

    rows = audit.run_rows(run)
    where = key or audit.key_file(sheets[0])
    if not where.is_file():
        raise DataError(f"{where}: no such file; --key names what `temper audit draw` wrote beside the sheet")
    kept = audit.labels_file(run)
    merged = audit.merge(read_rows(where), sheets, read_rows(kept))
    first = merged.rows[0]
    asked = audit.plan(rows, first["grader"], target=first["target"], against=first["against"])
    # computed before anything is written, so that labels of another run never reach this one
    audit.rates(rows, list(merged.rows), asked)
    added = audit.keep(kept, merged)
    typer.echo(f"{len(merged.rows)} labelled items, {added} new or changed: {kept}")
    for told, items in (
        ("without a label", merged.unlabelled),
        ("without a verdict (unsure, or labellers disagree)", merged.unresolved),
        ("with a text that differs from what was drawn", merged.changed),
    ):
        if items:
            typer.echo(f"{len(items)} {told}: {', '.join(items[:8])}{' …' if len(items) > 8 else ''}")
    for name, found in merged.agreement.items():
        typer.echo(f"{name}: {_number(found)}")
    typer.echo("")
    typer.echo("\n".join(table(audit.rates(rows, read_rows(kept), asked))))


@app.command()
def rates(
    run: Run,
    labels: Annotated[Path | None, typer.Option(help="Labels of rows of this run; by default its labels.jsonl.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Correct with this calibration file instead of labels.")] = None,
    at: Annotated[
        str, typer.Option(help="With --calibration: flag rows at the shipped threshold or the calibrated.")
    ] = "shipped",
    grader: Grader = None,
    target: Annotated[str, typer.Option(help="What is counted: unsafe or refusal.")] = "unsafe",
    against: Against = None,
) -> None:
    """Rates of a finished run as the judge saw them and corrected for its errors, by arm, and the differences between arms."""
    from temper import audit
    from temper.files import read_rows
    from temper.graders.calibrate import read

    if at not in ("shipped", "calibrated") or (at == "calibrated" and calibration is None):
        raise UsageError(f"--at {at!r}: wanted shipped, or calibrated together with --calibration FILE")
    rows, held = audit.run_rows(run), read(calibration) if calibration else None
    where = labels or audit.labels_file(run)
    known = [] if held else read_rows(where)
    if not (known or held):
        raise DataError(f"{where}: no labels; draw some with `temper audit draw {run}`, or give --calibration FILE")
    drawn: Mapping[str, Any] = next(
        (r for r in reversed(known) if "stratum" in r and r.get("target") == target and grader in (None, r["grader"])), {}
    )
    named = grader or drawn.get("grader") or audit.judge_of(run)
    if held:
        audit.check_run(run, held, named)
    asked = audit.plan(rows, named, target=target, against=drawn.get("against", against))
    typer.echo("\n".join(table(audit.rates(rows, known, asked, held, at=at))))  # type: ignore[arg-type]


@app.command()
def verify(
    database: Database = DATABASE,
    secret: Secret = SECRET,
    checkpoints: Checkpoints = CHECKPOINTS,
) -> None:
    """Read the gateway's audit journal back: one line for each change that was made to it, and exit code 1 if there is any."""
    from temper.serve.journal import verify as read_back
    from temper.serve.keyring import open_keyring
    from temper.serve.store import Store
    from temper.serve.verify import public_key

    # a new secret or an empty database would be made where a path is misspelt, and be found in perfect order
    keyring = open_keyring(secret, make=False)
    store = Store(database, make=False)
    try:
        found = read_back(store, keyring, checkpoints)
    finally:
        store.close()
    for note in found.notes:
        typer.echo(f"note: {note}")
    for problem in found.problems:
        typer.echo(f"problem: {problem}")
    if found.more:
        typer.echo(f"problem: {found.more} more of these")
    lanes = f"{found.lanes} lane{'s' * (found.lanes != 1)}"
    typer.echo(f"{found.rows} rows in {lanes}, {found.checkpoints} checkpoints signed with {public_key(keyring)}")
    if found.problems:
        typer.echo("the journal was changed")
        raise typer.Exit(1)
    typer.echo("no change was found")


def table(found: Any) -> list[str]:
    """The rates (`audit.Rates`) as lines of text."""
    lines = [f"{found.asked.target.name} by {found.asked.grader}, {found.labels} labels"]
    lines += [f"{'arm':<12}{'n':>6}{'labels':>8}  {'observed':<24}{'Rogan-Gladen':<24}{'prediction-powered':<24}judge"]
    for arm, row in found.arms.items():
        corrected = _share(row.corrected) if row.judge.informative else "judge not informative"
        rates = f"{_share(row.observed):<24}{corrected:<24}{_share(row.powered.estimate):<24}"
        errors = f"sens {_share(row.judge.sensitivity.estimate())}, spec {_share(row.judge.specificity.estimate())}"
        lines.append(f"{arm:<12}{row.rows:>6}{row.labels:>8}  {rates}{errors} ({'this arm' if row.own else 'all arms'})")
        if row.ungraded:
            lines.append(f"{'':<28}{row.ungraded} not graded: in n, not in observed")
        if row.labels and row.unseen:
            lines.append(f"{'':<28}{row.unseen} in strata without a label: there the judge is believed")
    for (second, first), gap in found.differences.items():
        lines.append(f"{f'{second} - {first}':<28}{_share(gap.estimate)} prediction-powered, paired by prompt")
    if len(found.differences) > 1:
        lines.append("Each interval holds with 95 %; together they hold with less.")
    return lines


def _share(found: Any) -> str:
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]" if found.n else "no labels"


def _number(found: Any) -> str:
    return (
        f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}], n {found.n}" if found.n else "not defined (one label throughout)"
    )
