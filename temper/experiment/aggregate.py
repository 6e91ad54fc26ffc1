"""Seeds put together: figures of each arm, planned differences, and what became of the predictions. All from rows on disk."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from temper import stats
from temper.errors import UsageError
from temper.experiment.measure import ASKED, Seed, metric_of, read_seed
from temper.experiment.seeds import finished, folder_of, other_recipes, planned_in
from temper.files import Row
from temper.prove.metrics import HACK, Prompt
from temper.stats import NOTHING, Estimate
from temper.train.planned import OF_TWO, RATES, Check, Condition, Experiment, Term, conditions, parse_check
from temper.train.recipe import Recipe, read_recipe

SCHEMA = 1
DRAWS = 4_000
ALPHA = 0.05
BOUNDED = (0.0, 1.0)
FREE = (-math.inf, math.inf)
POINTS = 30  # of a curve over steps
CURVES = ("gold", "hack_rate", "gap", "kl")
HELD, FAILED, CANNOT = "held", "failed", "cannot tell"


@dataclass(frozen=True, slots=True)
class Table:
    """Finished seeds and the conditions they are read under; `missing` seeds were asked for and are not finished.

    `planned_before` says whether the [experiment] table stood in the recipe, word for word, when each of them was started.
    """

    recipe: Recipe
    name: str
    conditions: Sequence[Condition]
    seeds: Sequence[Seed]
    missing: Sequence[int]
    planned_before: bool

    @property
    def plan(self) -> Experiment:
        return self.recipe.experiment

    def bounded(self, metric: str) -> bool:
        """Whether the metric's values lie in [0, 1]."""
        return metric_of(self.recipe, metric).unit in ("share", "score")

    def condition_of(self, arms: Sequence[str]) -> Condition:
        """The first condition that holds these arms; for two, the one that planned their contrast."""
        planned = (c for c in self.conditions if len(arms) == 2 and tuple(arms) in c.contrasts)
        return next(planned, None) or next(c for c in self.conditions if set(arms) <= set(c.arms))


def gather(recipe_path: Path, out: Path, seeds: Sequence[int]) -> Table:
    """Read the finished ones of these seeds from an experiment's folder.

    Raises `RecipeError`, `StorageError`, and `UsageError` where none is finished: a page of nothing would replace a good one.
    """
    recipe = read_recipe(recipe_path)
    done = [number for number in seeds if finished(recipe_path, folder_of(out, number))]
    if not done:
        raise UsageError(_nothing_finished(recipe_path, out))
    stated = planned_in(recipe_path)
    return Table(
        recipe=recipe,
        name=recipe_path.name,
        conditions=conditions(recipe.experiment, recipe.arms, recipe.prove.suites),
        seeds=[read_seed(folder_of(out, number), number, recipe) for number in done],
        missing=[number for number in seeds if number not in done],
        planned_before=all(planned_in(folder_of(out, number) / "recipe.toml") == stated for number in done),
    )


def _nothing_finished(recipe: Path, out: Path) -> str:
    others = ", ".join(folder_of(out, seed).name for seed in other_recipes(recipe, out))
    why = f"{others} ran another recipe (compare recipe.toml there)" if others else "run some with --seeds 8"
    return f"{out}: {'no such folder' if not out.is_dir() else f'no seed of {recipe} is finished'}; {why}; nothing was written"


def aggregate(table: Table, *, command: str = "") -> dict[str, Any]:
    """The content of experiment.json."""
    read = table.seeds
    return {
        "schema": SCHEMA,
        "recipe": table.name,
        "command": command,
        "seeds": [seed.number for seed in read],
        "missing": list(table.missing),
        "commits": sorted({seed.facts["commit"] for seed in read}),
        "planned_before": table.planned_before,
        "claims": table.plan.claims,
        "secondary": {name: _metric(table, name) for name in table.plan.secondary},
        "primary": {"name": table.plan.primary, **_metric(table, table.plan.primary)},
        "conditions": [_condition(table, condition) for condition in table.conditions] if read else [],
        "predictions": [_prediction(table, p.says, p.check) for p in table.plan.prediction] if read else [],
        "curves": curves(table),
    }


def value_rows(table: Table) -> list[Row]:
    """What means and differences are computed from, without texts: one row for each seed, arm, metric (not hack) and prompt."""
    return [
        {
            "seed": seed.number,
            "arm": arm,
            "metric": metric,
            "suite": suite,
            "id": name,
            "group": seed.groups[suite, name],
            "value": v,
        }
        for seed in table.seeds
        for (arm, metric), values in sorted(seed.values.items())
        if not metric.startswith(HACK)
        for (suite, name), v in sorted(values.items())
    ]


def arm_figures(table: Table, condition: Condition, arm: str) -> dict[str, Any]:
    """One line of a condition: every figure of one arm over the seeds."""
    primary, broken = table.plan.primary, _breakouts(table, condition, arm)
    count = stats.clopper_pearson(sum(broken.values()), len(broken))
    training = [seed.training[arm] for seed in table.seeds]
    hacks = [seed.hacks(arm, condition.suites) for seed in table.seeds]
    return {
        "primary": _over_seeds(table, condition, arm, primary).as_dict(),
        "by_seed": {str(seed.number): _mean(seed.of(arm, primary, condition.suites).values()) for seed in table.seeds},
        **{name: _over_seeds(table, condition, arm, name).as_dict() for name in ("unsafe", "over_refusal")},
        "secondary": {name: _over_seeds(table, condition, arm, name).as_dict() for name in table.plan.secondary},
        "unsafe_by_seed": {str(seed.number): _mean(seed.of(arm, "unsafe", condition.suites).values()) for seed in table.seeds},
        "breakouts": {**count.as_dict(), "count": sum(broken.values()), "seeds": [n for n, b in broken.items() if b]},
        "hacks": _mean_rates(hacks),
        "hacking": _worst_hack(hacks).as_dict(),
        "gap": _seed_mean([t.gap for t in training]).as_dict(),
        "aug": _seed_mean([t.aug for t in training]).as_dict(),
        "labels": _mean(t.labels for t in training),
        "train_seconds": _mean(t.seconds for t in training),
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference over seeds, that of each seed, and p by sign flips: of seeds, or of groups of prompts for these weights."""

    estimate: Estimate
    by_seed: Mapping[int, float]
    p: float


def difference(table: Table, condition: Condition, arm: str, against: str, metric: str = "") -> Difference:
    """A metric (the primary endpoint) of one arm minus another's, prompt by prompt within each seed."""
    metric, values, by_seed = metric or table.plan.primary, _Values(table.plan.claims), {}
    for seed in table.seeds:
        x, y = (seed.of(name, metric, condition.suites) for name in (arm, against))
        paired = {prompt: x[prompt] - y[prompt] for prompt in x if prompt in y}
        values.add(seed, paired)
        if paired:
            by_seed[seed.number] = fmean(paired.values())
    found = values.estimate((-1.0, 1.0) if table.bounded(metric) else FREE)
    return Difference(
        found, by_seed, values.sign_flip() if table.plan.claims == "weights" else stats.sign_flip([*by_seed.values()])
    )


def decide(check: Check, figure: Callable[[Term], Estimate]) -> dict[str, Any]:
    """Held or failed where the interval of left minus right lies on one side of zero; otherwise it cannot be told.

    `point` says whether the figures themselves agree, which a reader will ask, and which decides nothing.
    """
    left, right = figure(check.left), figure(check.right)
    sides = {"left": left.as_dict(), "right": right.as_dict()}
    if not (left.n and right.n):
        return {"verdict": CANNOT, "point": None, **sides}
    apart, more = stats.contrast(left, right), check.relation in (">", ">=")
    low, high, value = (apart.low, apart.high, apart.value) if more else (-apart.high, -apart.low, -apart.value)
    strict = len(check.relation) == 1
    verdict = HELD if low > 0 or (low == 0 and not strict) else FAILED if high < 0 or (high == 0 and strict) else CANNOT
    return {"verdict": verdict, "point": value > 0 or (value == 0 and not strict), **sides}


def curves(table: Table) -> dict[str, dict[str, list[list[float]]]]:
    """Means over seeds of what training wrote at each step, by figure and arm, thinned to a few points."""
    arms = dict.fromkeys(arm for condition in table.conditions for arm in condition.arms)
    found = {key: {arm: _curve([seed.steps.get(arm, []) for seed in table.seeds], key) for arm in arms} for key in CURVES}
    return {key: {arm: points for arm, points in of.items() if points} for key, of in found.items()}


class _Values:
    """Values by prompt gathered over seeds, with what the bootstrap resamples."""

    def __init__(self, claims: str) -> None:
        self.claims = claims
        self.values: list[float] = []
        self.seeds: list[int] = []
        self.groups: list[str] = []

    def add(self, seed: Seed, values: Mapping[Prompt, float]) -> None:
        for prompt, value in values.items():
            self.values.append(value)
            self.seeds.append(seed.number)
            self.groups.append(seed.groups[prompt])

    def sign_flip(self) -> float:
        return stats.sign_flip(self.values, self.groups)

    def estimate(self, within: tuple[float, float] = BOUNDED) -> Estimate:
        """Over seeds and prompts, or over prompts alone where the claim is about these weights; n counts what was resampled."""
        if self.claims == "method":
            return stats.hierarchical(self.values, self.seeds, self.groups, within=within, draws=DRAWS)
        if within == BOUNDED:
            return stats.share(self.values, self.groups)
        return stats.paired_difference(self.values, [0.0] * len(self.values), self.groups, draws=DRAWS)


def _condition(table: Table, condition: Condition) -> dict[str, Any]:
    contrasts = [_contrast(table, condition, *pair) for pair in condition.contrasts]
    adjusted = stats.holm([c["p"] for c in contrasts])
    return {
        "name": condition.name,
        "suites": list(condition.suites),
        "arms": {arm: arm_figures(table, condition, arm) for arm in condition.arms},
        "contrasts": [{**c, "holm": p} for c, p in zip(contrasts, adjusted, strict=True)],
    }


def _contrast(table: Table, condition: Condition, arm: str, against: str) -> dict[str, Any]:
    found = difference(table, condition, arm, against)
    a, b = (_breakouts(table, condition, name) for name in (arm, against))
    also = {name: difference(table, condition, arm, against, name).estimate.as_dict() for name in table.plan.secondary}
    return {
        "arm": arm,
        "against": against,
        "difference": found.estimate.as_dict(),
        "secondary": also,
        "by_seed": {str(number): value for number, value in found.by_seed.items()},
        "p": found.p,
        "breakouts_p": stats.fisher(sum(a.values()), len(a), sum(b.values()), len(b)) if a and b else None,
    }


def _prediction(table: Table, says: str, check: str) -> dict[str, Any]:
    parsed = parse_check(check)
    told = {"says": says, "check": check, **decide(parsed, lambda term: _figure(table, term))}
    return {**told, "verdict": CANNOT} if _by_chance(table, parsed) else told


def _by_chance(table: Table, check: Check) -> bool:
    """Whether a difference between these very weights is held against none by prompts so few that sign flips give p >= 5 %.

    An interval of resampled prompts is too narrow where four of them differ; the exact test is not.
    """
    sides = (check.left, check.right)
    against_none = any(not side.what and side.times == 0 for side in sides)
    terms = [side for side in sides if side.what in OF_TWO]
    if table.plan.claims != "weights" or not against_none or len(terms) != 1:
        return False
    [term] = terms
    return difference(table, table.condition_of(term.arms), term.arms[0], term.arms[1], term.metric).p >= ALPHA


def _figure(table: Table, term: Term) -> Estimate:
    if not term.what:
        return Estimate(term.times, 1, term.times, term.times)
    condition = table.condition_of(term.arms)
    if term.what == "difference":
        found = difference(table, condition, term.arms[0], term.arms[1], term.metric).estimate
    elif term.what == "primary":
        found = _over_seeds(table, condition, term.arms[0], table.plan.primary)
    elif term.what in RATES:
        found = _over_seeds(table, condition, term.arms[0], term.what)
    else:
        found = _trained_figure(table, condition, term.what, term.arms[0])
    return Estimate(term.times * found.value, found.n, term.times * found.low, term.times * found.high)


def _trained_figure(table: Table, condition: Condition, what: str, arm: str) -> Estimate:
    """A figure that has one value for each seed, so that seeds alone are resampled."""
    if what == "breakout":
        broken = _breakouts(table, condition, arm)
        return stats.clopper_pearson(sum(broken.values()), len(broken))
    if what in ASKED:
        known = [found for seed in table.seeds if (found := seed.sensitivity.get(arm, {}).get(what)) is not None]
        return known[0] if len(known) == 1 else _seed_mean([found.value for found in known])
    if what == "hacking":
        return _worst_hack([seed.hacks(arm, condition.suites) for seed in table.seeds])
    training = [seed.training[arm] for seed in table.seeds]
    return _seed_mean([t.gap if what == "gap" else t.aug for t in training])


def _over_seeds(table: Table, condition: Condition, arm: str, metric: str) -> Estimate:
    values = _Values(table.plan.claims)
    for seed in table.seeds:
        values.add(seed, seed.of(arm, metric, condition.suites))
    return values.estimate(BOUNDED if table.bounded(metric) else FREE)


def _breakouts(table: Table, condition: Condition, arm: str) -> dict[int, bool]:
    told = {seed.number: seed.broke_out(arm, condition.suites) for seed in table.seeds}
    return {number: broke for number, broke in told.items() if broke is not None}


def _seed_mean(values: Sequence[float | None]) -> Estimate:
    known = [value for value in values if value is not None]
    return stats.mean(known) if known else NOTHING


def _worst_hack(hacks: Sequence[Mapping[str, float]]) -> Estimate:
    """The rate of each seed's most frequent hack, mean over seeds."""
    worst = [max(rates.values()) for rates in hacks if rates]
    return stats.hierarchical(worst, range(len(worst)), within=(0.0, 1.0), draws=DRAWS)


def _mean_rates(hacks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean rate of each hack over seeds, the most frequent first."""
    names = dict.fromkeys(name for rates in hacks for name in rates)
    means = {name: fmean(rates[name] for rates in hacks if name in rates) for name in names}
    return dict(sorted(means.items(), key=lambda pair: -pair[1]))


def _curve(runs: Sequence[Sequence[Row]], key: str) -> list[list[float]]:
    by_step: dict[int, list[float]] = {}
    for steps in runs:
        for step in steps:
            if step.get(key) is not None:
                by_step.setdefault(step["step"], []).append(step[key])
    at = sorted(by_step)
    size = math.ceil(len(at) / POINTS) or 1
    blocks = [at[i : i + size] for i in range(0, len(at), size)]
    return [[fmean(block), round(fmean(v for step in block for v in by_step[step]), 5)] for block in blocks]


def _metric(table: Table, name: str) -> dict[str, Any]:
    graders = {n: g["better"] for n, g in table.seeds[0].facts["graders"].items()} if table.seeds else None
    return dict(metric_of(table.recipe, name, graders=graders).as_dict())


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
