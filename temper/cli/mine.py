"""`temper hacks mine RUN` and `temper hacks accept FILE`: hacks nobody wrote down, and a person's word on them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from temper.text.invisible import spelled_out


def mine(
    run: Annotated[Path, typer.Argument(help="A run folder, a stage folder, or a rollouts.jsonl.zst.")],
    seed: Annotated[int, typer.Option(help="Seed that draws the prompts a precision is measured on.")] = 0,
) -> None:
    """Look for wordings that are paid well and audited bad; candidates are written to RUN/candidates, and used by nothing."""
    from temper.rewards.mining import mine_run

    for journal, mined in mine_run(run, seed=seed).items():
        typer.echo(spelled_out("\n".join([f"{journal}: {_seen(mined)}", *_candidates(mined.candidates)])))


def accept(
    file: Annotated[Path, typer.Argument(help="A candidate that `temper hacks mine` wrote.")],
    name: Annotated[str, typer.Option("--as", help="Name of the detector: lower-case words joined by hyphens.")],
    bank: Annotated[Path, typer.Option(help="Folder of the detectors you accepted.")] = Path("hacks"),
) -> None:
    """Accept a candidate as a detector, after reading it; a recipe names the file: hacks = ["all", "hacks/NAME.json"]."""
    from temper.rewards import hacks, mining

    path = mining.accept(file, name, bank, known=[hack.name for hack in hacks.bank()])
    pairs = mining.twins(path)
    typer.echo(f'written: {path}, with {len(pairs)} pairs as its test; use it in a recipe: hacks = ["all", "{path}"]')


def _seen(mined: Any) -> str:
    found = f"{mined.audited} audited answers, {mined.suspects} bad ones paid in the top quartile by no known hack, "
    return f"{found}{mined.clusters} clusters; candidates: {len(mined.candidates)}"


def _candidates(candidates: Any) -> list[str]:
    if not candidates:
        return []
    lines = [f"{'candidate':<18}{'answers':>8}{'prompts':>8}  {'bad where it fires':<28}{'bad at all':>10}  wording"]
    for c in candidates:
        precision = f"{c.precision.value:.0%} [{c.precision.low:.0%}, {c.precision.high:.0%}] n={c.precision.n}"
        wording = repr(c.spans[0][:80]) if c.spans else "(no stretch of text, see its n-grams)"
        lines.append(f"{c.id:<18}{c.size:>8}{c.prompts:>8}  {precision:<28}{c.base_rate:>10.0%}  {wording}")
    return [*lines, "Read a candidate before you accept it: temper hacks show RUN/candidates/ID.json"]
