"""The gap between what a reward believes and what gold says, on one scale for every design of reward (after arXiv 2210.10760).

Rewards of different designs have different units. A design's reward is therefore mapped to P(gold good) by isotonic regression
on answers of the *initial* policy; the gap at a step is the mean mapped reward minus the mean of gold, zero at the start by
construction. Where weights change, the initial answers are paid again and mapped again. Intervals and areas are `prove.gap`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from temper.graders import calibrate
from temper.graders.calibrate import Curve
from temper.stats import Floats

LEAST = 50
"""Fewer graded answers of the start than this make no map for the live figures."""


def fitted(rewards: Floats, good: Floats, weights: Floats | None = None) -> Curve:
    """The isotonic map from reward to P(gold good) (shapes (N,)); its mean over the fitted rows is gold's mean there.

    Unlike a calibration it may answer 0 and 1, and with corrected labels lie beyond: only its means are used.
    """
    mass = np.ones_like(good) if weights is None else weights
    return replace(calibrate.fit(rewards, good, mass, "isotonic"), edge=-math.inf)


def mapped(rewards: Sequence[float | None], good: Sequence[float | None]) -> Curve | None:
    """`fitted` on the answers that have both a reward and gold's opinion; None if they are fewer than 50."""
    known = _both(rewards, good)
    return fitted(*known) if known[0].size >= LEAST else None


def gap(curve: Curve, rewards: Sequence[float | None], good: Sequence[float | None]) -> float | None:
    """Mean mapped reward minus mean gold over the answers that have both; None if there are none."""
    reward, gold = _both(rewards, good)
    return float(np.mean(curve(reward) - gold)) if reward.size else None


def _both(rewards: Sequence[float | None], good: Sequence[float | None]) -> tuple[Floats, Floats]:
    pairs = [(r, g) for r, g in zip(rewards, good, strict=True) if r is not None and g is not None]
    table: Floats = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
