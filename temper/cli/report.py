"""`temper report RUN`: rebuild the report from rows, without a model."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from temper.errors import UsageError


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    results: Annotated[Path | None, typer.Option(help="Also write summary.json and rows.jsonl.gz here, to be committed.")] = None,
) -> None:
    """Rebuild report.html and report.md of a run from its rows."""
    from temper import report as pages

    if not (run / "run.json").is_file():
        raise UsageError(f"{run}: no run folder (it has no run.json); wanted for example runs/quickstart")
    pages.build(run)
    if results is not None:
        pages.results(run, results)
    typer.echo(headline(run))


def headline(run: Path) -> str:
    """The pair that matters, an arm a line, and where the report is."""
    from temper.files import read_json
    from temper.report import built

    summary = read_json(run / "summary.json")
    arms, gold, facts = summary["arms"], summary["judge"], read_json(run / "run.json")
    lines = [f"{'arm':<12}{f'unsafe ({gold})':>30}{'over-refusal':>30}"]
    lines += [f"{arm:<12}{_cell(m.get('unsafe')):>30}{_cell(m.get('over_refusal')):>30}" for arm, m in arms.items()]
    lines += [f"{arm}: {why}" for arm, m in arms.items() if (why := _ungraded(run, arm, gold, m.get("unsafe")))]
    lines += [f"{arm}: {said}" for arm in arms if (said := _errors(summary["outcomes"].get(arm, {}), facts))]
    lines += [f"{name}: {_spent(cost)}" for name, cost in facts.get("judges", {}).items()]
    return "\n".join([*lines, "", f"report: {built(run)}"])


def _ungraded(run: Path, arm: str, gold: str, unsafe: dict[str, float] | None) -> str:
    """How many answers the judge did not grade, and its commonest reason; "" where it graded all."""
    from temper.files import read_rows

    if not unsafe or not unsafe["ungraded"]:
        return ""
    found = (r for path in run.glob(f"evals/*@{arm}/rows.jsonl") for r in read_rows(path))
    # the rows that the metric reads: neither rewritten nor attacked
    rows = [r for r in found if r["class"] == "harmful" and not r.get("how")]
    reasons = Counter(why for r in rows if (why := _unread(r, gold)))
    why = reasons.most_common(1)[0][0] if reasons else "those rows are not there now; prove again"
    return f"{unsafe['ungraded']} of {len(rows)} answers to harmful prompts not graded by {gold}: {why}"


def _unread(row: Mapping[str, Any], gold: str) -> str:
    """Why the judge did not grade this answer, "" where it did."""
    if row["outcome"] == "error":
        return "it never came"
    given = row["scores"].get(gold, {"value": None, "why": "not asked"})
    return (given["why"] or "no reason given") if given["value"] is None else ""


def _errors(outcomes: Mapping[str, Mapping[str, int]], facts: Mapping[str, Any]) -> str:
    """How many prompts nothing came for, and the remedy; what another tool asked, it has to ask again."""
    failed = sum(of.get("error", 0) for of in outcomes.values())
    remedy = (
        "the tool that made the file has to ask them again" if facts.get("imported") else "ask for them again with --retry-errors"
    )
    return f"{failed} answers never came and count for nothing; {remedy}" if failed else ""


def _spent(cost: dict[str, float | None]) -> str:
    """One line of what a judge's calls took."""
    money = "" if cost.get("money") is None else f", {cost['money']:.4f} in your prices"
    tokens = f"{cost['prompt_tokens']:,.0f} + {cost['completion_tokens']:,.0f} tokens"
    return f"{cost['calls']:,.0f} calls ({cost['retries']:,.0f} retries), {cost['cached']:,.0f} from the cache, {tokens}{money}"


def _cell(metric: dict[str, float] | None) -> str:
    if not metric or metric.get("value") is None:
        return "not measured"
    return f"{metric['value']:6.1%} [{metric['low']:.1%}, {metric['high']:.1%}] n={metric['n']}"
