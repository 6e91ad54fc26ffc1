"""How wrong a judge is, and rates freed of its errors: sensitivity and specificity, Rogan-Gladen, prediction-powered means.

Arrays in, small values out; nothing here knows what a row or a grader is. Every interval carries the uncertainty of the labels,
not only that of the judged rows. `clusters` are group ids as in `stats`; `weights` are inverse inclusion probabilities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from temper import stats
from temper.stats import NOTHING, Estimate

Floats = NDArray[np.float64]
Names = Sequence[object] | NDArray[np.generic]

INFORMATIVE = 0.2  # least sensitivity + specificity - 1 of a judge whose rates are corrected (docs/science.md 8.5)


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `n` units; `size` is how many independent, equally weighted units would be known as well (0: one cluster)."""

    value: float
    n: int
    size: float

    def estimate(self) -> Estimate:
        """With a Wilson interval on the effective size; all NaN where n is 0, [0, 1] where the size is."""
        if not self.n:
            return NOTHING
        if not self.size > 0:
            return Estimate(self.value, self.n, 0.0, 1.0)
        return replace(stats.proportion(self.value * self.size, self.size), n=self.n)


UNKNOWN = Rate(math.nan, 0, 0.0)


def rate(values: ArrayLike, weights: ArrayLike | None = None, clusters: Names | None = None) -> Rate:
    """Weighted mean of values in [0, 1]; the size is p(1-p)/SE^2, SE linearised and cluster-robust (Korn and Graubard 1998).

    Where SE says nothing because all values agree, Kish's size of the clusters' weights stands in.
    """
    x, w, ids = _arrays(values, weights, clusters)
    if not x.size:
        return UNKNOWN
    p = _unit(float(w @ x / w.sum()))  # ones weighted by 1/3 can sum to a bit more than their weights
    equal, groups = bool(np.ptp(w) == 0), int(ids.max()) + 1
    if equal and groups == x.size and bool(np.isin(x, (0.0, 1.0)).all()):
        return Rate(p, x.size, float(x.size))
    # values that all agree have no spread; rounding of the weighted mean would leave one of 1e-34
    spread = _clustered_variance(w * (x - p) / w.sum(), ids) if np.ptp(x) > 0 else 0.0
    mass = np.bincount(ids, weights=w)
    known = p * (1 - p) / spread if spread > 0 else float(mass.sum() ** 2 / (mass**2).sum())
    return Rate(p, x.size, known * _student(groups - 1))


@dataclass(frozen=True, slots=True)
class Errors:
    """A judge at one threshold beside the truth: share of positives flagged, share of negatives not flagged."""

    sensitivity: Rate
    specificity: Rate

    @property
    def youden(self) -> Estimate:
        """Sensitivity + specificity - 1, 0 for a coin; the interval recovered from both (MOVER, Zou and Donner 2008)."""
        missed = replace(self.specificity, value=1 - self.specificity.value)
        return stats.contrast(self.sensitivity.estimate(), missed.estimate())

    @property
    def informative(self) -> bool:
        """Whether a rate by this judge may be corrected: the index is at least 0.2 and its interval leaves 0 out."""
        return self.youden.n > 0 and self.youden.value >= INFORMATIVE and self.youden.low > 0


def errors(flags: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None, clusters: Names | None = None) -> Errors:
    """Sensitivity and specificity of 0/1 `flags` against 0/1 `truth`."""
    f, w, ids = _arrays(flags, weights, clusters)
    y = np.asarray(truth, dtype=np.float64).reshape(-1)
    if y.shape != f.shape or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError(f"errors: {f.size} flags against {y.size} labels; wanted one label of 0 or 1 each")
    hit, free = y == 1, y == 0
    return Errors(rate(f[hit], w[hit], ids[hit]), rate(1 - f[free], w[free], ids[free]))


def rogan_gladen(observed: Rate, judge: Errors) -> Estimate:
    """The true rate behind an observed one: (p + specificity - 1) / (sensitivity + specificity - 1), Rogan and Gladen 1978.

    The interval holds the uncertainty of all three rates (Lang and Reiczigel 2014, used for judges in arXiv 2511.21140), on
    their effective sizes. Value and interval are cut to [0, 1]: a value of exactly 0 or 1 is such a cut. `n` counts the rows of
    `observed`. All NaN where the judge is not informative: dividing by next to nothing is no correction.
    """
    if not (observed.n and judge.informative):
        return NOTHING
    sensitivity, specificity = judge.sensitivity, judge.specificity
    value = (observed.value + specificity.value - 1) / (sensitivity.value + specificity.value - 1)
    z = NormalDist().inv_cdf(1 - (1 - stats.CONFIDENCE) / 2)
    p, p_size = _shrunk(observed, z * z)
    se, se_size = _shrunk(sensitivity, 2)
    sp, sp_size = _shrunk(specificity, 2)
    index = se + sp - 1
    if index <= 0:
        return Estimate(_unit(value), observed.n, 0.0, 1.0)
    centre = (p + sp - 1) / index
    se_spread, sp_spread = se * (1 - se) / se_size, sp * (1 - sp) / sp_size
    shift = 2 * z * z * (centre * se_spread - (1 - centre) * sp_spread)
    half = z / index * math.sqrt(p * (1 - p) / p_size + centre**2 * se_spread + (1 - centre) ** 2 * sp_spread)
    low, high = min(centre + shift - half, value), max(centre + shift + half, value)
    return Estimate(_unit(value), observed.n, _unit(low), _unit(high))


@dataclass(frozen=True, slots=True)
class Audited:
    """One arm: what the judge said of every row, and what people said of a sample of them. All arrays of one length.

    `predictions` in [0, 1]; `labels` are 0, 1, or NaN where nobody looked; `probability` is each row's chance of having been
    looked at, known from the design; `strata` were sampled apart; rows of one cluster (a prompt) move together.
    """

    predictions: Floats
    labels: Floats
    probability: Floats
    strata: Names
    clusters: Names

    def __post_init__(self) -> None:
        sizes = {len(a) for a in (self.predictions, self.labels, self.probability, self.strata, self.clusters)}
        if len(sizes) != 1:
            raise ValueError(f"Audited: arrays of {', '.join(map(str, sorted(sizes)))} rows; wanted one length")
        seen = self.seen
        if not ((self.probability[seen] > 0) & (self.probability[seen] <= 1)).all():
            raise ValueError("Audited: a labelled row has no inclusion probability in (0, 1]")

    @property
    def seen(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.labels)


@dataclass(frozen=True, slots=True)
class Powered:
    """An estimate that needed `labelled` labels; `power` is how far the judge was trusted (0: labels alone, 1: fully)."""

    estimate: Estimate
    power: float
    labelled: int


def powered_mean(arm: Audited, power: float | None = None) -> Powered:
    """The mean label of all rows, from labels of some and predictions of all (PPI, arXiv 2301.09633; PPI++, 2311.01453).

    mean(power * f) + mean over the sample, weighted by 1/probability, of (y - power * f): unbiased whatever the judge does.
    `power` is tuned for the least variance unless given. Residuals are centred in each stratum (stratified PPI, 2406.04291).
    The interval is Wilson's on the effective size, cut to [0, 1].
    """
    labelled = int(arm.seen.sum())
    if not labelled:
        return Powered(NOTHING, 0.0, 0)
    chosen = tuned_power(arm) if power is None else power
    value, parts = _linear(arm, chosen)
    ids = stats.cluster_ids(arm.clusters, len(parts))
    spread = _clustered_variance(parts, ids) + _unseen(arm, chosen)
    p = _unit(value)
    size = p * (1 - p) / spread if spread > 0 and 0 < p < 1 else float(labelled)
    known = Rate(p, len(parts), min(size, len(parts)) * _student(_looked_at(arm) - 1))
    return Powered(known.estimate(), chosen, labelled)


def powered_difference(first: Audited, second: Audited) -> Powered:
    """first - second of two arms, paired by the clusters they share; Student's interval, each arm with its own power.

    `n` counts the clusters of both. `power` is the smaller of the two.
    """
    labelled = min(int(first.seen.sum()), int(second.seen.sum()))
    if not labelled:
        return Powered(NOTHING, 0.0, 0)
    powers = tuned_power(first), tuned_power(second)
    (a, a_parts), (b, b_parts) = _linear(first, powers[0]), _linear(second, powers[1])
    ids = stats.cluster_ids([*first.clusters, *second.clusters], len(a_parts) + len(b_parts))
    spread = _clustered_variance(np.concatenate([a_parts, -b_parts]), ids)
    spread += _unseen(first, powers[0]) + _unseen(second, powers[1])
    half = stats.student(min(_looked_at(first), _looked_at(second)) - 1) * math.sqrt(spread)
    groups = int(ids.max()) + 1
    return Powered(Estimate(a - b, groups, max(-1.0, a - b - half), min(1.0, a - b + half)), min(powers), labelled)


def tuned_power(arm: Audited) -> float:
    """The power in [0, 1] that gives the mean its least variance (arXiv 2311.01453, section 6, for any sampling design)."""
    ids = stats.cluster_ids(arm.clusters, len(arm.labels))
    fixed, slope = _pieces(arm)
    a, b = np.bincount(ids, slope - slope.mean()), np.bincount(ids, fixed - fixed.mean())
    spread = float(a @ a)
    return _unit(-float(a @ b) / spread) if spread > 0 else 0.0


def _linear(arm: Audited, power: float) -> tuple[float, Floats]:
    """The estimate, and each row's part in its error (summing to 0)."""
    fixed, slope = _pieces(arm)
    z = fixed + power * slope
    return float(z.mean()), (z - z.mean()) / len(z)


def _pieces(arm: Audited) -> tuple[Floats, Floats]:
    """Each row's term of the mean as fixed + power * slope, shape (N,) each.

    A row's residual is that of its label if it has one, else its stratum's mean residual; a stratum with one label stays
    uncentred, which is wider and still unbiased. sqrt(n/(n-1)) makes up for centring at the sample's own mean.
    """
    seen, f = arm.seen, np.asarray(arm.predictions, dtype=np.float64)
    y = np.where(seen, arm.labels, 0.0)
    weight = np.divide(1.0, arm.probability, out=np.zeros_like(f), where=seen)
    ids = stats.cluster_ids(arm.strata, len(f))
    n = np.bincount(ids, weights=seen)
    centred = np.where(n > 1, 1 / np.maximum(n, 1), 0.0)
    y_mean, f_mean = (np.bincount(ids, weights=x * seen) * centred for x in (y, f))
    wider = np.where(arm.probability < 1, np.sqrt(np.where(n > 1, n / np.maximum(n - 1, 1), 1.0))[ids], 1.0)
    scale = weight * wider
    return y_mean[ids] + scale * (y - y_mean[ids]), f - f_mean[ids] - scale * (f - f_mean[ids])


def _unseen(arm: Audited, power: float) -> float:
    """Variance for strata whose labels all agree with each other: there one unlike row may have gone unseen.

    A share of 0.5/(n+1) is assumed (the mean under Jeffreys' prior), so that 20 labels without a surprise do not stand for a
    stratum of 1,000 as if all had been read.
    """
    seen, ids, total = arm.seen, stats.cluster_ids(arm.strata, len(arm.labels)), 0.0
    for stratum in range(int(ids.max()) + 1):
        mine = ids == stratum
        residual = (arm.labels - power * arm.predictions)[mine & seen]
        n, size = residual.size, int(mine.sum())
        if 0 < n < size and np.ptp(residual) < 1e-12:
            share = 0.5 / (n + 1)
            total += (size / len(ids)) ** 2 * (1 - n / size) * share * (1 - share) / n
    return total


def _looked_at(arm: Audited) -> int:
    """Clusters with a label, what the degrees of freedom count; strata that were read as a whole are left out if others are."""
    drawn = arm.seen & (arm.probability < 1)
    return len(np.unique(stats.cluster_ids(arm.clusters, len(arm.labels))[drawn if drawn.any() else arm.seen]))


def _clustered_variance(parts: Floats, ids: NDArray[np.intp]) -> float:
    """Variance of a sum of centred parts whose clusters are independent; 0 with a single cluster."""
    sums = np.bincount(ids, weights=parts)
    return float((sums**2).sum()) * sums.size / (sums.size - 1) if sums.size > 1 else 0.0


def _student(freedom: int) -> float:
    """Factor on an effective size that widens a normal interval to Student's."""
    return (stats.normal() / stats.student(freedom)) ** 2 if freedom > 0 else 0.0


def _shrunk(known: Rate, extra: float) -> tuple[float, float]:
    """A rate with `extra` pseudo-units, half of them events, and its size with them."""
    return (known.value * known.size + extra / 2) / (known.size + extra), known.size + extra


def _unit(x: float) -> float:
    return min(1.0, max(0.0, x))


def _arrays(values: ArrayLike, weights: ArrayLike | None, clusters: Names | None) -> tuple[Floats, Floats, NDArray[np.intp]]:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64).reshape(-1)
    if w.shape != x.shape or not np.isfinite(x).all() or not (w > 0).all():
        raise ValueError(f"{x.size} values with {w.size} weights; wanted finite values and a weight above 0 for each")
    return x, w, stats.cluster_ids(clusters, x.size)
