"""Whether a completion has the think format: one closed block that holds a thought, then an answer.

R1's format reward (arXiv 2501.12948) as a state machine: with chat templates that open the block in the prompt, a well-formed
completion has no opener and exactly one closer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from temper.text.invisible import visible
from temper.text.repetition import words
from temper.text.split import CLOSE_TAG, OPEN_TAG, Split, split
from temper.types import Better, Completion, Score

MIN_WORDS = 5
"""Fewer words are no thought; empty and token blocks are the usual hack of a format reward."""
STRAY = frozenset(
    {
        "missing-opener",
        "nested",
        "repeated-opener",
        "several-blocks",
        "stray-closer",
        "stray-opener",
        "text-before-thought",
        "variant-tag",
    }
)


@dataclass(frozen=True, slots=True)
class ThinkFormat:
    """1.0 if and only if all four checks hold, else a quarter for each that does; a cut thought gets 0.0.

    The checks, also in `parts`: `closed` (a block was closed), `single` (once, with the tags as they should be and nothing
    before it), `thought` (at least `min_words` words in it), `answer` (words after it). Without a closed block none counts.
    """

    opened: bool = False
    min_words: int = MIN_WORDS
    open_tag: str = OPEN_TAG
    close_tag: str = CLOSE_TAG
    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [self._score(c) for c in completions]

    def _score(self, completion: Completion) -> Score:
        score = self._checked(completion)
        if score.value == 1.0 or (shown := visible(completion.raw)) == completion.raw:
            return score
        # the tag stays broken for whoever reads the text after us; what can be done is to say why
        hidden = self._checked(replace(completion, raw=shown)).value != score.value
        return replace(score, why=f"{score.why}; a tag is broken by invisible characters") if hidden else score

    def _checked(self, completion: Completion) -> Score:
        found = self._split(completion)
        if found.thought != "closed":
            why = "the thought was never closed" if found.thought == "open" else "no think block"
            return Score(0.0, why, {"closed": 0.0, "single": 0.0, "thought": 0.0, "answer": 0.0})
        problems = STRAY & set(found.problems)
        parts: dict[str, float | None] = {
            "closed": 1.0,
            "single": float(not problems),
            "thought": float(len(words(found.reasoning)) >= self.min_words),
            "answer": float(bool(visible(found.answer).strip())),
        }
        missing = [*sorted(problems), *(name for name in ("thought", "answer") if not parts[name])]
        return Score(sum(v or 0.0 for v in parts.values()) / len(parts), ", ".join(missing), parts)

    def _split(self, completion: Completion) -> Split:
        """The raw text decides; where there is none, or a server kept the thought apart, the completion's own fields do."""
        found = split(completion.raw, opened=self.opened, open_tag=self.open_tag, close_tag=self.close_tag)
        by_server = completion.thought == "closed" and found.thought != "closed" and not found.problems
        if not completion.raw or by_server:
            return Split(completion.reasoning, completion.answer, completion.thought)
        return found
