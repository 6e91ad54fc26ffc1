"""How hard an English text is to read: sentences, words, syllables and Flesch's reading ease; no opinion on other languages."""

import re
from typing import NamedTuple

from temper.text.language import count_words, prose

MIN_WORDS = 5
MIN_ENGLISH = 0.8
"""Below this share of English words, syllables counted by English rules mean nothing."""

_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|\n+")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|Inc|Ltd|e\.g|i\.e|approx|No|Fig)\.", re.IGNORECASE)
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
    """Counts of one text and Flesch's reading ease, which is about 100 for a primer and 0 for a statute."""

    sentences: int
    words: int
    syllables: int
    ease: float


def reading(text: str, *, language: str = "en") -> Reading | None:
    """Flesch reading ease of the prose in a text: 206.835 - 1.015 words/sentence - 84.6 syllables/word (Flesch 1948).

    Code, mathematics and addresses are left out; a line break ends a sentence, so a list reads as short sentences. None for
    another language than English, by its code or by the words found, and for fewer than five words.
    """
    if language.replace("_", "-").split("-")[0].lower() != "en":
        return None
    plain = _ABBREVIATION.sub(lambda m: m[0].replace(".", ""), prose(text))
    found = [_WORD.findall(s) for s in _SENTENCE_END.split(plain)]
    sentences = [s for s in found if s]
    count = sum(map(len, sentences))
    if count < MIN_WORDS or not _english(text):
        return None
    sounds = sum(syllables(w) for s in sentences for w in s)
    return Reading(len(sentences), count, sounds, 206.835 - 1.015 * count / len(sentences) - 84.6 * sounds / count)


def syllables(word: str) -> int:
    """Syllables of one English word by spelling: groups of vowels, corrected by the endings that are mute or count double.

    The corrections follow the pattern lists of Lingua::EN::Syllable (Greg Fast).
    """
    plain = word.lower().replace("’", "").replace("'", "")
    plain = _MUTE_END.sub("", plain)
    return max(1, len(_VOWELS.findall(plain)) + len(_ONE_MORE.findall(plain)) - len(_ONE_LESS.findall(plain)))


def _english(text: str) -> bool:
    count = count_words(text, "en")
    return count is not None and count.total > 0 and count.target / count.total >= MIN_ENGLISH
