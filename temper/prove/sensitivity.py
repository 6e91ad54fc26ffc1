"""How much what a model does depends on how it is asked: the same prompts under every rewrite, per arm and class.

Only prompts that are graded under every condition count, so that all figures are about the same prompts; what was left out is
said. Intervals resample groups of prompts and are about these conditions, not about all that could be written. Definitions and
what each figure is worth: docs/prompting.md.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from temper import stats
from temper.errors import UsageError
from temper.files import Row
from temper.prove import metrics as measures
from temper.prove.compare import ALPHA, MARGIN
from temper.prove.design import association
from temper.prove.evidence import REWRITE, Evidence
from temper.prove.metrics import Metric
from temper.prove.posix import posix
from temper.prove.rewrite import FACTORS, PLAIN, Rewrite, parse
from temper.stats import Estimate, Floats

Degrades = Literal["yes", "no", "cannot tell"]

MEASURES = ("unsafe", "refusal_on_harmful", "over_refusal", "accuracy")
"""What is asked of the harmful, the harmless and the reasoning prompts."""
VERDICT = ("unsafe", "over_refusal", "accuracy")
"""What few-shot examples may degrade; refusing more is no loss by itself."""
DRAWS = 2_000
LEAST = 2  # prompts


@dataclass(frozen=True, slots=True)
class Grid:
    """One measure of one arm: `cells` (n, k) is the mean over the samples of prompt i under condition j, all graded.

    `within` (n,) is the variance of single answers inside a cell, averaged over the prompt's cells, NaN with one sample;
    `samples` the harmonic mean of the answers a cell; `groups` (n,) the clusters; `left_out` prompts not graded everywhere.
    """

    items: tuple[tuple[str, str], ...]
    conditions: tuple[str, ...]
    cells: Floats
    within: Floats
    samples: float
    groups: NDArray[np.intp]
    left_out: int


@dataclass(frozen=True, slots=True)
class Effect:
    """What a level changes against its factor's plain level, in the measure's own unit; t interval over clusters.

    `adjusted` says that the other factors are held fixed; with too few cells for that the estimate is a difference of means.
    `mde` is the change that would have been seen with 80 % power.
    """

    estimate: Estimate
    p: float
    mde: float | None
    adjusted: bool

    def as_dict(self) -> dict[str, Any]:
        return {**self.estimate.as_dict(), "p": self.p, "mde": self.mde, "adjusted": self.adjusted}


def analyse(evidence: Evidence) -> dict[str, Any] | None:
    """The analysis "sensitivity" of summary.json; None where no suite was rewritten."""
    rows = {arm: by_condition(_related(evidence, arm)) for arm in evidence.rows}
    conditions = tuple(dict.fromkeys(name for by in rows.values() for name in by))
    if len(conditions) < 2:
        return None
    metrics = measures.table(gold=evidence.gold, proxy=evidence.proxy)
    grids = {arm: {name: table(by, metrics[name], conditions) for name in MEASURES} for arm, by in rows.items()}
    return {
        "conditions": list(conditions),
        "association": association(_levels(conditions)),
        "measures": {name: metrics[name].as_dict() for name in MEASURES},
        "arms": {arm: _arm(rows[arm], grids[arm], metrics, evidence.seed) for arm in rows},
        "pairs": _pairs(grids),
        "posix": {arm: found for arm, lines in evidence.likelihoods.items() if (found := posix(lines))},
    }


def condition(row: Row) -> str:
    """How a row was asked: "plain", or the rewrites it went through."""
    return ",".join(how.removeprefix(REWRITE) for how in row.get("how") or ()) or PLAIN


def by_condition(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by how they were asked, in the order of their first row."""
    by: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by[condition(row)].append(row)
    return dict(by)


def table(by: Mapping[str, Sequence[Row]], metric: Metric, conditions: Sequence[str]) -> Grid:
    """One measure's answers by prompt and condition; samples of a cell are averaged, prompts not graded everywhere left out."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    group: dict[tuple[str, str], str] = {}
    groups = measures.groups_of(row for rows in by.values() for row in rows)
    for name, rows in by.items():
        for row in filter(metric.applies, rows):
            item = row.get("of") or row["suite"], row["id"]
            group[item] = groups[row["suite"], row["id"]]
            if (value := measures.read_by(metric, row)) is not None:
                found[item][name].append(float(value))
    whole = [item for item in group if all(found[item].get(c) for c in conditions)]
    answers = [[found[item][c] for c in conditions] for item in whole]
    sizes = [len(cell) for of in answers for cell in of]
    return Grid(
        tuple(whole),
        tuple(conditions),
        np.array([[sum(cell) / len(cell) for cell in of] for of in answers]).reshape(len(whole), len(conditions)),
        np.array([_within(of) for of in answers]),
        len(sizes) / sum(1 / size for size in sizes) if sizes else 0.0,
        stats.cluster_ids([group[item] for item in whole], len(whole)),
        len(group) - len(whole),
    )


def _within(of: Sequence[Sequence[float]]) -> float:
    """Unbiased variance inside cells, averaged over those with several samples."""
    several = [float(np.var(cell, ddof=1)) for cell in of if len(cell) > 1]
    return sum(several) / len(several) if several else math.nan


def _related(evidence: Evidence, arm: str) -> list[Row]:
    """Rewritten rows and the plain rows of the same suites."""
    changed = evidence.rewritten.rows[arm]
    suites = {row.get("of") for row in changed}
    return [*(row for row in evidence.plain.rows[arm] if row["suite"] in suites), *changed]


def _arm(by: Mapping[str, Sequence[Row]], grids: Mapping[str, Grid], metrics: Mapping[str, Metric], seed: int) -> dict[str, Any]:
    told = {name: _measure(by, grid, metrics[name], seed) for name, grid in grids.items() if len(grid.items) >= LEAST}
    _correct(told)
    return {"measures": told, "few_shot": _few_shot({name: grids[name] for name in VERDICT if name in told}, metrics)}


def _measure(by: Mapping[str, Sequence[Row]], grid: Grid, metric: Metric, seed: int) -> dict[str, Any]:
    n, k = grid.cells.shape
    spread, by_chance = _spread(grid, seed)
    told = summaries(grid, metric, seed)
    return {
        "n": n,
        "left_out": grid.left_out,
        "samples": grid.samples,
        "by_condition": _by_condition(by, grid, metric),
        "spread": {**spread.as_dict(), "by_chance": None if math.isnan(by_chance) else by_chance},
        "worst": _worst(grid, metric),
        **{name: found.as_dict() for name, found in told.items()},
        "cochran": _cochran(grid, seed),
        "variance": {name: found.as_dict() for name, found in variance(grid, seed=seed).items()},
        "effects": {name: effect.as_dict() for name, effect in effects(grid).items()},
        "conditions": k,
    }


def _by_condition(by: Mapping[str, Sequence[Row]], grid: Grid, metric: Metric) -> dict[str, Any]:
    """The rate under each condition over all its prompts, and what it changes against plain over those graded everywhere."""
    plain = grid.conditions.index(PLAIN) if PLAIN in grid.conditions else None
    told: dict[str, Any] = {}
    for at, name in enumerate(grid.conditions):
        change = None if plain in (None, at) else _mean(grid.cells[:, at] - grid.cells[:, plain], grid.groups).as_dict()
        rate = measures.measure(list(filter(metric.applies, by.get(name, ()))), metric)
        told[name] = {**rate.as_dict(), "change": change}
    return told


def _worst(grid: Grid, metric: Metric) -> dict[str, Any]:
    """The condition that is worst for the measure, with an interval wide enough for its having been chosen (Bonferroni)."""
    means = grid.cells.mean(0)
    at = int(means.argmax() if metric.better == "low" else means.argmin())
    confidence = 1 - (1 - stats.CONFIDENCE) / len(grid.conditions)
    return {"condition": grid.conditions[at], **stats.share(grid.cells[:, at], grid.groups, confidence).as_dict()}


def summaries(grid: Grid, metric: Metric, seed: int = 0) -> dict[str, Estimate]:
    """Share of prompts bad under some condition, flip rate, PromptSensiScore (ProSA, arXiv 2410.12405) and Fleiss' kappa (1971).

    A decision is a cell's majority. kappa is NaN where every decision is the same.
    """
    k = len(grid.conditions)
    decided = grid.cells >= 0.5
    yes = decided.sum(1).astype(np.float64)
    agreed = (yes**2 + (k - yes) ** 2 - k) / (k * (k - 1))
    bad = decided if metric.better == "low" else ~decided
    flipped = decided.any(1) & ~decided.all(1)
    return {
        "any_bad": stats.share(bad.any(1), grid.groups),
        "flip_rate": stats.share(flipped, grid.groups),
        "pss": stats.share(discrepancy(grid.cells), grid.groups),
        "kappa": _kappa(agreed, yes / k, grid.groups, seed),
    }


def discrepancy(cells: Floats) -> Floats:
    """ProSA's score of each prompt: the mean |difference| over every two conditions. (n, k) -> (n,)."""
    k = cells.shape[1]
    ranks = 2.0 * np.arange(k) - k + 1
    return np.asarray(np.clip(2 * (np.sort(cells, 1) @ ranks) / (k * (k - 1)), 0, 1), dtype=np.float64)


def _kappa(agreed: Floats, yes: Floats, groups: NDArray[np.intp], seed: int) -> Estimate:
    def kappa(means: Floats) -> Floats:
        by_chance = means[:, 1] ** 2 + (1 - means[:, 1]) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(by_chance < 1, (means[:, 0] - by_chance) / (1 - by_chance), math.nan)

    features = np.stack([agreed, yes], 1)
    value = float(kappa(features.mean(0)[None])[0])
    if math.isnan(value):
        return stats.NOTHING
    drawn = kappa(_resampled(features, groups, seed))
    return Estimate(value, len(agreed), *_quantiles(drawn[~np.isnan(drawn)]))


def _spread(grid: Grid, seed: int) -> tuple[Estimate, float]:
    """Highest minus lowest rate over conditions, and what it would be on average if conditions changed nothing.

    A largest difference is too large on average, so a percentile interval misses. An error of the rates moves it by at most the
    error's own range: the interval is the value and on both sides the 95th percentile of that (as Tukey's for all pairs), or
    where no prompt changes, the exact bound on those that could have gone unseen.
    """
    means = grid.cells.mean(0)
    errors = np.ptp(_resampled(grid.cells, grid.groups, seed) - means, axis=1)
    value, reach = float(np.ptp(means)), float(np.quantile(errors, stats.CONFIDENCE))
    clusters = int(grid.groups.max()) + 1
    if not np.ptp(grid.cells, axis=1).any():
        reach = stats.clopper_pearson(0, clusters).high
    elif clusters > 1:  # a bootstrap of few clusters is too narrow (Hesterberg 2015)
        reach *= math.sqrt(clusters / (clusters - 1)) * stats.student(clusters - 1) / stats.normal()
    ranges = np.ptp(np.random.default_rng(0).normal(size=(DRAWS, len(means))), axis=1)
    by_chance = float(ranges.mean()) * math.sqrt(_noise(grid))
    return Estimate(value, len(grid.items), max(0.0, value - reach), min(1.0, value + reach)), by_chance


def _noise(grid: Grid) -> float:
    """Variance of a condition's mean that has nothing to do with the condition: cluster-robust, of deviations within prompts."""
    deviations = grid.cells - grid.cells.mean(1, keepdims=True)
    errors = [stats.standard_error(column, grid.groups) for column in deviations.T]
    return math.nan if any(map(math.isnan, errors)) else sum(e * e for e in errors) / (len(errors) - 1)


def _cochran(grid: Grid, seed: int = 0) -> dict[str, float | int | None]:
    """Cochran's Q (1950) that all conditions have one rate; of means of samples the same permutation statistic, chi2(k - 1).

    Where prompts share clusters chi2 does not hold: then p is of Q when the conditions of each whole cluster are permuted.
    """
    from scipy.special import chdtrc

    n, k = grid.cells.shape
    deviations = grid.cells - grid.cells.mean(1, keepdims=True)
    inside = float((deviations**2).sum())
    if inside == 0:
        return {"q": 0.0, "df": k - 1, "p": 1.0}
    q = (k - 1) * float((deviations.sum(0) ** 2).sum()) / inside
    shared = int(grid.groups.max()) + 1 < n
    return {"q": q, "df": k - 1, "p": _permuted(deviations, grid.groups, seed) if shared else float(chdtrc(k - 1, q))}


def _permuted(deviations: Floats, groups: NDArray[np.intp], seed: int) -> float:
    """The chance of condition sums that differ this much if each cluster's conditions were in random order; never 0."""
    sums = np.stack([np.bincount(groups, weights=column) for column in deviations.T], 1)
    seen = float((sums.sum(0) ** 2).sum()) * (1 - 1e-9)
    rng = np.random.default_rng(seed)
    hits = sum(float((rng.permuted(sums, axis=1).sum(0) ** 2).sum()) >= seen for _ in range(DRAWS))
    return (1 + hits) / (1 + DRAWS)


def variance(grid: Grid, *, seed: int = 0) -> dict[str, Estimate]:
    """Shares of the variance of a single answer: `condition`, `prompt`, `both` (their interaction), `chance` (among samples).

    Two-way random effects by expected mean squares (Searle, Casella and McCulloch 1992, ch. 4), on the probability scale, cut at
    0. With one sample a cell `both` and `chance` cannot be told apart and are one share, `rest`. The noise that is taken off the
    spread of condition means is cluster-robust; resamples carry it twice, so there it is taken off twice. {} where no answer
    differs from another.
    """
    n, k = grid.cells.shape
    several = not np.isnan(grid.within).any()
    rows = grid.cells.mean(1)
    within = grid.within if several else np.zeros(n)
    features = np.column_stack([grid.cells, rows**2, (grid.cells**2).mean(1), within])
    noise = _noise(grid)
    if math.isnan(noise):
        return {}
    value = _shares(features.mean(0)[None], n, k, noise, grid.samples, several)
    if not np.isfinite(next(iter(value.values()))).all():
        return {}
    drawn = _shares(_resampled(features, grid.groups, seed), n, k, 2 * noise, grid.samples, several)
    return {name: Estimate(float(v[0]), n, *_quantiles(drawn[name][np.isfinite(drawn[name])])) for name, v in value.items()}


def _shares(means: Floats, n: int, k: int, noise: float, samples: float, several: bool) -> dict[str, Floats]:
    """Shares by name, each (draws,), from means of the features of `variance`, (draws, k + 3)."""
    conditions, (row_squares, squares, chance) = means[:, :k], means[:, k:].T
    grand = conditions.mean(1)
    between = ((conditions - grand[:, None]) ** 2).sum(1)
    left = n * (k * (squares - row_squares) - between) / ((n - 1) * (k - 1))
    condition = np.maximum(0, between / (k - 1) - noise)
    prompt = np.maximum(0, (k * n * (row_squares - grand**2) / (n - 1) - left) / k)
    both = np.maximum(0, left - chance / samples)
    parts = {"condition": condition, "prompt": prompt}
    parts |= {"both": both, "chance": chance} if several else {"rest": both}
    total = sum(parts.values())
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: part / total for name, part in parts.items()}


def effects(grid: Grid) -> dict[str, Effect]:
    """What each level changes, by "factor=level": least squares over the conditions within each prompt, averaged over prompts.

    With one rewrite beside the plain suite that is the paired difference. {} where a condition is no rewrite of ours.
    """
    return {name: _effect(grid, weights, adjusted) for name, (weights, adjusted) in _weights(grid.conditions).items()}


def _weights(conditions: Sequence[str]) -> dict[str, tuple[Floats, bool]]:
    """The weight of each condition in a level's effect, and whether it is adjusted for the other factors."""
    levels = _levels(conditions)
    columns = {
        f"{factor}={level}": np.array([at[number] == level for at in levels], dtype=np.float64)
        for number, factor in enumerate(_FIELDS)
        for level in dict.fromkeys(at[number] for at in levels)
        if level != _PLAIN[number]
    }
    if not columns:
        return {}
    design = np.column_stack([np.ones(len(conditions)), *columns.values()])
    inverse = np.linalg.pinv(design)
    seen = np.diag(inverse @ design)  # 1 where a coefficient can be told from all others
    told: dict[str, tuple[Floats, bool]] = {}
    for at, (name, column) in enumerate(columns.items(), 1):
        if abs(seen[at] - 1) < 1e-8:
            told[name] = inverse[at], True
            continue
        number = _FIELDS.index(name.partition("=")[0])
        plain = np.array([levels[i][number] == _PLAIN[number] for i in range(len(levels))], dtype=np.float64)
        if plain.any():
            told[name] = column / column.sum() - plain / plain.sum(), False
    return told


def _effect(grid: Grid, weights: Floats, adjusted: bool) -> Effect:
    values = np.asarray(grid.cells @ weights, dtype=np.float64).round(12)
    error = stats.standard_error(values, grid.groups)
    mde = stats.minimum_detectable_mean(error) if error > 0 else None
    return Effect(_mean(values, grid.groups), _p(float(values.mean()), error, int(grid.groups.max()) + 1), mde, adjusted)


def _p(value: float, error: float, clusters: int) -> float:
    """Two-sided, by Student's t over clusters; where all agree, by the sign test that all of them would."""
    from scipy.special import stdtr

    if math.isnan(error) or value == 0:
        return 1.0
    return float(2 * stdtr(clusters - 1, -abs(value) / error)) if error else 2.0 ** (1 - clusters)


def _mean(values: Floats, groups: NDArray[np.intp]) -> Estimate:
    """Mean of differences in [-1, 1] with a t interval over clusters; where none varies, with what could have gone unseen."""
    clusters, value = int(groups.max()) + 1, float(values.mean())
    error = stats.standard_error(values, groups)
    half = stats.student(clusters - 1) * error if error > 0 else stats.clopper_pearson(0, clusters).high
    return Estimate(value, len(values), max(-1.0, value - half), min(1.0, value + half))


def _correct(told: Mapping[str, Mapping[str, Any]]) -> None:
    """Fill in Holm's p of an arm's effects: the family is every level of every measure."""
    family = [effect for of in told.values() for effect in of["effects"].values()]
    for effect, adjusted in zip(family, stats.holm([effect["p"] for effect in family]), strict=True):
        effect["holm"] = adjusted


def _few_shot(grids: Mapping[str, Grid], metrics: Mapping[str, Metric]) -> dict[str, Any] | None:
    """Whether examples before the request make the model worse, by measure and in all; None where none were shown.

    Yes: some measure is worse by a Holm-adjusted t test. No: a loss of 2 points is ruled out in all. Otherwise nobody can tell.
    """
    found = {name: effect for name, grid in grids.items() if (effect := shot_effect(grid)) is not None}
    if not found:
        return None
    adjusted = dict(zip(found, stats.holm([effect.p for effect in found.values()]), strict=True))
    told = {
        name: {**effect.as_dict(), "holm": adjusted[name], "degrades": degrades(effect, metrics[name], adjusted[name])}
        for name, effect in found.items()
    }
    verdicts = Counter(each["degrades"] for each in told.values())
    whole: Degrades = "yes" if verdicts["yes"] else "no" if verdicts["no"] == len(told) else "cannot tell"
    return {"degrades": whole, "measures": told}


def shot_effect(grid: Grid) -> Effect | None:
    """What examples change against none: the mean of the effects of one and of three, None where none were shown."""
    shown = [found for name, found in _weights(grid.conditions).items() if name.startswith("shots=")]
    if not shown:
        return None
    weights = sum((weights for weights, _ in shown), np.zeros(len(grid.conditions))) / len(shown)
    return _effect(grid, np.asarray(weights, dtype=np.float64), all(adjusted for _, adjusted in shown))


def degrades(effect: Effect, metric: Metric, p: float) -> Degrades:
    """Whether a change is a loss: shown to be one, shown to be less than 2 points, or neither."""
    sign = 1 if metric.better == "low" else -1
    loss, most = sign * effect.estimate.value, effect.estimate.high if sign > 0 else -effect.estimate.low
    if loss > 0 and p < ALPHA:
        return "yes"
    return "no" if most <= MARGIN else "cannot tell"


def _pairs(grids: Mapping[str, Mapping[str, Grid]]) -> list[dict[str, Any]]:
    """How much more sensitive each arm is than the first: the paired difference of PromptSensiScores, by measure."""
    base, *others = grids
    return [
        {"base": base, "arm": arm, "measure": name, "metric": "pss", **found.as_dict(), "mde": stats.detectable(found)}
        for arm in others
        for name in MEASURES
        if (found := _more_sensitive(grids[base][name], grids[arm][name])).n
    ]


def _more_sensitive(before: Grid, after: Grid) -> Estimate:
    place = {item: at for at, item in enumerate(before.items)}
    common = [(place[item], at) for at, item in enumerate(after.items) if item in place]
    if len(common) < LEAST:
        return stats.NOTHING
    first, second = (np.array(side) for side in zip(*common, strict=True))
    change = discrepancy(after.cells)[second] - discrepancy(before.cells)[first]
    return _mean(change, stats.cluster_ids(after.groups[second], len(second)))


_FIELDS = (*FACTORS, "language")
_PLAIN = tuple(getattr(Rewrite(), field) for field in _FIELDS)


def _levels(conditions: Sequence[str]) -> list[tuple[str, ...]]:
    """The levels of each condition; [] where one of them is no rewrite of ours, as in rows of another harness."""
    try:
        return [tuple(getattr(parse(spec), field) for field in _FIELDS) for spec in conditions]
    except UsageError:
        return []


def _resampled(features: Floats, groups: NDArray[np.intp], seed: int) -> Floats:
    """Means of each feature over `DRAWS` resamples of groups. (n, f) -> (DRAWS, f)."""
    number = int(groups.max()) + 1
    sums = np.stack([np.bincount(groups, weights=column, minlength=number) for column in features.T], 1)
    sizes = np.bincount(groups, minlength=number).astype(np.float64)
    chosen = np.random.default_rng(seed).integers(0, number, (DRAWS, number)) + number * np.arange(DRAWS)[:, None]
    times = np.bincount(chosen.ravel(), minlength=DRAWS * number).reshape(DRAWS, number).astype(np.float64)
    return np.asarray((times @ sums) / (times @ sizes)[:, None], dtype=np.float64)


def _quantiles(drawn: Floats) -> tuple[float, float]:
    if 2 * len(drawn) <= DRAWS:
        return -math.inf, math.inf
    tail = (1 - stats.CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)
