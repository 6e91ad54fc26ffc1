"""Several graders as one: their mean, the worst of them, a lower confidence bound, or how far they disagree.

A policy that learns to please one reward model pleases an ensemble less (Coste et al., arXiv 2310.02743: worst case, and a mean
that pays for disagreement). Members keep their names and identities, so that an ensemble cannot hide a judge among its members.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from temper.errors import RecipeError, nearest
from temper.types import Better, Completion, Named, Score

How = Literal["mean", "worst", "bound", "disagreement"]
_OPTION = re.compile(r"\w+\s*=")
OPTIONS = ("kappa", "quorum")
OWN_PARTS = frozenset({"sd", "range", "graded"})


class Written(NamedTuple):
    """What `HOW(NAME, NAME, ..., kappa=1, quorum=1)` asks for; a name may be an ensemble again."""

    how: How
    names: tuple[str, ...]
    kappa: float
    quorum: int


def written(spec: str) -> Written:
    """Read an ensemble as a recipe names it. Raises `RecipeError` for an open parenthesis, another `how` or a wrong option."""
    how, opened, rest = spec.partition("(")
    if how not in get_args(How) or not opened or not rest.endswith(")"):
        raise RecipeError(f"grader {spec!r}: wanted one of {', '.join(get_args(How))} with members, such as worst(harm, gold)")
    parts = _parted(rest[:-1])
    options = {name.strip(): value.strip() for name, _, value in (p.partition("=") for p in parts if _OPTION.match(p))}
    names = tuple(p for p in parts if not _OPTION.match(p))
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise RecipeError(f"grader {spec!r}: no option {unknown[0]!r}; {nearest(unknown[0], OPTIONS)}")
    try:
        return Written(how, names, float(options.get("kappa", "1")), int(options.get("quorum", "1")))  # type: ignore[arg-type]
    except ValueError as error:
        raise RecipeError(f"grader {spec!r}: {error}; wanted kappa=NUMBER and quorum=COUNT") from None


def _parted(text: str) -> list[str]:
    """The text at its commas, those inside parentheses left out."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """One value from those of `members`, by `how`:

    - `mean`; `worst`: the member with the worst opinion;
    - `bound`: the mean moved `kappa` standard deviations towards the bad end, within [0, 1];
    - `disagreement`: the standard deviation itself, between 0 and 0.5 (of the members as a population); low is good.

    Where not all members have `better = "low"`, those that do are turned round (1 - value) before anything is combined. Members
    that abstain are left out and counted; fewer than `quorum` opinions, or fewer than two where a deviation is asked for, are an
    abstention. `parts`: each member's value as it gave it, then `sd`, `range` (largest - smallest) and `graded` (how many did).
    Raises `RecipeError` for no member, two of one name, or an option that is out of range.
    """

    members: tuple[Named, ...]
    how: How = "mean"
    kappa: float = 1.0
    quorum: int = 1

    def __post_init__(self) -> None:
        names = Counter([*(m.name for m in self.members), *OWN_PARTS])
        twice = sorted(n for n, count in names.items() if count > 1)
        if twice or not self.members:
            raise RecipeError(
                f"ensemble of {[m.name for m in self.members]}: wanted members, each with a name of its own; {twice}"
            )
        if self.how not in get_args(How):
            raise RecipeError(f"ensemble: how = {self.how!r}; wanted one of {', '.join(get_args(How))}")
        if not (math.isfinite(self.kappa) and self.kappa >= 0):
            raise RecipeError(f"ensemble: kappa = {self.kappa}; wanted a number of standard deviations, 0 or more")
        if not 1 <= self.quorum <= len(self.members):
            raise RecipeError(f"ensemble: quorum = {self.quorum}; wanted 1 to {len(self.members)}, the number of members")

    @property
    def better(self) -> Better:
        return "low" if self.how == "disagreement" else self._direction

    @property
    def _direction(self) -> Better:
        return "low" if all(m.better == "low" for m in self.members) else "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        columns = [member.grade(completions) for member in self.members]
        return [self._score(row) for row in zip(*columns, strict=True)]

    def _score(self, row: tuple[Score, ...]) -> Score:
        opinions = [(m, s.value) for m, s in zip(self.members, row, strict=True) if s.value is not None]
        values = [value if m.better == self._direction else 1 - value for m, value in opinions]
        spread = _sd(values)
        parts: dict[str, float | None] = {m.name: s.value for m, s in zip(self.members, row, strict=True)}
        parts |= {"sd": spread, "range": max(values) - min(values) if spread is not None else None, "graded": float(len(values))}
        value = self._combined(values, spread)
        whole = value is not None and len(values) == len(row)
        return Score(value, "" if whole else f"{len(values)} of {len(row)} members graded{self._first_reason(row)}", parts)

    def _combined(self, values: list[float], spread: float | None) -> float | None:
        if len(values) < self.quorum:
            return None
        if self.how == "worst":
            return max(values) if self._direction == "low" else min(values)
        if self.how == "mean":
            return math.fsum(values) / len(values)
        if spread is None or self.how == "disagreement":
            return spread
        away = self.kappa * spread if self._direction == "low" else -self.kappa * spread
        return min(1.0, max(0.0, math.fsum(values) / len(values) + away))

    def _first_reason(self, row: tuple[Score, ...]) -> str:
        absent = [(m, s) for m, s in zip(self.members, row, strict=True) if s.value is None]
        return f"; {absent[0][0].name}: {absent[0][1].why}" if absent and absent[0][1].why else ""


def _sd(values: list[float]) -> float | None:
    """Standard deviation of the members themselves (divided by their number); None below two."""
    if len(values) < 2:
        return None
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - middle) ** 2 for v in values) / len(values))
