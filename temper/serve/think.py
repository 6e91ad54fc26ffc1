"""Reasoning and answer of a stream that carries think tags, told apart while it comes: what `temper.text.split` is to a text.

A piece is given out as soon as nothing that follows can change its side, so what comes out in all is the same however the stream
was cut. Agrees with `split` on the ordinary shapes. Where only the end could tell, text is taken for reasoning, which is the side
that leaks less: an opener that is never closed begins a thought wherever it stands, and a closer in a fence that does close is
text. White space next to a tag is dropped, all other text is as it came.
"""

import re
from typing import NamedTuple

from temper.serve.verdict import Channel

_TAG = r"<\s{0,2}(?P<closes>/\s{0,2})?think(?:ing)?\s{0,2}>"
_MARK = r"(?:^[ \t>]*|(?<=>))(?P<mark>`{3,}|~{3,})"
_TOKEN = re.compile(rf"(?P<tag>{_TAG})|{_MARK}|(?P<ticks>`+)", re.IGNORECASE | re.MULTILINE)
_FENCED = re.compile(rf"(?P<tag>{_TAG})|{_MARK}(?P<word>\w?)", re.IGNORECASE | re.MULTILINE)
_RUNS = re.compile(r"`+|\n")
_PARTIAL = re.compile(r"(?:`+|~+|<\s{0,2}(?:/\s{0,2})?(?:t|th|thi|thin|think|thinki|thinkin|thinking)?\s{0,2})\Z", re.IGNORECASE)
_LONGEST_PARTIAL = 16
_UNOPENED = re.compile(r"(?<![a-z0-9])(?:r1|qwq|thinking|reasoner)(?![a-z0-9])", re.IGNORECASE)
_ROUNDS = 64
"""So many blocks that nest without balance are told apart at the end; what follows them is taken for reasoning."""


class Tag(NamedTuple):
    opens: bool
    text: str


class Tags:
    """The real tags of a stream, in order, with the text between them. A tag in a fence or in inline code is text."""

    def __init__(self) -> None:
        self._rest = ""
        self._bare = True
        self._bracket = False
        self._asleep: list[str] = []
        self._sleeping = 0
        self._wakes = ""
        self._fence = ""
        self._fences = True

    @property
    def waiting(self) -> int:
        """Characters of which it is not certain yet whether they are text."""
        return len(self._rest) + self._sleeping

    def feed(self, text: str, *, final: bool = False) -> list[str | Tag]:
        """What is certain now. `final` says that nothing follows."""
        if self._wakes and not final and not any(c in text for c in self._wakes):
            self._asleep.append(text)
            self._sleeping += len(text)
            return []
        if not self._rest and not ("<" in text or "`" in text or "~" in text):
            self._pass(text)
            return [text] if text else []
        self._rest = "".join([self._rest, *self._asleep, text])
        self._asleep, self._sleeping, self._wakes = [], 0, ""
        found: list[str | Tag] = []
        at: int | None = 0
        while at is not None:
            at = self._fenced(at, found, final) if self._fence else self._open(at, found, final)
        return found

    def _open(self, at: int, found: list[str | Tag], final: bool) -> int | None:
        """One token outside of fences; returns where to go on, None where more text is needed."""
        match = _TOKEN.search(self._rest, at)
        if match is None:
            return self._wait(at, self._certain(at, final), found)
        if match["tag"]:
            self._text(at, match.start(), found)
            found.append(Tag(match["closes"] is None, match[0]))
            return match.end()
        kind = "mark" if match["mark"] else "ticks"
        start, end = match.span(kind)
        if end == len(self._rest) and not final:
            return self._wait(at, start, found)
        if kind == "mark" and self._fences and self._leads(match):
            self._text(at, end, found)
            self._fence = match["mark"]
            return end
        if match[kind][0] == "~":
            self._text(at, end, found)
            return end
        return self._inline(at, start, end, found, final)

    def _inline(self, at: int, start: int, end: int, found: list[str | Tag], final: bool) -> int | None:
        """A run of backticks hides tags up to the next one as long on its line."""
        size = end - start
        for run in _RUNS.finditer(self._rest, end):
            if run[0] == "\n":
                break
            if len(run[0]) == size and (final or run.end() < len(self._rest)):
                end = run.end()
                break
        else:
            if not final:
                return self._wait(at, start, found, "`\n")
        self._text(at, end, found)
        return end

    def _fenced(self, at: int, found: list[str | Tag], final: bool) -> int | None:
        match = _FENCED.search(self._rest, at)
        if match is None:
            return self._wait(at, self._certain(at, final), found)
        if not match["tag"]:
            start, end = match.span("mark")
            if end == len(self._rest) and not final:
                return self._wait(at, start, found)
            self._text(at, end, found)
            self._fence = "" if self._closes(match) else self._fence
            return end
        for later in _FENCED.finditer(self._rest, match.end()):
            if later["mark"] and (final or later.end("mark") < len(self._rest)) and self._closes(later):
                self._text(at, later.end("mark"), found)
                self._fence = ""
                return later.end("mark")
        if not final:
            return self._wait(at, match.start(), found, "`~")
        self._text(at, match.start(), found)
        self._fence, self._fences = "", False  # a fence that is never closed hides nothing
        return match.start()

    def _closes(self, match: re.Match[str]) -> bool:
        return match["mark"].startswith(self._fence) and not match["word"] and self._leads(match)

    def _leads(self, match: re.Match[str]) -> bool:
        """Whether a mark stands at the head of its line, of which the beginning may be gone."""
        if match.start() > 0 or self._bare:
            return True
        mark = match.start("mark")
        return self._rest[mark - 1] == ">" if mark else self._bracket

    def _certain(self, at: int, final: bool) -> int:
        """The end of what cannot be the beginning of a token."""
        partial = None if final else _PARTIAL.search(self._rest, max(at, len(self._rest) - _LONGEST_PARTIAL))
        return len(self._rest) if partial is None else partial.start()

    def _wait(self, at: int, end: int, found: list[str | Tag], wakes: str = "") -> int | None:
        """Give out the text up to a place and keep the rest, until one of the characters `wakes` comes ("": any)."""
        self._text(at, end, found)
        self._pass(self._rest[:end])
        self._rest = self._rest[end:]
        self._wakes = "" if self._rest.endswith(("`", "~")) else wakes
        return None

    def _text(self, start: int, end: int, found: list[str | Tag]) -> None:
        if end > start:
            found.append(self._rest[start:end])

    def _pass(self, text: str) -> None:
        if not text:
            return
        _, ends, line = text.rpartition("\n")
        self._bare = (bool(ends) or self._bare) and not line.strip(" \t>")
        self._bracket = text[-1] == ">"


def presumed(model: str) -> bool:
    """Whether models of this name are known to write `</think>` alone, because their prompt ends with the opener."""
    return _UNOPENED.search(model) is not None


class Thoughts:
    """Splits a stream. `thinks` says whether the answer begins inside a thought; None that nobody knows.

    With None, a closer that nothing opened ends a thought: `withhold` keeps all text back until a tag or the end tells what it
    was, so that no thought is given out as content. With False such a closer is text. `unopened` says that one came.
    """

    def __init__(self, thinks: bool | None = None, *, withhold: bool = True) -> None:
        self._tags = Tags()
        self._thinks = thinks
        self._unknown: list[str] | None = [] if thinks is None and withhold else None
        self._first = True
        self._depth = int(thinks is True)
        self._implied = thinks is True
        self._nested: list[str | Tag] | None = None
        self._kept = 0
        self._at_tag = thinks is True
        self._space = ""
        self._wrote: set[Channel] = set()
        self.unopened = False

    @property
    def withheld(self) -> int:
        """Characters that were fed and not yet given out."""
        return self._tags.waiting + self._kept + len(self._space)

    def known(self) -> list[tuple[Channel, str]]:
        """The server splits thoughts off itself: what comes here is content, and was. Gives out what was withheld."""
        found: list[tuple[Channel, str]] = []
        self._settle(found)
        if self._implied:
            self._depth, self._implied, self._at_tag = 0, False, False
        self._thinks = False
        return found

    def presume(self) -> list[tuple[Channel, str]]:
        """Gives out as a thought what was withheld."""
        found: list[tuple[Channel, str]] = []
        if self._unknown is not None:
            self._depth = 1
            self._settle(found)
        return found

    def feed(self, text: str) -> list[tuple[Channel, str]]:
        """The pieces that are certain now, in order."""
        found: list[tuple[Channel, str]] = []
        for event in self._tags.feed(text):
            self._take(event, found)
        return found

    def end(self) -> list[tuple[Channel, str]]:
        """Nothing follows: what was withheld."""
        found: list[tuple[Channel, str]] = []
        for event in self._tags.feed("", final=True):
            self._take(event, found)
        self._settle(found)
        for _ in range(_ROUNDS):
            if self._nested is None:
                break
            again, self._nested, self._depth, self._kept = (
                self._nested,
                None,
                0,
                0,
            )  # no closer balances: the first one ended the thought
            for event in again:
                self._take(event, found)
        self._balanced(found)
        if self._space and not self._at_tag:
            found.append((self._side, self._space))
        self._space = ""
        return found

    @property
    def _side(self) -> Channel:
        return Channel.REASONING if self._depth else Channel.CONTENT

    def _take(self, event: str | Tag, found: list[tuple[Channel, str]]) -> None:
        if self._nested is not None:
            self._nest(event, found)
        elif isinstance(event, str):
            if self._unknown is not None:
                self._unknown.append(event)
                self._kept += len(event)
            else:
                self._write(event, found)
        elif event.opens:
            self._enter(found)
        else:
            self._leave(event, found)

    def _enter(self, found: list[tuple[Channel, str]]) -> None:
        self._settle(found)
        self._first = False
        repeated = self._implied and Channel.REASONING not in self._wrote
        self._depth += not repeated
        self._implied = False
        self._border()

    def _leave(self, event: Tag, found: list[tuple[Channel, str]]) -> None:
        if self._depth == 0 and self._thinks is False:
            self._write(event.text, found)
            return
        if self._first and self._thinks is None:
            self.unopened = True
            if self._unknown is not None:
                self._depth = 1
                self._settle(found)
        self._first = self._implied = False
        self._depth = max(self._depth - 1, 0)
        self._border()
        if self._depth:
            self._nested = []

    def _nest(self, event: str | Tag, found: list[tuple[Channel, str]]) -> None:
        """After a closer that left a block open: kept, until a closer balances the block or the end shows that none does."""
        if self._nested is None:
            return
        self._nested.append(event)
        self._kept += len(event if isinstance(event, str) else event.text)
        if isinstance(event, Tag):
            self._depth += 1 if event.opens else -1
            if self._depth == 0:
                self._depth = 1
                self._balanced(found)
                self._depth = 0

    def _balanced(self, found: list[tuple[Channel, str]]) -> None:
        """What was kept is thought."""
        kept, self._nested = self._nested or [], None
        self._kept = 0
        for event in kept:
            if isinstance(event, str):
                self._write(event, found)
            else:
                self._border()

    def _settle(self, found: list[tuple[Channel, str]]) -> None:
        """It is known on which side the text stands that was withheld."""
        kept, self._unknown = self._unknown or [], None
        self._kept = 0
        for text in kept:
            self._write(text, found)

    def _border(self) -> None:
        self._space = ""
        self._at_tag = True

    def _write(self, text: str, found: list[tuple[Channel, str]]) -> None:
        side = self._side
        if self._at_tag:
            text = text.lstrip()
            if not text:
                return
            self._at_tag = False
            if side in self._wrote:
                self._space = "\n"
        if text[-1].isspace():
            body = text.rstrip()
            if not body:
                self._space += text
                return
            found.append((side, self._space + body))
            self._space = text[len(body) :]
        else:
            found.append((side, self._space + text))
            self._space = ""
        self._wrote.add(side)
