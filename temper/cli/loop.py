"""`temper loop`: what people said of answers, out of the gateway and back into training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from temper.cli.keys import DATABASE, SECRET, Database, Secret
from temper.text.invisible import spelled_out

if TYPE_CHECKING:
    from temper.serve.keyring import Keyring
    from temper.serve.store import Store
    from temper.serve.vault import Vault

app = typer.Typer(
    help="Bring reviews, corrections and audits of the gateway back into training.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Since = Annotated[float, typer.Option(help="Only what was said since then, in seconds since the epoch.")]
Audit = Annotated[str, typer.Option(help="Only what this scheduled audit found.")]
Redact = Annotated[bool, typer.Option(help="Replace personal data in the texts by placeholders.")]
Models = Annotated[Path, typer.Option(help="Folder of the pointer to the model that serves.")]
Suites = Annotated[str, typer.Option(help="Suites that measure it, comma separated; what they ask is not trained on.")]
MODELS, SUITES = Path("models"), "harm,over-refusal,benign,reasoning"


@app.command()
def export(
    to: Annotated[str, typer.Option(help="sft, preference, responses, langfuse or otel.")] = "sft",
    out: Annotated[Path, typer.Option(help="The file to write, JSON lines.")] = Path("export.jsonl"),
    database: Database = DATABASE,
    secret: Secret = SECRET,
    since: Since = 0.0,
    audit: Audit = "",
    redact: Redact = True,
    comments: Annotated[bool, typer.Option(help="Put what people wrote into Langfuse's scores.")] = False,
) -> None:
    """Write reviewed and corrected answers as training rows, Langfuse scores or evaluation events."""
    from temper.errors import UsageError
    from temper.files import append_rows
    from temper.serve import export as exported

    if out.exists():
        raise UsageError(f"--out {out}: is there already, and an export is never appended to; give another name")
    store, vault, keyring = _open(database, secret)
    name = exported.Pseudonyms.of(keyring)
    found = store.now(lambda conn: exported.items(conn, vault, name, since=since, audit=audit), reads=True)
    rows = exported.rows(to, map(exported.without_pii, found) if redact else found, comments=comments)
    store.close()
    append_rows(out, rows)
    left = len(found) - len(rows)
    typer.echo(f"{len(rows)} rows in {out}; {left} items had no correction, no kept text or no leave to be trained on")


@app.command()
def audits(database: Database = DATABASE, secret: Secret = SECRET) -> None:
    """List the scheduled audits: how much passed, how much should not have."""
    from temper.serve.export import audits_made

    store, _, _ = _open(database, secret)
    for row in store.now(audits_made, reads=True):
        between = "" if row["low"] is None else f", {row['low']:.2%} to {row['high']:.2%} of what passed"
        typer.echo(f"{row['id']}  {row['missed']} of {row['judged']} judged should not have passed{between}")
    store.close()


@app.command()
def plan(
    base: Annotated[str, typer.Argument(help="The model to train on: a name, a folder or RUN@ARM's folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the rows, the recipe and the gate.")] = Path("loop"),
    database: Database = DATABASE,
    secret: Secret = SECRET,
    since: Since = 0.0,
    audit: Audit = "",
    redact: Redact = True,
    suites: Suites = SUITES,
    limit: Annotated[int, typer.Option(min=0, help="Prompts of each suite; 0 for all.")] = 0,
) -> None:
    """Gather corrected answers, and write the recipe that trains on them and the gate that decides."""
    from temper import loop

    named = tuple(s.strip() for s in suites.split(",") if s.strip())
    store, vault, keyring = _open(database, secret)
    gathered = loop.gather(store, vault, keyring, since=since, audit=audit, suites=named, redact=redact)
    store.close()
    recipe = loop.plan(out, base, gathered, suites=named, limit=limit)
    for why, n in gathered.left_out.items():
        typer.echo(f"{n} left out: {why}")
    typer.echo(f"{gathered.splits['train']} rows to train on, {gathered.splits['dev']} held out; {recipe}")
    typer.echo(f"read both files, then: temper loop run {out}")


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="What `temper loop plan` wrote.")],
    models: Models = MODELS,
    seed: Annotated[int | None, typer.Option(help="Overrides the recipe's seed.")] = None,
) -> None:
    """Train, prove, hold against the gate, and promote what passes. Exit 0: promoted, 3: failed, 4: undecided."""
    from temper import loop
    from temper.prove.gate import EXIT, Verdict

    verdict = loop.run(folder, models=models, seed=seed)
    typer.echo(f"{verdict}: {_serving(models)}")
    raise typer.Exit(EXIT[Verdict(verdict)])


@app.command()
def rollback(models: Models = MODELS) -> None:
    """Point at the model before the present one."""
    from temper import loop

    typer.echo(spelled_out(f"serving: {loop.roll_back(models)}"))


@app.command()
def history(models: Models = MODELS) -> None:
    """Every decision about which model serves, oldest first."""
    from temper import loop

    for row in loop.history(models):
        typer.echo(spelled_out(f"{row['at']:.0f}  {row['verdict']:<13}{row['run']}"))
    typer.echo(_serving(models))


def _serving(models: Path) -> str:
    from temper import loop

    present = loop.serving(models)
    return spelled_out(f"serving: {present}") if present else "no model was promoted yet"


def _open(database: str, secret: Path) -> "tuple[Store, Vault, Keyring]":
    """The gateway's database and vault. Raises `UsageError` where either is missing: a new one would hold nothing."""
    from temper.serve.keyring import open_keyring
    from temper.serve.store import Store
    from temper.serve.vault import Vault

    keyring = open_keyring(secret, make=False)
    store = Store(database, make=False)
    return store, Vault(store, keyring), keyring
