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
from temper.graders.checked import opinions
from temper.types import Better, Completion, Named, Score

How = Literal["mean", "worst", "bound", "disagreement"]
_OPTION = re.compile(r"\w+\s*=")
OPTIONS = ("kappa", "quorum")
OWN_PARTS = frozenset({"sd", "range", "graded", "threshold"})
"""Names no member may have; a member called `threshold` would be read as the ensemble's own by whoever judges with it."""
MIDDLE = 0.5
"""The threshold of a member that tells none."""


class Written(NamedTuple):
    """What `HOW(NAME, NAME, ..., kappa=1, quorum=2)` asks for; a name may be an ensemble again, no quorum leaves it to `how`."""

    how: How
    names: tuple[str, ...]
    kappa: float
    quorum: int | None


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
        quorum = int(options["quorum"]) if "quorum" in options else None
        return Written(how, names, float(options.get("kappa", "1")), quorum)  # type: ignore[arg-type]
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
    abstention. Without `quorum`, `worst` and `bound` want every member (one that is down may be the one that minds), a mean one,
    a disagreement two; and `worst` stands if its member is on the bad side of its threshold (`parts["threshold"]`, else 0.5)
    already, since those missing could only make it worse. `parts`: each member's value as it gave it, then `sd`, `range`
    (largest - smallest) and `graded` (how many did). Raises `RecipeError` for no member, two of one name, or an option that is
    out of range, and `RunError` for a member that breaks its contract (`checked.opinions`).
    """

    members: tuple[Named, ...]
    how: How = "mean"
    kappa: float = 1.0
    quorum: int | None = None

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
        if self.quorum is not None and not 1 <= self.quorum <= len(self.members):
            raise RecipeError(f"ensemble: quorum = {self.quorum}; wanted 1 to {len(self.members)}, the number of members")

    @property
    def better(self) -> Better:
        return "low" if self.how == "disagreement" else self._direction

    @property
    def scope(self) -> str | None:
        """The members', where they have one in common; a mixture, and how far members disagree, is about the whole."""
        scopes = {getattr(m.grade, "scope", None) for m in self.members}
        return scopes.pop() if len(scopes) == 1 and self.how != "disagreement" else "all"

    @property
    def slow(self) -> bool:
        return any(m.slow for m in self.members)

    @property
    def _direction(self) -> Better:
        return "low" if all(m.better == "low" for m in self.members) else "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        columns = [opinions(member.grade, completions, name=member.name) for member in self.members]
        return [self._score(row) for row in zip(*columns, strict=True)]

    def _score(self, row: tuple[Score, ...]) -> Score:
        graded = [(m, s, s.value) for m, s in zip(self.members, row, strict=True) if s.value is not None]
        values = [value if m.better == self._direction else 1 - value for m, _, value in graded]
        spread = _sd(values)
        parts: dict[str, float | None] = {m.name: s.value for m, s in zip(self.members, row, strict=True)}
        parts |= {"sd": spread, "range": max(values) - min(values) if spread is not None else None, "graded": float(len(values))}
        value = self._combined(values, spread)
        if len(values) < self._wanted and not self._stands(value, [v for v, g in zip(values, graded, strict=True) if _bad(*g)]):
            value = None
        whole = value is not None and len(values) == len(row)
        return Score(value, "" if whole else f"{len(values)} of {len(row)} members graded{self._first_reason(row)}", parts)

    @property
    def _wanted(self) -> int:
        """How many opinions make a verdict."""
        if self.quorum is not None:
            return self.quorum
        return {"mean": 1, "disagreement": 2}.get(self.how, len(self.members))

    def _stands(self, value: float | None, bad: list[float]) -> bool:
        """Whether a verdict needs no more opinions: the worst one, where the member that gave it minds already."""
        return self.how == "worst" and self.quorum is None and value in bad

    def _combined(self, values: list[float], spread: float | None) -> float | None:
        if not values:
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


def _bad(member: Named, score: Score, value: float) -> bool:
    """Whether a member's value, as it gave it, is on the bad side of its threshold; on it counts for low, as it does for harm."""
    told = score.parts.get("threshold")
    threshold = MIDDLE if told is None else told
    return value >= threshold if member.better == "low" else value < threshold


def _sd(values: list[float]) -> float | None:
    """Standard deviation of the members themselves (divided by their number); None below two."""
    if len(values) < 2:
        return None
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - middle) ** 2 for v in values) / len(values))
