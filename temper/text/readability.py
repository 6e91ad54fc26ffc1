"""How hard a text is to read: Flesch's formulas for English, sentence length and common characters for Chinese.

No opinion on other languages: a formula made for one of them says nothing about the next.
"""

import re
from functools import cache, lru_cache
from typing import NamedTuple

from temper.text.invisible import visible
from temper.text.language import count_words, prose
from temper.text.repetition import words

MIN_WORDS = 5
MIN_HAN = 10
"""Fewer Han characters are no text; about five words."""
MIN_SHARE = 0.8
"""Below this share of words in the language, its rules mean nothing."""
FUNCTION_WORDS = frozenset(
    {"the", "and", "of", "to", "that", "you", "it", "for", "with", "are", "this", "be", "not", "your", "can", "have", "was"}
    | {"they", "which", "from", "but", "if", "or", "at", "by", "an", "will", "more"}
)
SURE_SHARE = 0.14
SURE_SPAN = 60
"""A text of which every 60 words hold at least 14 % of these words is English without asking an identifier: so are all but 10 of
212 English passages, and none of 2,800 in 29 other languages."""
LONG_SENTENCE = 44
"""Han characters above which a Chinese sentence is long: nine of ten of 4,293 train sentences have at most as many."""

# one set of characters to begin with, which is searched for several times as fast as two alternatives
_SENTENCE_END = re.compile(r"[.!?\n](?:(?<=\n)\n*|(?<![.!?][.!?])[.!?]*+[\"'”’)\]]*+(?=\s|$))")
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "inc", "ltd", "e.g", "i.e", "approx", "fig"})
_LATIN = re.compile(r"[A-Za-z]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_CHINESE_END = re.compile(r"[。！？!?；;…\n]+")
_VOWELS = re.compile(r"[aeiouy]+")
_MUTE_END = re.compile(
    r"(?<=[^aeiouy])(?<![^aeiouy]l)e$|(?<=[aeiou]y)e$|(?<=[^aeiouysxzcg])(?<![cst]h)(?<![^aeiouy]l)es$|(?<=[^dt])ed$"
    r"|e(?=ly$)|(?<=[gt])e(?=ments?$)|(?<=af)e(?=ty$)|e(?=ful|ness)"
)
_ONE_MORE = re.compile(
    r"ia|io(?!n)|iu|ii|riet|xiet|ciet|diet|scien|clien|uiet|(?<=[rd])ien(?!d)|(?<=[cr]r)ea(?=t)|(?:id|ar)eas?$|deo|uici"
    r"|(?<=[aeiouy])ing|oem|(?<=[^gq])ua(?!i)|eous|yee|bein|(?<=[bcdfgkptz])l$|[iy]thms?$|ism$|(?<=[ds])nt$"
)
_ONE_LESS = re.compile(r"[ctsgx]i[ao](?!n)|[ctsg]ian|[ctsx]iu|^every|^evening|^some(?=[^or])|giou|ciou|[lm]eous$|busine|havio")


class Reading(NamedTuple):
    """Counts of one English text, Flesch's reading ease (about 100 for a primer, 0 for a statute) and Flesch-Kincaid's grade."""

    sentences: int
    words: int
    syllables: int
    ease: float
    grade: float


class Hanzi(NamedTuple):
    """Counts of one Chinese text, in Han characters: all, common ones, and common ones in sentences that are not long."""

    sentences: int
    characters: int
    common: int
    easy: int


def reading(text: str, *, language: str = "en") -> Reading | None:
    """Reading ease 206.835 - 1.015 words/sentence - 84.6 syllables/word (Flesch 1948) of the prose in an English text.

    `grade` is 0.39 words/sentence + 11.8 syllables/word - 15.59 (Kincaid et al. 1975). Code, mathematics and addresses are left
    out; a line break ends a sentence, so a list reads as short sentences. None for another language than English, by its code or
    by the words found, and for fewer than five words.
    """
    if _code(language)[0] != "en":
        return None
    plain = prose(visible(text))
    found = [w for w in words(plain) if "a" <= w < "ɐ"]  # Latin words; numbers and other scripts sort elsewhere
    if len(found) < MIN_WORDS or not _english(text, plain, found):
        return None
    sentences, sounds = _sentences(plain), sum(map(syllables, found))
    length, weight = len(found) / sentences, sounds / len(found)
    ease, grade = 206.835 - 1.015 * length - 84.6 * weight, 0.39 * length + 11.8 * weight - 15.59
    return Reading(sentences, len(found), sounds, ease, grade)


def hanzi(text: str, *, language: str = "zh") -> Hanzi | None:
    """Sentences and common characters of a Chinese text; None for another language and below ten Han characters.

    Common are the 3,755 characters of level 1 of GB 2312, the national standard's most used ones, or for `zh-Hant`, `zh-TW` and
    `zh-HK` the 5,401 of Big5's level 1. A text that is not at least four fifths Chinese has no counts.
    """
    code, *rest = _code(language)
    if code != "zh":
        return None
    plain = prose(visible(text))
    total = len(_HAN.findall(plain))
    if total < MIN_HAN or not _mostly(text, "zh"):
        return None
    rare = _rare(bool({"hant", "tw", "hk", "mo"} & set(rest)))
    sentences = [found for piece in _CHINESE_END.split(plain) if (found := "".join(_HAN.findall(piece)))]
    common = [len(s.translate(rare)) for s in sentences]
    easy = sum(c for c, s in zip(common, sentences, strict=True) if len(s) <= LONG_SENTENCE)
    return Hanzi(len(sentences), total, sum(common), easy)


@lru_cache(maxsize=1 << 16)
def syllables(word: str) -> int:
    """Syllables of one English word by spelling: groups of vowels, corrected by the endings that are mute or count double.

    The corrections follow the pattern lists of Lingua::EN::Syllable (Greg Fast).
    """
    plain = word.lower().replace("’", "").replace("'", "")
    plain = _MUTE_END.sub("", plain)
    return max(1, len(_VOWELS.findall(plain)) + len(_ONE_MORE.findall(plain)) - len(_ONE_LESS.findall(plain)))


def _sentences(text: str) -> int:
    """Sentences that hold a word; the full stop of an abbreviation ends none."""
    count = at = 0
    for match in _SENTENCE_END.finditer(text):
        start = match.start()
        if match[0] == "." and _abbreviated(text[max(0, start - 8) : start]):
            continue
        count += _LATIN.search(text, at, start) is not None
        at = match.end()
    return max(1, count + (_LATIN.search(text, at) is not None))


def _abbreviated(before: str) -> bool:
    pieces = before.split()
    return bool(pieces) and pieces[-1].lstrip("(\"'").lower() in _ABBREVIATIONS


def _english(text: str, plain: str, found: list[str]) -> bool:
    """Cheap for nearly all texts: only one without English's function words in some stretch has its language identified."""
    foreign = len(plain.encode("utf-8", errors="surrogatepass")) - len(plain)
    spans = [found[i : i + SURE_SPAN] for i in range(0, len(found), SURE_SPAN)]
    if len(spans) > 1 and len(spans[-1]) < SURE_SPAN // 2:
        spans[-2:] = [spans[-2] + spans[-1]]
    if 10 * foreign < len(plain) and all(sum(map(FUNCTION_WORDS.__contains__, s)) >= SURE_SHARE * len(s) for s in spans):
        return True
    return _mostly(text, "en")


def _mostly(text: str, language: str) -> bool:
    count = count_words(text, language)
    return count is not None and count.total > 0 and count.target / count.total >= MIN_SHARE


def _code(language: str) -> list[str]:
    return language.replace("_", "-").lower().split("-")


@cache
def _rare(traditional: bool) -> dict[int, None]:
    """Han characters that are not common, as a table that deletes them."""
    codec, first, last = ("big5", b"\xa4\x40", b"\xc6\x7e") if traditional else ("gb2312", b"\xb0\xa1", b"\xd7\xf9")
    return {c: None for c in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000)) if not first <= _encoded(chr(c), codec) <= last}


def _encoded(character: str, codec: str) -> bytes:
    try:
        return character.encode(codec)
    except UnicodeEncodeError:
        return b""
