"""Grade the stored answers of a finished evaluation again: another judge, another grader, one that was away."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temper import catalog
from temper.errors import UsageError
from temper.files import read_json
from temper.proof import Run, arm_rows, grader_facts, judge_costs, load_gold, load_graders, locked, recorded_traces, summarised
from temper.prove.evaluate import ASKED, Panel, away, check_independence, regrade, stale
from temper.rewards.hacks import bank
from temper.train.recipe import Prove, Recipe
from temper.train.run import Progress, Watch, unwatched
from temper.types import Suite


@dataclass(frozen=True, slots=True)
class Rescored:
    """What was graded again: rows, the graders' names, and seconds."""

    rows: int
    graders: tuple[str, ...]
    seconds: float


def rescore(folder: Path, *, graders: Sequence[str] = (), gold: str = "", watch: Watch = unwatched) -> Rescored:
    """Grade a run's rows again and rebuild its summary and report.

    With neither `graders` nor `gold` the graders that were away grade, and those whose code or weights are others by now.

    `graders` are added to the run's own, `gold` becomes its judge. What a grader of the same name with other code or weights said
    stays in the rows as NAME@IDENTITY. Raises `UsageError` for what is no run of `temper prove`, `ProofError` for a judge that
    was a reward, `RunError` for a grader that fails; the rows stay as they were.
    """
    facts = _facts(folder)
    recipe = _recipe(facts, graders, gold)
    started = time.perf_counter()
    with locked(folder):
        this, panel = Run(folder), _panel(recipe)
        check_independence({n: recorded_traces(g) for n, g in facts.get("rewards", {}).items()}, load_gold(recipe))
        names = {catalog.short(spec) for spec in (*graders, *([gold] if gold else []))}
        rows, graded = _regraded(folder, panel, names, watch)
        this.record(**_told(facts, recipe, panel))
        this.note("rescored", folder.name, n=rows, graders=sorted(graded))
        suites = [Suite(path.name.rpartition("@")[0], ()) for path in _evaluations(folder)]
        summarised(this, recipe, suites, {"model": arm_rows(this, "model", suites)}, costs=_costs(folder))
    return Rescored(rows, tuple(sorted(graded)), time.perf_counter() - started)


def _panel(recipe: Recipe) -> Panel:
    graders, gold = load_graders(recipe), load_gold(recipe)
    return Panel(tuple(g for g in graders.values() if g.name != gold.name), graders["refusal"], gold, hacks=bank())


def _regraded(folder: Path, panel: Panel, names: Collection[str], watch: Watch) -> tuple[int, set[str]]:
    """How many rows were graded again, and by whom."""
    found, rows, graded = _evaluations(folder), 0, set[str]()
    for number, path in enumerate(found):
        watch(Progress(f"rescore {path.name}", number, len(found)))
        again = names or away(path)
        graded |= stale(path, panel, again)
        rows += regrade(path, panel, again=again)
    return rows, graded


def _evaluations(folder: Path) -> list[Path]:
    """The folders of answers; one that was set aside ends in an address."""
    return sorted(path.parent for path in folder.glob(f"evals/*/{ASKED}") if path.parent.name.endswith("@model"))


def _told(facts: dict[str, Any], recipe: Recipe, panel: Panel) -> dict[str, Any]:
    """What run.json says anew: who judges, and what judges cost."""
    gold = panel.gold.name if panel.gold else ""
    before = {name: {**g, "role": "monitor"} if g["role"] == "gold" else g for name, g in facts["graders"].items()}
    asked = {**facts["recipe"]["prove"], "gold": recipe.prove.gold, "graders": list(recipe.prove.graders)}
    return {
        "graders": {**before, **{g.name: grader_facts(g, "gold" if g.name == gold else "monitor") for g in panel.all()}},
        "recipe": {**facts["recipe"], "prove": asked},
        "judges": {**facts.get("judges", {}), **judge_costs(panel.all())},
    }


def _facts(folder: Path) -> dict[str, Any]:
    if not (folder / "run.json").is_file():
        raise UsageError(f"{folder}: no run folder (it has no run.json); wanted one that `temper prove` wrote")
    facts: dict[str, Any] = read_json(folder / "run.json")
    if list(facts.get("arms", {})) != ["model"]:
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
    summary = folder / "summary.json"
    return dict(read_json(summary)["costs"]) if summary.is_file() else {}
