"""Text as filters match it: invisible characters gone, compatibility forms and case unified, runs of white space one space.

A phrase is the same phrase with zero-width characters inside, in full-width letters, struck through, with a Cyrillic o or after
ten thousand spaces, and in the arguments of a tool as `\\u0070`. Every folded character knows its place in the raw text, so that
what was matched can be cut out of it. Look-alike letters are read as Latin only in words that hold a Latin letter: Russian stays
Russian. Leaves out digits for letters, letters set apart by spaces, and escapes inside escapes.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from temper.text.confusables import BARS, TWINS
from temper.text.invisible import IGNORABLE

_UNSEEN = rf"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f{IGNORABLE}"
_OVER = r"\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
"""Marks set over and through letters: those that form no letter with theirs are left out."""
_MARKS = _OVER + (
    r"\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u093c\u09bc\u09be\u09d7\u0a3c\u0b3c\u0b3e\u0b56\u0b57\u0bbe\u0bd7\u0c56"
    r"\u0cc2\u0cd5\u0cd6\u0d3e\u0d57\u0dca\u0dcf\u0ddf\u102e\u1161-\u1175\u11a8-\u11c2\u1b35\u3099\u309a"
)
"""What may combine with the character before it, Korean vowels and finals too."""
_RUN = re.compile(r"[\x00-\x20\x7f]{2,}|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Each run in which folded ASCII text is shorter than its raw form."""
_CLUSTER = re.compile(rf"[\s\u2800{_UNSEEN}]+|[!-~]+(?: [!-~]+)*(?![{_MARKS}{_UNSEEN}])|.(?:[{_UNSEEN}]*[{_MARKS}])*", re.DOTALL)
_HIDDEN = re.compile(f"[{_UNSEEN}]+")
_LEFT_OVER = re.compile(f"[{_UNSEEN}{_OVER}]+")
_SPACES = re.compile(r"[\s\u2800]+")
_ODD = "\ufdd0"
"""A noncharacter that stands for one whose folded form depends on its neighbours, or is not one character."""
_MARK = re.compile(f"[{_MARKS}]")
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LOOKS = {ord(twin): letter for letter, twins in {**TWINS, "l": TWINS["l"] + BARS}.items() for twin in twins}
_LATIN = r"A-Za-zÀ-ÖØ-öø-ɏＡ-Ｚａ-ｚ"
_ALIKE = "".join(map(chr, _LOOKS))
_MIXED = re.compile(rf"[{_LATIN}][{_UNSEEN}{_OVER}]*[{_ALIKE}]|[{_ALIKE}][{_UNSEEN}{_OVER}]*[{_LATIN}]")
_FOREIGN = re.compile(rf"(?:[^{_LATIN}]|[{_ALIKE}])+")
_DISGUISE = re.compile(rf"[{_ALIKE}{_UNSEEN}{_OVER}]+")
_UNIFIED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
"""Scripts without spaces, next to which a Latin letter is no disguise."""
_WORD = re.compile(rf"(?:(?![{_UNIFIED}])[^\W\d_]|[{_UNSEEN}{_OVER}])+")
_PART = re.compile(rf"[^\W\d_]|[{_UNSEEN}{_OVER}]")
_PART_OR_ESCAPE = re.compile(rf"[\w\\]|[{_UNSEEN}{_OVER}]")
"""A character of a word, one that is not seen among them; in JSON also one of an escape, which may be of either."""
_LONGEST_WORD = 64
_MOST_MARKS = 30
"""Unicode's stream-safe limit: no letter of any language carries more."""


@dataclass(frozen=True, slots=True)
class Folded:
    """Folded text that knows its raw places. From `starts[k]` on, folded characters stand one by one from `raws[k]` on; the last
    of both are the lengths of the texts. Both are empty where each character stands where it stood.
    """

    text: str
    starts: Sequence[int] = ()
    raws: Sequence[int] = ()

    def raw(self, i: int) -> int:
        """Where folded character `i` begins in the raw text; the raw length for the length of the folded text."""
        if not self.starts:
            return i
        k = bisect_right(self.starts, i) - 1
        return self.raws[k] + i - self.starts[k]

    def at(self, place: int) -> int:
        """The first folded character that begins at the raw `place` or after it."""
        if not self.starts:
            return place
        k = bisect_left(self.raws, place)
        if k == 0 or self.raws[k] == place:
            return self.starts[k]
        return min(self.starts[k - 1] + place - self.raws[k - 1], self.starts[k])

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The raw range of folded `[start:end]`, not empty. A raw character that folds to several belongs to it whole."""
        last = self.raw(end)
        while last == self.raw(end - 1):
            end += 1
            last = self.raw(end)
        return self.raw(start), last


@lru_cache(maxsize=8)
def fold(raw: str, *, escapes: bool = False) -> Folded:
    """A text in folded form; `escapes` decodes the escapes of JSON strings first. Linear; the last few texts are kept."""
    if not escapes or "\\" not in raw:
        return _folded(raw)
    text, places = _decoded(raw)
    folded = _folded(text)
    if not folded.starts:
        return Folded(folded.text, range(len(places)), places)
    return Folded(folded.text, range(len(folded.text) + 1), [places[folded.raw(i)] for i in range(len(folded.text) + 1)])


def back(text: str, place: int, reach: int, *, escapes: bool = False) -> int:
    """A raw place at least `reach` folded characters before `place`, or 0, from which the text can be folded by itself."""
    place = boundary(text, place, escapes=escapes)
    step = reach
    while (start := boundary(text, place - step, escapes=escapes)) > 0:
        if len(fold(text[start:place], escapes=escapes).text) >= reach:
            return boundary(text, _word(text, start, escapes), escapes=escapes)
        step *= 2
    return 0


def _word(text: str, place: int, escapes: bool) -> int:
    """The beginning of the word that a place stands in: its first letters may tell how the others are read."""
    least = max(place - _LONGEST_WORD, 0)
    part = _PART_OR_ESCAPE if escapes else _PART
    while place > least and part.match(text[place - 1]):
        place -= 1
    return place


def boundary(text: str, place: int, *, escapes: bool = False) -> int:
    """The last place not after `place` where the text can be cut: not before a combining mark, nor in a surrogate pair, nor in an
    escape of JSON.
    """
    place = max(place, 0)
    for _ in range(_MOST_MARKS):
        if place == 0 or place >= len(text) or text[place].isascii() or not _combines(text[place - 1], text[place]):
            break
        place -= 1
    if escapes and "\\" in text[max(place - 12, 0) : place]:
        return _before_escape(text, place)
    return place


def _combines(before: str, after: str) -> bool:
    return _MARK.match(after) is not None or ("\udc00" <= after <= "\udfff" and "\ud800" <= before <= "\udbff")


def _before_escape(text: str, place: int) -> int:
    """The place itself, or the beginning of the escape that it stands in, or of the other half of its surrogate pair."""
    if _backslashes(text, place) % 2:
        place -= 1
    for start in range(place - 2, max(place - 6, -1), -1):
        if text.startswith("\\u", start) and _backslashes(text, start) % 2 == 0:
            place = start
            break
    if re.match(r"\\u[dD][c-fC-F]", text[place : place + 4]) and re.match(r"\\u[dD][89abAB]", text[max(place - 6, 0) : place]):
        return place - 6
    return place


def _backslashes(text: str, place: int) -> int:
    """How many backslashes end at a place."""
    for size in (32, place):
        near = text[max(place - size, 0) : place]
        if bare := near.rstrip("\\"):
            return len(near) - len(bare)
    return place


def _decoded(raw: str) -> tuple[str, list[int]]:
    """Text without JSON's escapes, and the raw place of each character and of the end. Half an escape is text."""
    pieces: list[str] = []
    places: list[int] = []
    at = 0
    for match in _ESCAPE.finditer(raw):
        start = match.start()
        code, plain = match.groups()
        letter = chr(int(code, 16)) if code else _PLAIN.get(plain, plain)
        if start > at:
            pieces.append(raw[at:start])
            places.extend(range(at, start))
        elif pieces and "\ud800" <= pieces[-1] <= "\udbff" and "\udc00" <= letter <= "\udfff":
            letter = chr(0x10000 + (ord(pieces.pop()) - 0xD800) * 0x400 + ord(letter) - 0xDC00)
            start = places.pop()
        pieces.append(letter)
        places.append(start)
        at = match.end()
    pieces.append(raw[at:])
    places.extend(range(at, len(raw) + 1))
    return "".join(pieces), places


def _folded(raw: str) -> Folded:
    if raw.isascii():
        spaced = _spaced(raw)
        return Folded(spaced) if "  " not in spaced and spaced.isprintable() else _shrunk(raw)
    if _MIXED.search(raw) is not None:
        raw = _WORD.sub(_as_latin, raw)
    text = raw.translate(_TABLE)
    if _ODD in text or "  " in text:
        return _by_clusters(raw)
    return Folded(text)


def _as_latin(word: re.Match[str]) -> str:
    """A word with Latin letters: those between them that all look like Latin ones are read as such."""
    return word[0] if word[0].isascii() or _MIXED.search(word[0]) is None else _FOREIGN.sub(_undisguised, word[0])


def _undisguised(run: re.Match[str]) -> str:
    return run[0].translate(_LOOKS) if _DISGUISE.fullmatch(run[0]) else run[0]


def _shrunk(raw: str) -> Folded:
    """ASCII with runs of white space or with control characters."""
    pieces: list[str] = []
    starts, raws = [0], [0]
    at = size = 0
    for match in _RUN.finditer(raw):
        start, end = match.span()
        pieces.append(raw[at:start])
        size += start - at
        if _SPACES.search(match[0]) is not None:
            if size > starts[-1]:
                starts.append(size)
                raws.append(start)
            pieces.append(" ")
            size += 1
        if size > starts[-1]:
            starts.append(size)
            raws.append(end)
        else:
            raws[-1] = end
        at = end
    pieces.append(raw[at:])
    size += len(raw) - at
    if size > starts[-1]:
        starts.append(size)
        raws.append(len(raw))
    return Folded(_spaced("".join(pieces)), starts, raws)


def _spaced(text: str) -> str:
    return text.lower().replace("\n", " ").replace("\t", " ").replace("\r", " ")


def _by_clusters(raw: str) -> Folded:
    """A character with the marks that may combine with it is unified as one."""
    pieces: list[str] = []
    places: list[int] = []
    spaced = False
    for match in _CLUSTER.finditer(raw):
        cluster, start = match[0], match.start()
        if " " < cluster[0] < "\x7f" and cluster.isascii():
            pieces.append(cluster.lower())
            places.extend(range(start, match.end()))
            spaced = False
            continue
        folded = _alone(cluster) if len(cluster) == 1 else _unified(cluster)
        if spaced and folded.startswith(" "):
            folded = folded[1:]
        if folded:
            pieces.append(folded)
            places.extend([start] * len(folded))
            spaced = folded.endswith(" ")
    places.append(len(raw))
    return Folded("".join(pieces), range(len(places)), places)


def _unified(cluster: str) -> str:
    """One character with its marks, or one run of what is blank."""
    seen = _HIDDEN.sub("", cluster)
    unified = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return _SPACES.sub(" ", _LEFT_OVER.sub("", unified))


_alone = lru_cache(maxsize=4096)(_unified)


class _Table(dict[int, str]):
    """Character -> its folded form where that is one character whatever stands before it, else `_ODD`; filled when asked."""

    def __missing__(self, code: int) -> str:
        folded = _unified(chr(code))
        self[code] = folded if len(folded) == 1 and _MARK.match(chr(code)) is None else _ODD
        return self[code]


_TABLE = _Table()
