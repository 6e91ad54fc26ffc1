"""What the first answers show before the rest is paid for: do thoughts close, did answers come, could the judge be had.

A thought that the token cap cuts has no answer, and a suite of such replies looks safe. The answers are ordinary rows, kept and
not asked again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from temper.errors import ProofError
from temper.files import Row
from temper.prove.metrics import OUTAGE

PROBED = 8
"""Prompts of the first suite."""
WARNED = 0.5
"""Share of thoughts that close below which a warning is given."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """Of `n` answers: how many began a thought, and closed it; how many never came; `ungraded` counts graders that were away.

    `expected` says that a thought was to come, because of the model's name or because one came.
    """

    n: int
    thoughts: int
    closed: int
    errors: int
    expected: bool
    ungraded: dict[str, int]

    @property
    def rate(self) -> float | None:
        """Closed thoughts by answers that came, None where no thought is expected."""
        came = self.n - self.errors
        return self.closed / came if self.expected and came else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rate": self.rate}

    def warnings(self) -> list[str]:
        said = [f"{name} graded none of the first {self.n} answers" for name, n in self.ungraded.items() if n == self.n]
        found = [f"{each}; they stay ungraded until `temper rescore`" for each in said]
        return [*found, self._unclosed()] if self.rate is not None and self.rate < WARNED else found

    def check(self, least: float) -> None:
        """Raise `ProofError` where fewer thoughts close than wanted."""
        if self.rate is not None and self.rate < least:
            raise ProofError(f"{self._unclosed()}; to go on all the same, lower --least-closed (now {least:g})")

    def _unclosed(self) -> str:
        if not self.thoughts:
            return f"none of the first {self.n} answers has a thought where one was expected: does the server drop it?"
        return (
            f"{self.closed} of the first {self.n} answers closed their thought; one that the token cap cuts has no answer: raise "
            "--max-new-tokens (R1-style models want 4096 for safety, 32768 for reasoning: --profile r1)"
        )


def preflight(rows: Sequence[Row], *, expected: bool = False) -> Preflight:
    """What the first `PROBED` rows show."""
    first = rows[:PROBED]
    thoughts = sum(row["thought"] != "none" for row in first)
    away = Counter(name for row in first for name, s in row["scores"].items() if s["why"].startswith(OUTAGE))
    return Preflight(
        len(first),
        thoughts,
        closed=sum(row["thought"] == "closed" for row in first),
        errors=sum(row["finish"] == "error" for row in first),
        expected=expected or thoughts > 0,
        ungraded=dict(away),
    )
