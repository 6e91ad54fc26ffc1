"""Characters that a reader does not see and that split words for a program: zero-width, bidirectional and control characters.

Put into a text they hide a loop from an n-gram, a number from a parser, a word from a list. Rules read what a reader sees.
Homoglyphs (another script's look-alike letters) are left as they are: they are visible, and another letter.
"""

import re

CONTROL = bytes([*range(0x09), *range(0x0E, 0x1C), 0x7F])
"""Control characters of ASCII that are not white space."""
IGNORABLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    r"\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Unicode's Default_Ignorable_Code_Point, as the inside of a character class: what every reader of texts here leaves out."""
_INVISIBLE = re.compile(rf"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f{IGNORABLE}]+")
"""Those, and control characters that are not white space."""

# Characters that reorder, hide or end text: controls, bidi embeddings and isolates, invisible operators, tags, lone surrogates,
# and the two last of the plane, which XML forbids.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text without characters that are not seen; line breaks and spaces stay. Linear in its length."""
    if text.isascii():  # by far the most frequent, and ten times faster through bytes
        return text.encode("ascii").translate(None, CONTROL).decode("ascii")
    return _INVISIBLE.sub("", text)


def spelled_out(text: str) -> str:
    """Text with every hidden character spelled out as [U+202E], so that it can neither reorder what shows it nor hide there."""
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
