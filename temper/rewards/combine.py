"""Several graders' columns -> one reward a row, and rewards -> group-centred advantages. Pure functions; torch-free.

Rewards are sums of bounded channels in [0, 1], centred within the group of answers to one prompt and divided by one batch-wide
scale. Centring without a per-group standard deviation keeps the unit of every weight: late in safety training most groups
agree, and dividing a residual spread of 0.01 by itself makes grader noise as loud as the signal (Dr.GRPO 2503.20783, Lite-PPO
2508.08221).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from temper.types import Better, Score

# Below this batch-wide spread the advantages are rounding noise and are left at zero.
FLAT = 1e-8


@dataclass(frozen=True, slots=True)
class Combined:
    """One reward a row; None where a channel that grades the row's group-mates could not grade this row."""

    rewards: list[float | None]
    unscored: int


def oriented(score: Score, better: Better) -> float | None:
    """The score's value turned so that 1 is good; None stays None."""
    if score.value is None:
        return None
    return score.value if better == "high" else 1.0 - score.value


def combine(
    columns: Mapping[str, Sequence[Score]], better: Mapping[str, Better], weights: Mapping[str, float], groups: Sequence[str]
) -> Combined:
    """Weighted sum of the channels that apply to each row's group.

    A channel that abstains on a whole group does not apply there (accuracy on a prompt without a target). One that grades some
    rows of a group and abstains on others leaves the latter unscorable: they get None, never a renormalised reward, because
    dodging a grader must not pay.
    """
    rows = range(len(groups))
    values = {name: [oriented(columns[name][i], better[name]) for i in rows] for name in weights}
    applies = {name: {groups[i] for i in rows if column[i] is not None} for name, column in values.items()}
    rewards = [_reward(i, groups[i], values, applies, weights) for i in rows]
    return Combined(rewards, sum(r is None for r in rewards))


def advantages(rewards: Sequence[float | None], groups: Sequence[str]) -> list[float]:
    """Group-centred rewards over one batch-wide standard deviation; 0 for unscored rows and for groups with fewer than two."""
    members: dict[str, list[float]] = defaultdict(list)
    for reward, group in zip(rewards, groups, strict=True):
        if reward is not None:
            members[group].append(reward)
    centred = [_centred(r, members[g]) for r, g in zip(rewards, groups, strict=True)]
    scale = (sum(c * c for c in centred) / max(1, len(centred))) ** 0.5
    return [c / scale for c in centred] if scale > FLAT else [0.0] * len(centred)


def flat_groups(rewards: Sequence[float | None], groups: Sequence[str]) -> set[str]:
    """Groups whose scored rewards are all exactly equal, which teach nothing."""
    members: dict[str, set[float]] = defaultdict(set)
    for reward, group in zip(rewards, groups, strict=True):
        if reward is not None:
            members[group].add(reward)
    return {g for g in groups if len(members[g]) < 2}


def _reward(
    row: int,
    group: str,
    values: Mapping[str, Sequence[float | None]],
    applies: Mapping[str, set[str]],
    weights: Mapping[str, float],
) -> float | None:
    total, any_channel = 0.0, False
    for name, weight in weights.items():
        if group not in applies[name]:
            continue
        value = values[name][row]
        if value is None:
            return None
        total, any_channel = total + weight * value, True
    return total if any_channel else None


def _centred(reward: float | None, members: Sequence[float]) -> float:
    if reward is None or len(members) < 2:
        return 0.0
    return reward - sum(members) / len(members)
