"""The command line: one file a verb; parse, call one function, print what it returned."""

import errno
import os
import sys
import warnings

import typer

from temper.cli import (
    audit,
    compare,
    doctor,
    experiment,
    gate,
    graders,
    hacks,
    holds,
    interop,
    keys,
    loop,
    mine,
    people,
    plan,
    probe,
    prove,
    replay,
    report,
    rescore,
    run,
    serve,
    suites,
)
from temper.errors import TemperError
from temper.text.invisible import spelled_out

# Idle OpenMP threads sleep instead of spinning: on a busy machine two spinning threads were up to ten times slower than one.
# The OpenMP library reads this once, when torch loads it; no verb imports torch before it is called, so here is early enough.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

app = typer.Typer(
    help="Make an open reasoning model measurably less harmful, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run.run)
app.command()(experiment.experiment)
app.command()(plan.plan)
app.add_typer(prove.app, name="prove")
app.command()(compare.compare)
app.command()(gate.gate)
app.command()(report.report)
app.command()(rescore.rescore)
app.command("import")(interop.import_)
app.command()(interop.export)
app.command()(replay.replay)
app.command()(probe.probe)
app.add_typer(graders.app, name="graders")
hacks.app.command()(mine.mine)
hacks.app.command()(mine.accept)
app.add_typer(hacks.app, name="hacks")
app.add_typer(audit.app, name="audit")
app.add_typer(suites.app, name="suites")
app.command()(serve.serve)
app.add_typer(keys.app, name="keys")
app.add_typer(people.app, name="people")
app.add_typer(holds.app, name="holds")
app.add_typer(loop.app, name="loop")
app.command()(doctor.doctor)


def main() -> None:
    """Run the command line; an expected failure is one line on stderr and exit code 2 (usage) or 1 (failure)."""
    # what the training libraries will rename in their next major version is our concern, not our users'
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except TemperError as error:
        print(f"temper: {spelled_out(str(error))}", file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    except ModuleNotFoundError as error:
        lacking = [f"pip install '{doctor.PACKAGE}[{extra}]'" for extra, missing in doctor.lacking().items() if extra and missing]
        if error.name is None or error.name.startswith("temper") or not lacking:
            raise
        print(f"temper: needs {error.name}, which is not installed; {' or '.join(lacking)} brings it", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        full = "the disk is full; every finished row is kept: free some space and run again"
        said = f"temper: {error.filename}: {full if error.errno == errno.ENOSPC else error.strerror}"
        print(said, file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None
