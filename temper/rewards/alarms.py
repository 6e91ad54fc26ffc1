"""When a step's figures call for a person: limits, and which of them the last steps' mean has crossed."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Alarms:
    """Limits on the mean of the last `window` steps; a limit is crossed upwards, that of `entropy` downwards.

    `unscored` and `zero_variance` are shares (of rows, of groups), `hack_rate` the share of answers with any hack flagged, `gap`
    the mapped reward minus gold, `kl_sequence` nats an answer, `entropy` nats a token. Defaults: 2 % unscored (a judge that is
    down, not a hard case), 30 % hacks (a break-out), a gap of 0.3, nine groups in ten without a spread.
    """

    window: int = 5
    unscored: float = 0.02
    zero_variance: float = 0.9
    hack_rate: float = 0.3
    gap: float = 0.3
    kl_sequence: float = 40.0
    entropy: float = 0.01

    def check(self, where: str) -> None:
        """Raise `RecipeError` for a window that holds no step or a limit below zero."""
        if self.window < 1:
            raise RecipeError(f"{where}: window = {self.window}; wanted a number of steps, at least 1")
        for limit in LIMITS:
            if getattr(self, limit) < 0:
                raise RecipeError(f"{where}: {limit} = {getattr(self, limit)}; wanted a limit of at least 0")


LIMITS = tuple(f.name for f in dataclasses.fields(Alarms) if f.name != "window")


def raised(steps: Sequence[Mapping[str, Any]], limits: Alarms) -> list[str]:
    """Names of the limits that the mean of the last steps crosses; silent until there are `window` steps to take a mean of."""
    last = steps[-limits.window :]
    if len(last) < limits.window:
        return []
    return [name for name in LIMITS if _crossed(name, [s[name] for s in last if s.get(name) is not None], limits)]


def _crossed(name: str, values: Sequence[float], limits: Alarms) -> bool:
    if not values:
        return False
    mean, limit = sum(values) / len(values), getattr(limits, name)
    return bool(mean < limit if name == "entropy" else mean > limit)
