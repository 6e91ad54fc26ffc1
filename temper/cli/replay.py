"""`temper replay RUN`: recompute every reward and weight of a run from its journal, and say whether they agree to the bit."""

from pathlib import Path
from typing import Annotated

import typer

SHOWN = 5


def replay(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one stage folder of a run.")]) -> None:
    """Recompute what every grpo stage paid, audited and learned from its journal; exit code 1 if anything differs."""
    from temper.errors import ProofError, StorageError
    from temper.rewards.replay import DESIGN, replayed

    stages = [folder] if (folder / DESIGN).is_file() else sorted(p.parent for p in folder.glob(f"stages/*/{DESIGN}"))
    if not stages:
        raise StorageError(f"{folder}: no stage with a {DESIGN}; wanted the folder of a run that has a grpo stage")
    wrong = 0
    for stage in stages:
        found = replayed(stage)
        wrong += len(found.differences)
        said = f"{len(found.differences)} differences" if found.differences else "all agree to the bit"
        typer.echo(f"{found.stage}: {found.rows} rows in {found.steps} steps, {found.changes} changes of weights: {said}")
        for difference in found.differences[:SHOWN]:
            typer.echo(f"  {difference}")
    if wrong:
        raise ProofError(
            f"{folder}: {wrong} values are not what the journal says; its rows or the code were changed since the run"
        )
