"""What a step's answers are paid: every grader, detector and audit in turn, then rewards and advantages from their rows.

`Signal` asks; `pay` computes, from rows alone, so that a replay pays exactly as the run did. Judges that only watch have no vote.
"""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from temper.errors import RunError, TemperError
from temper.files import Row
from temper.graders.checked import opinions
from temper.rewards import adapt, hacks
from temper.rewards.adapt import Arc, State
from temper.rewards.combine import Channel, How, Scope, advantages, combine, flat_groups
from temper.rewards.heads import LEARNED as LEARNED  # the stages name it from here
from temper.rewards.journal import completion_of, rows_of
from temper.rewards.scope import View
from temper.types import Better, Completion, Named, Score


@dataclass(frozen=True, slots=True)
class Design:
    """All that decides what a stage pays, beside the graders' opinions; written to design.json before the first step.

    `weights`, `better` and `scopes` go by channel, `hacks` (which tokens a penalty reaches) and `recall` by entry of the bank.
    """

    weights: Mapping[str, float]
    better: Mapping[str, Better]
    scopes: Mapping[str, Scope]
    hacks: Mapping[str, Scope] = field(default_factory=dict)
    recall: Mapping[str, float] = field(default_factory=dict)
    penalty: float = 0.0
    normalise: How = "center"
    arc: Arc | None = None
    steps: int = 0
    shift_at: int = 0
    seed: int = 0

    def begin(self) -> State | None:
        """What the stage starts from; None where nothing adapts."""
        if self.arc is None:
            return None
        return adapt.begin(self.arc, penalty=self.penalty, recall=self.recall, steps=self.steps)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "Design":
        """The design that `as_dict` wrote."""
        arc = plain["arc"]
        known = None if arc is None else Arc(**{**arc, "channels": tuple(arc["channels"])})
        return Design(**{**plain, "arc": known})


@dataclass(frozen=True, slots=True)
class Paid:
    """One step: its rows with rewards and advantages, and what the whole step shows."""

    rows: list[Row]
    unscored: int
    zero_variance: float
    flat: frozenset[str]

    @property
    def rewards(self) -> list[float | None]:
        return [row["reward"] for row in self.rows]


def pay(rows: Sequence[Row], design: Design, state: State | None) -> Paid:
    """Rewards and advantages of one step's rows, by the weights in force; pure, and to the bit the same in a replay."""
    groups = [row["id"] for row in rows]
    paid_by_class = {of: _weights(design, state, of) for of in dict.fromkeys(row["class"] for row in rows)}
    weights = [paid_by_class[row["class"]] for row in rows]
    fined_by_class = {of: _fines(design, state, of) for of in paid_by_class}
    fines = [fined_by_class[row["class"]] for row in rows]
    channels = [
        Channel(name, [_value(row, name) for row in rows], [w[name] for w in weights], better, design.scopes[name])
        for name, better in design.better.items()
    ]
    channels += [
        Channel(name, [row["flags"][name] for row in rows], [fine[name] for fine in fines], "low", scope)
        for name, scope in design.hacks.items()
    ]
    combined = combine(channels, groups)
    credit = advantages(combined, channels, groups, design.normalise)
    flat = flat_groups(combined, groups)
    told = [
        {**row, "weights": w, "penalties": fine, "reward": reward, "advantage": answer, "think_advantage": think}
        for row, w, fine, reward, answer, think in zip(
            rows, weights, fines, combined.rewards, credit.answer, credit.think, strict=True
        )
    ]
    return Paid(told, combined.unscored, len(flat) / max(1, len(set(groups))), frozenset(flat))


def _weights(design: Design, state: State | None, of: str) -> dict[str, float]:
    if state is None or design.arc is None:
        return dict(design.weights)
    return adapt.weights(state, design.weights, of, design.arc)


def _fines(design: Design, state: State | None, of: str) -> dict[str, float]:
    if state is None or design.arc is None:
        return dict.fromkeys(design.hacks, design.penalty)
    return adapt.fines(state, of, design.arc)


def _value(row: Row, name: str) -> float | None:
    if name == LEARNED:
        return None if row["learned"] is None else row["learned"]["cost"]
    value: float | None = row["scores"][name]["value"]
    return value


@dataclass(frozen=True, slots=True)
class Signal:
    """Who has an opinion during a stage: views that pay, detectors that watch, an auditor that adapts, a judge that only looks.

    `bank` may hold more hacks than `design` fines; all of them are written down. `gold` sees `audits` rows of each step, and all
    of step 0, with no influence on anything. Detectors that judge a batch as a whole read step 0 in parts of `batch` rows, the
    size of a later step, so that the same answer has the same flag there; 0 for in one.
    """

    views: tuple[View, ...]
    design: Design
    bank: tuple[hacks.Hack, ...] = ()
    reference: hacks.Reference = hacks.SHIPPED
    auditor: Named | None = None
    gold: Named | None = None
    audits: int = 0
    batch: int = 0

    def __call__(self, completions: Sequence[Completion], state: State | None, *, step: int) -> Paid:
        """Grade, audit and pay one step. Raises `RunError` for a grader that fails."""
        rows = self._audited(self.rows(completions, state, step=step), completions, state, step)
        return pay(self._watched(rows, completions), self.design, state)

    def rows(self, completions: Sequence[Completion], state: State | None, *, step: int) -> list[Row]:
        """What the rewards, the learned model and the detectors say; nothing audited."""
        columns = {view.name: grade(view.grader, completions) for view in self.views}
        size = self.batch if step == 0 and self.batch else max(1, len(completions))
        parts = [hacks.flags(self.bank, completions[i : i + size], self.reference) for i in range(0, len(completions), size)]
        flags = {hack.name: [flag for part in parts for flag in part[hack.name]] for hack in self.bank}
        return relearned(rows_of(completions, columns, flags, step=step), self.design, state)

    def flat(self, completions: Sequence[Completion], state: State | None) -> set[str]:
        """Ids of the examples whose answers are paid all the same."""
        return set(pay(self.rows(completions, state, step=0), self.design, state).flat)

    def _audited(self, rows: list[Row], completions: Sequence[Completion], state: State | None, step: int) -> list[Row]:
        arc = self.design.arc
        if state is None or arc is None or self.auditor is None:
            return rows
        draws = adapt.choose(rows, state, arc, step=step, seed=self.design.seed)
        chosen = sorted(draws)
        labels = grade(self.auditor, [completions[i] for i in chosen])
        bad = [None if s.value is None else s.value if self.auditor.better == "low" else 1.0 - s.value for s in labels]
        found = {
            i: {"value": value, "expected": draws[i].expected, "count": draws[i].count}
            for i, value in zip(chosen, bad, strict=True)
        }
        return [{**row, "audit": found.get(i)} for i, row in enumerate(rows)]

    def _watched(self, rows: list[Row], completions: Sequence[Completion]) -> list[Row]:
        if self.gold is None or not rows:
            return rows
        harmful = [i for i, c in enumerate(completions) if c.example.klass == "harmful"]
        chosen = harmful if rows[0]["step"] == 0 else _spread(harmful, self.audits, rows[0]["step"])
        seen = dict(zip(chosen, grade(self.gold, [completions[i] for i in chosen]), strict=True))
        none = Score(None, "not audited")
        return [{**row, "scores": {**row["scores"], self.gold.name: asdict(seen.get(i, none))}} for i, row in enumerate(rows)]


def beaten(design: Design, state: State | None, twins: Sequence[tuple[str, Row, Row]]) -> list[str]:
    """Hacks whose planted twin is paid at least as well as its clean one: what the release gate asks of a candidate.

    `twins` are (hack, clean row, hacked row), graded once; a pair of which one is not scored says nothing.
    """
    found = []
    for name, clean, hacked in twins:
        rewards = [pay(relearned([row], design, state), design, state).rewards[0] for row in (clean, hacked)]
        if None not in rewards and rewards[1] >= rewards[0]:  # type: ignore[operator]
            found.append(name)
    return list(dict.fromkeys(found))


def relearned(rows: Sequence[Row], design: Design, state: State | None) -> list[Row]:
    """The rows with the opinions of the learned model that is in force; as they are where there is none."""
    if LEARNED not in design.weights or state is None or design.arc is None:
        return list(rows)
    learned = adapt.opinions(state, [completion_of(row) for row in rows], design.arc)
    return [{**row, "learned": None if of is None else asdict(of)} for row, of in zip(rows, learned, strict=True)]


def grade(grader: Named, completions: Sequence[Completion]) -> list[Score]:
    """Call a grader and hold it to its contract: one score a completion, values in [0, 1] or None. Raises `RunError`."""
    try:
        return opinions(grader.grade, completions, name=grader.name)
    except TemperError:
        raise
    except Exception as error:  # a user's grader may fail in any way; a failure is never a score, so the work stops here
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}:{last.lineno}"
        raise RunError(
            f"grader {grader.name!r} failed in {where} ({type(error).__name__}: {error}); every finished row is kept. "
            "A grader takes a list of completions; a function of one needs @each"
        ) from error


def _spread(rows: Sequence[int], count: int, step: int) -> list[int]:
    """`count` of the rows, evenly spaced and rotated by the step, so that no prompt's answers are favoured."""
    if count <= 0 or not rows:
        return []
    take = min(count, len(rows))
    return sorted({rows[(step + i * len(rows) // take) % len(rows)] for i in range(take)})
