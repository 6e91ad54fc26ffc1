"""The seeds of an experiment, each a `temper run` in a process and on cores of its own.

A finished seed is not run again, a failed one is told and does not stop the others, and no child outlives this process's end.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from temper import machine
from temper.errors import RunError, StorageError, UsageError
from temper.experiment.measure import metric_of
from temper.files import read_rows
from temper.train.planned import named_metrics
from temper.train.recipe import read_recipe

State = Literal["already done", "started", "running", "done", "failed"]
LAST_LINES = 12  # of a failed seed's log
TAIL = 8_192  # bytes of a log that hold them
TOLD_EVERY = 60.0  # seconds between two words about a running seed
POLL = 0.2
GRACE = 10.0  # seconds a child has to end by itself


@dataclass(frozen=True, slots=True)
class News:
    """What there is to say about one seed: its latest log line while it runs, its last lines where it failed."""

    seed: int
    state: State
    line: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Job:
    """A child that runs one seed on the cores of its slot."""

    seed: int
    slot: int
    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)


Tell = Callable[[News], None]


def run_seeds(recipe: Path, out: Path, seeds: Sequence[int], *, jobs: int, tell: Tell) -> dict[int, str]:
    """Run a recipe once for each seed into `out/seed-N`, `jobs` at a time; returns the last lines of those that failed.

    Raises `UsageError` for a recipe that cannot run, before anything starts. Children are killed if this is interrupted.
    """
    stated = read_recipe(recipe)
    for name in named_metrics(stated.experiment):
        metric_of(stated, name)
    if jobs < 1:
        raise UsageError(f"jobs = {jobs}; wanted at least 1 process at a time")
    waiting = []
    for seed in seeds:
        if finished(recipe, folder_of(out, seed)):
            tell(News(seed, "already done"))
        else:
            waiting.append(seed)
    return _drive(recipe, out, waiting, jobs, tell)


def finished(recipe: Path, folder: Path) -> bool:
    """Whether this very recipe ran to its end there; what it plans and predicts may have changed since, what it runs may not."""
    if not (folder / "summary.json").is_file() or not (folder / "recipe.toml").is_file():
        return False
    events = read_rows(folder / "events.jsonl")
    return bool(events) and events[-1]["kind"] == "finished" and _what_runs(folder / "recipe.toml") == _what_runs(recipe)


def folder_of(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def log_of(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}.log"


def command(recipe: Path, folder: Path, seed: int) -> list[str]:
    """What one child runs."""
    return [sys.executable, "-m", "temper.cli", "run", str(recipe), "--out", str(folder), "--seed", str(seed)]


def seeds_in(out: Path) -> list[int]:
    """Seeds that have a folder in an experiment's folder."""
    names = (path.name.removeprefix("seed-") for path in out.glob("seed-*") if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def other_recipes(recipe: Path, out: Path) -> list[int]:
    """Seeds in an experiment's folder that ran something else."""
    held = ((seed, folder_of(out, seed) / "recipe.toml") for seed in seeds_in(out))
    return [seed for seed, path in held if path.is_file() and _what_runs(path) != _what_runs(recipe)]


def planned_in(recipe: Path) -> Any:
    """The recipe's [experiment] table as it is written."""
    return _table(recipe).get("experiment", {})


def _what_runs(recipe: Path) -> Any:
    return {key: value for key, value in _table(recipe).items() if key not in ("experiment", "seed")}


def _table(recipe: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{recipe}: not valid TOML ({error}); move {recipe.parent} away to run that seed again") from None


def _drive(recipe: Path, out: Path, waiting: list[int], jobs: int, tell: Tell) -> dict[int, str]:
    running: list[Job] = []
    failed: dict[int, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slot = min(set(range(jobs)) - {job.slot for job in running})
                running.append(_start(recipe, out, waiting.pop(0), slot, jobs))
                tell(News(running[-1].seed, "started"))
            time.sleep(POLL)
            running = [job for job in running if _goes_on(job, recipe, out, failed, tell)]
    finally:
        _end(running)
    return failed


def _start(recipe: Path, out: Path, seed: int, slot: int, jobs: int) -> Job:
    cores = cores_of(slot, jobs)
    threads = os.environ.get("TEMPER_THREADS", str(len(cores)))
    out.mkdir(parents=True, exist_ok=True)
    with log_of(out, seed).open("ab") as log:
        process = subprocess.Popen(
            command(recipe, folder_of(out, seed), seed),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TEMPER_THREADS": threads, "OMP_NUM_THREADS": threads},
            start_new_session=True,  # a key press reaches this process alone, which then ends its children in order
        )
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(ProcessLookupError):  # it may have failed already; its status tells
            os.sched_setaffinity(process.pid, cores)
    return Job(seed, slot, process)


def cores_of(slot: int, jobs: int) -> list[int]:
    """A slot's share of the cores; with more jobs than cores several slots share one."""
    ours = sorted(machine.usable_cpus())
    return ours[slot::jobs] or [ours[slot % len(ours)]]


def _goes_on(job: Job, recipe: Path, out: Path, failed: dict[int, str], tell: Tell) -> bool:
    """Whether a child still runs; says what became of it otherwise, and now and then how far it is."""
    status, now = job.process.poll(), time.monotonic()
    if status is None:
        if now - job.told > TOLD_EVERY:
            job.told = now
            tell(News(job.seed, "running", "".join(_last_lines(log_of(out, job.seed), 1)), now - job.started))
        return True
    if status == 0 and finished(recipe, folder_of(out, job.seed)):
        tell(News(job.seed, "done", seconds=now - job.started))
    else:
        failed[job.seed] = "\n".join([f"exit status {status}", *_last_lines(log_of(out, job.seed), LAST_LINES)])
        tell(News(job.seed, "failed", failed[job.seed], now - job.started))
    return False


def _last_lines(log: Path, number: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read().decode("utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()][-number:]


def _end(running: Sequence[Job]) -> None:
    """Interrupt children as a key press would, so that they close their files; kill those that do not end."""
    for job in running:
        _signal(job, signal.SIGINT)
    deadline = time.monotonic() + GRACE
    for job in running:
        try:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(job, signal.SIGKILL)
            job.process.wait()


def _signal(job: Job, number: signal.Signals) -> None:
    if job.process.poll() is None:
        os.killpg(job.process.pid, number)


def told_failures(failed: dict[int, str], out: Path) -> RunError:
    """One error for all seeds that failed, with the last line of each."""
    listed = "; ".join(f"seed {seed}: {text.splitlines()[-1]} (all of it: {log_of(out, seed)})" for seed, text in failed.items())
    return RunError(f"{len(failed)} of the seeds failed, the others are kept; run the same command again to retry: {listed}")
