"""`temper prove MODEL`: measure one model, endpoint or arm of a run; `temper prove plan PILOT`: how many prompts that takes."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from temper.text.invisible import spelled_out

if TYPE_CHECKING:
    from temper.prove.power import Planned

SUITES = ["harm", "over-refusal", "benign", "reasoning"]
MODEL = "model"


class ModelFirst(TyperGroup):
    """A group in which what is no command is the model to be proved: `temper prove smollm2-135m` needs no further word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else [MODEL, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The model's command goes by the group's own name, so that usage and help read as they are typed."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == MODEL else name, command, rest


app = typer.Typer(
    cls=ModelFirst, help="Measure a model; `prove plan` computes how many prompts that takes.", rich_markup_mode=None
)


@app.command(MODEL, epilog="temper prove plan PILOT: how many prompts a proof needs.")
def prove(
    model: Annotated[str, typer.Argument(help="Alias, folder, Hugging Face id, arm of a run (runs/x@hybrid), or http(s) URL.")],
    suite: Annotated[list[str], typer.Option(help="Suite by name, file or dataset id; repeat for several.")] = SUITES,
    out: Annotated[Path | None, typer.Option(help="Folder for rows and report.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Prompts per suite; 0 for all.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Answers per prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Token cap of an answer, its reasoning included.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 for greedy.")] = 0.7,
    grader: Annotated[
        list[str] | None, typer.Option(help="One more grader, by name or file.py:name; repeat for several.")
    ] = None,
    gold: Annotated[str, typer.Option(help="The judge; refused if it was a reward of this model.")] = "gold",
    rewrite: Annotated[
        list[str] | None, typer.Option(help="Ask every suite rewritten too, as in shots=3,place=system; repeat for several.")
    ] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Ask every harmful prompt attacked too; repeat for several.")] = None,
    grid: Annotated[int, typer.Option(min=0, help="Cells of a fractional design of rewrites; 0 for none.")] = 0,
    attacker: Annotated[str, typer.Option(help="Model that writes the prompts of attacks that need one.")] = "",
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Nucleus of sampling.")] = 1.0,
    profile: Annotated[str, typer.Option(help='"r1": the decoding R1 is published with, over the flags above.')] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at an endpoint.")] = 8,
    least_closed: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refuse where fewer of the first thoughts close; 0 only warns.")
    ] = 0.0,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Ask again where nothing came.")] = False,
    guard: Annotated[
        str, typer.Option(help="Policy, by name or file: its effect on the same answers is told beside the model alone.")
    ] = "",
    alone: Annotated[str, typer.Option(help="For a gateway's URL: who is behind it, to be asked without it.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the sampler.")] = 0,
    chat_template: Annotated[
        str | None, typer.Option(help='"chatml" or a Jinja file, for tokenizers without a template.')
    ] = None,
) -> None:
    """Measure a model: harm and over-refusal, language, format, cost; rows and a report."""
    from temper.cli.progress import watching
    from temper.cli.report import headline
    from temper.proof import prove_model
    from temper.subject import profiled
    from temper.train.recipe import Prove

    command = "temper " + shlex.join(sys.argv[1:])
    settings = Prove(
        gold=gold,
        graders=tuple(grader or ()),
        rewrites=tuple(rewrite or ()),
        attacks=tuple(attack or ()),
        grid=grid,
        attacker=attacker,
        limit=limit,
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
    )
    settings = profiled(settings, profile)
    try:
        with watching() as watch:
            folder = prove_model(
                model,
                suite,
                out=out,
                prove=settings,
                seed=seed,
                chat_template=chat_template,
                concurrency=concurrency,
                least_closed=least_closed,
                retry_errors=retry_errors,
                guard=guard,
                alone=alone,
                command=command,
                watch=watch,
            )
    except KeyboardInterrupt:
        typer.echo(f"\ntemper: stopped; every finished row is kept. To go on:  {command}", err=True)
        raise typer.Exit(130) from None
    typer.echo(headline(folder))


@app.command()
def plan(
    pilot: Annotated[str, typer.Argument(help="A finished evaluation: a run, an arm of one, results or an imported folder.")],
    against: Annotated[
        list[str] | None, typer.Argument(metavar="[MORE]...", help="More evaluations of the same prompts.")
    ] = None,
    delta: Annotated[float, typer.Option(help="The change that the proof should show, as a share.")] = 0.05,
    margin: Annotated[float, typer.Option(help="The loss that the proof should rule out, as a share.")] = 0.02,
    power: Annotated[float, typer.Option(help="The chance of showing a change that is there.")] = 0.8,
    alpha: Annotated[
        float, typer.Option(help="The chance of showing one that is not; divide it by your number of claims.")
    ] = 0.05,
    calibration: Annotated[
        Path | None, typer.Option(help="The judge's calibration file: its errors hide a part of every change.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the plan here as JSON.")] = None,
) -> None:
    """Compute the number of prompts from a pilot: what its arms disagreed on, its clusters, its samples, its judge."""
    from temper.files import write_json
    from temper.graders.calibrate import read
    from temper.prove import power as planning
    from temper.prove.finished import finished, together

    found = together([of for source in [pilot, *(against or [])] for of in finished(source).values()])
    youden = read(calibration).errors().youden.value if calibration else 1.0
    planned = planning.plan(found.evidence, delta=delta, margin=margin, power=power, alpha=alpha, youden=youden)
    if json is not None:
        write_json(json, {"delta": delta, "margin": margin, "power": power, "alpha": alpha, "youden": youden,
                          "warnings": list(found.warnings), "plan": [planning.as_dict(p) for p in planned]})  # fmt: skip
    for warning in found.warnings:
        typer.echo(spelled_out(f"warning: {warning}"), err=True)
    judged = "" if calibration is None else f"; the judge shows {youden:.0%} of a change of unsafe answers"
    typer.echo(f"prompts to show a change of {delta:.1%}, and to rule out a loss of {margin:.1%}, power {power:.0%}{judged}\n")
    typer.echo(f"{'':<40}{'pilot n':>8}  {'discordance':<22}{'deff':>5}{'answers':>8}{'change':>9}{'cautious':>10}{'loss':>9}")
    for each in planned:
        typer.echo(spelled_out("\n".join(_planned(each))))
    typer.echo("\nanswers: a prompt; cautious: at the upper end of the discordance's 95 % interval")
    if any(not each.pilot.arm for each in planned):
        typer.echo("one arm: its discordance is that of arms which answer independently, an upper bound; add a second evaluation")
    if any(each.pilot.within is None for each in planned):
        typer.echo("what more answers a prompt would save is unknown: the pilot asked once; ask it with --samples 2")


def _planned(each: "Planned") -> list[str]:
    """One metric of two arms: what the pilot saw, and a line for each number of answers a prompt that it tells about."""
    of = each.pilot
    named = f"{of.metric}, {f'{of.arm} − {of.base}' if of.arm else of.base}"
    seen = f"{of.discordance.value:.3f} [{of.discordance.low:.3f}, {of.discordance.high:.3f}]"
    lines: list[str] = []
    for change, loss in zip(each.change, each.loss, strict=True):
        if change.prompts is None or change.cautious is None or loss.prompts is None:
            continue
        pilot = f"{named:<40}{of.n:>8}  {seen:<22}{of.deff:>5.2f}" if not lines else " " * 77
        lines.append(f"{pilot}{change.samples:>8}{change.prompts:>9,}{change.cautious:>10,}{loss.prompts:>9,}")
    return lines
