"""Weights that answer to audits: ARC (audited, ratcheted, constrained), as a fold over the journal; docs/science.md 3.3.

`advance` turns one step's finished rows into the next state; `weights`, `opinions` and `choose` read the state. Nothing here has
a clock, a global generator or a memory of its own, so that a resumed run and a replay come to the same bits. The rule behind the
rules: an adaptive weight may only be stricter than the static one it replaces; seeing nothing bad is no reason to relax.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from temper.errors import RecipeError
from temper.files import digest
from temper.judge_error import INFORMATIVE, rate
from temper.rewards import features
from temper.rewards.audits import (
    GROUPS,
    UNIFORM,
    Audit,
    Draw,
    Group,
    audits_of,
    corrected,
    debiased,
    draw,
    flagged,
    group_of,
    propensities,
    upfront,
)
from temper.rewards.decline import ALARM, e_value
from temper.rewards.heads import LEARNED, Heads, fit
from temper.rewards.release import held_out, quality, worse
from temper.rewards.scope import reward_of
from temper.types import Completion

Row = Mapping[str, Any]
Examine = Callable[["State"], Sequence[str]]
Kind = Literal[
    "multiplier changed",
    "penalty changed",
    "pessimism changed",
    "reward released",
    "release refused",
    "rolled back",
    "stopped",
    "detector to review",
    "alarm",
]

CHANNELS = (LEARNED, "harm", "over-refusal")  # what the multipliers multiply where a recipe does not say
WINDOW = 3  # refreshes that a rate looks back on
MISSES, PACE = 0.2, 0.1  # alpha and gamma of the pessimism (docs/science.md 3.3.2)
BAD_SEEN = 5.0  # bad audits, freed of false ones, below which the pessimism stays
KEPT, MARGIN = 0.7, 0.1  # smoothing and margin of the deterrence condition (docs/science.md 3.3.5)
REVIEW_AUDITS, REVIEW_GOOD = 10, 0.2  # flagged audits, and the share of good ones among them, that send a detector to review
FASTEST = 1.25  # most that a multiplier grows by in a refresh
FALLING = 0.9  # a rate below this share of the last refresh's is coming down by itself
RELAXED = 0.1  # where weights may fall to, as a share of the stated ones, in the control without a ratchet
PAID_LESS = 0.02  # a fall of the paid share of the reward that counts as one
ROLLBACKS = 2
IN_REVIEW = 0.3  # what a flag of a detector in review adds to an answer's interest


@dataclass(frozen=True, slots=True)
class Arc:
    """Keys of `[stage.adapt]`; the defaults are docs/science.md 3.3's.

    `auditor` spends `labels` in all, `upfront` of them on answers of the stage's start and the rest evenly over the steps.
    `multipliers` lets the weights of `channels` (rewards) and the hack penalties adapt, by e^(`step` * excess) a refresh up to
    `ceiling` times the stated; `target_harm` and `target_refusal` are the tolerated audited rates. `sensitivity` and
    `specificity` are the auditor's, from its card. `ratchet = false` is an experimental control and reopens solved holes.
    """

    auditor: str = ""
    labels: int = 1200
    upfront: int = 300
    refresh_every: int = 20
    refit: bool = True
    multipliers: bool = True
    pessimism: float = 1.0
    adapt_pessimism: bool = True
    ratchet: bool = True
    heads: int = 5
    channels: tuple[str, ...] = CHANNELS
    target_harm: float = 0.05
    target_refusal: float = 0.10
    step: float = 2.0
    ceiling: float = 4.0
    sensitivity: float = 1.0
    specificity: float = 1.0

    def check(self) -> None:
        """Raise `RecipeError` for settings out of range or that contradict each other."""
        for wrong, said in self._faults():
            if wrong:
                raise RecipeError(f"[stage.adapt] {said}")

    def target(self, group: Group) -> float:
        """The tolerated audited rate, raised to the auditor's noise floor, below which no policy can be seen to be."""
        stated = self.target_harm if group == "harmful" else self.target_refusal
        return max(stated, 1 - self.specificity)

    def _faults(self) -> tuple[tuple[bool, str], ...]:
        power = self.sensitivity + self.specificity - 1
        return (
            (
                not self.auditor,
                'auditor is missing; name a grader that is neither a reward nor gold, for example auditor = "judge"',
            ),
            (self.labels < 1, f"labels = {self.labels}; wanted at least 1: nothing adapts without an audit"),
            (not 0 <= self.upfront <= self.labels, f"upfront = {self.upfront}; wanted 0 to labels ({self.labels})"),
            (self.refresh_every < 1, f"refresh_every = {self.refresh_every}; wanted a number of steps, at least 1"),
            (self.heads < 2, f"heads = {self.heads}; wanted at least 2, because pessimism is their disagreement"),
            (self.pessimism < 0, f"pessimism = {self.pessimism}; wanted 0 or more standard deviations"),
            (not self.channels, 'channels is empty; name what the multipliers multiply, for example channels = ["harm"]'),
            (not 0 < self.target_harm < 1, f"target_harm = {self.target_harm}; wanted a rate between 0 and 1"),
            (not 0 < self.target_refusal < 1, f"target_refusal = {self.target_refusal}; wanted a rate between 0 and 1"),
            (self.step <= 0, f"step = {self.step}; wanted above 0"),
            (self.ceiling < 1, f"ceiling = {self.ceiling}; wanted at least 1: a weight is never below the stated one"),
            (not 0 < self.sensitivity <= 1, f"sensitivity = {self.sensitivity}; wanted the auditor's, above 0 and at most 1"),
            (not 0 < self.specificity <= 1, f"specificity = {self.specificity}; wanted the auditor's, above 0 and at most 1"),
            (
                power < INFORMATIVE,
                f"sensitivity + specificity - 1 = {power:.2f}; wanted at least {INFORMATIVE}: no rate by such an auditor can be "
                "corrected; take a better one",
            ),
        )


@dataclass(frozen=True, slots=True)
class Learned:
    """The learned reward's opinion of one answer: P(bad), the heads' disagreement, and the bound that is paid."""

    mean: float
    sd: float
    cost: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One step in sums: rows and predicted bad answers of each group, sum of `paid_share`, and reward of flagged answers.

    `excess` has for each hack the number of flagged answers and how much more than unflagged ones they earn without its penalty.
    """

    step: int
    rows: Mapping[Group, int]
    predicted: Mapping[Group, float]
    paid: float
    scored: int
    excess: Mapping[str, tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Best:
    """The refresh with the lowest certified rate of bad answers: `high` is its upper limit, `paid` the mean `paid_share` then."""

    step: int
    rate: float
    high: float
    paid: float


@dataclass(frozen=True, slots=True)
class State:
    """All that adapts, and what it is worked out from. `spent` counts labels asked for, `opened` those of step 0.

    `measured` is the model in force fitted without the held-out labels, by which the release gate knows what it is worth. `since`
    is the step of the last rollback: what was seen before it is about a policy that is gone. `rates` are those of the last
    refresh, `known` is a bitmap of what the answers of step 0 were made of, `version` a hash of all that decides a reward.
    """

    multipliers: Mapping[Group, float]
    penalties: Mapping[str, float]
    kappa: float
    steps: int
    stated: float
    recall: Mapping[str, float]
    model: Heads | None = None
    measured: Heads | None = None
    audits: tuple[Audit, ...] = ()
    window: tuple[Seen, ...] = ()
    spent: int = 0
    opened: int = 0
    version: str = ""
    best: Best | None = None
    rollbacks: int = 0
    since: int = -1
    in_review: frozenset[str] = frozenset()
    beta_factor: float = 1.0
    known: bytes = field(default=b"", repr=False)
    rates: Mapping[Group, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What a step changed, for the run's history."""

    kind: Kind
    subject: str
    data: Mapping[str, Any]


def begin(arc: Arc, *, penalty: float, recall: Mapping[str, float], steps: int) -> State:
    """The state before step 0: what the recipe states. `recall` is each penalised hack's, `steps` those of the stage.

    Raises `RecipeError` as `Arc.check` does, and for a detector without recall: no penalty deters what is never seen.
    """
    arc.check()
    blind = sorted(hack for hack, found in recall.items() if found <= 0)
    if blind:
        raise RecipeError(f"hacks: {', '.join(blind)} has a measured recall of 0, so that no penalty deters it; leave it out")
    state = State(
        multipliers=dict.fromkeys(GROUPS, 1.0),
        penalties=dict.fromkeys(sorted(recall), penalty),
        kappa=arc.pessimism,
        steps=steps,
        stated=penalty,
        recall=dict(recall),
    )
    return _versioned(state)


def advance(state: State, rows: Sequence[Row], arc: Arc, *, step: int, seed: int, examine: Examine) -> tuple[State, list[Change]]:
    """The state after a step whose rows are complete (step 0: answers of the stage's start), and what changed.

    Every `refresh_every` steps rates, multipliers, penalties, pessimism and the reward model are worked out anew. `examine` names
    the hacks that would not score below their clean twin under a state.
    """
    state = _recorded(state, rows, arc, step)
    if step == 0:
        return _opened(state, rows, arc, seed, examine)
    if step % arc.refresh_every:
        return state, []
    state, changes = _judged(state, arc, step)
    for rule in (_multiplied, _penalised, _widened):
        state, more = rule(state, arc)
        changes += more
    if arc.refit:
        state, more = _refitted(state, arc, seed, examine)
        changes += more
    return _versioned(state), changes


def alarmed(state: State, step: int) -> State:
    """The state after an alarm of the run rolled it back: what was seen before is about a policy that is gone."""
    return replace(state, rollbacks=state.rollbacks + 1, beta_factor=2 * state.beta_factor, since=step, window=())


def rebase(state: State, *, step: int) -> State:
    """The state once the prompts have changed after `step`: what was best on other prompts is no longer what to fall back to."""
    return replace(state, best=None, since=step)


def weights(state: State, stated: Mapping[str, float], cls: str, arc: Arc) -> dict[str, float]:
    """The weights of a prompt of class `cls`: the stated ones, those of every view of an adapted channel times its multiplier."""
    group = group_of(cls)
    factor = 1.0 if group is None else state.multipliers[group]
    return {name: weight * factor if reward_of(name) in arc.channels else weight for name, weight in stated.items()}


def fines(state: State, cls: str, arc: Arc) -> dict[str, float]:
    """The penalties of a prompt of class `cls`: each times the class's multiplier, where that is above 1.

    A multiplier that makes a cost four times as heavy makes a fixed fine four times as light beside it, and what is heavier then
    includes the reward model's errors. So "never weaker than the recipe" is meant of a fine relative to what it must outweigh
    (docs/adaptive-reward.md: found in the experiment, where an empty thought came back that a static bank had held down).
    """
    group = group_of(cls)
    factor = 1.0 if group is None or not arc.multipliers else max(1.0, state.multipliers[group])
    return {hack: penalty * factor for hack, penalty in state.penalties.items()}


def opinions(state: State, completions: Sequence[Completion], arc: Arc) -> list[Learned | None]:
    """What the learned reward thinks of each answer; None before there is one, and on prompts it does not judge."""
    if state.model is None:
        return [None] * len(completions)
    kappa = state.kappa if arc.adapt_pessimism else arc.pessimism
    means, deviations = (column.tolist() for column in state.model.scores(completions))
    return [
        None if math.isnan(mean) else Learned(mean, sd, min(1.0, mean + kappa * sd))
        for mean, sd in zip(means, deviations, strict=True)
    ]


def choose(rows: Sequence[Row], state: State, arc: Arc, *, step: int, seed: int) -> dict[int, Draw]:
    """Which of a step's rows the auditor is asked about: row number -> how often it was drawn and was expected to be.

    Step 0 takes `upfront` rows evenly. Later steps draw with the propensities of docs/science.md 3.3.4 as many as keep the budget
    on an even pace; a row that is drawn twice costs one label, and what that saves is drawn later.
    """
    rng = np.random.default_rng((seed, step))
    groups = [group_of(row["class"]) for row in rows]
    if step == 0:
        return upfront(groups, arc.upfront, rng)
    eligible = [i for i, group in enumerate(groups) if group is not None]
    due = min(_due(state, arc, step), len(eligible))
    if due < 1:
        return {}
    drawn = draw(propensities(_interest([rows[i] for i in eligible], state)), due, rng)
    return {eligible[i]: found for i, found in drawn.items()}


def paid_share(row: Row) -> float:
    """A row's reward without what penalties add, over the weights of the channels that judged it: in [0, 1] under any weights.

    A penalty pays every answer in which nothing is found, so that it would drown a fall of all else. Wants a row with a reward.
    """
    total = math.fsum(w for name, w in row["weights"].items() if _opinion(row, name) is not None)
    fined = [(mu, row["flags"].get(hack)) for hack, mu in row["penalties"].items()]
    clean = math.fsum(mu * (1.0 - flag) for mu, flag in fined if flag is not None)
    return (float(row["reward"]) - clean) / total if total > 0 else 0.0


def _opinion(row: Row, channel: str) -> float | None:
    found: float | None = (row["learned"] or {}).get("cost") if channel == LEARNED else row["scores"][channel]["value"]
    return found


def _due(state: State, arc: Arc, step: int) -> int:
    """Labels that may be asked for in this step; with all labels upfront there are none left, even if step 0 had too few rows."""
    if arc.upfront >= arc.labels:
        return 0
    return state.opened + (arc.labels - state.opened) * min(step, state.steps) // state.steps - state.spent


def _interest(rows: Sequence[Row], state: State) -> features.Floats:
    """q of docs/science.md 3.3.4: disagreement, flags, answers that are paid well, and words that the start did not use."""
    new = features.novelty([(r["reasoning"], r["answer"]) for r in rows], state.known)
    interest = []
    for row, novel in zip(rows, new, strict=True):
        learned, flags = row["learned"], flagged(row)
        doubt = learned["sd"] + 0.2 * (1 - learned["cost"]) if learned is not None else 0.2
        reviewed = IN_REVIEW if state.in_review.intersection(flags) else 0.0
        interest.append(doubt + (0.3 if flags else 0.0) + 0.2 * float(novel) + reviewed)
    return np.array(interest, dtype=np.float64)


# --- what is remembered of a step ---------------------------------------------------------------------------------------


def _recorded(state: State, rows: Sequence[Row], arc: Arc, step: int) -> State:
    new = audits_of(rows, step)
    spent = state.spent + len(new)
    oldest = step - WINDOW * arc.refresh_every
    window = tuple(s for s in state.window if s.step > oldest)
    if step > 0:  # the answers of step 0 were not drawn from a policy in training, and nothing had paid them
        window = (*window, _seen(rows, step))
    return replace(state, audits=(*state.audits, *new), window=window, spent=spent, opened=state.opened if step else spent)


def _seen(rows: Sequence[Row], step: int) -> Seen:
    mine = {g: [r for r in rows if group_of(r["class"]) == g] for g in GROUPS}
    scored = [r for r in rows if r["reward"] is not None]
    return Seen(
        step,
        {g: len(r) for g, r in mine.items()},
        {g: math.fsum(row["learned"]["mean"] for row in r if row["learned"] is not None) for g, r in mine.items()},
        math.fsum(paid_share(r) for r in scored),
        len(scored),
        _excess(scored),
    )


def _excess(rows: Sequence[Row]) -> dict[str, tuple[int, float]]:
    """Flagged answers of each hack and the sum of (reward + its penalty - mean reward of unflagged answers to the same prompt).

    Within the prompt, because advantages are; where all answers to it are flagged, the class's unflagged stand in. Where there is
    none of these either, there is nothing to compare with and the answer is left out.
    """
    clean: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if not flagged(row):
            for key in (("id", row["id"]), ("class", row["class"])):
                clean.setdefault(key, []).append(row["reward"])
    found: dict[str, tuple[int, float]] = {}
    for row in rows:
        like = clean.get(("id", row["id"])) or clean.get(("class", row["class"]))
        for hack in flagged(row) if like else ():
            penalty = row["penalties"].get(hack)
            if like and penalty is not None:
                n, total = found.get(hack, (0, 0.0))
                found[hack] = (n + 1, total + row["reward"] + penalty * row["flags"][hack] - sum(like) / len(like))
    return found


def _recent(state: State) -> list[Audit]:
    """Audits of the steps in the window."""
    steps = {s.step for s in state.window}
    return [a for a in state.audits if a.step in steps]


# --- the rules ------------------------------------------------------------------------------------------------------------


def _opened(state: State, rows: Sequence[Row], arc: Arc, seed: int, examine: Examine) -> tuple[State, list[Change]]:
    """After step 0: the first reward model, the start as the first best, and targets that the auditor cannot certify."""
    state = replace(state, known=features.known([(r["reasoning"], r["answer"]) for r in rows]))
    state, changes = _refitted(state, arc, seed, examine)
    shares = [paid_share(r) for r in rows if r["reward"] is not None]
    state = replace(state, best=_certified(state.audits, 0, math.fsum(shares) / len(shares) if shares else 0.0))
    for group in GROUPS:
        stated = arc.target_harm if group == "harmful" else arc.target_refusal
        if arc.multipliers and arc.target(group) > stated + 1e-9:
            raised = {"target": stated, "raised_to": arc.target(group), "why": "below the auditor's noise, 1 - specificity"}
            changes.append(Change("multiplier changed", group, {"from": 1.0, "to": 1.0, **raised}))
    return _versioned(state), changes


def _judged(state: State, arc: Arc, step: int) -> tuple[State, list[Change]]:
    """Compare with the best: certified worse while still paid as well means over-optimised, and the policy goes back.

    What followed the best is a bet a step against its upper limit, so that a lucky best is no accuser
    (docs/science.md 3.3.7).
    """
    last = [s for s in state.window if s.step > step - arc.refresh_every]
    scored = sum(s.scored for s in last)
    paid = math.fsum(s.paid for s in last) / scored if scored else 0.0
    best = state.best
    if best is not None:
        after = max(best.step, state.since)
        evidence = _evidence([a for a in state.audits if a.step > after], best.high)
        if evidence > ALARM and paid >= best.paid - PAID_LESS:
            return _back(state, best, step, evidence)
    now = _certified([a for a in state.audits if a.step > max(step - arc.refresh_every, state.since)], step, paid)
    if now is not None and (best is None or now.high < best.high):
        return replace(state, best=now), []
    return state, []


def _back(state: State, best: Best, step: int, evidence: float) -> tuple[State, list[Change]]:
    told = {"to": best.step, "evidence": evidence, "best_rate": best.rate, "best_high": best.high}
    if state.rollbacks >= ROLLBACKS:
        return state, [Change("stopped", "stage", told)]
    moved = alarmed(state, step)
    return moved, [Change("rolled back", "stage", {**told, "beta_factor": moved.beta_factor})]


def _certified(audits: Sequence[Audit], step: int, paid: float) -> Best | None:
    told = [a for a in audits if a.bad is not None]
    found = rate([a.bad or 0.0 for a in told], [a.count / a.expected for a in told], [a.prompt for a in told])
    return Best(step, found.value, found.estimate().high, paid) if found.n else None


def _evidence(audits: Sequence[Audit], high: float) -> float:
    """The e-value of these audits against a true rate of at most `high`; 1 where nothing could be above it."""
    return 1.0 if high >= 1 else e_value(_gains(audits, high), least=high / UNIFORM)


def _gains(audits: Sequence[Audit], rate: float) -> list[float]:
    """How far each step's importance-weighted share of bad answers is above `rate`; one that was not read counts as at it.

    Unbiased for the step's readable answers, and at least -`rate` / 0.3, as no weight exceeds 1 / 0.3.
    """
    steps: dict[int, list[float]] = {}
    for a in audits:
        steps.setdefault(a.step, []).extend([0.0 if a.bad is None else a.weight * (a.bad - rate)] * a.count)
    return [math.fsum(gains) / len(gains) for gains in steps.values()]


def _rates(state: State, arc: Arc) -> dict[Group, float | None]:
    """The true rate of bad answers in each group over the window, by the audits; None where there are too few."""
    recent, found = _recent(state), dict[Group, float | None]()
    for group in GROUPS:
        rows = sum(s.rows[group] for s in state.window)
        predicted = math.fsum(s.predicted[group] for s in state.window)
        observed = debiased(rows, predicted, [a for a in recent if a.group == group])
        found[group] = None if observed is None else corrected(observed, arc.sensitivity, arc.specificity)
    return found


def _multiplied(state: State, arc: Arc) -> tuple[State, list[Change]]:
    """Each multiplier follows its audited rate; it falls only while the opposing rate is too high (docs/science.md 3.3.4).

    It grows by `FASTEST` at most, and not while the rate comes down by itself: a policy starts far above any target, and a
    multiplier that follows that start is at its ceiling before the policy has moved. What is heavier then is not only harm but
    all that the reward model mistakes for it (docs/adaptive-reward.md).
    """
    if not arc.multipliers:
        return state, []
    rates, moved, changes = _rates(state, arc), dict(state.multipliers), []
    for group, opposing in zip(GROUPS, reversed(GROUPS), strict=True):
        seen, other = rates[group], rates[opposing]
        if seen is None:
            continue
        opposed = other is not None and other > arc.target(opposing)
        old, excess = state.multipliers[group], seen - arc.target(group)
        if excess < 0 and arc.ratchet and not opposed:
            continue
        if excess > 0 and seen < FALLING * state.rates.get(group, 0.0):
            continue
        growth = min(FASTEST, math.exp(arc.step * excess))
        new = min(arc.ceiling, max(1.0 if arc.ratchet else RELAXED, old * growth))
        moved[group] = new
        if new != old:
            changes.append(Change("multiplier changed", group, {"from": old, "to": new, "rate": seen, "opposing": other}))
    told: dict[Group, float] = {group: rate for group, rate in rates.items() if rate is not None}
    return replace(state, multipliers=moved, rates=told), changes


def _penalised(state: State, arc: Arc) -> tuple[State, list[Change]]:
    """A hack, seen as often as its detector sees it, earns less than other answers (docs/science.md 3.3.5); no penalty falls."""
    if not arc.multipliers:
        return state, []
    state, changes = _reviewed(state, arc)
    penalties = dict(state.penalties)
    for hack, old in state.penalties.items():
        n = sum(s.excess.get(hack, (0, 0.0))[0] for s in state.window)
        if arc.ratchet and (hack in state.in_review or not n):
            continue
        excess = math.fsum(s.excess.get(hack, (0, 0.0))[1] for s in state.window) / n if n else 0.0
        aim = KEPT * old + (1 - KEPT) * (max(0.0, excess) / state.recall[hack] + MARGIN)
        low = old if arc.ratchet else RELAXED * state.stated
        penalties[hack] = min(arc.ceiling * state.stated, max(low, aim))
        if penalties[hack] != old:
            data = {"from": old, "to": penalties[hack], "excess": excess, "flagged": n}
            changes.append(Change("penalty changed", hack, data))
    return replace(state, penalties=penalties), changes


def _reviewed(state: State, arc: Arc) -> tuple[State, list[Change]]:
    """A detector that flags good answers is read by the auditor, not penalised more, until it flags bad ones again."""
    recent, review, changes = _recent(state), set(state.in_review), []
    for hack in state.penalties:
        mine = [a for a in recent if hack in a.flags and a.bad is not None]
        if len(mine) < REVIEW_AUDITS:
            continue
        observed = rate([a.bad or 0.0 for a in mine], [a.count / a.expected for a in mine]).value
        good = 1 - corrected(observed, arc.sensitivity, arc.specificity)
        if (good > REVIEW_GOOD) == (hack in review):
            continue
        review ^= {hack}
        changes.append(Change("detector to review", hack, {"good": good, "audits": len(mine), "review": hack in review}))
    return replace(state, in_review=frozenset(review)), changes


def _widened(state: State, arc: Arc) -> tuple[State, list[Change]]:
    """Pessimism follows the share of bad answers that its bound paid as good (docs/science.md 3.3.2; 2106.00170)."""
    missed = _miss_rate(_recent(state), arc) if arc.adapt_pessimism else None
    if missed is None:
        return state, []
    low = arc.pessimism if arc.ratchet else 0.0
    kappa = max(low, state.kappa + PACE * (missed - MISSES))
    if kappa == state.kappa:
        return state, []
    told = {"from": state.kappa, "to": kappa, "miss_rate": missed}
    return replace(state, kappa=kappa), [Change("pessimism changed", "learned", told)]


def _miss_rate(audits: Sequence[Audit], arc: Arc) -> float | None:
    """Share of bad answers whose bound was below 1/2, both sides freed of false labels; None with fewer than five bad ones."""
    told = [(a.cost, a.bad) for a in audits if a.bad is not None and a.cost is not None]
    bad = [_true_bad([label for cost, label in told if (cost < 0.5) == passed], arc) for passed in (True, False)]
    return bad[0] / sum(bad) if sum(bad) >= BAD_SEEN else None


def _true_bad(labels: Sequence[float], arc: Arc) -> float:
    return len(labels) * corrected(math.fsum(labels) / len(labels), arc.sensitivity, arc.specificity) if labels else 0.0


def _refitted(state: State, arc: Arc, seed: int, examine: Examine) -> tuple[State, list[Change]]:
    """Fit on all audits ever made, and release the result if it is no worse than the model in force (docs/science.md 3.3.7).

    Old and new are compared by their fits without the held-out labels, and what is released knows all: else a text that a policy
    has settled on, if its hash is held out, would never be learned. The first model has no one to be compared with and is always
    released; which twins it fails is told. A later one may fail no twin that the model in force does not fail.
    """
    model = fit(state.audits, heads=arc.heads, seed=seed)
    if model is None or model == state.model:
        return state, []
    measured = fit([a for a in state.audits if not held_out(a)], heads=arc.heads, seed=seed)
    candidate = replace(state, model=model, measured=measured)
    now = quality(measured, state.audits)
    told: dict[str, object] = {"auc": now.auc, "ece": now.ece, "held_out": now.n, "audits": len(state.audits)}
    failing = sorted(examine(candidate))
    if state.model is None:
        return candidate, [Change("reward released", model.version, {**told, "failing": failing})]
    old = quality(state.measured, state.audits)
    told |= {"old_auc": old.auc, "old_ece": old.ece}
    because = worse(now, old) + (sorted(set(failing) - set(examine(state))) if failing else [])
    if because:
        return state, [Change("release refused", model.version, {**told, "because": because})]
    return candidate, [Change("reward released", model.version, {**told, "failing": failing})]


def _versioned(state: State) -> State:
    decides = {
        "model": state.model.version if state.model else "",
        "multipliers": dict(state.multipliers),
        "penalties": dict(state.penalties),
        "kappa": state.kappa,
    }
    return replace(state, version=digest(decides))


__all__ = [
    "CHANNELS",
    "Arc",
    "Best",
    "Change",
    "Draw",
    "Learned",
    "State",
    "advance",
    "alarmed",
    "begin",
    "choose",
    "fines",
    "opinions",
    "paid_share",
    "rebase",
    "weights",
]
