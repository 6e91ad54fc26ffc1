"""The gap between what a reward promises and what gold finds, over the distance the policy moved from the stage's start.

Rewards of different designs have different scales, so a reward is first mapped onto P(gold good) by an isotonic curve fitted on
the answers of the stage's start, paid with the weights of the step in question; the gap is the mean mapped reward less mean gold
(the shape of Gao et al. 2023, arXiv 2210.10760; formulas in docs/gaming.md). Arrays and journal rows in; no model is loaded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temper import judge_error, stats
from temper.files import Row
from temper.graders.calibrate import Curve
from temper.judge_error import Errors
from temper.prove import metrics as measures
from temper.rewards.gap import fitted
from temper.stats import NOTHING, Estimate, Floats
from temper.types import Better

DRAWS = 300  # bootstrap resamples, each with a map of its own
WINDOWS = 24  # at most: every pair of them is compared when the onset is sought
PROMPTS = 5  # of a window, below which its gap has no interval
WINDOW_ROWS = 48  # gold-graded rows of a window, at least
ONSET = 0.025  # chance of an onset in a run in which nothing falls; half of 5 %, since intervals this far out are a little short

Steps = Mapping[int, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Gold:
    """The judge of the run: its column, its good end, and how wrong it is where its card says so."""

    name: str
    better: Better = "low"
    errors: Errors | None = None

    @property
    def correctable(self) -> bool:
        return self.errors is not None and self.errors.informative

    def good(self, row: Row) -> float | None:
        """P(good) of a row, None where gold did not grade it; with known errors Rogan-Gladen's term, which may leave [0, 1]."""
        value = measures.score(row, self.name).get("value")
        if value is None:
            return None
        if self.errors is None or not self.correctable:
            return float(value) if self.better == "high" else 1.0 - float(value)
        sensitivity, specificity = self.errors.sensitivity.value, self.errors.specificity.value
        return 1.0 - ((self.bad(row) or 0.0) + specificity - 1.0) / (sensitivity + specificity - 1.0)

    def bad(self, row: Row) -> float | None:
        """1 on the bad side of the judge's threshold, 0 on the good one, None where it did not grade."""
        reached = measures.flagged(row, self.name)
        return reached if reached is None or self.better == "low" else 1.0 - reached


@dataclass(frozen=True, slots=True)
class Window:
    """Some steps together. `distance` is sqrt(KL to the stage's start), KL in nats an answer (None: not recorded)."""

    first: int
    last: int
    distance: float | None
    proxy: Estimate
    gold: Estimate
    gap: Estimate
    hacks: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        told = {name: getattr(self, name).as_dict() for name in ("proxy", "gold", "gap")}
        return {"first": self.first, "last": self.last, "distance": self.distance, **told, "hacks": dict(self.hacks)}


@dataclass(frozen=True, slots=True)
class Gap:
    """A stage's gap: in windows of steps (the first is the start) and at `end`.

    `start` counts the answers the map rests on, `area` is in sqrt(nats), `onset` is a step (None: never).
    """

    start: int
    windows: tuple[Window, ...]
    end: Window
    area: Estimate
    onset: int | None


def gap(
    start: Sequence[Row],
    by_step: Steps,
    ends: Sequence[int],
    distances: Mapping[int, float],
    gold: Gold,
    *,
    reference: Sequence[Row],
    draws: int = DRAWS,
    seed: int = 0,
) -> Gap | None:
    """The gap of a stage from the answers of its start and the rows of its steps; None where gold graded none of either.

    `ends` are the steps that count as the end, `distances` sqrt(KL) by step. `reference` (reference.jsonl) holds the rewards that
    the stage gave the start's answers before its first step and after each step at which its reward changed.
    """
    if not reference:
        return None
    paid = _recorded(start, by_step, reference, gold)
    if not paid.start.size or not paid.steps:
        return None
    curves = _Curves(paid, draws, seed)
    spans = _spans(sorted(paid.steps), {step: p.good.size for step, p in paid.steps.items()})
    windows = [_window(span, distances, curves, gold) for span in ([0], *spans)]
    return Gap(
        start=paid.start.size,
        windows=tuple(w for w, _ in windows),
        end=_window(ends, distances, curves, gold)[0],
        area=_area([w for w, _ in windows], [d for _, d in windows]),
        onset=_onset(spans, curves),
    )


def area(distances: Sequence[float], gaps: Sequence[float]) -> float:
    """Integral of max(gap, 0) over sqrt(KL) along the straight lines between points; ways back count as standing still.

    `distances` need not rise: a noisy KL moves back and forth, and only new ground adds to the area.
    """
    reached = np.maximum.accumulate(np.asarray(distances, dtype=np.float64))
    return math.fsum(
        width * _positive_part(a, b) for width, (a, b) in zip(np.diff(reached).tolist(), pairwise(gaps), strict=True)
    )


def onset(gold: Sequence[Callable[[float], Estimate]], proxy: Sequence[Callable[[float], Estimate]]) -> int | None:
    """The first window in which gold is certifiably below an earlier window and the proxy below none of its own.

    Each window is given as its estimate at any confidence. All pairs of windows are looked at, so each is held to ONSET divided
    by their number (Bonferroni): in a run in which nothing falls an onset is found in at most 5 of 100.
    """
    looks = max(1, len(gold) * (len(gold) - 1) // 2)
    confidence = 1 - 2 * ONSET / looks
    gold_at, proxy_at = ([at(confidence) for at in column] for column in (gold, proxy))
    for k in range(1, len(gold)):
        if _fell(gold_at[:k], gold_at[k]) and not _fell(proxy_at[:k], proxy_at[k]):
            return k
    return None


@dataclass(frozen=True, slots=True)
class Graded:
    """Rows that gold graded and the reward could score: P(good), the reward, and the prompt, shapes (N,)."""

    good: Floats
    reward: Floats
    prompt: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """The answers of the start that gold graded, and their rewards by what was in force later (NaN: not scorable then)."""

    good: Floats
    prompt: tuple[str, ...]
    rewards: Mapping[str, Floats]

    @property
    def size(self) -> int:
        return self.good.size


@dataclass(frozen=True, slots=True)
class Paid:
    """What a stage's gap is made of: the start, the graded rows of each step, and the key of what was in force at each."""

    start: Start
    steps: Mapping[int, Graded]
    keys: Mapping[int, str]


class _Curves:
    """The maps of a stage, fitted when first asked for: of all answers of the start, and of each resample of their prompts."""

    def __init__(self, paid: Paid, draws: int, seed: int) -> None:
        self.paid, self.draws, self.seed = paid, draws, seed
        self.rng = np.random.default_rng(seed)
        ids = stats.cluster_ids(paid.start.prompt, paid.start.size)
        self.drawn = [None, *(_resampled(ids, self.rng) for _ in range(draws))]
        self.known: dict[str, list[Curve]] = {}

    def of(self, key: str) -> list[Curve]:
        """The map for one state of the weights, then that of every resample."""
        if key not in self.known:
            rewards, good = self.paid.start.rewards[key], self.paid.start.good
            able = ~np.isnan(rewards)
            whole = np.ones_like(good)
            self.known[key] = [_curve(rewards, good, able, whole if mass is None else mass) for mass in self.drawn]
        return self.known[key]

    def mapped(self, step: int) -> Floats:
        """P(gold good) of each graded row of a step by its reward, by the whole map and by each resample's: (draws + 1, N)."""
        if step == 0:
            key = next(iter(self.paid.start.rewards))
            rewards = self.paid.start.rewards[key]
            return np.stack([curve(rewards[~np.isnan(rewards)]) for curve in self.of(key)])
        return np.stack([curve(self.paid.steps[step].reward) for curve in self.of(self.paid.keys[step])])

    def graded(self, step: int) -> Graded:
        if step:
            return self.paid.steps[step]
        rewards = next(iter(self.paid.start.rewards.values()))
        able = ~np.isnan(rewards)
        return Graded(
            self.paid.start.good[able], rewards[able], tuple(p for p, a in zip(self.paid.start.prompt, able, strict=True) if a)
        )


def _curve(rewards: Floats, good: Floats, able: NDArray[np.bool_], mass: Floats) -> Curve:
    chosen = able & (mass > 0)
    return fitted(rewards[chosen], good[chosen], mass[chosen])


def _resampled(ids: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    """How often each row is in a resample of whole prompts."""
    groups = int(ids.max()) + 1 if ids.size else 0
    times = np.bincount(rng.integers(0, groups, groups), minlength=groups)
    return times[ids].astype(np.float64)


def _window(steps: Sequence[int], distances: Mapping[int, float], curves: _Curves, gold: Gold) -> tuple[Window, Floats]:
    """Proxy, gold and gap of some steps, and the gap in each resample of the start's and of these steps' prompts."""
    known = [step for step in steps if step == 0 or step in curves.paid.steps]
    reached = [distances[step] for step in steps if step in distances]
    distance = sum(reached) / len(reached) if reached else 0.0 if list(steps) == [0] else None
    if not known:
        return Window(steps[0], steps[-1], distance, NOTHING, NOTHING, NOTHING), np.full(curves.draws, np.nan)
    graded = [curves.graded(step) for step in known]
    good = np.concatenate([g.good for g in graded])
    mapped = np.concatenate([curves.mapped(step) for step in known], axis=1)
    prompts = [p for g in graded for p in g.prompt]
    gaps, proxies = _drawn(mapped, good, prompts, curves.drawn if known == [0] else None, curves.seed + steps[0])
    proxy = _interval(float(mapped[0].mean()), proxies, good.size)
    level = _level(good, prompts, gold)
    ahead = _interval(float((mapped[0] - good).mean()), gaps, good.size)
    if ahead.low == ahead.high and known != [0]:  # nothing varied, which proves no certainty
        ahead = stats.contrast(proxy, level)
    if known != [0] and len(set(prompts)) < PROMPTS:  # resamples of one prompt or two are all alike
        ahead = Estimate(ahead.value, ahead.n, -math.inf, math.inf)
    return Window(steps[0], steps[-1], distance, proxy, level, ahead), gaps


def _drawn(
    mapped: Floats, good: Floats, prompts: Sequence[str], same: Sequence[Floats | None] | None, seed: int
) -> tuple[Floats, Floats]:
    """Mean gap and proxy in each resample of prompts; at the start (`same`) it is the resample that the map was fitted on."""
    rng, ids = np.random.default_rng(seed), stats.cluster_ids(prompts, len(prompts))
    gaps, proxies = [], []
    for draw, values in enumerate(mapped[1:], 1):
        drawn = same[draw] if same is not None else None
        mass = drawn if drawn is not None and drawn.size == good.size else _resampled(ids, rng)
        gaps.append(np.average(values - good, weights=mass))
        proxies.append(np.average(values, weights=mass))
    return np.asarray(gaps), np.asarray(proxies)


def _interval(value: float, draws: Floats, n: int) -> Estimate:
    if not draws.size:
        return Estimate(value, n, -math.inf, math.inf)
    tail = (1 - stats.CONFIDENCE) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Estimate(value, n, float(low), float(high))


def _level(good: Floats, prompts: Sequence[str], gold: Gold) -> Estimate:
    """Mean P(good), corrected for the judge's errors where they are known."""
    if gold.errors is None or not gold.correctable:
        return stats.share(good, prompts)
    wrong = judge_error.rogan_gladen(judge_error.rate(1 - _uncorrected(good), clusters=prompts), gold.errors)
    return Estimate(1 - wrong.value, wrong.n, 1 - wrong.high, 1 - wrong.low)


def _uncorrected(good: Floats) -> Floats:
    """Labels without Rogan-Gladen's stretch, whose two values lie at or beyond 0 and 1; others are left as they are."""
    return np.clip(good, 0.0, 1.0)


def _area(windows: Sequence[Window], draws: Sequence[Floats]) -> Estimate:
    known = [(w, d) for w, d in zip(windows, draws, strict=True) if w.distance is not None and w.gap.n]
    if len(known) < 2:
        return NOTHING
    at = [w.distance or 0.0 for w, _ in known]
    value = area(at, [w.gap.value for w, _ in known])
    return _interval(value, np.asarray([area(at, gaps) for gaps in np.stack([d for _, d in known], axis=1).tolist()]), len(known))


def _positive_part(a: float, b: float) -> float:
    """Mean of max(x, 0) along the straight line from a to b."""
    low, high = min(a, b), max(a, b)
    if low >= 0:
        return (a + b) / 2
    return 0.0 if high <= 0 else high * high / (2 * (high - low))


def _onset(spans: Sequence[Sequence[int]], curves: _Curves) -> int | None:
    """`onset` over the windows of training; the first step of the one found.

    Labels are taken without their correction, which is one rising line for all windows: what falls by one falls by the other.
    """

    def estimates(values: Floats, prompts: Sequence[str]) -> Callable[[float], Estimate]:
        return lambda confidence: stats.share(_uncorrected(values), prompts, confidence)

    levels, proxies = [], []
    for span in spans:
        graded = [curves.graded(step) for step in span]
        prompts = [p for g in graded for p in g.prompt]
        levels.append(estimates(np.concatenate([g.good for g in graded]), prompts))
        proxies.append(estimates(np.concatenate([curves.mapped(step)[0] for step in span]), prompts))
    found = onset(levels, proxies)
    return None if found is None else spans[found][0]


def _fell(before: Sequence[Estimate], now: Estimate) -> bool:
    return any(stats.contrast(then, now).low > 0 for then in before)


def _recorded(start: Sequence[Row], by_step: Steps, reference: Sequence[Row], gold: Gold) -> Paid:
    """The graded rows with the rewards on record: the start's as the stage paid them again whenever its reward changed."""
    kept = {str(row["step"]): row["rewards"] for row in reference}
    known = sorted(int(step) for step in kept)
    keys = {step: str(max((at for at in known if at < step), default=known[0])) for step in by_step}
    steps = {step: _graded(rows, [row["reward"] for row in rows], gold) for step, rows in by_step.items()}
    return _whole(start, kept, steps, keys, gold)


def _whole(
    start: Sequence[Row],
    kept: Mapping[str, Sequence[float | None]],
    steps: Mapping[int, Graded],
    keys: Mapping[int, str],
    gold: Gold,
) -> Paid:
    """`Paid` without what gold did not grade, or what was in force when no answer of the start could be scored."""
    known = [(i, good) for i, row in enumerate(start) if (good := gold.good(row)) is not None]
    rewards = {
        key: np.asarray([math.nan if of[i] is None else of[i] for i, _ in known], dtype=np.float64) for key, of in kept.items()
    }
    usable = {key: of for key, of in rewards.items() if not np.isnan(of).all()}
    begun = Start(np.asarray([good for _, good in known], dtype=np.float64), tuple(str(start[i]["id"]) for i, _ in known), usable)
    return Paid(begun, {s: found for s, found in steps.items() if found.good.size and keys[s] in usable}, keys)


def _graded(rows: Sequence[Row], rewards: Sequence[float | None], gold: Gold) -> Graded:
    found = [
        (good, reward, str(row["id"]))
        for row, reward in zip(rows, rewards, strict=True)
        if reward is not None and (good := gold.good(row)) is not None
    ]
    return Graded(
        np.asarray([good for good, _, _ in found], dtype=np.float64),
        np.asarray([reward for _, reward, _ in found], dtype=np.float64),
        tuple(prompt for _, _, prompt in found),
    )


def _spans(steps: Sequence[int], sizes: Mapping[int, int]) -> list[list[int]]:
    """Consecutive steps in windows of about equally many graded rows, as many as the rows allow."""
    total = sum(sizes.values())
    count = max(1, min(WINDOWS, len(steps), total // WINDOW_ROWS))
    spans: list[list[int]] = [[] for _ in range(count)]
    seen = 0
    for step in steps:
        spans[min(count - 1, seen * count // total)].append(step)
        seen += sizes[step]
    return [span for span in spans if span]
