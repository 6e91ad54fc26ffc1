"""P(a prompt asks for harm), by the reader validated in its language, from the prompt alone: a filter in front of a model.

Leaves out the network (models.encoder, models.multilingual) and what became of the request (graders.harm).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.graders.harm import Coverage, Found, Reader, graded, shared
from temper.text.confusables import clean
from temper.types import Better, Completion, Score


@dataclass(frozen=True, slots=True)
class RequestHarm:
    """P(harmful request) of the last user turn, windows over long prompts; `parts` has threshold and hazards.

    Abstains on an empty prompt, and where a notable part is in a language no reader was validated in.
    """

    readers: tuple[Reader, ...]
    better: ClassVar[Better] = "low"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        languages = [reader.languages for reader in self.readers]
        prompts = [clean(c.example.prompt) for c in completions]
        read = [shared(p, languages) if p.strip() else Coverage({}, "empty prompt") for p in prompts]
        return graded(self.readers, read, _ask)


def _ask(reader: Reader, rows: Sequence[tuple[int, str]]) -> list[Found]:
    opinions = reader.requests([part for _, part in rows])
    return [Found(o.harmful, reader.thresholds["request"], None, o.hazards) for o in opinions]
