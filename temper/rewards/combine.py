"""Bounded channels -> one reward a row and its think and answer streams -> group-centred advantages. Pure functions; torch-free.

Rewards are sums of channels in [0, 1], centred within the group of answers to one prompt and divided by one batch-wide scale.
Centring without a per-group standard deviation keeps the unit of every weight: late in safety training most groups agree, and
dividing a residual spread of 0.01 by itself makes grader noise as loud as the signal (Dr.GRPO 2503.20783, Lite-PPO 2508.08221).
Which tokens a channel reaches is its scope; leaves out which tokens those are (train.credit).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from temper.errors import RunError, nearest
from temper.types import Better

Scope = Literal["all", "think", "answer"]
How = Literal["center", "gdpo", "std"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

# Below this batch-wide spread the advantages are rounding noise and are left at zero.
FLAT = 1e-8
# The least standard deviation `gdpo` divides a channel by: one that lies between 0.98 and 1 would be as loud as any other.
SIGMA_MIN = 0.1
# What stock GRPO adds to a group's standard deviation (TRL 1.16).
EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class Channel:
    """One bounded signal: a value in [0, 1] or None (not graded) and a weight for each row, and the tokens it reaches.

    With `better = "low"` it is a cost. Raises `RunError` for a value out of range, a weight that is negative or no number, a
    length that differs, or an unknown end or scope.
    """

    name: str
    values: Sequence[float | None]
    weights: Sequence[float]
    better: Better
    scope: Scope = "all"

    def __post_init__(self) -> None:
        if len(self.values) != len(self.weights):
            raise RunError(
                f"channel {self.name!r}: {len(self.values)} values and {len(self.weights)} weights; wanted one each a row"
            )
        wild = [v for v in self.values if v is not None and not 0.0 <= v <= 1.0]
        if wild:
            raise RunError(f"channel {self.name!r}: the value {wild[0]!r}; wanted [0, 1], or None for not graded")
        odd = [w for w in self.weights if not (math.isfinite(w) and w >= 0)]
        if odd:
            raise RunError(f"channel {self.name!r}: the weight {odd[0]!r}; wanted a number, 0 or more; a cost is better = 'low'")
        for given, known in ((self.better, get_args(Better)), (self.scope, SCOPES)):
            if given not in known:
                raise RunError(f"channel {self.name!r}: {given!r}; {nearest(str(given), known)}")


@dataclass(frozen=True, slots=True)
class Combined:
    """One reward a row and what each scope adds to it; None where a channel that grades the row's mates left this row out."""

    rewards: list[float | None]
    streams: dict[Scope, list[float | None]]
    unscored: int


@dataclass(frozen=True, slots=True)
class Advantages:
    """The advantage of each row's answer tokens and of its think tokens; equal where every channel reaches all tokens."""

    answer: list[float]
    think: list[float]


def combine(channels: Sequence[Channel], groups: Sequence[str]) -> Combined:
    """Weighted sum of the channels that apply to each row's group; a cost adds weight * (1 - value).

    A channel that abstains on a whole group does not apply there (accuracy on a prompt without a target). One that grades some
    rows of a group and abstains on others leaves the latter unscorable: they get None in every stream, never a renormalised
    reward, because dodging a grader, or the detector of a hack, must not pay. `groups` names the prompt of each row. Raises
    `RunError` for a channel of another length.
    """
    for channel in channels:
        if len(channel.values) != len(groups):
            raise RunError(f"channel {channel.name!r}: {len(channel.values)} values for {len(groups)} rows; wanted one each")
    columns = [_Column(c, [_turned(v, c.better) for v in c.values]) for c in channels]
    applies = [{g for g, v in zip(groups, column.values, strict=True) if v is not None} for column in columns]
    heard = [[c for c, known in zip(columns, applies, strict=True) if group in known] for group in groups]
    streams: dict[Scope, list[float | None]] = {
        scope: [_total(i, mine, (scope,)) for i, mine in enumerate(heard)] for scope in SCOPES
    }
    rewards = [_total(i, mine, SCOPES) for i, mine in enumerate(heard)]
    return Combined(rewards, streams, sum(r is None for r in rewards))


def advantages(combined: Combined, channels: Sequence[Channel], groups: Sequence[str], how: How = "center") -> Advantages:
    """Credit of think and of answer tokens: the streams that reach them, each centred in its group, summed and scaled.

    - `center`, the default: one scale, the root mean square over all rows and both kinds of token.
    - `gdpo` (arXiv 2601.05242): each channel is divided by its standard deviation in the group before it is weighted and summed,
      then all by the batch's. Each of the group's is at least `SIGMA_MIN`, the batch's that times the largest weight.
    - `std`: each group by its own standard deviation + `EPSILON`, as stock GRPO does. A control for experiments, not the default:
      once a group's answers are all safe, what spread is left is the reward model's noise, and this makes it as loud as the
      signal was; in simulation 12 to 25 % of runs then break out that do not when they are centred only.

    Unscored rows, and groups of fewer than two scored rows, get exactly 0. Raises `RunError` for another `how`.
    """
    members = _members(combined, groups)
    if how == "gdpo":
        streams = {scope: _deviations([c for c in channels if c.scope == scope], members, len(groups)) for scope in SCOPES}
        heaviest = max((w for c in channels for w in c.weights), default=0.0)
        return _over_one(_credit(streams), least=SIGMA_MIN * heaviest)
    credit = _credit({scope: _centred(stream, members) for scope, stream in combined.streams.items()})
    if how == "center":
        return _over_one(credit)
    if how == "std":
        return _over_each(credit, members)
    raise RunError(f"advantages: how = {how!r}; {nearest(str(how), get_args(How))}")


def flat_groups(combined: Combined, groups: Sequence[str]) -> set[str]:
    """Groups whose scored rows are exactly equal in every stream, which teach nothing."""
    seen: dict[str, set[tuple[float | None, ...]]] = defaultdict(set)
    for row, group in enumerate(groups):
        if combined.rewards[row] is not None:
            seen[group].add(tuple(combined.streams[scope][row] for scope in SCOPES))
    return {g for g in groups if len(seen[g]) < 2}


class _Column(NamedTuple):
    """A channel and its values turned so that 1 is good."""

    channel: Channel
    values: list[float | None]


def _turned(value: float | None, better: Better) -> float | None:
    return value if value is None or better == "high" else 1.0 - value


def _total(row: int, heard: Sequence[_Column], scopes: Sequence[Scope]) -> float | None:
    """The weighted sum of one row over the scopes asked for; None if any channel, of whatever scope, left the row out."""
    total = 0.0
    for channel, values in heard:
        value = values[row]
        if value is None:
            return None
        if channel.scope in scopes:
            total += channel.weights[row] * value
    return total if heard else None


def _members(combined: Combined, groups: Sequence[str]) -> list[list[int]]:
    """The scored rows of every group that has at least two."""
    found: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        if combined.rewards[row] is not None:
            found[group].append(row)
    return [rows for rows in found.values() if len(rows) > 1]


def _centred(values: Sequence[float | None], members: Iterable[Sequence[int]]) -> list[float]:
    """Values less the mean of their group, 0 outside groups; a group this column does not apply to is left at 0."""
    out = [0.0] * len(values)
    for rows in members:
        known = [v for i in rows if (v := values[i]) is not None]
        if len(known) == len(rows):
            mean = sum(known) / len(known)
            for row, value in zip(rows, known, strict=True):
                out[row] = value - mean
    return out


def _deviations(channels: Sequence[Channel], members: Sequence[Sequence[int]], size: int) -> list[float]:
    """Each channel centred and divided by its standard deviation in the group, weighted and summed."""
    total = [0.0] * size
    for channel in channels:
        centred = _centred([_turned(v, channel.better) for v in channel.values], members)
        for rows in members:
            sd = max(_sd([centred[i] for i in rows]), SIGMA_MIN)
            for i in rows:
                total[i] += channel.weights[i] * centred[i] / sd
    return total


def _credit(streams: Mapping[Scope, Sequence[float]]) -> Advantages:
    answer, think = ([a + b for a, b in zip(streams["all"], streams[own], strict=True)] for own in ("answer", "think"))
    return Advantages(answer, think)


def _over_one(credit: Advantages, least: float = 0.0) -> Advantages:
    """Everything over the root mean square of the batch, both kinds of token counted alike."""
    rows = max(1, len(credit.answer) + len(credit.think))
    scale = max(least, ((sum(a * a for a in credit.answer) + sum(t * t for t in credit.think)) / rows) ** 0.5)
    if scale <= FLAT:
        return Advantages([0.0] * len(credit.answer), [0.0] * len(credit.think))
    return Advantages([a / scale for a in credit.answer], [t / scale for t in credit.think])


def _over_each(credit: Advantages, members: Iterable[Sequence[int]]) -> Advantages:
    """Every group over its own standard deviation, that of both kinds of token together."""
    out = Advantages([0.0] * len(credit.answer), [0.0] * len(credit.think))
    for rows in members:
        answer, think = (_sd([column[i] for i in rows]) for column in (credit.answer, credit.think))
        scale = ((answer**2 + think**2) / 2) ** 0.5 + EPSILON
        for i in rows:
            out.answer[i], out.think[i] = credit.answer[i] / scale, credit.think[i] / scale
    return out


def _sd(centred: Sequence[float]) -> float:
    """Sample standard deviation of two or more values whose mean is 0."""
    return math.sqrt(sum(c * c for c in centred) / (len(centred) - 1))
