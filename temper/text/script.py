"""Words of a text and the script each is written in, exactly, by Unicode block; what belongs to no language is blanked out first.

Code, mathematics, addresses and markup are blanked; numbers and punctuation are in no block. Which language the words of a script
are in is for `language` to say.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

LETTERS_PER_WORD = 4
"""Thai, Lao, Khmer and Burmese write no spaces: so many letters count as one word."""

_BLOCKS: dict[str, str] = {
    "Latin": r"A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿＡ-Ｚａ-ｚ",
    "Greek": r"Ͱ-Ͽἀ-῿",
    "Cyrillic": r"Ѐ-ԯᲀ-\u1c8fⷠ-ⷿꙀ-ꚟ",
    "Armenian": r"Ա-֏",
    "Hebrew": r"\u0591-\u05f4",
    "Arabic": r"\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06df-\u06ef\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff"
    r"\ufb50-\ufdff\ufe70-\ufefc",
    "Devanagari": r"\u0900-\u0963\u0970-\u097f\ua8e0-\ua8ff",
    "Bengali": r"\u0980-\u09e3\u09f0-\u09ff",
    "Gurmukhi": r"\u0a00-\u0a65\u0a70-\u0a7f",
    "Gujarati": r"\u0a80-\u0ae5\u0af0-\u0aff",
    "Tamil": r"\u0b80-\u0be5\u0bf0-\u0bff",
    "Telugu": r"\u0c00-\u0c65\u0c70-\u0c7f",
    "Kannada": r"\u0c80-\u0ce5\u0cf0-\u0cff",
    "Malayalam": r"\u0d00-\u0d65\u0d70-\u0d7f",
    "Sinhala": r"\u0d80-\u0de5\u0df0-\u0dff",
    "Thai": r"\u0e01-\u0e3a\u0e40-\u0e4e",
    "Lao": r"\u0e80-\u0ecf\u0edc-\u0eff",
    "Burmese": r"\u1000-\u103f\u104c-\u109f",
    "Georgian": r"Ⴀ-ჿᲐ-Ჿ",
    "Ethiopic": r"\u1200-\u135f\u1380-\u139f",
    "Khmer": r"\u1780-\u17d3\u17d7-\u17dd",
    "Hangul": r"\u1100-\u11ff\u3131-\u318e\uac00-\ud7af",
    "Kana": r"\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "Han": r"\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
}
BY_CHARACTER = frozenset({"Han", "Kana"})
"""Scripts whose words are counted by character."""
_UNSPACED = frozenset({"Thai", "Lao", "Burmese", "Khmer"})
_COUNTED = BY_CHARACTER | _UNSPACED
_LINE = re.compile(r"[^\n]+")
_MARKS = r"\u0300-\u036f\u200c\u200d"
_JOINERS = "'’ʼ·״׳-"

_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]{1,400}`", re.DOTALL)
_MATH = re.compile(
    r"\$\$.{1,1500}?\$\$|\\\[.{1,1500}?\\\]|\\\(.{1,1500}?\\\)|\\begin\{(\w{1,20}\*?)\}.{1,1500}?\\end\{\1\}"
    r"|\[asy\].{1,1500}?\[/asy\]|\$(?=\S)[^$\n]{0,400}[\\^_=+<>{}][^$\n]{0,400}\$|\\[A-Za-z]{1,30}(?:\{[^{}\n]{0,200}\}){0,3}",
    re.DOTALL,
)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S{1,2000}|[\w.+-]{1,64}@[\w-]{1,63}\.[\w.]{2,63}|</?[A-Za-z][^<>\n]{0,200}>")


class Word(NamedTuple):
    """A word, or a run of them in a script without spaces: its place, its script, and how many words it counts for (`counts`).

    `line` numbers the lines that hold words or not, from 0; `opens` says that a sentence, clause in brackets or line begins here.
    """

    start: int
    end: int
    script: str
    counts: int
    line: int
    opens: bool


class LatinLine(NamedTuple):
    """The words of a line in Latin letters: where the first begins, where the last ends, and the line from 0 as in `Word`."""

    start: int
    end: int
    line: int
    words: list[str]


def prose(text: str) -> str:
    """The text with code, mathematics, addresses and markup replaced by as many spaces: every other place stays where it was."""
    if "`" in text or "~~~" in text:
        text = _CODE.sub(blank, text)
    if "$" in text or "\\" in text or "[asy]" in text:
        text = _MATH.sub(blank, text)
    return _ADDRESS.sub(blank, text) if any(mark in text for mark in ("://", "www.", "@", "<")) else text


def blank(found: re.Match[str]) -> str:
    return " " * (found.end() - found.start())


@cache
def _pattern() -> re.Pattern[str]:
    """One alternative per script, then what ends a line and what opens a sentence or a clause."""
    alternatives = []
    for script, block in _BLOCKS.items():
        word = f"[{block}][{block}{_MARKS}]*"
        spaced = script not in _COUNTED
        alternatives.append(f"(?P<{script}>{word}(?:[{_JOINERS}]{word})*)" if spaced else f"(?P<{script}>{word})")
    return re.compile("|".join([*alternatives, r"(?P<Line>\n+)", r"(?P<Stop>[.!?:;()\"“”«»…。！？；：（）「」؟।؛])"]))


@cache
def _latin() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A word in Latin letters, as `_pattern` has it, and a letter of any other script."""
    word = f"[{_BLOCKS['Latin']}][{_BLOCKS['Latin']}{_MARKS}]*"
    others = "".join(block for script, block in _BLOCKS.items() if script != "Latin")
    return re.compile(f"{word}(?:[{_JOINERS}]{word})*"), re.compile(f"[{others}]")


def latin_lines(text: str) -> list[LatinLine] | None:
    """The lines of a text that hold words, five times as fast as `words`; None where a letter is in another script than Latin."""
    word, other = _latin()
    if not text.isascii() and other.search(text):
        return None
    lines = enumerate(_LINE.finditer(text), text.startswith("\n"))
    held = [(number, line.start(), line[0], word.findall(line[0])) for number, line in lines]
    # a word stands nowhere before its first place or behind its last: there it would be, or be part of, another word
    return [LatinLine(at + s.index(w[0]), at + s.rindex(w[-1]) + len(w[-1]), n, w) for n, at, s, w in held if w]


def words(text: str) -> Iterator[Word]:
    """The words of a text in order; a word ends where its script does."""
    line, opens = 0, True
    for found in _pattern().finditer(text):
        script = found.lastgroup or ""
        if script == "Line":
            line, opens = line + 1, True
        elif script == "Stop":
            opens = True
        else:
            counts = _count(found[0], script) if script in _COUNTED else 1
            yield Word(found.start(), found.end(), script, counts, line, opens)
            opens = False


def _count(run: str, script: str) -> int:
    if script in BY_CHARACTER:
        return len(run) if run.isalpha() else max(1, sum(c.isalpha() for c in run))
    return max(1, round(sum(c.isalpha() for c in run) / LETTERS_PER_WORD))


MAX_TRADITIONAL = 0.04
"""Share of Chinese characters outside GB 2312 up to which a text counts as simplified."""
_HAN = re.compile("[\u3400-\u9fff]+")


def simplified(text: str) -> bool:
    """Whether the Chinese characters of a text are simplified ones: those that GB 2312 has no code for are mostly traditional."""
    characters = "".join(_HAN.findall(text))
    coded = characters.encode("gb2312", "ignore").decode("gb2312")
    return len(characters) - len(coded) <= MAX_TRADITIONAL * len(characters)
