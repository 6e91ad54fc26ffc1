"""Which answers of a step an auditor is asked about, and what its labels say about all of them.

Draws are with replacement and every answer keeps a chance, so that a rate over the audited few is unbiased for the whole batch
(inverse propensity, with the learned reward's opinion as control variate). A label that was asked for is spent, whether or not
the auditor could give it; one it could not give is neither good nor bad and stands for nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from temper.judge_error import Errors, Rate, rogan_gladen

Floats = NDArray[np.float64]
Group = Literal["harmful", "benign"]
GROUPS: tuple[Group, ...] = ("harmful", "benign")

UNIFORM = 0.3  # share of the draws that ignores every score, so that no weight exceeds 1/0.3
LEAST = 5  # labels of a group below which no rate of it is told
STATED = 1_000_000  # the auditor's errors come from a recipe as facts; so many labels stand in for certainty


@dataclass(frozen=True, slots=True)
class Draw:
    """How often an answer was drawn (its label is asked once), and how often it was expected to be."""

    count: int
    expected: float


@dataclass(frozen=True, slots=True)
class Audit:
    """One label: the texts it is about, P(bad) or None, and the design it came from.

    `weight` is 1 / (n * propensity) of one draw: the mean of weight * bad is the batch's rate. `predicted` and `cost` are the
    learned reward's mean and bound when the answer was paid, None before there was one; `flags` the detectors that fired.
    Answers to one `prompt` are alike, so that a rate's interval is over prompts.
    """

    step: int
    group: Group
    reasoning: str
    answer: str
    bad: float | None
    count: int
    expected: float
    weight: float
    predicted: float | None
    cost: float | None
    flags: tuple[str, ...]
    prompt: str


def group_of(cls: str) -> Group | None:
    """The side of the trade-off a prompt class is on; None for reasoning prompts, which are verified and not audited."""
    return "harmful" if cls == "harmful" else "benign" if cls in ("benign", "borderline") else None


def propensities(interest: Floats) -> Floats:
    """0.3/n + 0.7 q/sum q of each row (docs/science.md 3.3.4); uniform where nothing is of interest. Sums to 1; shape (N,)."""
    n, total = len(interest), float(interest.sum())
    if total <= 0:
        return np.full(n, 1 / n)
    chance = UNIFORM / n + (1 - UNIFORM) * interest / total
    return np.asarray(chance / chance.sum())


def draw(chance: Floats, draws: int, rng: np.random.Generator) -> dict[int, Draw]:
    """`draws` rows with replacement: row number -> how often it came and how often it was expected."""
    counts = rng.multinomial(draws, chance)
    return {int(i): Draw(int(counts[i]), float(draws * chance[i])) for i in np.flatnonzero(counts)}


def upfront(groups: Sequence[Group | None], labels: int, rng: np.random.Generator) -> dict[int, Draw]:
    """`labels` rows without replacement, each group in proportion to its rows; all of them where there are fewer."""
    rows = {g: [i for i, mine in enumerate(groups) if mine == g] for g in GROUPS}
    total = sum(len(r) for r in rows.values())
    if not total or labels <= 0:
        return {}
    take = min(labels, total)
    harmful = round(take * len(rows["harmful"]) / total)
    chosen: dict[int, Draw] = {}
    for mine, k in ((rows["harmful"], harmful), (rows["benign"], take - harmful)):
        picked = rng.permutation(len(mine))[:k]
        chosen.update({mine[i]: Draw(1, k / len(mine)) for i in sorted(int(p) for p in picked)})
    return chosen


def audits_of(rows: Sequence[Mapping[str, Any]], step: int) -> list[Audit]:
    """The labels of one step's journal rows, in their order."""
    audited = [r for r in rows if r["audit"] is not None]
    eligible = sum(group_of(r["class"]) is not None for r in rows)
    draws = sum(r["audit"]["count"] for r in audited)
    return [_audit(r, step, draws / eligible) for r in audited]


def debiased(rows: int, predicted: float, audits: Sequence[Audit]) -> float | None:
    """Rate of bad answers among `rows` whose predictions sum to `predicted`: their mean plus the weighted mean residual.

    Unbiased whatever the predictions are (prediction-powered, 2301.09633; inverse propensity). Unlabelled draws leave the
    population: the residual holds for the rows an auditor can read. None with fewer than 5 labels.
    """
    told = [a for a in audits if a.bad is not None]
    unread = sum(a.count / a.expected for a in audits if a.bad is None)
    if len(told) < LEAST or rows - unread <= 0:
        return None
    residual = sum(a.count / a.expected * ((a.bad or 0.0) - (a.predicted or 0.0)) for a in told)
    return predicted / rows + residual / (rows - unread)


def corrected(observed: float, sensitivity: float, specificity: float) -> float:
    """A rate freed of the auditor's errors (`judge_error.rogan_gladen`), in [0, 1]."""
    judge = Errors(Rate(sensitivity, STATED, STATED), Rate(specificity, STATED, STATED))
    return float(rogan_gladen(Rate(min(1.0, max(0.0, observed)), STATED, STATED), judge).value)


def _audit(row: Mapping[str, Any], step: int, draws_per_row: float) -> Audit:
    group = group_of(row["class"])
    if group is None:
        raise ValueError(f"step {step}: an answer to a {row['class']} prompt was audited; wanted harmful, borderline or benign")
    told, learned = row["audit"], row["learned"] or {}
    return Audit(
        step=step,
        group=group,
        reasoning=row["reasoning"],
        answer=row["answer"],
        bad=told["value"],
        count=told["count"],
        expected=told["expected"],
        weight=draws_per_row / told["expected"],
        predicted=learned.get("mean"),
        cost=learned.get("cost"),
        flags=flagged(row),
        prompt=row["id"],
    )


def flagged(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The hacks a row's detectors saw, sorted; one that could not look saw none."""
    return tuple(sorted(name for name, seen in row["flags"].items() if seen is not None and seen >= 0.5))
