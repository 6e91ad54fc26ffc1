"""`temper gate RUN --policy FILE`: a finished evaluation against a policy, for CI."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from temper.text.invisible import spelled_out


def gate(
    run: Annotated[str, typer.Argument(help="A run, an arm of one (runs/x@hybrid), results or an imported folder.")],
    policy: Annotated[Path, typer.Option(help="The policy (TOML).")],
    baseline: Annotated[str | None, typer.Option(help="Another evaluation whose first arm relative rules compare with.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the decision here as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the decision here as JUnit XML.")] = None,
    exit_code_fail: Annotated[int, typer.Option(min=1, max=255, help="Exit code of a failed policy.")] = 3,
) -> None:
    """Hold an evaluation against a policy. Exit 0: pass, 3: fail, 4: inconclusive; 1 and 2 are errors, and decide nothing."""
    from temper.files import write_json, write_text
    from temper.prove.finished import finished, together
    from temper.prove.gate import Verdict, decide, read_policy

    rules, before = read_policy(policy), list(finished(baseline).values())[:1] if baseline else []
    found = together([*before, *finished(run).values()])
    decision = decide(replace(rules, baseline="") if baseline else rules, found.evidence)
    if json is not None:
        write_json(json, decision.as_dict())
    if junit is not None:
        write_text(junit, decision.junit())
    for warning in found.warnings:
        typer.echo(spelled_out(f"warning: {warning}"), err=True)
    for check in decision.checks:
        against = f" against {check.base}" if check.base else ""
        typer.echo(spelled_out(f"{check.verdict:<13}{check.arm}{against}: {check.rule.says()}\n{'':<13}{check.why}"))
    typer.echo(f"\n{decision.verdict}: {policy}")
    raise typer.Exit(exit_code_fail if decision.verdict == Verdict.FAIL else decision.exit_code)
