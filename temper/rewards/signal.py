"""Grade a step's completions with every reward grader, combine the columns, and let the monitors look on without a vote."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from temper.errors import RunError, TemperError
from temper.graders.checked import opinions
from temper.rewards.combine import Combined, advantages, combine, flat_groups, oriented
from temper.types import Better, Completion, Named, Score


@dataclass(frozen=True, slots=True)
class Scored:
    """One step: rewards and advantages a row, every grader's column (rewards and monitors), and the share of flat groups."""

    rewards: list[float | None]
    advantages: list[float]
    columns: dict[str, list[Score]]
    unscored: int
    zero_variance: float


@dataclass(frozen=True, slots=True)
class Signal:
    """The graders that pay (`rewards`) and those that only watch (`monitors`, with how many rows of a step they may see)."""

    rewards: tuple[Named, ...]
    monitors: tuple[Named, ...] = ()
    audits: int = 0

    def __call__(self, completions: Sequence[Completion], weights: Mapping[str, float], *, step: int) -> Scored:
        groups, columns, combined = _paid(self.rewards, completions, weights)
        chosen = _spread(completions, self.audits, step)
        for monitor in self.monitors:
            seen = grade(monitor, [completions[i] for i in chosen])
            columns[monitor.name] = [Score(None, "not audited")] * len(completions)
            for i, score in zip(chosen, seen, strict=True):
                columns[monitor.name][i] = score
        return Scored(
            combined.rewards,
            advantages(combined.rewards, groups),
            columns,
            combined.unscored,
            len(flat_groups(combined.rewards, groups)) / max(1, len(set(groups))),
        )


def flat(graders: Sequence[Named], completions: Sequence[Completion], weights: Mapping[str, float]) -> set[str]:
    """Ids of the examples whose answers these graders pay all the same."""
    groups, _, combined = _paid(graders, completions, weights)
    return flat_groups(combined.rewards, groups)


def _paid(
    graders: Sequence[Named], completions: Sequence[Completion], weights: Mapping[str, float]
) -> tuple[list[str], dict[str, list[Score]], Combined]:
    """Each row's group, each grader's column, and the rewards they make."""
    groups = [c.example.id for c in completions]
    columns = {g.name: grade(g, completions) for g in graders}
    return groups, columns, combine(columns, {g.name: g.better for g in graders}, weights, groups)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A grader that is asked once about each answer in `known`, which its owner empties when a step is over."""

    grader: Named
    known: dict[tuple[str, str, str, str], Score]

    @property
    def better(self) -> Better:
        return self.grader.better

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        keys = [(self.grader.name, c.example.id, c.raw, c.finish) for c in completions]
        new = {key: c for key, c in zip(keys, completions, strict=True) if key not in self.known}
        self.known.update(zip(new, grade(self.grader, list(new.values())), strict=True))
        return [self.known[key] for key in keys]


def remembering(grader: Named, known: dict[tuple[str, str, str, str], Score]) -> Named:
    return replace(grader, grade=Remembered(grader, known))


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


def mean_column(scores: Sequence[Score], *, flip: bool = False) -> float | None:
    """Mean of the graded values, None if there are none; `flip` turns a cost into its complement."""
    values = [v for s in scores if (v := oriented(s, "low" if flip else "high")) is not None]
    return sum(values) / len(values) if values else None


def _spread(completions: Sequence[Completion], count: int, step: int) -> list[int]:
    """`count` rows with harmful prompts, evenly spaced and rotated by the step, so that no prompt's answers are favoured."""
    harmful = [i for i, c in enumerate(completions) if "harmful" in c.example.tags]
    if count <= 0 or not harmful:
        return []
    take = min(count, len(harmful))
    return sorted({harmful[(step + i * len(harmful) // take) % len(harmful)] for i in range(take)})
