"""Which language each word of a text is in: spans of words in one language, and R1's language consistency on top of them.

Words of different scripts are told apart exactly, by Unicode block (`script`), languages that share a script by an identifier
(`identify`). Code, mathematics, addresses, numbers, names in another language and words quoted from the user belong to no
language and are left out. docs/language.md has definitions and measured errors; `mixing` has what else spans tell.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

from temper.text.identify import MIN_JAPANESE, SHARED, surely, told_apart
from temper.text.script import BY_CHARACTER, Word, blank, latin_lines, words
from temper.text.script import prose as prose  # also for those who count words in other ways

NAME_WORDS = 5
"""Longest run of capitalised words that passes for a name; a longer one is a text in capitals."""
QUOTABLE = 20_000
"""So many characters of the prompt are searched for what stands in quotation marks."""
QUOTED = 0.8
"""A foreign span is the user's own words if at least this share of its word pairs is in the prompt."""

SCRIPTS: dict[str, frozenset[str]] = {
    **{language: frozenset({script}) for script, languages in SHARED.items() for language in languages},
    **{
        language: frozenset({script})
        for language, script in {
            "el": "Greek", "hy": "Armenian", "pa": "Gurmukhi", "gu": "Gujarati", "ta": "Tamil", "te": "Telugu", "kn": "Kannada",
            "ml": "Malayalam", "si": "Sinhala", "th": "Thai", "lo": "Lao", "my": "Burmese", "ka": "Georgian", "km": "Khmer",
            "ko": "Hangul", "zh": "Han", "he": "Hebrew", "am": "Ethiopic",
        }.items()
    },
    "ja": frozenset({"Kana", "Han"}),
}  # fmt: skip
"""Every language covered, by ISO 639-1 code, with the scripts it is written in."""
_ALONE = {script: language for language, own in SCRIPTS.items() for script in own if script not in {*SHARED, "Kana"}}
_CASED = frozenset({"Latin", "Cyrillic", "Greek", "Armenian"})
_PARTICLE_WORDS = "of the and for de la le les du des di da del della do dos von van der den y e et und"
_PARTICLES = frozenset(_PARTICLE_WORDS.split())

_QUOTE = re.compile(r"“([^”\n]{1,400})”|\"([^\"\n]{1,400})\"|«([^»\n]{1,400})»|「([^」\n]{1,400})」")


class WordCount(NamedTuple):
    """Language-bearing words of a text: those in the target language, and all."""

    target: int
    total: int


class Span(NamedTuple):
    """Consecutive words of one language in one line: their place in the text, ISO 639-1 code, number, and the line from 0."""

    start: int
    end: int
    language: str
    words: int
    line: int


def target_share(text: str, language: str, *, exclude: str = "") -> float | None:
    """Words in the target language over all language-bearing words, in [0, 1] (arXiv 2501.12948, language consistency reward).

    `language` is an ISO 639-1 code, a region or script suffix is ignored; `exclude` is what the user wrote: foreign words quoted
    from it do not count. Han and kana count by character. None if no word bears a language, or the language is not in `SCRIPTS`.
    """
    count = count_words(text, language, exclude=exclude)
    return None if count is None or count.total == 0 else count.target / count.total


def count_words(text: str, language: str, *, exclude: str = "") -> WordCount | None:
    """The two counts behind `target_share`, for averages over several texts; None if the language is not covered."""
    code = covered(language)
    if not code:
        return None
    found = spans(text, code, exclude=exclude)
    return WordCount(sum(s.words for s in found if s.language == code), sum(s.words for s in found))


@lru_cache(maxsize=256)
def covered(language: str) -> str:
    """The code in `SCRIPTS` for a language tag such as zh-Hant, en_US or nb; "" if there is none."""
    code = language.replace("_", "-").split("-")[0].lower()
    code = "no" if code in ("nb", "nn") else code
    return code if code in SCRIPTS else ""


def spans(text: str, language: str = "", *, exclude: str = "") -> list[Span]:
    """The language-bearing words of a text as spans of one language, in order, none across a line break.

    `language`, where given and covered, is the one expected: it gets the benefit of the doubt on short stretches. `exclude` is
    what the user wrote: spans of other languages that repeat it are left out, as are names in other languages.
    """
    target = covered(language)
    plain = _without_quotes(prose(text), exclude)
    if (easy := _in_target_only(plain, target)) is not None:
        return easy
    found = list(words(plain))
    labels = _labels(plain, found, target)
    _leave_out_names(plain, found, labels, target)
    if exclude:
        _leave_out_quoted(plain, found, labels, target, exclude)
    return _merged(found, labels)


def _in_target_only(text: str, target: str) -> list[Span] | None:
    """The spans of a text in Latin letters whose every word is surely the target's, as most are; None for any other."""
    lines = latin_lines(text) if target in SHARED["Latin"] else None
    if lines is None or not surely([word for line in lines for word in line.words], "Latin", target):
        return None
    return [Span(line.start, line.end, target, len(line.words), line.line) for line in lines]


def _without_quotes(text: str, exclude: str) -> str:
    if not exclude or not any(mark in text for mark in '"“«「'):
        return text
    known = exclude[:QUOTABLE]
    return _QUOTE.sub(lambda m: blank(m) if next(g for g in m.groups() if g is not None) in known else m[0], text)


def _merged(found: Sequence[Word], labels: Sequence[str]) -> list[Span]:
    bearing = [(w, label) for w, label in zip(found, labels, strict=True) if label]
    merged = []
    for (label, line), group in groupby(bearing, lambda b: (b[1], b[0].line)):
        run = [w for w, _ in group]
        merged.append(Span(run[0].start, run[-1].end, label, sum(w.counts for w in run), line))
    return merged


# --- languages of words -----------------------------------------------------------------------------------------------


def _labels(text: str, found: list[Word], target: str) -> list[str]:
    """The language of each word. Where kana are in the text, runs of Han are cut into characters, in `found` too."""
    if any(w.script == "Kana" for w in found):
        found[:] = [c for w in found for c in _characters(w)]
    labels = [_ALONE.get(w.script, "") for w in found]
    places: dict[str, list[int]] = {}
    for n, w in enumerate(found):
        if not labels[n]:
            places.setdefault("Han" if w.script == "Kana" else w.script, []).append(n)
    for script, own in places.items():
        for n, label in zip(own, _told_apart(text, [found[n] for n in own], script, target), strict=True):
            labels[n] = label
    return labels


def _characters(word: Word) -> Iterator[Word]:
    if word.script != "Han":
        yield word
        return
    for n in range(word.start, word.end):
        yield Word(n, n + 1, "Han", 1, word.line, word.opens and n == word.start)


def _told_apart(text: str, run: list[Word], script: str, target: str) -> list[str]:
    if script == "Han" and not any(w.script == "Kana" for w in run):
        return ["ja" if target == "ja" and sum(w.counts for w in run) < MIN_JAPANESE else "zh"] * len(run)
    return told_apart([text[w.start : w.end] for w in run], [w.opens for w in run], script, target)


# --- names and the user's words ---------------------------------------------------------------------------------------


def _leave_out_names(text: str, found: Sequence[Word], labels: list[str], target: str) -> None:
    """Blank the labels of runs in another language that are names: at most five capitalised words, acronyms or single letters."""
    host = SCRIPTS[target] if target else _most_frequent(found)
    clause = 0
    keys = []
    for w, label in zip(found, labels, strict=True):
        clause += w.opens
        keys.append((clause, label, w.script))
    for (_, label, script), group in groupby(range(len(found)), keys.__getitem__):
        run = list(group)
        foreign = label != target if target else script not in host
        if (
            foreign
            and script in _CASED
            and len(run) <= NAME_WORDS
            and _is_name([text[found[n].start : found[n].end] for n in run])
        ):
            _blank(labels, run)


def _most_frequent(found: Iterable[Word]) -> frozenset[str]:
    counts: Counter[str] = Counter()
    for w in found:
        counts[w.script] += w.counts
    return frozenset(script for script, _ in counts.most_common(1))


def _is_name(run: Sequence[str]) -> bool:
    """Capitalised from the first word to the last, small particles between them allowed."""
    proper = [word != word.lower() or len(word) == 1 for word in run]
    return proper[0] and proper[-1] and all(is_proper or word in _PARTICLES for word, is_proper in zip(run, proper, strict=True))


def _leave_out_quoted(text: str, found: Sequence[Word], labels: list[str], target: str, exclude: str) -> None:
    """Blank the labels of foreign runs whose words, pair by pair, the user wrote."""
    if set(labels) <= {"", target}:
        return
    asked = list(_pieces(exclude, words(prose(exclude))))
    single, pairs = set(asked), set(pairwise(asked))
    for label, run in ((key, list(group)) for key, group in groupby(range(len(found)), labels.__getitem__)):
        if not label or label == target:
            continue
        own = list(_pieces(text, (found[n] for n in run)))
        known = [pair in pairs for pair in pairwise(own)] or [own[0] in single]
        if sum(known) >= QUOTED * len(known):
            _blank(labels, run)


def _pieces(text: str, run: Iterable[Word]) -> Iterator[str]:
    for w in run:
        piece = text[w.start : w.end]
        if w.script in BY_CHARACTER:
            yield from piece
        else:
            yield piece.lower()


def _blank(labels: list[str], run: Iterable[int]) -> None:
    for n in run:
        labels[n] = ""
