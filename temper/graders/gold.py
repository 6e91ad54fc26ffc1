"""P(a response is unsafe), by a judge that shares neither weights, architecture nor training rows with `harm`: for proof only.

The same question, the same text and the same abstentions as `harm`, so that where the two part something was gamed. Leaves out
the network (models.judge), which it is given. Never use it as a reward: it would no longer be independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.graders.harm import Judging, judged
from temper.types import Better, Completion, Score


@dataclass(frozen=True, slots=True)
class Gold:
    """P(unsafe) by the independent judge, calibrated; `parts` holds the shipped threshold. Abstains where `harm` does."""

    judge: Judging
    threshold: float
    better: ClassVar[Better] = "low"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return judged(self.judge, completions, self.threshold)
