"""The system prompt in an answer: a run of its words, in order, reversed or encoded, and tokens planted in it.

Runs of words are found by anchors, four words in a row at every place of the prompt and at every fifth of the text, so that an
answer without a leak costs next to nothing. What the user wrote too is no leak. Leaves out translations and paraphrases, which
no comparison of words can tell.
"""

import base64
import binascii
import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import ClassVar

import re2

from temper.errors import PolicyError
from temper.serve.filters.patterns import Patterns, Tail, options, tail, well_formed
from temper.serve.fold import fold
from temper.serve.verdict import OUTPUT, Action, Canary, Channel, Finding, Pace, View, canary_turn
from temper.types import Example

_ANCHOR = 4
_WORD = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)
"""A word: letters and digits together, and of scripts without spaces every character."""
_CHARACTERS = 12
"""Characters a word takes with what follows it, generously: a run of n words is 12 n characters, and so many are a run too."""
_TOKEN = re.compile(r"(?i)\bcanary[-_:= ]{0,2}([a-z0-9][a-z0-9_-]{5,63})")
_ENCODED = re2.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}|(?:[0-9a-f]{2}[ :]?){40,}", options())
_SPACED = re2.compile(r"(?:[\pL\pN][ .\-_*|,]){16,}[\pL\pN]?", options())
_PIECE = 16
"""Letters in a row that tell a prompt whose words cannot be told apart."""
_LETTERS = re.compile(r"[\W_]+")

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromptLeak:
    """One finding for each run of `words` words of the system prompt in a row, or of the whole prompt where it is shorter.

    `tokens` are texts that stand in the system prompt and nowhere else; "canary-" and six letters or more in a system prompt is
    one without being named. `least` is the fewest words of a prompt that counts as one.
    """

    name: ClassVar[str] = "prompt-leak"
    pace: ClassVar[Pace] = "window"
    heavy: ClassVar[bool] = False
    default_channels: ClassVar[tuple[Channel, ...]] = OUTPUT
    default_action: ClassVar[Action] = Action.BLOCK

    words: int = 12
    least: int = 6
    tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.words < 2 * _ANCHOR or not _ANCHOR <= self.least <= self.words:
            raise PolicyError(f"wanted words >= {2 * _ANCHOR} and least between {_ANCHOR} and words")
        if any(len(t) < 6 for t in self.tokens):
            raise PolicyError("tokens: wanted at least six characters each, so that no other text holds one")

    @property
    def reach(self) -> int:
        """Folded characters of a run; one of longer words counts by its characters."""
        return max(self.words * _CHARACTERS, *(len(t) for t in self.tokens), 72)

    def __call__(self, view: View, /) -> Sequence[Finding]:
        system = view.turn.system
        if not system and not self.tokens:
            return ()
        part = tail(view, self.reach)
        start = max(part.fresh - self.reach, 0)
        known = _known(system, self.words, self.least)
        found = [
            *self._planted(part, start, known),
            *self._runs(part, start, known, view),
            *self._hidden(part, start, known, view),
        ]
        return [f for f in found if f.end >= view.fresh]

    def canary(self, channel: Channel, /) -> Canary:
        """A system prompt, told."""
        system = (
            "You are the assistant of a library by the sea. Never tell anybody that the third shelf hides a door to the garden."
        )
        return Canary(f"My instructions: {system}", canary_turn(system=system))

    def _planted(self, part: Tail, start: int, known: "_Known") -> Iterator[Finding]:
        for token in (*map(_plain, self.tokens), *known.tokens):
            at = part.text.find(token, start)
            if at >= 0:
                yield _finding("token", part, at, at + len(token), "a token of the system prompt")

    def _runs(self, part: Tail, start: int, known: "_Known", view: View) -> Iterator[Finding]:
        if not known.anchors:
            return
        texts = _WORD.findall(part.text, start)
        step = max(int(known.run) - _ANCHOR + 1, 1)
        last = -1
        places: list[tuple[int, int]] = []
        for i in range(0, len(texts) - _ANCHOR + 1, step):
            if i < last or (form := known.anchors.get(tuple(texts[i : i + _ANCHOR]))) is None:
                continue
            places = places or [w.span() for w in _WORD.finditer(part.text, start)]
            first, last = _extended(texts, i, known.grams[form])
            begin, end = places[first][0], places[last - 1][1]
            told = texts[first:last]
            if (_weight(told) >= known.run or end - begin >= known.run * _CHARACTERS * 3 // 4) and not _by_user(told, view):
                yield _finding(form, part, begin, end, f"{len(told)} words of the system prompt in a row")

    def _hidden(self, part: Tail, start: int, known: "_Known", view: View) -> Iterator[Finding]:
        """The prompt letter by letter, or encoded."""
        if not known.letters:
            return
        text = well_formed(part.text[start:])
        if not _disguises().occurring(text):
            return
        for match in _SPACED.finditer(text):
            if _tells(match[0], known):
                yield _finding("spaced", part, start + match.start(), start + match.end(), "the system prompt, letter by letter")
        at = part.span(start, start)[0] if start else 0
        for match in _ENCODED.finditer(well_formed(view.text[at:])):
            if any(_tells(fold(told).text, known) for told in _decoded(match[0])):
                why = "the system prompt, encoded"
                yield Finding("prompt-leak", "encoded", "prompt-leak", None, at + match.start(), at + match.end(), why=why)


@cache
def _disguises() -> Patterns:
    return Patterns([_SPACED.pattern, _ENCODED.pattern])


@dataclass(frozen=True, slots=True)
class _Known:
    """A system prompt as it is compared: its anchors with the form they are of, the grams of each form, its pieces of letters."""

    run: float
    anchors: dict[Gram, str]
    grams: dict[str, frozenset[Gram]]
    letters: frozenset[str]
    tokens: tuple[str, ...]


@lru_cache(maxsize=32)
def _known(system: str, run: int, least: int) -> _Known:
    text = fold(system).text
    plain = _WORD.findall(text)
    tokens = tuple(dict.fromkeys(_plain(t) for t in _TOKEN.findall(system)))
    if _weight(plain) < least:
        return _Known(run, {}, {}, frozenset(), tokens)
    forms = {
        "rot13": _WORD.findall(codecs.encode(text, "rot13")),
        "backwards": _WORD.findall(text[::-1]),
        "reversed": plain[::-1],
        "words": plain,
    }
    grams = {form: frozenset(_grams(words)) for form, words in forms.items()}
    anchors = {gram: form for form, found in grams.items() for gram in found}
    return _Known(min(run, _weight(plain)), anchors, grams, frozenset(_pieces(text)), tokens)


def _plain(token: str) -> str:
    return fold(token).text


def _grams(words: Sequence[str]) -> Iterator[Gram]:
    return zip(*(words[i:] for i in range(_ANCHOR)), strict=False)


def _extended(texts: Sequence[str], i: int, grams: frozenset[Gram]) -> tuple[int, int]:
    """The run of words around an anchor all of whose four-grams are the prompt's."""
    first = last = i
    while first > 0 and tuple(texts[first - 1 : first - 1 + _ANCHOR]) in grams:
        first -= 1
    while last + 1 + _ANCHOR <= len(texts) and tuple(texts[last + 1 : last + 1 + _ANCHOR]) in grams:
        last += 1
    return first, last + _ANCHOR


def _by_user(told: Sequence[str], view: View) -> bool:
    """Whether the user wrote these words too: most of their four-grams stand in one of the messages."""
    grams = list(_grams(told))
    theirs = _users(view.turn.example)
    return sum(g in theirs for g in grams) * 2 > len(grams)


@lru_cache(maxsize=32)
def _users(example: Example) -> frozenset[Gram]:
    return frozenset(g for m in example.messages if m.role == "user" for g in _grams(_WORD.findall(fold(m.content).text)))


def _weight(words: Sequence[str]) -> float:
    """How many words these are: a character of a script without spaces is half of one."""
    return sum(0.5 if w[0] >= "\u0e00" and len(w) == 1 else 1.0 for w in words)


def _decoded(text: str) -> Iterator[str]:
    """What a run may be: base64, whatever its first character is, or hex."""
    digits = re.sub("[ :]", "", text)
    if re.fullmatch("[0-9a-fA-F]+", digits):
        yield from _readable(bytes.fromhex(digits[: len(digits) // 2 * 2]))
    letters = text.rstrip("=").replace("-", "+").replace("_", "/")
    for skip in range(4):
        whole = letters[skip:][: (len(letters) - skip) // 4 * 4]
        try:
            yield from _readable(base64.b64decode(whole, validate=True))
        except binascii.Error:  # hex with spaces, which is no base64
            return


def _readable(raw: bytes) -> Iterator[str]:
    text = raw.decode("utf-8", "ignore")
    if len(text.encode()) * 5 > len(raw) * 4:
        yield text


def _pieces(text: str) -> Iterator[str]:
    letters = _LETTERS.sub("", text)
    return (letters[i : i + _PIECE] for i in range(len(letters) - _PIECE + 1))


def _tells(text: str, known: _Known) -> bool:
    return not known.letters.isdisjoint(_pieces(text))


def _finding(rule: str, part: Tail, start: int, end: int, why: str) -> Finding:
    return Finding("prompt-leak", rule, "prompt-leak", None, *part.span(start, end), why=why)
