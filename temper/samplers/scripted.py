"""A sampler that says what it was told to: the public test double for everything that asks a model.

Deterministic and without a model or a network. Think tags in a text are split as those of a real model are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from temper.errors import DataError, nearest
from temper.text.split import split
from temper.types import Completion, Example, Usage

Texts = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Scripted:
    """Answers from a mapping (by example id, else by prompt) or a function of the example.

    Several texts are taken in turn by the n samples. `default` answers what the mapping lacks; without it that is a `DataError`.
    `max_words` cuts a text as a token cap would: the cut completion finishes by `length`, and a thought may stay open.
    Words count as tokens in `usage`; seconds are zero.
    """

    answers: Mapping[str, Texts] | Callable[[Example], Texts]
    default: str | None = None
    max_words: int | None = None

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        return [[self._completion(example, text) for text in islice(cycle(self._texts(example)), n)] for example in examples]

    def _texts(self, example: Example) -> list[str]:
        given = self.answers(example) if callable(self.answers) else self._looked_up(self.answers, example)
        texts = [given] if isinstance(given, str) else list(given)
        if not texts:
            raise DataError(f"scripted sampler: no text for example {example.id!r}; wanted at least one (it may be empty)")
        return texts

    def _looked_up(self, answers: Mapping[str, Texts], example: Example) -> Texts:
        for key in (example.id, example.prompt):
            if key in answers:
                return answers[key]
        if self.default is not None:
            return self.default
        raise DataError(f"scripted sampler: no answer for example {example.id!r}; {nearest(example.id, answers)}; or set default")

    def _completion(self, example: Example, text: str) -> Completion:
        raw = text if self.max_words is None else _first_words(text, self.max_words)
        parts = split(raw)
        asked = sum(len(m.content.split()) for m in example.messages)
        return Completion(
            example,
            parts.answer,
            parts.reasoning,
            finish="stop" if raw == text else "length",
            thought=parts.thought,
            raw=raw,
            usage=Usage(prompt_tokens=asked, completion_tokens=len(raw.split())),
        )


def _first_words(text: str, count: int) -> str:
    """The text up to its last allowed word, its spacing untouched; the text itself if it is short enough."""
    if len(text.split()) <= count:
        return text
    rest = text.split(maxsplit=count)[count]
    return text[: len(text) - len(rest)].rstrip() if count else ""
