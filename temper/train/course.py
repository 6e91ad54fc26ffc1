"""The course of a grpo stage: what it pays as it goes on, what it writes down, and what calls for a person.

Everything that adapts is folded from the journal (`rewards.replay`), so a resumed stage goes on as if nothing had happened.
Leaves out the model: the trainer asks for answers' pay and carries out what is ordered (roll back, stop).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.errors import StorageError
from temper.files import Row, append_rows, read_rows
from temper.graders.calibrate import Curve
from temper.rewards import adapt, hacks, journal
from temper.rewards.adapt import Change, State
from temper.rewards.alarms import Alarms, raised
from temper.rewards.cache import remembering
from temper.rewards.gap import gap, mapped
from temper.rewards.replay import Twins, decided, forward, read_twins, repaid, states, told, write_design
from temper.rewards.scope import views
from temper.rewards.signal import LEARNED, Design, Paid, Signal
from temper.train.run import Context
from temper.types import Completion, Event

if TYPE_CHECKING:
    from temper.train.grpo import Grpo


@dataclass(slots=True)
class Course:
    """A stage under way. `state` is what adapts (None: nothing does), `start` the rows of step 0, `latest` the figures of the
    last step, `orders` what the trainer must do about it; `kept` is the step whose weights stand for the best audited ones, and
    `ended` says whether the stage was stopped before its last step."""

    signal: Signal
    out: Path
    twins: Twins = ()
    limits: Alarms = field(default_factory=Alarms)
    state: State | None = None
    start: list[Row] = field(default_factory=list)
    curve: Curve | None = None
    latest: dict[str, Any] = field(default_factory=dict)
    orders: list[Change] = field(default_factory=list)
    metrics: list[Row] = field(default_factory=list)
    kept: int = 0
    ended: bool = False

    def begin(self, first: Callable[[int], Sequence[Completion]], count: int) -> None:
        """Start anew: forget what an attempt without a checkpoint left, and score `count` answers of the stage's start."""
        journal.forget(self.out)
        self.state = self.signal.design.begin()
        answers = first(count) if count else []
        self._calibrate(answers)
        paid = self.signal(answers, self.state, step=0)
        self.twins = self._planted(answers, paid.rows)
        write_design(self.out, self.signal.design, self.twins)
        if not answers:
            return
        journal.write(self.out, paid.rows)
        self.start = paid.rows
        self._forward(paid.rows, 0)
        self._remap(0)

    def resume(self, step: int) -> None:
        """Go on after `step`: drop what came later, and fold the journal up to there.

        Raises `StorageError` for a journal that ends before `step`: what adapts could not be known.
        """
        journal.rewind(self.out, step)
        self.twins, last = read_twins(self.out), None
        for fold in states(self.out, self.signal.design, self.twins):
            self._settle(fold.before, fold.after, fold.step)
            last = fold.step
            if fold.step == 0:
                self.start = fold.rows
                self._calibrate([journal.completion_of(row) for row in fold.rows])
        if last != step:
            ends = "is empty or missing" if last is None else f"ends at step {last}"
            raise StorageError(
                f"{self.out / journal.ROLLOUTS}: {ends}, but the last checkpoint is of step {step}; wanted the whole journal. "
                f"Put it back, or remove {self.out} to train the stage anew"
            )
        self.ended = any(event["kind"] == "stopped" for event in read_rows(self.out / journal.EVENTS))
        self.metrics = read_rows(self.out / journal.METRICS)
        if kept := read_rows(self.out / journal.REFERENCE):
            self.curve = mapped(kept[-1]["rewards"], self._good(self.start))

    def score(self, completions: Sequence[Completion], step: int) -> Paid:
        """Pay one step, write it down, and let what adapts take its step."""
        paid = self.signal(completions, self.state, step=step)
        journal.write(self.out, paid.rows)
        self.latest = self._figures(paid)
        self.orders = self._forward(paid.rows, step)
        self.ended = any(order.kind == "stopped" for order in self.orders)
        if self.orders and self.start:
            self._remap(step)
        return paid

    def flat(self, completions: Sequence[Completion]) -> set[str]:
        return self.signal.flat(completions, self.state)

    def alarms(self, row: Row) -> list[str]:
        """Take in a step's whole metrics row; the alarms that are raised and were not at the step before."""
        before = self.metrics[-1].get("alarms", []) if self.metrics else []
        now = raised([*self.metrics[-self.limits.window :], row], self.limits)
        row["alarms"] = now
        self.metrics.append(row)
        fresh = [name for name in now if name not in before]
        for name in fresh:
            limit = getattr(self.limits, name)
            self._note(Change("alarm", "alarm", {"alarm": name, "value": row.get(name), "limit": limit}), row["step"])
        return fresh

    def roll_back(self, step: int, why: str) -> bool:
        """An alarm's rollback, and after two of any kind a stop; whether there are weights to restore, which an audit named."""
        if self.state is None or self.state.best is None:
            self._note(Change("alarm", "alarm", {"alarm": why, "not_rolled_back": "no audit has named the best weights"}), step)
            return False
        told: dict[str, object] = {"to": self.state.best.step, "why": why}
        if self.state.rollbacks >= adapt.ROLLBACKS:
            self.ended = True
            self._note(Change("stopped", "alarm", told), step)
            return True
        self.state = adapt.alarmed(self.state, step)
        self._note(Change("rolled back", "alarm", {**told, "beta_factor": self.state.beta_factor}), step)
        return True

    def stands_for_window(self, step: int) -> bool:
        """Whether the weights that sample `step` are those to restore if the audits of the window around it are the best."""
        return self.state is not None and step == middle(step, self.state.since, self._every)

    def needed(self, step: int) -> set[int]:
        """The steps whose weights may have to be restored after `step`."""
        return set() if self.state is None else {self.kept, middle(step + 1, self.state.since, self._every)}

    @property
    def beta_factor(self) -> float:
        return 1.0 if self.state is None else self.state.beta_factor

    @property
    def _every(self) -> int:
        return self.signal.design.arc.refresh_every if self.signal.design.arc else 1

    def _settle(self, before: State | None, after: State | None, step: int) -> None:
        """Take over the state after `step`; where that names a new best, the weights of its window's middle stand for it."""
        self.state = after
        if before is not None and after is not None and after.best is not None and after.best.step == step:
            self.kept = middle(step, before.since, self._every)

    def _forward(self, rows: Sequence[Row], step: int) -> list[Change]:
        after, changes = forward(self.state, rows, self.signal.design, self.twins, step=step)
        self._settle(self.state, after, step)
        for change in changes:
            self._note(change, step)
        return changes

    def _note(self, change: Change, step: int) -> None:
        append_rows(self.out / journal.EVENTS, [asdict(Event(round(time.time(), 3), **told(change, step)))])

    def _calibrate(self, answers: Sequence[Completion]) -> None:
        """The detectors' thresholds, from this model's own answers before training."""
        if self.signal.bank:
            self.signal = replace(self.signal, reference=hacks.calibrate(answers))

    def _planted(self, answers: Sequence[Completion], rows: Sequence[Row]) -> Twins:
        """What the release gate examines a new reward with: each fined hack, planted in answers of this very model.

        In those that the auditor called good and no detector flagged. A reward model that is asked about another world's words
        answers by chance, and a gate that listens to that refuses every refit (docs/adaptive-reward.md).
        """
        if self.signal.design.arc is None:
            return []
        pairs = list(zip(answers, rows, strict=True))
        good = [a for a, r in pairs if r["audit"] and r["audit"]["value"] == 0.0 and not any(r["flags"].values())]
        made = [twin for hack in self.signal.bank if hack.name in self.signal.design.hacks for twin in hacks.pairs(hack, good)]
        clean, hacked = (self.signal.rows([getattr(t, side) for t in made], None, step=0) for side in ("clean", "hacked"))
        return [(t.hack, c, h) for t, c, h in zip(made, clean, hacked, strict=True)]

    def _remap(self, step: int) -> None:
        """Pay the start's answers by the weights now in force, and map that pay to gold."""
        rewards = repaid(self.start, self.signal.design, self.state)
        append_rows(self.out / journal.REFERENCE, [{"step": step, "rewards": rewards}])
        self.curve = mapped(rewards, self._good(self.start))

    def _good(self, rows: Sequence[Row]) -> list[float | None]:
        """P(good) by gold of each row, None where it did not look."""
        gold = self.signal.gold
        if gold is None:
            return [None] * len(rows)
        values = [journal.value_of(row, gold.name) for row in rows]
        return [v if v is None or gold.better == "high" else 1.0 - v for v in values]

    def _figures(self, paid: Paid) -> dict[str, Any]:
        rows, gold = paid.rows, self.signal.gold
        rewards, told = [r for r in paid.rewards if r is not None], decided(paid.rewards, self.state)
        mean = told["reward"]
        spread = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5 if mean is not None else None
        harmful = next((row for row in rows if row["class"] == "harmful"), rows[0])
        graders = [view.name for view in self.signal.views] + ([gold.name] if gold else [])
        return {
            **told,
            "reward_sd": spread,
            "unscored": paid.unscored / len(rows),
            "zero_variance": paid.zero_variance,
            "truncated": sum(row["finish"] == "length" for row in rows) / len(rows),
            "completion_words": sum(len(row["raw"].split()) for row in rows) / len(rows),
            "weights": harmful["weights"],
            "columns": {name: journal.mean_value(rows, name) for name in graders},
            **self._against_gold(paid),
            **_hacked(rows, [hack.name for hack in self.signal.bank]),
        }

    def _against_gold(self, paid: Paid) -> dict[str, Any]:
        """Gold's mean P(safe) on the rows it saw, and the proxy's on the same rows: the mapped reward, without a map `harm`'s."""
        if self.signal.gold is None:
            return {}
        good = self._good(paid.rows)
        seen = [g for g in good if g is not None]
        told: dict[str, Any] = {"gold": sum(seen) / len(seen) if seen else None, "gold_n": len(seen)}
        if self.curve is not None and (found := gap(self.curve, paid.rewards, good)) is not None:
            return {**told, "gap": found, "proxy": found + told["gold"]}
        if "harm" in self.signal.design.weights:
            audited = [row for row, g in zip(paid.rows, good, strict=True) if g is not None]
            told["proxy"] = journal.mean_value(audited, "harm", flip=True)
        return told


def middle(step: int, since: int, every: int) -> int:
    """The middle of the audited window that `step` is in: (last refresh, next refresh], or from the rollback at `since` on.

    A window's audits certify what its steps sampled on average; the last of them had trained on it all already.
    """
    end = -(-step // every) * every
    return (max(end - every, since, 0) + end + 1) // 2


def course_of(stage: "Grpo", out: Path, context: Context) -> Course:
    """Who pays in this stage, as its recipe says."""
    shown = [
        (view, weight)
        for name, weight in stage.rewards.items()
        if name != LEARNED
        for view in views(remembering(context.graders[name], context.opinions), stage.harm_scope)
    ]
    weights = {view.name: weight for view, weight in shown}
    learned = {LEARNED: stage.rewards[LEARNED]} if LEARNED in stage.rewards else {}
    fined, measured = hacks.bank(stage.hacks), hacks.figures(stage.hacks)
    # the whole bank watches, whatever is fined
    watching = tuple({hack.name: hack for hack in (*hacks.bank(), *fined)}.values())
    design = Design(
        weights={**weights, **learned},
        better={**{view.name: view.grader.better for view, _ in shown}, **dict.fromkeys(learned, "low")},
        scopes={**{view.name: view.scope for view, _ in shown}, **dict.fromkeys(learned, "all")},
        hacks={hack.name: hack.where for hack in fined},
        recall={hack.name: measured[hack.name].recall.value if hack.name in measured else 1.0 for hack in fined},
        penalty=stage.penalty,
        normalise=stage.normalise,
        arc=stage.adapt,
        steps=stage.steps,
        shift_at=stage.shift_at,
        seed=context.seed,
    )
    auditor, gold = (
        None if of is None else remembering(of, context.opinions)
        for of in (context.graders[stage.adapt.auditor] if stage.adapt else None, context.gold)
    )
    signal = Signal(
        tuple(view for view, _ in shown),
        design,
        watching,
        auditor=auditor,
        gold=gold,
        audits=stage.audits,
        batch=stage.prompts_per_step * stage.group,
    )
    return Course(signal, out, limits=stage.alarms)


def _hacked(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    """The share of rows with each hack among those its detector read, and with any of them."""
    if not names:
        return {}
    rates = {name: [row["flags"][name] for row in rows if row["flags"][name] is not None] for name in names}
    any_hack = [any(row["flags"][name] for name in names) for row in rows]
    found = {name: sum(flags) / len(flags) for name, flags in rates.items() if flags}
    return {"hacks": found, "hack_rate": sum(any_hack) / len(rows)}


def noted(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a metrics row that a person follows while it trains."""
    shown = {
        "reward": "reward",
        "loss": "loss",
        "gold": "gold",
        "gap": "gap",
        "hack_rate": "hacks",
        "kl": "kl",
        "entropy": "entropy",
    }
    told = {label: row[key] for key, label in shown.items() if row.get(key) is not None}
    return {**told, **{label: row[label] for label in ("unscored", "zero_variance") if label in row}}
