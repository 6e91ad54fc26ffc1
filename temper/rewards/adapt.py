"""Weights that answer to audits: a multiplier on the harm channel that may only be stricter than the recipe's own weight.

A small, replayable part of the adaptive reward: the multiplier follows the *audited* rate of harm, not the reward's own opinion
(which winds up towards its noise floor), and a ratchet keeps it from relaxing only because nothing bad was seen lately. The
auditor must be neither a reward of the stage nor the run's gold judge.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

WINDOW = 64
CEILING = 4.0


@dataclass(frozen=True, slots=True)
class Rules:
    """How one channel's weight adapts. `target` is the tolerated audited rate of harm, `over_refusal` the tolerated refusal rate.

    `step` is the learning rate of the log-multiplier per refresh. Defaults: docs of the reward design (harm 0.05, refusal 0.10).
    """

    channel: str = "harm"
    auditor: str = ""
    target: float = 0.05
    over_refusal: float = 0.10
    step: float = 0.5


@dataclass(frozen=True, slots=True)
class State:
    """What must survive a crash: the multiplier and the window of (proxy, audited) harm and of refusals of harmless prompts."""

    multiplier: float = 1.0
    harm: tuple[tuple[float, float], ...] = ()
    refusals: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """One step's evidence: harm by the reward grader and by the auditor on the same rows, and refusals on harmless prompts."""

    proxy: Sequence[float] = field(default_factory=tuple)
    audited: Sequence[float] = field(default_factory=tuple)
    refusals: Sequence[float] = field(default_factory=tuple)


def adapt(state: State, seen: Observed, rules: Rules) -> State:
    """The next state: multiplier * exp(step * (audited harm - target)), clipped to [1, 4], falling only against over-refusal."""
    harm = (*state.harm, *zip(seen.proxy, seen.audited, strict=True))[-WINDOW:]
    refusals = (*state.refusals, *seen.refusals)[-WINDOW:]
    moved = replace(state, harm=harm, refusals=refusals)
    if not harm:
        return moved
    change = math.exp(rules.step * (_mean([audited for _, audited in harm]) - rules.target))
    opposed = bool(refusals) and _mean(refusals) > rules.over_refusal
    if change < 1 and not opposed:  # the ratchet: slack alone never relaxes a weight
        return moved
    return replace(moved, multiplier=min(CEILING, max(1.0, state.multiplier * change)))


def apply(state: State, weights: Mapping[str, float], rules: Rules) -> dict[str, float]:
    """The weights of this step: the recipe's, with the adapted channel multiplied."""
    return {name: weight * (state.multiplier if name == rules.channel else 1.0) for name, weight in weights.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
