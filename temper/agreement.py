"""How far labellers agree beyond chance: Cohen's kappa for two, Krippendorff's alpha for any number with gaps; nominal labels."""

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from temper import stats
from temper.stats import NOTHING, Clusters, Estimate

Label = Hashable
DRAWS = 2_000


def cohen_kappa(first: Sequence[Label], second: Sequence[Label], clusters: Clusters | None = None, *, seed: int = 0) -> Estimate:
    """(observed - expected) / (1 - expected) agreement of two labellers (Cohen 1960), bootstrapped over clusters.

    NaN where both used one label throughout: nothing was there to disagree about.
    """
    if len(first) != len(second):
        raise ValueError(f"cohen_kappa: {len(first)} labels against {len(second)}; wanted one of each for every unit")
    names = {label: i for i, label in enumerate(dict.fromkeys([*first, *second]))}
    pairs = np.array([[names[a], names[b]] for a, b in zip(first, second, strict=True)], dtype=np.intp).reshape(-1, 2)

    def kappa(chosen: np.ndarray) -> float:
        table = np.zeros((len(names), len(names)))
        np.add.at(table, (pairs[chosen, 0], pairs[chosen, 1]), 1.0)
        total = max(table.sum(), 1.0)
        expected = float(table.sum(0) @ table.sum(1)) / total**2
        return (float(np.trace(table)) / total - expected) / (1 - expected) if expected < 1 else math.nan

    return _bootstrapped(kappa, len(pairs), clusters, seed)


def krippendorff_alpha(units: Sequence[Sequence[Label | None]], clusters: Clusters | None = None, *, seed: int = 0) -> Estimate:
    """1 - observed / expected disagreement (Krippendorff 2011), bootstrapped over clusters; None is a missing label.

    `n` counts the units that two or more labelled. NaN where all labels are one and the same.
    """
    names = {label: i for i, label in enumerate(dict.fromkeys(a for unit in units for a in unit if a is not None))}
    counts = np.zeros((len(units), len(names)))
    for row, unit in zip(counts, units, strict=True):
        for label in unit:
            if label is not None:
                row[names[label]] += 1
    paired = np.flatnonzero(counts.sum(1) > 1)
    counts = counts[paired]
    groups = None if clusters is None else np.asarray(clusters)[paired]

    def alpha(chosen: np.ndarray) -> float:
        c = counts[chosen]
        each, n = c.sum(1), c.sum()
        observed = float(((each**2 - (c**2).sum(1)) / (each - 1)).sum())
        expected = float(n**2 - (c.sum(0) ** 2).sum()) / (n - 1) if n > 1 else 0.0
        return 1 - observed / expected if expected > 0 else math.nan

    return _bootstrapped(alpha, len(paired), groups, seed)


def _bootstrapped(statistic: Callable[[np.ndarray], float], n: int, clusters: Clusters | None, seed: int) -> Estimate:
    """The statistic with a percentile interval over resampled clusters; unbounded with one cluster."""
    value = statistic(np.arange(n)) if n else math.nan
    if math.isnan(value):
        return NOTHING
    low, high = stats.bootstrap_interval(statistic, clusters, n, draws=DRAWS, seed=seed)
    return Estimate(value, n, low, high)
