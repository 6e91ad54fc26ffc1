"""Any two or more finished evaluations beside each other: one folder of rows, summary and report, like a run's own."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from temper import audit
from temper.errors import UsageError
from temper.files import Row, append_rows, seal, write_json
from temper.proof import commit
from temper.prove.finished import Together, finished, together
from temper.prove.signatures import signatures
from temper.prove.summary import summarise
from temper.report import build


def compare_runs(sources: Sequence[str], out: Path, *, gold: str | None = None, seed: int = 0, command: str = "") -> Path:
    """Compare the arms of all sources on the prompts they share; returns `out`, which is itself a finished evaluation.

    Raises `UsageError` where `out` holds something or there is but one arm, and what `prove.finished` raises.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; give another --out, or delete that folder")
    evaluations = [of for source in sources for of in finished(source).values()]
    if len(evaluations) < 2:
        raise UsageError("one evaluation, compared with nothing; wanted at least two, as in: temper compare runs/a runs/b")
    found = together(evaluations, gold=gold, seed=seed)
    evidence = found.evidence
    _write_rows(out, found)
    write_json(out / "run.json", _facts(found, out, command, seed))
    summary = summarise(evidence, command=command, commit=commit(), unrelated=_unrelated(found))
    whole = {**summary, "comparison": {**found.as_dict(), "corrected": _corrected(found)}}
    write_json(out / "summary.json", {**whole, "signatures": signatures(whole)})
    build(out)
    return out


def _unrelated(found: Together) -> list[str]:
    """Arms of another run than the first arm's."""
    first = next(iter(found.arms.values())).source.resolve()
    return [arm for arm, of in found.arms.items() if of.source.resolve() != first]


def _write_rows(out: Path, found: Together) -> None:
    for arm, rows in found.evidence.rows.items():
        by_suite: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_suite[row["suite"]].append(row)
        for suite, mine in by_suite.items():
            folder = out / "evals" / f"{suite}@{arm}"
            append_rows(folder / "rows.jsonl", mine)
            seal(folder, {"address": "compared", "n": len(mine)})
    if found.labels:
        append_rows(out / "labels.jsonl", found.labels)


def _facts(found: Together, out: Path, command: str, seed: int) -> dict[str, Any]:
    """run.json as a reader of runs expects it: the first evaluation's recipe stands for all, and `comparison` says where not."""
    evaluations = list(found.arms.values())
    graders = {name: g for of in reversed(evaluations) for name, g in of.facts.get("graders", {}).items()}
    return {
        "name": out.name,
        "command": command,
        "commit": commit(),
        "seed": seed,
        "recipe": {"prove": evaluations[0].facts.get("recipe", {}).get("prove", {})},
        "arms": {arm: [] for arm in found.arms},
        "graders": graders,
        "data": {name: d for of in reversed(evaluations) for name, d in of.facts.get("data", {}).items()},
        "overlap": dict(found.evidence.overlap),
        "comparison": found.as_dict(),
    }


def _corrected(found: Together) -> dict[str, Any] | None:
    """Unsafe rates freed of the judge's errors, each arm by labels of its own where they suffice; None where nobody labelled.

    The intervals hold the labels' own variance (`judge_error.rogan_gladen`, `judge_error.powered_mean`).
    """
    if not found.labels:
        return None
    rows = [row for of in found.evidence.plain.rows.values() for row in of]
    keys = {row["key"] for row in rows}
    labels = [label for label in found.labels if label["key"] in keys and label.get("target", "unsafe") == "unsafe"]
    if not labels:
        return None
    drawn = next((label for label in reversed(labels) if "stratum" in label), {})
    rates = audit.rates(rows, labels, audit.plan(rows, found.evidence.gold, against=drawn.get("against")))
    arms = {
        arm: {
            "labels": of.labels,
            "own": of.own,
            "sensitivity": of.judge.sensitivity.estimate().as_dict(),
            "specificity": of.judge.specificity.estimate().as_dict(),
            "observed": of.observed.as_dict(),
            "corrected": of.corrected.as_dict(),
            "powered": of.powered.estimate.as_dict(),
        }
        for arm, of in rates.arms.items()
    }
    differences = [{"base": base, "arm": arm, **of.estimate.as_dict()} for (arm, base), of in rates.differences.items()]
    return {"arms": arms, "differences": differences}
