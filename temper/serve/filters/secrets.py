"""Keys and credentials by the formats their makers gave them, taken out of the text: `[SECRET:aws-key]`.

A format is a distinct beginning (`secrets.toml`), then as much of the token as follows, then what the format lets one check: a
check sum, the entropy of its characters, a header that decodes. Blocks of private keys go from their header to their end.
Leaves out secrets without a format (a password in a sentence), because hashes, UUIDs and ordinary code look the same.
"""

import base64
import json
import math
import re
import tomllib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar
from unicodedata import normalize

import re2

from temper.errors import PolicyError, nearest
from temper.serve.filters.patterns import Hit, Patterns, cased, folded_pattern, options, tail, well_formed, width
from temper.serve.fold import boundary, fold
from temper.serve.verdict import Action, Canary, Channel, Finding, Pace, View, canary_turn
from temper.text.invisible import visible

FORMATS = Path(__file__).with_name("secrets.toml")
BLOCK = 16_384
"""Characters of the longest private key block that is looked for, header to end: an RSA key of 16,384 bits takes 12,700."""
_HIDDEN = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_ASCII = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.+/="
_TOKENS = {
    "": re.compile(rf"[\w{_HIDDEN}-]*", re.ASCII),
    "jwt": re.compile(rf"[\w.{_HIDDEN}-]*", re.ASCII),
    "base64": re.compile(rf"[\w+/={_HIDDEN}-]*", re.ASCII),
    "assigned": re.compile(rf"[\w+/={_HIDDEN}-]*", re.ASCII),
}
"""What a token goes on with after its beginning, by the kind of its format."""
_LONGEST = 8192
"""Characters of the longest token that a stream is looked back over for."""
_JUDGED = 256
"""Characters of a token that its entropy is computed over."""
_HEADER = re2.compile(r"-----begin[ a-z0-9_-]{0,40}private key( block)?-----", options())
_FOOTER = re2.compile(r"-----end[ a-z0-9_-]{0,40}private key( block)?-----", options())
_BEGINS = re.compile(r"-----\s*[bBｂＢ]|\\u00[26]|\\u0042|\\u[fF][eEfF]|-\\u")
"""What a header begins with, also where JSON escapes some of it."""
_DASHES = str.maketrans("－﹣", "--")
_HEADER_REACH = 80
_PLACEHOLDER = re.compile(
    r"(?i)^(?:pass(?:word|wd)?|secret|user(?:name)?|changeme|example|x{3,}|\*{3,}|\.{3}|…|your.*|my.*|<.*|%.*)$"
)
_BLOCK_EXAMPLE = (
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n-----END PRIVATE KEY-----"
)


@dataclass(frozen=True, slots=True)
class Format:
    """One format of `secrets.toml`: `entropy` in bits per character, 0 for none; `kind` names a further check."""

    id: str
    pattern: str
    entropy: float = 0.0
    kind: str = ""
    example: str = ""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Findings for every credential of a known format; `skip` names formats to leave alone."""

    name: ClassVar[str] = "secrets"
    pace: ClassVar[Pace] = "window"
    heavy: ClassVar[bool] = False
    default_channels: ClassVar[tuple[Channel, ...]] = tuple(Channel)
    default_action: ClassVar[Action] = Action.REDACT

    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = {*(f.id for f in formats()), "private-key"}
        for given in self.skip:
            if given not in known:
                raise PolicyError(f"skip: no format {given!r}; {nearest(given, known)}")

    @property
    def reach(self) -> int:
        """The longest beginning that tells a secret; what follows it is held back because it touches the end of the text."""
        return _compiled()[1]

    def __call__(self, view: View, /) -> Sequence[Finding]:
        found = [] if "private-key" in self.skip else [_finding("private-key", a, b) for a, b in _blocks(view)]
        patterns, reach = _compiled()
        reach += _token_before(view)
        part = tail(view, reach)
        read = dict.fromkeys(range(len(formats())), -1)
        for hit in sorted(patterns.within(part, max(part.fresh - reach - 1, 0), 0, view.text), key=lambda h: (h.start, h.index)):
            if hit.start < read[hit.index]:  # inside the last token of this format
                continue
            format = formats()[hit.index]
            start, end = _place(view.text, hit, format)
            read[hit.index] = end
            if (
                end >= view.fresh
                and format.id not in self.skip
                and _holds(format, cased(view.text[start : min(end, start + _JUDGED)]))
            ):
                found.append(_finding(format.id, start, end))
        return found

    def canary(self, channel: Channel, /) -> Canary:
        """A key nobody owns."""
        text = next((f.example for f in formats() if f.example and f.id not in self.skip), _BLOCK_EXAMPLE)
        others = tuple((f.id, f.example) for f in formats() if f.example and f.id not in self.skip)
        return Canary(text, canary_turn(), (*others, *(() if "private-key" in self.skip else (("private-key", _BLOCK_EXAMPLE),))))


@cache
def formats() -> tuple[Format, ...]:
    """The formats of `secrets.toml`."""
    return tuple(Format(**row) for row in tomllib.loads(FORMATS.read_text(encoding="utf-8"))["formats"])


@cache
def _compiled() -> tuple[Patterns, int]:
    patterns = [folded_pattern(f.pattern) for f in formats()]
    exact = ["" if f.kind in ("assigned", "url") else f.pattern for f in formats()]
    return Patterns(patterns, exact), max(_HEADER_REACH, *(width(p)[1] or 0 for p in patterns))


def _finding(id: str, start: int, end: int) -> Finding:
    why = f"text in the format of a credential ({id})"
    return Finding("secrets", id, "secret", None, start, end, f"[SECRET:{id}]", why=why)


def _token_before(view: View) -> int:
    """Characters of the token under way where the new part begins: it may have begun long before the longest format."""
    before = view.text[max(view.fresh - _LONGEST, 0) : view.fresh]
    return len(before) - len(before.rstrip(_ASCII))


def _place(raw: str, hit: Hit, format: Format) -> tuple[int, int]:
    """What is secret of a match: the token to its end, of an assignment the value, of a URL the password."""
    if format.kind == "url":
        end = raw.rindex("@", hit.start, hit.end)
        return raw.index(":", raw.index("//", hit.start)) + 1, end
    found = _TOKENS[format.kind if format.kind in _TOKENS else ""].match(raw, hit.end)
    end = found.end() if found else hit.end
    if format.kind == "assigned":
        return max(raw.rfind(c, hit.start, hit.end - 40) for c in "=: \"'") + 1, end
    return hit.start, end


def _holds(format: Format, token: str) -> bool:
    """Whether a token is what its format says, as far as one can tell without asking its maker."""
    if format.entropy and entropy(token) < format.entropy:
        return False
    if format.id == "aws-secret":
        return len(token) == 40
    if format.kind == "digits":
        return any(c.isdigit() for c in token)
    if format.kind == "jwt":
        return _is_header(token.partition(".")[0])
    return format.kind != "url" or _PLACEHOLDER.match(token) is None


def entropy(token: str) -> float:
    """Bits per character of a text by the frequencies of its characters; 0 for an empty one."""
    return sum(n / len(token) * math.log2(len(token) / n) for n in Counter(token).values())


def _is_header(part: str) -> bool:
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:  # of base64, UTF-8 or JSON
        return False
    return isinstance(header, dict) and "alg" in header


def _may_begin(text: str) -> bool:
    """Whether a header may stand in a text; seldom, so that the text need seldom be folded."""
    if not text.isascii():
        if sum(text.count(dash) for dash in "-－﹣") < 10:
            return "\\u" in text
        text = text.translate(_DASHES)
    return _BEGINS.search(visible(text)) is not None


def _opened(view: View) -> int:
    """Where a block may have begun that is still open, -1 for nowhere; a disguised header counts from the furthest place."""
    begin = max(view.fresh - BLOCK, 0)
    at = view.text.find("PRIVATE KEY", begin, view.fresh)
    if at >= 0 or begin == view.fresh:
        return at
    before = view.text[begin : view.fresh]
    if view.channel is Channel.TOOL_ARGS and "\\" in before:
        before = fold(before, escapes=True).text
    elif not before.isascii():
        before = normalize("NFKC", visible(before))
    return begin if "private key" in before.casefold() else -1


def _blocks(view: View) -> Iterator[tuple[int, int]]:
    """Private key blocks, header to end; one without an end goes to the end of the text, `BLOCK` characters at most."""
    near = max(view.fresh - _HEADER_REACH, 0)
    at = _opened(view)
    if at < 0 and not _may_begin(view.text[near:] if near else view.text):
        return
    at = max(min(at if at >= 0 else near, near) - _HEADER_REACH, 0)
    at = boundary(view.text, at, escapes=view.channel is Channel.TOOL_ARGS)
    folded = fold(view.text[at:], escapes=view.channel is Channel.TOOL_ARGS)
    text = well_formed(folded.text)
    footers = [f.end() for f in _FOOTER.finditer(text)]
    last = 0
    for header in _HEADER.finditer(text):
        if header.start() < last:
            continue
        after = bisect_right(footers, header.end())
        last = footers[after] if after < len(footers) else len(text)
        start, end = folded.span(header.start(), last)
        if at + end >= view.fresh:
            yield at + start, at + min(end, start + BLOCK)
