"""Many RE2 patterns over the new end of a text: one set says which occur, and only those are looked for one by one.

RE2 needs time linear in the text whatever a pattern or a text looks like. Patterns are matched on folded text (`fold.py`), with
case ignored; an `exact` one must also match the place it found with its case kept. Only what is new is read, and as much before
it as the longest match may have begun in.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from re import _constants, _parser  # type: ignore[attr-defined]

import re2

from temper.errors import GuardError, PolicyError
from temper.serve.fold import Folded, back, fold
from temper.serve.verdict import Channel, View
from temper.text.invisible import visible

LONGEST = 4096
"""Characters of the longest match a pattern may have: so much text is held back at least."""
MEMORY = 256 << 20
"""Bytes RE2 may use for one set; 20,000 rules take a fraction. Beyond it a set gives up, which `Patterns` turns into an error."""
_COMMON = 256
"""Folded characters that are looked back at least: filters that look back as far fold the same text, which is folded once."""
_SLACK = 16
_RUN = re.compile(r"[\s\u2800]+")
_SPACES = re.compile(r"(?<!\\)((?:\\\\)*)(?:\\s|\[\\s\]| )[+*](\?)?")
_CLASSES = re.compile(r"\\[pP](?:\{\^?\w+\}|\w)|\[:\^?\w+:\]")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


@dataclass(frozen=True, slots=True)
class Hit:
    """Pattern number `index` occurs at `start:end` of the raw text; `text` is the folded match."""

    index: int
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a view, folded: new from `fresh` on, before that what was asked for. `at` is where it lies in the raw text."""

    folded: Folded
    at: int
    fresh: int

    @property
    def text(self) -> str:
        return self.folded.text

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The raw range of a folded one."""
        a, b = self.folded.span(start, end)
        return self.at + a, self.at + b


def tail(view: View, reach: int) -> Tail:
    """The new part of a view and at least `reach` folded characters before it, fewer only where the text begins."""
    escapes = view.channel is Channel.TOOL_ARGS
    behind = max(reach + 1, _COMMON)
    at = max(view.fresh - behind - _SLACK, 0)
    part = view.text[at:] if at else view.text
    if at and (not part.isascii() or (escapes and "\\" in part)):
        at = back(view.text, view.fresh, behind, escapes=escapes)
        part = view.text[at:]
    folded = fold(part, escapes=escapes)
    fresh = folded.at(view.fresh - at)
    if at and fresh <= reach:  # long runs of white space
        at = back(view.text, view.fresh, behind, escapes=escapes)
        folded = fold(view.text[at:], escapes=escapes)
        fresh = folded.at(view.fresh - at)
    return Tail(folded, at, fresh)


class Patterns:
    """Compiled patterns. Of those in `exact`, one for each or none, what is found must also match with its case kept. Those in
    `literals` are folded text and no pattern: they are found wherever they stand, over one another too.
    """

    def __init__(self, patterns: Sequence[str], exact: Sequence[str] = (), literals: Sequence[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._exact = tuple(exact) or ("",) * len(self.patterns)
        self._literals = tuple(literals) or ("",) * len(self.patterns)
        self._set = re2.Set.SearchSet(options())
        for pattern in self.patterns:
            self._set.Add(pattern)
        # a set that runs out of memory says that nothing matched; what always matches tells the one from the other
        self._sentinel = self._set.Add("^")
        try:
            self._set.Compile()
        except re2.error:
            raise PolicyError(
                f"{len(self.patterns)} rules take more than {MEMORY >> 20} MB; split them over several filters"
            ) from None
        self._found: dict[int, re2._Regexp] = {}

    def hits(self, view: View, reach: int) -> Iterator[Hit]:
        """Matches that no earlier view had whole, or that touched the end of one. Raises `GuardError` when RE2 gives up."""
        part = tail(view, reach)
        yield from self.within(part, max(part.fresh - reach - 1, 0), view.fresh, view.text)

    def within(self, part: Tail, start: int, fresh: int, raw: str) -> Iterator[Hit]:
        """Matches in the folded text from `start` on that end at the raw place `fresh` or later."""
        text = well_formed(part.text[start:])
        for index in self.occurring(text):
            for first, last in self._cased(index, part, start, raw) if self._exact[index] else self._places(index, text):
                a, b = part.span(start + first, start + last)
                if b >= fresh:
                    yield Hit(index, a, b, part.text[start + first : start + last])

    def places(self, part: Tail, start: int) -> Iterator[tuple[int, int, int]]:
        """Pattern, start and end of every match in the folded text from `start` on, whatever its case."""
        text = well_formed(part.text[start:])
        for index in self.occurring(text):
            yield from ((index, start + first, start + last) for first, last in self._places(index, text))

    def again(self, index: int, text: str, start: int, end: int, reach: int) -> tuple[int, int] | None:
        """The next match that begins within a match, `text[start:end]`, which was none after all."""
        found = self._one(index).search(text[start : end + reach], 1)
        return (start + found.start(), start + found.end()) if found is not None and start + found.start() < end else None

    def occurring(self, text: str) -> list[int]:
        """The patterns that occur in a folded text, without their places. Raises `GuardError` when RE2 gives up."""
        found = self._set.Match(text)
        if not found or self._sentinel not in found:
            raise GuardError("RE2 ran out of memory over this set of rules; split it over several filters")
        return sorted(i for i in found if i != self._sentinel)

    def _one(self, index: int) -> "re2._Regexp":
        if index not in self._found:
            self._found[index] = re2.compile(self.patterns[index], options())
        return self._found[index]

    def _places(self, index: int, text: str) -> Iterator[tuple[int, int]]:
        if not (wanted := self._literals[index]):
            yield from (found.span() for found in self._one(index).finditer(text))
            return
        at = text.find(wanted)
        while at >= 0:
            yield at, at + len(wanted)
            at = text.find(wanted, at + 1)

    def _cased(self, index: int, part: Tail, start: int, raw: str) -> Iterator[tuple[int, int]]:
        """Where an exact pattern occurs. It is looked for in the text with its case, since what is found first whatever its case
        may hide what it is looking for; where the two texts do not run side by side, in each place found.
        """
        kept = cased(raw[part.span(start, start)[0] :]) if start < len(part.text) else ""
        wanted = part.text[start:]
        for folded in (fold(kept), fold(kept, escapes=True)):
            if folded.text == wanted:
                for found in re2.finditer(self._exact[index], well_formed(kept)):
                    yield folded.at(found.start()), folded.at(found.end())
                return
        for first, last in self._places(index, well_formed(wanted)):
            a, b = part.span(start + first, start + last)
            if re2.search(self._exact[index], well_formed(cased(raw[a:b]))) is not None:
                yield first, last


def options() -> "re2.Options":
    """Case is ignored, and memory is enough for any set that is read."""
    options = re2.Options()
    options.case_sensitive = False
    options.max_mem = MEMORY
    options.log_errors = False
    return options


def well_formed(text: str) -> str:
    """The text as UTF-8 can write it: half a surrogate pair, which JSON may carry, becomes a question mark."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def cased(raw: str) -> str:
    """Folded but for its case: visible characters, compatible forms unified, runs of white space as one, JSON escapes decoded."""
    plain = _ESCAPE.sub(lambda m: chr(int(m[1], 16)), raw) if "\\u" in raw else raw
    return _RUN.sub(" ", unicodedata.normalize("NFKC", visible(plain)))


def folded_pattern(pattern: str) -> str:
    """A pattern as it is written for folded text: other scripts folded, a run of white space as the one that is left."""
    pattern = _SPACES.sub(lambda m: m[1] + (r"\s?" if "*" in m[0] else r"\s"), pattern)
    return "".join(c if c.isascii() else _literal(c) for c in unicodedata.normalize("NFC", pattern))


def _literal(char: str) -> str:
    kept = fold(char).text
    return str(re2.escape(kept)) if kept.isascii() else kept


def literal(phrase: str) -> str:
    """A phrase as a pattern for folded text."""
    return str(re2.escape(fold(phrase).text.strip()))


def width(pattern: str) -> tuple[int, int | None]:
    """The fewest and most characters a pattern can match, None where there is no most. Raises `PolicyError` where unknown."""
    try:
        low, high = _parser.parse(_CLASSES.sub("x", pattern).replace(r"\z", r"\Z")).getwidth()
    except re.error as error:
        raise PolicyError(f"its length cannot be told ({error}); give `reach`, the longest text it matches") from None
    return low, None if high >= _constants.MAXREPEAT else high
