"""What a recipe claims before it is run: its primary endpoint, who is compared with whom, and predictions a program can check.

They stand in the recipe file, so that they are committed before there are results. A check is parsed, never evaluated as code.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from temper.errors import RecipeError, nearest

RATES = (
    *("unsafe", "unsafe_coherent", "no_answer_on_harmful", "held_out_unsafe", "seen_unsafe", "over_refusal", "helped"),
    *("accuracy", "language_answer", "language_reasoning", "readability", "closed_thought", "tokens"),
)
"""Metrics of a proof that a check may name (`prove.metrics`)."""
OF_ONE = ("breakout", "primary", "hacking", "gap", "aug", "spread", "flips", *RATES)
OF_TWO = ("difference",)
TERM = re.compile(r"(?:(?P<times>\d+(?:\.\d+)?)\s*\*\s*)?(?P<what>[a-z_]+)\(\s*(?P<arms>[^()]*?)\s*\)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
RELATION = re.compile(r"\s*(>=|<=|>|<)\s*")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A sentence and the relation that decides it, such as `breakout(S0) > 0.4` or `primary(S5) >= 2 * primary(S1)`."""

    says: str
    check: str


@dataclass(frozen=True, slots=True)
class Condition:
    """Arms that were trained under the same circumstances, the suites they are measured on, and the planned differences.

    A contrast `[a, b]` is a minus b, paired by seed. Empty `suites` are all that the proof asks.
    """

    name: str
    arms: tuple[str, ...]
    suites: tuple[str, ...] = ()
    contrasts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Experiment:
    """One metric decides (`primary`); p-values are adjusted within each condition. `secondary` ones are told beside it.

    `claims` says what the intervals are about: the "method", over seeds and prompts, or the very "weights" that were trained,
    over prompts only, which is all that one seed can show.
    """

    primary: str = "unsafe"
    secondary: tuple[str, ...] = ()
    claims: Literal["method", "weights"] = "method"
    condition: tuple[Condition, ...] = ()
    prediction: tuple[Prediction, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """`times` a figure of one arm or of two (a difference, of `metric` or the primary one); a plain number has no `what`."""

    times: float
    what: str = ""
    arms: tuple[str, ...] = ()
    metric: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    left: Term
    relation: str
    right: Term


def parse_check(text: str, where: str = "prediction") -> Check:
    """`[k *] figure(arm[, arm[, metric]]) RELATION [k *] figure(...)`, or a number on either side. Raises `RecipeError`."""
    parts = RELATION.split(text.strip())
    if len(parts) != 3:
        raise RecipeError(f"{where}: check = {text!r}; wanted one of > >= < <= between two terms, as in breakout(S0) > 0.4")
    left, relation, right = parts
    return Check(_term(left, where), relation, _term(right, where))


def check_experiment(plan: Experiment, arms: Collection[str], suites: Collection[str], where: str = "experiment") -> None:
    """Raise `RecipeError` for an arm or suite that the recipe does not have, and for a check that cannot be read or decided."""
    names = [condition.name for condition in plan.condition]
    for condition in plan.condition:
        place = f"{where}: condition {condition.name!r}"
        _makes_sense(condition, names, place)
        _all_known(condition.suites, suites, "suite", place)
        _all_known(condition.arms, arms, "arm", place)
        _all_known(chain.from_iterable(condition.contrasts), condition.arms, "arm", f"{place}: contrasts")
    measured = {arm for condition in plan.condition for arm in condition.arms} or set(arms)
    for prediction in plan.prediction:
        check = parse_check(prediction.check, where)
        if not (check.left.what or check.right.what):
            raise RecipeError(f"{where}: check = {prediction.check!r} has no figure; wanted for example breakout(S0) > 0.4")
        for term in (check.left, check.right):
            _all_known(term.arms, measured, "arm", f"{where}: check = {prediction.check!r}")
            _planned(term, plan, prediction.check, where)


def named_metrics(plan: Experiment) -> list[str]:
    """Every metric that the plan reads, the primary one first."""
    checks = [parse_check(p.check) for p in plan.prediction]
    terms = [term for check in checks for term in (check.left, check.right)]
    asked = [term.metric or term.what for term in terms if term.metric or term.what in RATES]
    return list(dict.fromkeys([plan.primary, "unsafe", "over_refusal", *plan.secondary, *asked]))


def conditions(plan: Experiment, arms: Mapping[str, Sequence[str]], suites: Sequence[str]) -> list[Condition]:
    """The stated conditions with their suites filled in, or one that holds every trained arm."""
    stated = plan.condition or (Condition("all arms", tuple(arm for arm, stages in arms.items() if stages)),)
    return [Condition(c.name, c.arms, c.suites or tuple(suites), c.contrasts) for c in stated]


def _term(text: str, where: str) -> Term:
    if NUMBER.fullmatch(text):
        return Term(float(text))
    found = TERM.fullmatch(text)
    if found is None:
        raise RecipeError(
            f"{where}: {text!r} is neither a number nor a figure; wanted for example breakout(S0) or 2 * unsafe(S1)"
        )
    what, arms = found["what"], tuple(a.strip() for a in found["arms"].split(",") if a.strip())
    if what not in (*OF_ONE, *OF_TWO):
        raise RecipeError(f"{where}: {what!r} is no figure; {nearest(what, (*OF_ONE, *OF_TWO))}")
    wanted = 2 if what in OF_TWO else 1
    metric = arms[2] if what in OF_TWO and len(arms) == 3 else ""
    arms = arms[:2] if metric else arms
    if metric and metric not in RATES:
        raise RecipeError(f"{where}: {text!r}: {metric!r} is no metric of a check; {nearest(metric, RATES)}")
    if len(arms) != wanted:
        raise RecipeError(f"{where}: {text!r} names {len(arms)} arms; wanted {wanted}")
    return Term(float(found["times"] or 1), what, arms, metric)


def _makes_sense(condition: Condition, names: Sequence[str], where: str) -> None:
    if names.count(condition.name) > 1:
        raise RecipeError(f"{where}: {names.count(condition.name)} conditions have this name; give each one of its own")
    if not condition.arms:
        raise RecipeError(f"{where}: arms is empty; nothing would be compared")
    for arm, against in condition.contrasts:
        if arm == against:
            raise RecipeError(f"{where}: contrasts: [{arm}, {against}] is an arm with itself; wanted two arms")


def _planned(term: Term, plan: Experiment, check: str, where: str) -> None:
    """A predicted difference must be a planned contrast: otherwise nobody says on which suites it is measured."""
    if term.what in OF_TWO and not any(term.arms in condition.contrasts for condition in plan.condition):
        raise RecipeError(
            f"{where}: check = {check!r}: [{', '.join(term.arms)}] is not among the contrasts of a condition; add it"
        )


def _all_known(names: Collection[str] | chain[str], known: Collection[str], what: str, where: str) -> None:
    for name in names:
        if name not in known:
            raise RecipeError(f"{where}: names {what} {name!r}, which is not there; {nearest(name, known)}")
