"""What rewards cost in a GRPO step on the default model: CPU seconds against a tenth of the step's, and waiting for a slow judge.

The step is the quickstart's: 4 prompts, 4 answers each, 64 tokens. A reward is all that happens between the sampled answers and
their advantages: graders, detectors, the learned model, combining, the journal. Its peer is a tenth of the whole step, so a ratio
above 1 keeps the target. The first step, which loads graders and tries the passes, is not counted.

    python bench/reward.py [--steps 4] [--only a,b,c,d,e]

a: the quickstart's rewards. b: with the bank of hacks. c: with the learned model as well, refitted on the way. d and e: a judge
that sleeps 0.5 s a call, or 0.25 s an answer, read ahead against asked afterwards (seconds on the clock).
"""

import argparse
import functools
import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record import Case, compared, record, stored

from temper import catalog, machine
from temper.train.grpo import Grpo
from temper.train.recipe import build
from temper.train.run import Context, Progress
from temper.types import Checkpoint, Completion, Named, Score

QUICK = {"harm": 0.5, "over-refusal": 0.3, "language": 0.1, "format": 0.1}
LEARNED = {"auditor": "coin", "labels": 64, "upfront": 16, "refresh_every": 2}
SHARES = {
    "a": ("the quickstart's rewards", {"rewards": QUICK}),
    "b": ("and the bank of hacks", {"rewards": QUICK, "hacks": ["all"], "reference": 16}),
    "c": (
        "and the learned model",
        {"rewards": {**QUICK, "learned": 0.5}, "hacks": ["all"], "reference": 16, "adapt": LEARNED},
    ),
}
WAITS = {"d": ("0.5 s a call", 0.5, 0.0), "e": ("0.25 s an answer", 0.0, 0.25)}
TARGET = 0.1


@dataclass
class Clock:
    """CPU and wall seconds at the end of each step, and the CPU seconds that rewards took in it."""

    ends: list[tuple[int, float, float]] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)

    def watch(self, progress: Progress) -> None:
        if progress.step:
            self.ends.append((progress.step, time.process_time(), time.perf_counter()))

    def timed(self, reward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(reward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return reward(*args, **kwargs)
            finally:
                self.spent.append(time.process_time() - started)

        return counted

    def steps(self, clock: int) -> list[float]:
        """Seconds of every step but the first; `clock` 1 counts those of the CPU, 2 those on the wall."""
        return [b[clock] - a[clock] for a, b in zip(self.ends, self.ends[1:], strict=False)]


@dataclass(frozen=True)
class Slow:
    """A scripted judge behind a network: sleeps a time for each call and for each answer, and pays by a hash of the text."""

    call: float
    answer: float
    slow: bool

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        time.sleep(self.call + self.answer * len(completions))
        return coin(completions)


def coin(completions: Sequence[Completion], /) -> list[Score]:
    return [Score(hashlib.sha256(c.raw.encode("utf-8", "replace")).digest()[0] / 255) for c in completions]


def run(steps: int, keys: dict[str, Any], graders: dict[str, Named]) -> Clock:
    """Train the stage; what its steps and their rewards took."""
    from temper.models.resolve import resolve
    from temper.train.trainer import TemperTrainer

    shape = {"steps": steps + 1, "prompts_per_step": 4, "group": 4, "max_new_tokens": 64, "lr": 1e-4, "audits": 0}
    stage: Grpo = build(Grpo, {**shape, **keys}, "bench")
    clock, stock = Clock(), TemperTrainer._reward
    TemperTrainer._reward = clock.timed(stock)
    try:
        with tempfile.TemporaryDirectory() as out:
            context = Context(seed=7, graders=graders, watch=clock.watch)
            stage.run(Checkpoint(resolve("smollm2-135m").folder), Path(out), context)
    finally:
        TemperTrainer._reward = stock
    return clock


def share(letter: str, steps: int) -> Case:
    name, keys = SHARES[letter]
    graders = {spec: catalog.grader(spec) for spec in QUICK} | {"coin": Named("coin", coin, "coin")}
    clock = run(steps, keys, graders)
    whole = clock.steps(1)
    spent = clock.spent[-len(whole) :]
    against = compared(spent, [TARGET * s for s in whole])
    notes = {"step_cpu_seconds": sum(whole) / len(whole), "share": sum(spent) / sum(whole), "answers": 16}
    return Case(f"{letter}: {name}", peer_name="a tenth of the step", unit="CPU s a step", notes=notes, **against)


def wait(letter: str, steps: int) -> Case:
    name, call, answer = WAITS[letter]
    ahead, after = (
        run(steps, {"rewards": {"far": 1.0}}, {"far": Named("far", Slow(call, answer, slow), "far")}).steps(2)
        for slow in (True, False)
    )
    notes = {"judge_seconds": call + 16 * answer}
    against = compared(ahead, after)
    return Case(f"{letter}: a judge of {name}", peer_name="asked afterwards", unit="s a step", notes=notes, **against)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", default="a,b,c,d,e", help="cases to measure")
    given = parser.parse_args()
    letters = given.only.split(",")
    if not set(letters) <= {*SHARES, *WAITS}:
        parser.error(f"--only {given.only}: wanted some of {','.join(sorted({*SHARES, *WAITS}))}")
    machine.keep_freed_memory()
    for letter in letters:
        case = (share if letter in SHARES else wait)(letter, given.steps)
        record("reward", [case], others=[r for r in stored("reward") if not r["case"].startswith(f"{letter}:")])


if __name__ == "__main__":
    main()
