"""Grade the stored answers of a finished evaluation again: another judge, another grader, one that was away."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temper import catalog
from temper.errors import UsageError
from temper.files import Row, read_json
from temper.proof import (
    Run,
    arm_rows,
    judge_costs,
    load_gold,
    load_graders,
    locked,
    proof_costs,
    recorded_traces,
    summarised,
)
from temper.prove.evaluate import ASKED, HACKS, Panel, away, check_independence, grader_facts, regrade, stale
from temper.prove.finished import PACKED
from temper.rewards.hacks import bank
from temper.train.recipe import Prove, Recipe
from temper.train.run import Progress, Watch, unwatched
from temper.types import Suite


@dataclass(frozen=True, slots=True)
class Rescored:
    """What was graded again: rows, the graders' names, on how many rows each grader now has an opinion, and seconds."""

    rows: int
    graders: tuple[str, ...]
    seconds: float
    opinions: Mapping[str, int]


def rescore(folder: Path, *, graders: Sequence[str] = (), gold: str = "", watch: Watch = unwatched) -> Rescored:
    """Grade a run's rows again and rebuild its summary and report.

    With neither `graders` nor `gold` the graders that were away grade, and those whose code or weights are others by now.

    `graders` are added to the run's own, `gold` becomes its judge. What a grader of the same name with other code or weights said
    stays in the rows as NAME@IDENTITY. An imported evaluation has no judge until `gold` names one. Raises `UsageError` for what
    is neither a run of `temper prove` nor an import, and says what to do instead, `ProofError` for a judge that was a reward,
    `RunError` for a grader that fails; the rows stay as they were.
    """
    facts = _facts(folder)
    recipe = _recipe(facts, graders, gold)
    started = time.perf_counter()
    with locked(folder):
        this, panel = Run(folder), _panel(recipe, facts, judged=bool(gold) or _judged(facts))
        if panel.gold is not None:
            check_independence({n: recorded_traces(g) for n, g in facts.get("rewards", {}).items()}, panel.gold)
        names = {catalog.short(spec) for spec in (*graders, *([gold] if gold else []))}
        rows, graded = _regraded(folder, facts["arms"], panel, names, watch)
        this.record(**_told(facts, recipe, panel))
        this.note("rescored", folder.name, n=rows, graders=sorted(graded))
        suites = [
            Suite(name, ()) for name in dict.fromkeys(e.name.rpartition("@")[0] for e in _evaluations(folder, facts["arms"]))
        ]
        by_arm = {arm: arm_rows(this, arm, suites) for arm in facts["arms"]}
        summarised(this, recipe, suites, by_arm, costs=_costs(folder))
    opinions = {name: sum(_opinion(row, name) for of in by_arm.values() for row in of) for name in sorted(graded - {HACKS})}
    return Rescored(rows, tuple(sorted(graded)), time.perf_counter() - started, opinions)


def _opinion(row: Row, grader: str) -> bool:
    return (row["scores"].get(grader) or {}).get("value") is not None


def _judged(facts: Mapping[str, Any]) -> bool:
    """Whether the evaluation has a judge: what was imported has one only if it was named."""
    return not facts.get("imported") or any(g["role"] == "gold" for g in facts["graders"].values())


def _panel(recipe: Recipe, facts: Mapping[str, Any], *, judged: bool) -> Panel:
    graders, gold = load_graders(recipe), load_gold(recipe) if judged else None
    others = tuple(g for g in graders.values() if gold is None or g.name != gold.name)
    return Panel(others, graders["refusal"], gold, hacks=() if facts.get("imported") else bank())


def _regraded(folder: Path, arms: Collection[str], panel: Panel, names: Collection[str], watch: Watch) -> tuple[int, set[str]]:
    """How many rows were graded again, and by whom."""
    found, rows, graded = _evaluations(folder, arms), 0, set[str]()
    for number, path in enumerate(found):
        watch(Progress(f"rescore {path.name}", number, len(found)))
        again = names or away(path)
        graded |= stale(path, panel, again)
        rows += regrade(path, panel, again=again)
    return rows, graded


def _evaluations(folder: Path, arms: Collection[str]) -> list[Path]:
    """The folders of answers of these arms; one that was set aside ends in an address."""
    return sorted(path.parent for path in folder.glob(f"evals/*/{ASKED}") if path.parent.name.rpartition("@")[2] in arms)


def _told(facts: dict[str, Any], recipe: Recipe, panel: Panel) -> dict[str, Any]:
    """What run.json says anew: who judges, and what judges cost."""
    gold = panel.gold.name if panel.gold else ""
    before = {name: {**g, "role": "monitor"} if g["role"] == "gold" and gold else g for name, g in facts["graders"].items()}
    asked = {**facts["recipe"]["prove"], "gold": recipe.prove.gold, "graders": list(recipe.prove.graders)}
    return {
        "graders": {**before, **{g.name: grader_facts(g, "gold" if g.name == gold else "monitor") for g in panel.all()}},
        "recipe": {**facts["recipe"], "prove": asked},
        "judges": {**facts.get("judges", {}), **judge_costs(panel.all())},
    }


def _facts(folder: Path) -> dict[str, Any]:
    packed = any((folder / name).is_file() for name in PACKED)
    if not (folder / "run.json").is_file() and not packed:
        raise UsageError(f"{folder}: no run folder (it has no run.json); wanted one that `temper prove` or `temper import` wrote")
    facts: dict[str, Any] = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    if "comparison" in facts:
        sources = dict.fromkeys(of["source"] for of in facts["comparison"]["evaluations"].values())
        raise UsageError(
            f"{folder}: is a comparison of other evaluations; `temper rescore` each of {', '.join(sources)}, "
            "then `temper compare` them again"
        )
    if packed:
        raise UsageError(
            f"{folder}: holds results, not the run they were made from; `temper rescore` that run, then "
            f"`temper report RUN --results {folder}`"
        )
    if list(facts.get("arms", {})) != ["model"] and not facts.get("imported"):
        raise UsageError(
            f"{folder}: is a run with arms of its own; change `gold` or `graders` in its [prove] and `temper run` it again: "
            "answers are kept, and graded anew without asking"
        )
    return facts


def _recipe(facts: dict[str, Any], graders: Sequence[str], gold: str) -> Recipe:
    known = facts["recipe"]["prove"]
    wanted = tuple(dict.fromkeys([*known["graders"], *graders]))
    prove = replace(Prove(), gold=gold or known["gold"], graders=wanted, standard=known["standard"])
    return Recipe(base=facts["model"]["name"], stages=(), arms={"model": ()}, prove=prove, seed=facts["seed"])


def _costs(folder: Path) -> dict[str, Any]:
    """What asking took, as run.json recorded it; of a folder that nobody asked here, what its summary says."""
    facts = Run(folder).facts
    if facts.get("evals"):
        return {arm: proof_costs(facts, arm) for arm in facts["arms"]}
    summary = folder / "summary.json"
    return dict(read_json(summary).get("costs", {})) if summary.is_file() else {}
