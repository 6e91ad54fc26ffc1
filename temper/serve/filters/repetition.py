"""A model that goes round in circles, or on and on: text that somebody pays for and nobody reads.

Three signs, each told from the end of the text alone: the same characters over and over, the same long passages again and again
with other words between (`text/repetition.py`), and more characters than a channel may hold.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.errors import PolicyError
from temper.serve.verdict import OUTPUT, Action, Canary, Channel, Finding, Pace, View, canary_turn
from temper.text.repetition import loops

_NEEDLE = 24
"""Characters of the end that are looked for before it."""
_TAIL = 4096
_EVERY = 1024
_DENSE = 0.3
"""Compressed share below which a passage is read for loops: prose is at 0.5 to 0.6, a loop under 0.2."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """One finding where the text loops, one where it is longer than `max_chars`.

    A loop is a period of any length that fills the last `chars` characters at least `times` times over (whatever is longer), or
    the same 50 words three times in the last 4,096 characters, once there are `chars`. Tables with empty cells, matrices of
    zeros, choruses and lines that somebody asked for repeat themselves too: what is shorter than `chars` is let be.
    """

    name: ClassVar[str] = "repetition"
    pace: ClassVar[Pace] = "window"
    heavy: ClassVar[bool] = False
    reach: ClassVar[int] = 0
    default_channels: ClassVar[tuple[Channel, ...]] = OUTPUT
    default_action: ClassVar[Action] = Action.BLOCK

    chars: int = 3200
    times: int = 8
    max_chars: int = 200_000

    def __post_init__(self) -> None:
        if self.chars < 2 * _NEEDLE or self.times < 2 or self.max_chars < 1:
            raise PolicyError(f"wanted chars >= {2 * _NEEDLE}, times >= 2 and max_chars >= 1")

    def __call__(self, view: View, /) -> Sequence[Finding]:
        if len(view.text) > self.max_chars:
            why = f"more than {self.max_chars} characters"
            return (Finding("repetition", "length", "length", None, self.max_chars - 1, self.max_chars, why=why),)
        last = len(view.text) - (not view.final)  # what touches the end of a view might be undone, and a loop is not
        for end in (*range(view.fresh // self.chars * self.chars, last, self.chars), last):
            if found := self._circle(view.text, end):
                return (found,)
        if view.final or view.fresh // _EVERY < len(view.text) // _EVERY:
            passage = view.text[max(last - max(_TAIL, self.chars), 0) : last]
            if len(passage) >= self.chars and _compressed(passage) < _DENSE and loops(passage):
                return (_finding("loop", last - len(passage), last),)
        return ()

    def canary(self, channel: Channel, /) -> Canary:
        return Canary("again and " * (max(self.chars, 10 * self.times) // 10 + self.chars // 10 + 1), canary_turn())

    def _circle(self, text: str, end: int) -> Finding | None:
        """A finding where the text up to `end` is one passage over and over."""
        period = self._period(text, end) if end >= self.chars else 0
        if not period:
            return None
        length = max(self.chars, period * self.times)
        if length > end or text[end - length + period : end] != text[end - length : end - period]:
            return None
        return _finding("circle", end - length, end)

    def _period(self, text: str, end: int) -> int:
        """How far before its end the text may have said the same, 0 where it did not."""
        needle = text[end - _NEEDLE : end]
        at = text.find(needle, end - self.chars, end - 1)
        if at >= 0:
            return text.find(needle, at + 1, end) - at
        at = text.find(needle, max(end - _TAIL, 0), end - self.chars + _NEEDLE)
        return end - _NEEDLE - at if at >= 0 else 0


def _finding(rule: str, start: int, end: int) -> Finding:
    return Finding("repetition", rule, "repetition", None, start, end, why="the text goes round in circles")


def _compressed(text: str) -> float:
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 1)) / len(raw)
