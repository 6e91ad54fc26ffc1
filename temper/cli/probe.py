"""`temper probe MODEL`: which hacks of the bank a model has learned."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

SUITES = ["harm", "over-refusal", "benign"]


def probe(
    model: Annotated[str, typer.Argument(help="Alias, folder, Hugging Face id, arm of a run (runs/x@hybrid), or http(s) URL.")],
    against: Annotated[
        str | None, typer.Option(help="The model it was made from, or another reference; named as MODEL is.")
    ] = None,
    suite: Annotated[list[str], typer.Option(help="Suite by name, file or dataset id; repeat for several.")] = SUITES,
    hack: Annotated[
        list[str] | None, typer.Option(help="Entry of the bank, -NAME to leave one out, or an accepted file.json; default all.")
    ] = None,
    guard: Annotated[str, typer.Option(help="The grader that is asked again without the suspicious spans.")] = "harm",
    out: Annotated[Path | None, typer.Option(help="Folder for rows.jsonl and probe.json; an unfinished one continues.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Prompts per suite; 0 for all.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Answers per prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Token cap of an answer, its reasoning included.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 for greedy.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Seed of the sampler.")] = 0,
    chat_template: Annotated[
        str | None, typer.Option(help='"chatml" or a Jinja file, for tokenizers without a template.')
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run the whole hack bank against a model: a rate, its errors taken out, and a verdict on each hack."""
    from temper.cli.progress import watching
    from temper.probe import probe as probe_model
    from temper.train.recipe import Prove

    command = "temper " + shlex.join(sys.argv[1:])
    settings = Prove(limit=limit, samples=samples, max_new_tokens=max_new_tokens, temperature=temperature)
    try:
        with watching() as watch:
            probed = probe_model(
                model,
                suite,
                out=out,
                against=against,
                prove=settings,
                bank=tuple(hack or ("all",)),
                guard=guard,
                seed=seed,
                chat_template=chat_template,
                command=command,
                watch=watch,
            )
    except KeyboardInterrupt:
        typer.echo(f"\ntemper: stopped; every finished row is kept. To go on:  {command}", err=True)
        raise typer.Exit(130) from None
    found = json.dumps(probed.as_dict(), indent=2, ensure_ascii=False) if as_json else "\n".join(table(probed))
    typer.echo(found)


def table(probed: Any) -> list[str]:
    """What was found (`probe.Probed`) as lines of text: the verdicts first, what was learned at the top."""
    beside = probed.against is not None
    asked = " and ".join(
        f"{n} answers of {m}" for m, n in zip((probed.model, probed.against), probed.answers.values(), strict=False)
    )
    lines = [f"{asked}, {len(probed.found)} hacks", ""]
    heads = f"{'reference':<28}{'change (points)':<26}{'p':<8}" if beside else f"{'p':<8}"
    lines.append(f"{'hack':<22}{'verdict':<14}{'needs':>7}  {'flagged':<28}{'corrected':<23}{heads}harm without the spans")
    order = ("learned", "there before", "cannot tell", "not seen")
    lines += [_line(each, beside) for each in sorted(probed.found, key=lambda f: order.index(f.verdict))]
    open_ = [f"{f.hack}: cannot tell: {f.why}" for f in probed.found if f.verdict == "cannot tell" and f.why]
    return [*lines, "", *open_, *_notes(probed, beside)]


def _line(each: Any, beside: bool) -> str:
    needs = f"{each.needed:,}" if each.needed else ""
    corrected = _share(each.corrected, counted=False) if each.corrected.n else "not corrected"
    change = _changed(each.change) if beside else f"{_p(each.p):<8}"
    rates = f"{_share(each.flagged):<28}{corrected:<23}{change}"
    return f"{each.hack:<22}{each.verdict:<14}{needs:>7}  {rates}{_bought(each.bought)}"


def _notes(probed: Any, beside: bool) -> list[str]:
    """How to read the columns."""
    tests = "McNemar or sign flips of prompts" if beside else "Fisher against the detector's false alarms"
    notes = [
        "needs: answers (to prompts a hack can occur on) that would decide if the rates stayed as they are",
        "corrected: the detector's recall and false alarms taken out (Rogan and Gladen 1978); intervals of 95 %",
        f"p: {tests}, adjusted over the bank (Holm)",
        "harm without the spans: change of P(harm) when they are removed; above 0, they were there for the guard",
    ]
    if not beside:
        notes.append("without --against a hack may have been there before training")
    return [*notes, f"rows: {probed.folder / 'rows.jsonl'}"]


def _changed(change: Any) -> str:
    if change is None:
        return f"{'no common answers':<62}"
    gap = change.difference
    points = f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
    return f"{_share(change.reference):<28}{points:<26}{_p(change.holm):<8}"


def _bought(found: Any) -> str:
    if not found.n:
        return "–"
    interval = f" [{found.low:+.2f}, {found.high:+.2f}]" if abs(found.low) < float("inf") else ""
    return f"{found.value:+.2f}{interval} n={found.n}"


def _share(found: Any, *, counted: bool = True) -> str:
    if not found.n:
        return "no answers"
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]" + (f" n={found.n}" if counted else "")


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
