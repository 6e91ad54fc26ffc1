"""Estimates with intervals, paired and clustered comparisons, and power: every number of a report that carries a claim.

Arrays in, small values out; nothing here knows what a row, an arm or a grader is. `clusters` are group ids, one per value: what
is resampled or permuted is the cluster (templates of one question, turns of one dialogue), never the value.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Cell = TypeVar("Cell", bound=Hashable)
Floats = NDArray[np.float64]
Clusters = Sequence[object] | NDArray[np.generic]

CONFIDENCE = 0.95
DRAWS = 10_000  # docs/science.md 8.1
GATHER = 2_000_000  # indices held at once while bootstrapping: 16 MB
EXACT_FLIPS = 14  # up to 2**14 sign patterns are enumerated rather than drawn


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; `n` counts the units that carry it (prompts, not samples). All NaN where n is 0."""

    value: float
    n: int
    low: float
    high: float

    def as_dict(self) -> dict[str, float | int | None]:
        """The four fields, with None in place of NaN, which JSON does not know."""
        return {"value": _finite(self.value), "n": self.n, "low": _finite(self.low), "high": _finite(self.high)}


NOTHING = Estimate(math.nan, 0, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class McNemar:
    """`b` and `c` count the two kinds of discordant pairs; `p` is exact and two-sided, `mid_p` its less conservative twin."""

    b: int
    c: int
    p: float
    mid_p: float


def proportion(k: float, n: float, confidence: float = CONFIDENCE) -> Estimate:
    """Wilson score interval for k successes of n (Wilson 1927); `n` may be an effective size, hence a fraction."""
    if not 0 <= k <= n:
        raise ValueError(f"proportion: {k} successes of {n}; wanted 0 <= k <= n")
    if n == 0:
        return NOTHING
    low, high = _wilson(k / n, n, normal(confidence))
    return Estimate(k / n, int(n), low, high)


def clopper_pearson(k: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Exact interval for k successes of n (Clopper and Pearson 1934): never covers less than it says; for rare events."""
    if not 0 <= k <= n:
        raise ValueError(f"clopper_pearson: {k} successes of {n}; wanted 0 <= k <= n")
    if n == 0:
        return NOTHING
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Estimate(k / n, n, low, high)


def share(values: ArrayLike, clusters: Clusters | None = None, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of values in [0, 1] with a Wilson interval on the effective sample size.

    With 0/1 values and no shared clusters this is `proportion`. Otherwise n is replaced by p(1-p)/SE^2, SE cluster-robust, and
    the normal quantile by Student's with (clusters - 1) degrees of freedom (Korn and Graubard 1998). Where all values agree SE
    says nothing and the number of clusters stands in for n, so that 0 of 50 never reads as [0, 0].
    """
    x = _floats(values)
    if x.size == 0:
        return NOTHING
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"share: values from {x.min()} to {x.max()}; wanted all within [0, 1]")
    p, ids = float(x.mean()), cluster_ids(clusters, x.size)
    groups = int(ids.max()) + 1
    if groups == x.size and bool(np.isin(x, (0.0, 1.0)).all()):
        return proportion(float(x.sum()), x.size, confidence)
    spread = _standard_error(x, ids) ** 2
    size = p * (1 - p) / spread if spread > 0 else float(groups)
    low, high = _wilson(p, size, student(groups - 1, confidence))
    return Estimate(p, x.size, low, high)


def mean(
    values: ArrayLike, clusters: Clusters | None = None, *, draws: int = DRAWS, seed: int = 0, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean of unbounded values: Student's t interval, or with `clusters` a percentile cluster bootstrap.

    Unbounded where no value differs: the spread is then unknown, not 0, and nothing bounds what was not seen.
    """
    x = _floats(values)
    if x.size == 0:
        return NOTHING
    if clusters is not None:
        return _bootstrap(x, cluster_ids(clusters, x.size), draws=draws, seed=seed, confidence=confidence)
    centre = float(x.mean())
    half = student(x.size - 1, confidence) * standard_error(x) if np.ptp(x) > 0 else math.inf
    return Estimate(centre, x.size, centre - half, centre + half)


def standard_error(values: ArrayLike, clusters: Clusters | None = None) -> float:
    """Standard error of the mean; with `clusters` robust to any correlation inside them (Miller 2024, arXiv 2411.00640).

    SE^2 = G/(G-1) sum_c (sum_{i in c} (x_i - mean))^2 / n^2, which is the ordinary one when every cluster holds one value. NaN
    with fewer than two clusters.
    """
    x = _floats(values)
    return _standard_error(x, cluster_ids(clusters, x.size))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Clusters | None = None,
    *,
    bounded: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Mean of a - b over the same units, with a percentile bootstrap interval that resamples whole clusters.

    Percentile rather than BCa: on sparse 0/1 differences (n 50 to 1,000) both covered 94 to 96 %, and it is the shorter code.
    Its quantiles are Student's (Hesterberg 2015, expanded percentile): the plain ones reject 14 % of true nulls with 5 clusters.
    A bootstrap knows no unit that was not seen: where none rises (or falls) it would end at 0 on that side, and pass a margin of
    2 points on 16 prompts. Values within [0, 1] then get the exact bound on the share of such units (0 of `clusters`,
    Clopper-Pearson), put together with the other side's by MOVER (Zou and Donner 2008); with no change at all it stands on both.
    Give `bounded` = False for what can exceed 1, even where none of these values does.
    Unbounded values that all change alike have no such bound: their interval is infinite.
    """
    x, y = _floats(a), _floats(b)
    if x.shape != y.shape:
        raise ValueError(f"paired_difference: {x.size} values against {y.size}; wanted one of each for every unit")
    if x.size == 0:
        return NOTHING
    gap, ids = x - y, cluster_ids(clusters, x.size)
    within = bounded and min(x.min(), y.min()) >= 0 and max(x.max(), y.max()) <= 1
    if within and not ((gap > 0).any() and (gap < 0).any()) and ids.max() > 0:
        parts = [_part(np.maximum(sign * gap, 0.0), ids, confidence) for sign in (1, -1)]
        value = float(gap.mean())
        return Estimate(value, x.size, *_recovered(value, np.array([1.0, -1.0]), parts))
    return _bootstrap(gap, ids, draws=draws, seed=seed, confidence=confidence)


def hierarchical(
    values: ArrayLike,
    seeds: Clusters,
    clusters: Clusters | None = None,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Mean over training seeds and prompts, with a bootstrap that resamples seeds and then clusters of prompts; n counts seeds.

    All seeds answer the same prompts, so a drawn cluster is drawn in every drawn seed (Owen 2007, pigeonhole bootstrap); drawing
    anew within each seed would average the prompts' own spread away. Quantiles are those of Student's t with seeds - 1 degrees of
    freedom, because a percentile bootstrap of a few units is too narrow (Hesterberg 2015, expanded percentile). Every seed weighs
    the same. `within` bounds what a value can be. One seed says nothing: its interval is `within`. Where no value differs, the
    exact bound on the share of seeds that could have gone unseen (0 of n, Clopper-Pearson) is filled with the worst value.
    """
    x = _floats(values)
    if x.size == 0:
        return NOTHING
    rows, columns = cluster_ids(seeds, x.size), cluster_ids(clusters, x.size)
    number = int(rows.max()) + 1
    sums, counts = _table(rows, columns, x), _table(rows, columns, np.ones_like(x))
    value = float((sums.sum(1) / counts.sum(1)).mean())
    if number < 2:
        return Estimate(value, number, *within)
    if np.ptp(x) == 0:
        unseen = clopper_pearson(0, number, confidence).high
        return Estimate(value, number, *(value + unseen * (worst - value) for worst in within))
    tail = _tail(number, confidence)
    means = _pigeonhole(sums, counts, draws, np.random.default_rng(seed))
    low, high = np.nanquantile(means, (tail, 1 - tail))
    return Estimate(value, number, float(low), float(high))


def linear_contrast(
    values: ArrayLike,
    cells: Sequence[Cell],
    weights: Mapping[Cell, float],
    clusters: Clusters | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Sum over cells of weight times the mean of the cell's values: a gap of two rates, or a difference of two gaps.

    Cells may share clusters (the same prompts asked of two arms), so whole clusters are resampled through all cells at once.
    Values of cells without a weight are left out; `n` counts those of the smallest cell. All NaN where a cell is empty,
    unbounded where one holds a single cluster. Quantiles are Student's of the cell with the fewest clusters. Where a cell's
    values all agree a bootstrap cannot move it: then, for values in [0, 1], the interval is recovered from each cell's own
    (MOVER, Zou and Donner 2008), as if cells were independent.
    """
    x, ids, names = _floats(values), cluster_ids(clusters, len(cells)), list(weights)
    if len(cells) != x.size:
        raise ValueError(f"linear_contrast: {len(cells)} cells for {x.size} values; wanted one each")
    where = {name: i for i, name in enumerate(names)}
    column = np.array([where.get(cell, -1) for cell in cells], dtype=np.intp)
    kept = column >= 0
    x, ids, column = x[kept], ids[kept], column[kept]
    sizes = np.bincount(column, minlength=len(names))
    if not sizes.all():
        return NOTHING
    signs = np.array([weights[name] for name in names])
    members = [column == i for i in range(len(names))]
    value, n = float(signs @ [x[mine].mean() for mine in members]), int(sizes.min())
    ids = np.unique(ids, return_inverse=True)[1]
    sums, counts = _table(ids, column, x), _table(ids, column, np.ones_like(x))
    fewest = int((counts > 0).sum(0).min())
    if fewest < 2:
        return Estimate(value, n, -math.inf, math.inf)
    if x.min() >= 0 and x.max() <= 1 and any(np.ptp(x[mine]) == 0 for mine in members):
        return Estimate(value, n, *_recovered(value, signs, [share(x[mine], ids[mine], confidence) for mine in members]))
    tail = _tail(fewest, confidence)
    low, high = np.nanquantile(_contrasts(sums, counts, signs, draws, np.random.default_rng(seed)), (tail, 1 - tail))
    return Estimate(value, n, float(low), float(high))


def contrast(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two independent estimates, the interval recovered from theirs (MOVER, Zou and Donner 2008)."""
    if not (a.n and b.n):
        return NOTHING
    value = a.value - b.value
    return Estimate(value, min(a.n, b.n), *_recovered(value, np.array([1.0, -1.0]), [a, b]))


def mcnemar(b: int, c: int) -> McNemar:
    """Exact conditional test that both kinds of discordant pairs are equally likely (McNemar 1947; mid-p: Fagerland 2013)."""
    if b < 0 or c < 0:
        raise ValueError(f"mcnemar: {b} and {c} discordant pairs; wanted counts")
    n, k = b + c, min(b, c)
    at = math.comb(n, k) / 2**n
    below = sum(math.comb(n, i) for i in range(k)) / 2**n
    if b == c:
        return McNemar(b, c, 1.0, 1 - at / 2)
    return McNemar(b, c, 2 * (below + at), 2 * below + at)


def fisher(a: int, n: int, b: int, m: int) -> float:
    """Two-sided exact p that a of n and b of m come from the same rate, given a + b (Fisher 1935).

    Sums the hypergeometric probabilities that are no larger than the one seen. Raises ValueError unless 0 <= a <= n, 0 <= b <= m.
    """
    if not (0 <= a <= n and 0 <= b <= m):
        raise ValueError(f"fisher: {a} of {n} against {b} of {m}; wanted counts no larger than their totals")
    both = a + b
    ways = {k: math.comb(n, k) * math.comb(m, both - k) for k in range(max(0, both - m), min(n, both) + 1)}
    return sum(w for w in ways.values() if w <= ways[a]) / math.comb(n + m, both)


def sign_flip(differences: ArrayLike, clusters: Clusters | None = None, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p that the differences have no direction: the sign of each cluster's sum is flipped at random.

    The clustered, many-samples form of McNemar's exact test: with one -1, 0 or 1 per cluster it is that test. All patterns are
    enumerated for up to 14 non-zero clusters; otherwise `draws` are drawn and p = (1 + hits) / (1 + draws), never 0.
    """
    x = _floats(differences)
    sums = np.bincount(cluster_ids(clusters, x.size), weights=x) if x.size else x
    sums = sums[np.abs(sums) > 1e-12]
    if sums.size == 0:
        return 1.0
    seen = abs(float(sums.sum())) - 1e-9 * float(np.abs(sums).sum())
    if sums.size <= EXACT_FLIPS:
        patterns = np.array(list(product((-1.0, 1.0), repeat=sums.size)))
        return float(np.mean(np.abs(patterns @ sums) >= seen))
    sizes, counts = np.unique(np.abs(sums), return_counts=True)
    rng = np.random.default_rng(seed)
    flipped = sum(size * (2.0 * rng.binomial(int(m), 0.5, draws) - m) for size, m in zip(sizes, counts, strict=True))
    return float((1 + np.sum(np.abs(flipped) >= seen)) / (1 + draws))


def holm(pvalues: Sequence[float]) -> list[float]:
    """Step-down adjusted p-values in the order given; controls the chance of any false claim in the family (Holm 1979)."""
    order = sorted(range(len(pvalues)), key=lambda i: pvalues[i])
    adjusted, floor = [0.0] * len(pvalues), 0.0
    for rank, i in enumerate(order):
        floor = max(floor, min(1.0, (len(pvalues) - rank) * pvalues[i]))
        adjusted[i] = floor
    return adjusted


def sample_size_paired(delta: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Pairs needed to see a change of `delta` when a share `discordance` of pairs changes at all (Connor 1987).

    With several samples per pair, `discordance` is the mean squared difference. Raises ValueError unless
    0 < |delta| <= discordance: a change cannot be larger than the share that changes.
    """
    if not 0 < abs(delta) <= discordance:
        raise ValueError(f"sample_size_paired: change {delta}, discordance {discordance}; wanted 0 < |change| <= discordance")
    return math.ceil(pairs_needed(delta, discordance, power=power, alpha=alpha) - 1e-9)


def pairs_needed(delta: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """`sample_size_paired` before rounding, for any mean squared difference of at least delta^2 (several samples a pair)."""
    z_power = NormalDist().inv_cdf(power)
    root = normal(1 - alpha) * math.sqrt(discordance) + z_power * math.sqrt(max(0.0, discordance - delta * delta))
    return (root / delta) ** 2


def minimum_detectable_difference(n: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest paired change that n pairs would show with `power`; the inverse of `sample_size_paired`, at most 1.

    A change needs at least its own size in discordance, so where the observed discordance is too small for any change to be
    detectable it is raised to the change.
    """
    if n <= 0:
        return 1.0
    low, high = 1e-9, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        reached = pairs_needed(middle, max(discordance, middle), power=power, alpha=alpha) <= n
        low, high = (low, middle) if reached else (middle, high)
    return high


def minimum_detectable_mean(error: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest change of an unbounded mean whose difference has standard error `error` that would be shown with `power`."""
    return (normal(1 - alpha) + NormalDist().inv_cdf(power)) * error


def detectable(estimate: Estimate, *, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """`minimum_detectable_mean` of a difference that is known by its 95 % interval only; None where a side is unbounded.

    The half width over the normal quantile stands for the standard error: with few clusters it says rather too much.
    """
    half = (estimate.high - estimate.low) / 2
    if not math.isfinite(half):
        return None
    return minimum_detectable_mean(half / normal(), power=power, alpha=alpha)


def design_effect(values: ArrayLike, clusters: Clusters | None) -> float:
    """How many times more values are needed because clusters repeat themselves: SE_clustered^2 / SE_iid^2, 1 where unknown."""
    plain, robust = standard_error(values), standard_error(values, clusters)
    return (robust / plain) ** 2 if plain > 0 and robust > 0 else 1.0


def bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Clusters | None,
    size: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Percentile interval of any statistic of row numbers, over resampled clusters; draws where it is NaN are left out.

    Unbounded with fewer than two clusters, or where half of the draws or more have no value (a class is missing in them).
    """
    ids = cluster_ids(clusters, size)
    order = np.argsort(ids, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(ids))[:-1])
    if len(members) < 2:
        return -math.inf, math.inf
    rng = np.random.default_rng(seed)
    chosen = (rng.integers(0, len(members), len(members)) for _ in range(draws))
    values = [statistic(np.concatenate([members[c] for c in drawn])) for drawn in chosen]
    known = [v for v in values if not math.isnan(v)]
    if 2 * len(known) <= draws:
        return -math.inf, math.inf
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, (tail, 1 - tail))
    return float(low), float(high)


def auc(score: Floats, label: Floats) -> float:
    """Area under the ROC curve, ties counted half; NaN when one class is missing."""
    positive, negative = int(label.sum()), int((1 - label).sum())
    if not positive or not negative:
        return math.nan
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[label == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _bootstrap(x: Floats, ids: NDArray[np.intp], *, draws: int, seed: int, confidence: float) -> Estimate:
    """Percentile interval of the mean over resampled clusters; unbounded with only one, and where none differs
    from another: no resample moves such a mean, which is no knowledge of its spread.
    """
    sums: Floats = np.asarray(np.bincount(ids, weights=x), dtype=np.float64)
    counts = np.bincount(ids).astype(np.float64)
    means = sums / counts
    if sums.size < 2 or np.allclose(means, means[0], rtol=1e-12, atol=1e-12):
        return Estimate(float(x.mean()), x.size, -math.inf, math.inf)
    tail = _tail(sums.size, confidence)
    low, high = np.quantile(_resampled(sums, counts, draws, np.random.default_rng(seed)), (tail, 1 - tail))
    return Estimate(float(x.mean()), x.size, float(low), float(high))


def _tail(units: int, confidence: float) -> float:
    """The quantile of a bootstrap of so many units that stands for Student's interval (Hesterberg 2015)."""
    return NormalDist().cdf(-math.sqrt(units / (units - 1)) * student(units - 1, confidence))


def _resampled(sums: Floats, counts: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Means of `draws` resamples of clusters. Equal clusters are drawn together: the same law, far fewer numbers."""
    kinds, often = np.unique(np.stack([sums.round(12), counts]), axis=1, return_counts=True)
    if kinds.shape[1] * 8 < sums.size:
        drawn = rng.multinomial(sums.size, often / sums.size, draws)
        return np.asarray((drawn @ kinds[0]) / (drawn @ kinds[1]), dtype=np.float64)
    step, means = max(1, GATHER // sums.size), []
    for start in range(0, draws, step):
        chosen = rng.integers(0, sums.size, (min(step, draws - start), sums.size))
        means.append(sums[chosen].sum(1) / counts[chosen].sum(1))
    return np.concatenate(means)


def _contrasts(sums: Floats, counts: Floats, signs: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """The contrast in each resample of clusters (rows); NaN where a cell (column) has nothing in it. Equal clusters are drawn
    together, as in `_resampled`."""
    kinds, often = np.unique(np.concatenate([sums.round(12), counts], axis=1), axis=0, return_counts=True)
    wide, total, found = sums.shape[1], len(sums), []
    few = len(kinds) * 8 < total
    step = max(1, GATHER // (len(kinds) if few else total))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        if few:
            mass = rng.multinomial(total, often / total, size) @ kinds
        else:
            drawn = rng.integers(0, total, (size, total))
            mass = np.concatenate([column[drawn].sum(1)[:, None] for column in (*sums.T, *counts.T)], axis=1)
        inside = mass[:, wide:]
        means = np.divide(mass[:, :wide], inside, out=np.full_like(inside, math.nan), where=inside > 0)
        found.append(means @ signs)
    return np.concatenate(found)


def _part(values: Floats, ids: NDArray[np.intp], confidence: float) -> Estimate:
    """The mean of one direction's changes; where none was seen, up to what could have gone unseen in so many clusters."""
    if values.any():
        return share(values, ids, confidence)
    return Estimate(0.0, values.size, 0.0, clopper_pearson(0, int(ids.max()) + 1, confidence).high)


def _recovered(value: float, signs: Floats, parts: Sequence[Estimate]) -> tuple[float, float]:
    """Bounds of a weighted sum of independent estimates from theirs (MOVER, Zou and Donner 2008)."""
    ends = [sorted((s * (e.low - e.value), s * (e.high - e.value))) for s, e in zip(signs, parts, strict=True)]
    return value - math.hypot(*(low for low, _ in ends)), value + math.hypot(*(high for _, high in ends))


def _table(rows: NDArray[np.intp], columns: NDArray[np.intp], weights: Floats) -> Floats:
    wide = int(columns.max()) + 1
    flat = np.bincount(rows * wide + columns, weights=weights, minlength=(int(rows.max()) + 1) * wide)
    return np.asarray(flat.reshape(-1, wide), dtype=np.float64)


def _pigeonhole(sums: Floats, counts: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Means of `draws` resamples of rows and of columns; NaN where a drawn row holds none of the drawn columns."""
    number, wide = sums.shape
    columns = rng.multinomial(wide, np.full(wide, 1 / wide), draws).astype(np.float64)
    rows = rng.multinomial(number, np.full(number, 1 / number), draws)
    inside = columns @ counts.T
    by_row = np.divide(columns @ sums.T, inside, out=np.full_like(inside, math.nan), where=inside > 0)
    return np.asarray(np.where(rows > 0, rows * by_row, 0.0).sum(1) / number, dtype=np.float64)


def _standard_error(x: Floats, ids: NDArray[np.intp]) -> float:
    groups = int(ids.max()) + 1 if x.size else 0
    if groups < 2:
        return math.nan
    sums = np.bincount(ids, weights=x - x.mean())
    return math.sqrt(float((sums**2).sum()) * groups / (groups - 1)) / x.size


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    if math.isinf(z):
        return 0.0, 1.0
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if p == 0 else max(0.0, middle - half)), (1.0 if p == 1 else min(1.0, middle + half))


def normal(confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of the normal distribution: 1.96 for 95 %."""
    return NormalDist().inv_cdf(1 - (1 - confidence) / 2)


def student(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's distribution; infinite without a degree of freedom."""
    if freedom < 1:
        return math.inf
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - (1 - confidence) / 2))


def cluster_ids(clusters: Clusters | None, size: int) -> NDArray[np.intp]:
    """Cluster names to 0..G-1; without clusters every value is its own."""
    if clusters is None:
        return np.arange(size)
    if len(clusters) != size:
        raise ValueError(f"{len(clusters)} cluster ids for {size} values; wanted one each")
    return np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)


def _floats(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(x).all():
        raise ValueError("a value is NaN or infinite; leave ungraded rows out before estimating")
    return x


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
