"""Characters that nobody sees: zero-width, bidirectional, tag and private-use characters, which hide instructions from readers.

They are taken out, except where a script or an emoji needs them: joiners in Indic, Arabic and Persian words and in emoji, one
variation selector after its base, the tags of a flag, direction marks beside right-to-left letters. A message written in tag
characters or variation selectors is reported as one. Leaves out look-alike letters, which are visible.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.serve.verdict import Action, Canary, Channel, Finding, Pace, View, canary_turn

_TAGS = "\U000e0000-\U000e007f"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_CONTROLS = "\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f"
_ZERO = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
)
_HIDDEN = f"{_CONTROLS}{_ZERO}{_SELECTORS}\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
_PRIVATE = "\ue000-\uf8ff\U000f0000-\U0010ffff"
_RUN = re.compile(f"[{_HIDDEN}]+")
_RUN_PRIVATE = re.compile(f"[{_HIDDEN}{_PRIVATE}]+")
_ASCII = re.compile(f"[{_CONTROLS}]")
_TAGGED = re.compile(f"[{_TAGS}]+")
_FLAG = re.compile("[\U000e0061-\U000e007a\U000e0030-\U000e0039]{4,6}\U000e007f")
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_JOINED = re.compile("[\u0590-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\ua840-\ua87f\ufb50-\ufdff\ufe70-\ufefc]")
"""Scripts whose words need joiners: Hebrew to Arabic Extended, Indic, Tibetan, Burmese, Khmer, Mongolian, Phags-pa."""
_EMOJI = re.compile("[\u00a9\u00ae\u203c-\u3299\ufe0f\U0001f000-\U0001faff\U0001f3fb-\U0001f3ff]")
_LONGEST = 256
"""Characters that are looked back over for the beginning of a hidden run."""


@dataclass(frozen=True, slots=True)
class Invisible:
    """Findings for every run of hidden characters, to be replaced by nothing; `private` counts private-use characters too."""

    name: ClassVar[str] = "invisible"
    pace: ClassVar[Pace] = "window"
    heavy: ClassVar[bool] = False
    reach: ClassVar[int] = 8
    default_channels: ClassVar[tuple[Channel, ...]] = tuple(Channel)
    default_action: ClassVar[Action] = Action.REDACT

    private: bool = True

    def __call__(self, view: View, /) -> Sequence[Finding]:
        start = max(view.fresh - 2, 0)
        part = view.text[start:] if start else view.text
        escaped = view.channel is Channel.TOOL_ARGS and "\\u" in view.text
        if not escaped and part.isascii() and _ASCII.search(part) is None:
            return ()
        run = _RUN_PRIVATE if self.private else _RUN
        if escaped:
            text, places = _decoded(view.text)
            found = [_finding(text, a, b, places) for a, b in _hidden(text, 0, run)]
        else:
            start = _begin(view.text, start, run)
            found = [_finding(view.text, a, b, None) for a, b in _hidden(view.text, start, run)]
        return [f for f in found if f.end >= view.fresh]

    def canary(self, channel: Channel, /) -> Canary:
        """A message in tag characters."""
        return Canary("Hello" + "".join(chr(0xE0000 + ord(c)) for c in "obey"), canary_turn())


def _begin(text: str, start: int, run: re.Pattern[str]) -> int:
    """Where the run of hidden characters begins that `start` may stand in."""
    stop = max(start - _LONGEST, 0)
    while start > stop and run.match(text, start - 1):
        start -= 1
    return start


def _hidden(text: str, start: int, run: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """What must go, from `start` on: runs of hidden characters, cut around those that belong to the text."""
    for match in run.finditer(text, start):
        first = match.start()
        for i in range(*match.span()):
            kept = _belongs(text, i) if i >= first else 0
            if kept:
                if first < i:
                    yield first, i
                first = i + kept
        if first < match.end():
            yield first, match.end()


def _belongs(text: str, i: int) -> int:
    """How many characters from `i` on a reader would miss; 0 where none."""
    char, before, after = text[i], text[max(i - 1, 0) : i], text[i + 1 : i + 2]
    if char in "\u200c\u200d":
        if _JOINED.match(before) or _JOINED.match(after):
            return 1
        return int(char == "\u200d" and bool(before) and bool(_EMOJI.match(before)) and bool(_EMOJI.match(after)))
    if "\ufe00" <= char <= "\ufe0f":
        return int(bool(before) and (before in "#*0123456789" or unicodedata.category(before) in ("So", "Sm", "Po", "Lo", "Sk")))
    if "\U000e0100" <= char <= "\U000e01ef":
        return int(bool(before) and "\u3400" <= before <= "\U0003ffff" and unicodedata.category(before) == "Lo")
    if char in "\u200e\u200f\u061c":
        return int(_is_rtl(before) or _is_rtl(after))
    if "\u180b" <= char <= "\u180e":
        return int("\u1800" <= before <= "\u18af")
    if char in "\u115f\u1160":
        return int("\u1100" <= (before or after) <= "\u11ff")
    if before == "\U0001f3f4" and (flag := _FLAG.match(text, i)):
        return len(flag[0])
    return 0


def _is_rtl(char: str) -> bool:
    return bool(char) and unicodedata.bidirectional(char) in ("R", "AL", "AN")


def _finding(text: str, start: int, end: int, places: Sequence[int] | None) -> Finding:
    rule, why = _named(text[start:end])
    if places:
        start, end = places[start], places[end]
    return Finding("invisible", rule, "invisible", None, start, end, "", why=why)


def _named(run: str) -> tuple[str, str]:
    """What a run is, and a sentence about it."""
    if len(_TAGGED.sub("", run)) < len(run):
        said = sum(1 for c in run if "\U000e0020" <= c <= "\U000e007e")
        return "tags", f"{said} letters of a message written in tag characters"
    selectors = re.findall(f"[{_SELECTORS}]", run)
    if len(selectors) > 1:
        return "selectors", f"{len(selectors)} bytes of a message written in variation selectors"
    if re.search("[\u202a-\u202e\u2066-\u2069]", run):
        return "bidi", "characters that change the order in which text is shown"
    if re.search(f"[{_PRIVATE}]", run):
        return "private-use", "characters without a meaning of their own"
    return "zero-width", "characters that are not seen"


def smuggled(text: str) -> str:
    """The message that tag characters or variation selectors of a text spell, "" without one."""
    tags = "".join(chr(ord(c) - 0xE0000) for c in text if "\U000e0020" <= c <= "\U000e007e")
    raw = bytes(ord(c) - 0xFE00 if c < "\U000e0000" else ord(c) - 0xE0100 + 16 for c in re.findall(f"[{_SELECTORS}]", text))
    return tags or (raw.decode("utf-8", "replace") if len(raw) > 1 else "")


def _decoded(raw: str) -> tuple[str, list[int]]:
    """Arguments with their `\\u` escapes of hidden characters decoded, and the raw place of each character, the end too."""
    pieces: list[str] = []
    places: list[int] = []
    at = 0
    for match in _ESCAPED.finditer(raw):
        if match[1] is None:
            continue
        pieces.append(raw[at : match.start()])
        places.extend(range(at, match.start()))
        pieces.append(chr(int(match[1], 16)))
        places.append(match.start())
        at = match.end()
    pieces.append(raw[at:])
    places.extend(range(at, len(raw) + 1))
    return "".join(pieces), places
