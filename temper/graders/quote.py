"""Texts under judgement, written so that they cannot be taken for anything else: a judge's prompt is evidence, never a dialogue.

Three walls. Every line of a quoted text begins with a mark, so no line of it can be a delimiter, a role or a heading. The
delimiters carry the number of lines and a nonce that does not occur in the text; the nonce is derived from the text itself, so
the same material makes the same prompt (it can be cached and repeated), and to forge it a text would have to contain its own
hash. And nothing in the text is a control token of any chat template: a space stands behind every bracket that could open one.
Leaves out what a judge makes of words: a text may still ask, and `graders.canaries` measures whether asking helps.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from temper.text.invisible import IGNORABLE

MARK = "| "
NONCE = 16
"""Hex digits of a nonce: 64 bits."""

# Half surrogate pairs, which UTF-8 cannot hold.
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# What a reader does not see: soft hyphens, joiners, direction marks, fillers, variation selectors, and the tag characters of
# "ASCII smuggling".
_INVISIBLE = re.compile(f"[{IGNORABLE}]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Angle brackets and their lookalikes, in front of anything: <|im_start|>, </s>, <think>, <<SYS>>, <start_of_turn>, <｜User｜>.
_ANGLE = re.compile(r"([<\u02c2\u1438\u2039\u00ab\u2329\u25c1\u276c\u276e\u2770\u27e8\u27ea\u3008\u300a\ufe64\uff1c])(?=\S)")
# Square ones around one word: [INST], [/INST], [TOOL_CALLS], [gMASK]; a word in brackets stays readable with a space in it.
_SQUARE = re.compile(r"([\[\u27e6\u3010\u3014\u301a\uff3b])(?=[/#]?\w{1,40}[\]\u27e7\u3011\u3015\u301b\uff3d])")
# Shapes that only a chat template writes, counted in the text as it came.
_TEMPLATE = re.compile(
    r"[<＜][|｜][^<>|｜\n]{1,40}[|｜][>＞]|</?s>|<<?/?SYS>>?|\[/?INST\]|</?think(?:ing)?>|<(?:start|end)_of_turn>|\[gMASK\]",
    re.IGNORECASE,
)


class Block(NamedTuple):
    """One quoted text and what it is called in the prompt."""

    title: str
    text: str


def neutral(text: str) -> str:
    """The text as a reader sees it, with nothing in it that a tokenizer or a template would take for control; linear in time.

    Invisible characters go, control characters become spaces, half surrogates U+FFFD, every kind of line end a newline. Letters
    are not changed: homoglyphs and full-width forms are left for the judge to see.
    """
    seen = _INVISIBLE.sub("", _SURROGATE.sub("\ufffd", text))
    lines = "\n".join(_CONTROL.sub(" ", line) for line in seen.splitlines())
    return _SQUARE.sub(r"\1 ", _ANGLE.sub(r"\1 ", lines))


def blank(text: str) -> bool:
    """Whether a reader sees nothing at all."""
    return not text or text.isspace() or not neutral(text).strip()


def control_tokens(text: str) -> int:
    """How many control tokens of chat templates a text imitates: 0 in almost every honest text."""
    return sum(1 for _ in _TEMPLATE.finditer(_INVISIBLE.sub("", text)))


def quoted(blocks: Sequence[Block]) -> str:
    """The blocks, each between delimiters that it cannot contain; their texts are made neutral here."""
    texts = [neutral(b.text) for b in blocks]
    nonce = nonce_for(texts)
    return "\n\n".join(_fenced(b.title, text, nonce) for b, text in zip(blocks, texts, strict=True))


def nonce_for(texts: Sequence[str]) -> str:
    """Hex digits that occur in none of the texts."""
    hashed = hashlib.sha256()
    for text in texts:
        hashed.update(f"{len(text)}:{text}".encode())
    found = hashed.hexdigest()[:NONCE]
    while any(found in text for text in texts):  # never, unless somebody found a fixed point of SHA-256
        found = hashlib.sha256(found.encode()).hexdigest()[:NONCE]
    return found


def windows(text: str, size: int, overlap: int) -> list[str]:
    """The whole text in pieces of at most `size` characters, each beginning `overlap` characters before the last one's end."""
    if len(text) <= size:
        return [text]
    return [text[start : start + size] for start in range(0, len(text) - overlap, size - overlap)]


def shortened(text: str, room: int) -> str:
    """The head and the tail of a text that is context and not under judgement, with a note of what is left out."""
    if len(text) <= room:
        return text
    return f"{text[: room // 2]}\n({len(text) - 2 * (room // 2)} characters left out here)\n{text[-(room // 2) :]}"


def _fenced(title: str, text: str, nonce: str) -> str:
    lines = text.split("\n") if text.strip() else []
    body = "".join(f"{MARK}{line}\n" for line in lines)
    return f"=== BEGIN {title}, {len(lines)} lines, {nonce} ===\n{body}=== END {nonce} ==="
