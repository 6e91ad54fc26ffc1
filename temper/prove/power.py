"""How many prompts a proof needs, from a pilot: what changed between its arms, its clusters, its samples, and its judge's errors.

n = deff (z_a + z_b)^2 (w^2 + (s_A^2 + s_B^2) / K) / delta^2 with K answers a prompt (Miller 2024, arXiv 2411.00640), in the form
for shares of Connor (1987), `stats.sample_size_paired`. A judge with sensitivity + specificity - 1 = J shows a true change of
delta as J delta, where its errors do not depend on the arm (Rogan and Gladen 1978).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from temper import stats
from temper.errors import ProofError, UsageError
from temper.files import Row
from temper.judge_error import INFORMATIVE
from temper.prove import metrics as measures
from temper.prove.evidence import Evidence
from temper.prove.metrics import Metric, Prompt, Sample
from temper.stats import Estimate

PLANNED = ("unsafe", "over_refusal", "helped", "accuracy")
SAMPLES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Pilot:
    """What a pilot tells of one metric and two arms.

    `discordance` is the mean squared change of a prompt, with its interval; with one arm (`arm` "") it is what arms that answer
    independently would have, an upper bound. `within` is the variance of one answer around its prompt's mean, summed over both
    arms, None where no prompt was answered twice. `deff` is the design effect of the groups.
    """

    metric: str
    base: str
    arm: str
    n: int
    samples: float
    discordance: Estimate
    within: float | None
    deff: float

    def spread(self, samples: int, *, discordance: float) -> float | None:
        """The discordance with another number of answers a prompt; None where `within` would have to be known."""
        if self.within is None:
            return discordance if samples == self.samples else None
        return max(0.0, discordance + self.within * (1 / samples - 1 / self.samples))


@dataclass(frozen=True, slots=True)
class Need:
    """Prompts that show a change with the power asked for: at the pilot's discordance, and at the upper end of its interval.

    None where the pilot cannot tell.
    """

    samples: int
    prompts: int | None
    cautious: int | None


@dataclass(frozen=True, slots=True)
class Planned:
    """One metric of two arms: what the pilot tells, and the need of each number of answers a prompt, for a change of `delta` and
    for ruling out a loss of `margin` where there is none."""

    pilot: Pilot
    change: tuple[Need, ...]
    loss: tuple[Need, ...]


def plan(
    evidence: Evidence,
    *,
    delta: float = 0.05,
    margin: float = 0.02,
    power: float = 0.8,
    alpha: float = 0.05,
    youden: float = 1.0,
) -> list[Planned]:
    """The need of every arm against the first, by metric; `youden` is the judge's sensitivity + specificity - 1.

    Raises `UsageError` for a number that is out of range, `ProofError` where the judge does not tell anything.
    """
    for name, value in (("delta", delta), ("margin", margin), ("power", power), ("alpha", alpha)):
        if not 0 < value < 1:
            raise UsageError(f"{name} = {value}; wanted more than 0 and less than 1")
    if youden < INFORMATIVE:
        raise ProofError(f"the judge's sensitivity + specificity - 1 is {youden:.2f}, below {INFORMATIVE}: no n makes up for it")
    table = measures.table(evidence.held_out, gold=evidence.gold, proxy=evidence.proxy)
    rows = evidence.pooled.rows
    base = next(iter(rows))
    names = [(base, arm) for arm in rows if arm != base] or [(base, "")]
    pilots = [p for one, arm in names for m in PLANNED if (p := pilot(rows, one, arm, m, table[m], delta)) is not None]

    def needs(of: Pilot, change: float) -> tuple[Need, ...]:
        seen = change * (youden if of.metric == "unsafe" else 1.0)
        return tuple(needed(of, seen, samples, power=power, alpha=alpha) for samples in SAMPLES)

    return [Planned(of, needs(of, delta), needs(of, margin)) for of in pilots]


def pilot(rows: Mapping[str, Sequence[Row]], base: str, arm: str, name: str, metric: Metric, delta: float) -> Pilot | None:
    """What the rows tell of one metric; None without a prompt that both arms (or the one there is) have graded."""
    before = measures.values_by_sample(rows[base], metric)
    after = measures.values_by_sample(rows[arm], metric) if arm else before
    shared = before.keys() & after.keys()
    if not shared:
        return None
    groups = measures.groups_of(rows[base])
    x, y = (_by_prompt(values, shared) for values in (after, before))
    prompts = sorted(x)
    clusters = [groups[p] for p in prompts]
    means = np.array([[np.mean(x[p]), np.mean(y[p])] for p in prompts])
    change = means[:, 0] - means[:, 1]
    discordance = stats.share(change**2, clusters) if arm else _independent(stats.share(means[:, 1], clusters), delta)
    noise = [_within(of) for of in (x, y)]
    return Pilot(
        metric=name,
        base=base,
        arm=arm,
        n=len(prompts),
        samples=float(1 / np.mean([1 / len(x[p]) for p in prompts])),
        discordance=discordance,
        within=None if noise[0] is None or noise[1] is None else noise[0] + noise[1],
        deff=stats.design_effect(change if arm else means[:, 1], clusters),
    )


def needed(of: Pilot, change: float, samples: int, *, power: float, alpha: float) -> Need:
    """Prompts for a change as the judge shows it, with so many answers a prompt."""

    def prompts(discordance: float) -> int | None:
        spread = of.spread(samples, discordance=discordance)
        if spread is None:
            return None
        # a change needs at least its own square of discordance; of single answers at least its own size
        least = abs(change) if samples == 1 else change**2
        return math.ceil(of.deff * stats.pairs_needed(change, max(spread, least), power=power, alpha=alpha))

    return Need(samples, prompts(of.discordance.value), prompts(of.discordance.high))


def as_dict(planned: Planned) -> dict[str, Any]:
    """For --json: the pilot's figures and both needs."""
    of = planned.pilot
    told = {name: getattr(of, name) for name in ("metric", "base", "arm", "n", "samples", "within", "deff")}
    needs = {
        name: [{"samples": n.samples, "prompts": n.prompts, "cautious": n.cautious} for n in getattr(planned, name)]
        for name in ("change", "loss")
    }
    return {**told, "discordance": of.discordance.as_dict(), **needs}


def _by_prompt(values: Mapping[Sample, float], shared: set[Sample]) -> dict[Prompt, list[float]]:
    found: dict[Prompt, list[float]] = defaultdict(list)
    for suite, example, sample in shared:
        found[suite, example].append(values[suite, example, sample])
    return found


def _within(by_prompt: Mapping[Prompt, Sequence[float]]) -> float | None:
    """The mean variance of answers to one prompt, over prompts with at least two; None without such a prompt."""
    spreads = [float(np.var(values, ddof=1)) for values in by_prompt.values() if len(values) > 1]
    return sum(spreads) / len(spreads) if spreads else None


def _independent(rate: Estimate, delta: float) -> Estimate:
    """The discordance of two arms that share nothing, at rates p and p - delta (or p + delta, where that is not a share)."""

    def between(p: float) -> float:
        q = p - delta if p >= delta else p + delta
        return p * (1 - q) + q * (1 - p)

    # highest where p is nearest to one half
    worst = min(max(0.5, rate.low), rate.high)
    ends = [between(p) for p in (rate.low, rate.high)]
    return Estimate(between(rate.value), rate.n, min(*ends, between(rate.value)), max(*ends, between(worst)))
