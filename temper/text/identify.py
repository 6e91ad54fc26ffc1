"""Which of the languages that share a script each word of a run is in: the path of least cost through the words.

Every word pays for how badly it fits a language, by the byte n-grams of py3langid (a naive Bayes model), and every switch has a
price. Chinese and Japanese are told apart the same way, character by character, with the national character sets as a witness.
docs/decisions/0004-language-id.md says why this identifier; docs/language.md says how often it errs.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

BLOCK = 4096
"""Words that are told apart at a time; bounds memory on very long texts."""
REMEMBERED = 2**15
"""Words whose lead is remembered for one expected language, about 8 MB of them."""
WORD_CHARACTERS = 40
"""So much of one word is looked at."""
ACRONYM_LETTERS = 5
"""A word of capitals up to this long (AI, HTTPS) says nothing about the language around it."""
EVIDENCE_WORDS = 4
"""A language is in a text if the first, strict pass finds so many words of it, or most of the words."""
BENEFIT = 0.5
"""Nats a word by which the expected language is preferred once others are in the text too: words that fit both are its."""
COMMON = frozenset({"en", "ru", "ar", "hi", "bn", "zh"})
"""What a word or two are taken for where another script, or nothing, was expected."""
MIN_JAPANESE = 10
"""Han without any kana in the text is Chinese from so many characters on; fewer may be Japanese where that is expected."""
CHINESE = 2.0
"""Nats a character by which py3langid prefers Chinese for Han that both languages use; taken off."""
FOREIGN_CHARACTER = 8.0
"""Nats against a language whose national character sets lack a character: JIS X 0208, or GB 2312 and Big5."""

_LATIN = "af ca cs cy da de en es et eu fi fr ga gl hr hu id is it jv lt lv ms mt nl no pl pt ro sk sl sq sv sw tl tr vi"
SHARED: dict[str, tuple[str, ...]] = {
    "Latin": tuple(_LATIN.split()),
    "Cyrillic": ("be", "bg", "kk", "ky", "mk", "mn", "ru", "sr", "uk"),
    "Arabic": ("ar", "fa", "ps", "ug", "ur"),
    "Devanagari": ("hi", "mr", "ne"),
    "Bengali": ("as", "bn"),
    "Han": ("ja", "zh"),
}
"""Languages that are told apart inside one script."""
_KIN: dict[str, tuple[str, ...]] = {"ms": ("id",), "gl": ("es", "pt")}
"""Languages too near to larger kin to be told from it: looked for only where they are expected, and their kin then not."""


class Price(NamedTuple):
    """What a switch costs inside a clause and where one opens, and what it costs to begin in another language than expected.

    In nats of py3langid's n-grams, which overlap: the right language leads the next best by 4 to 10 nats a word.
    """

    inside: float
    opening: float
    start: float


STRICT = Price(40.0, 25.0, 40.0)
"""First pass, among all languages of the script: finds which are in the text."""
CHEAP = Price(7.0, 3.0, 7.0)
"""Second pass, among the expected language and those found: finds where."""
HAN = Price(14.0, 8.0, 10.0)
"""The only pass for Chinese and Japanese."""
ROUNDING = 0.01
"""Nats by which sums of a text's scores may differ with the order of adding, and more."""
SHORT = 10.0
"""What it costs to begin in another language than the common one of a script, where none was expected in it."""


def told_apart(words: Sequence[str], opens: Sequence[bool], script: str, expected: str) -> list[str]:
    """The language of each word of one script, of those in `SHARED[script]`; characters for Han and kana.

    `opens` says where a line, sentence or clause begins; `expected` gets the benefit of the doubt, "" for none.
    """
    path: list[str] = []
    for start in range(0, len(words), BLOCK):
        part = slice(start, start + BLOCK)
        scores = _scores([w[:WORD_CHARACTERS] for w in words[part]], script)
        path += _east_asian(scores, opens[part], expected) if script == "Han" else _path(scores, opens[part], script, expected)
    return path


def surely(words: Sequence[str], script: str, expected: str) -> bool:
    """Whether `told_apart` would find every word in the expected language, seen without its path; False if not sure."""
    if expected not in SHARED[script] or len(words) > BLOCK:
        return False
    price = min(STRICT.opening, STRICT.start)
    return not words or _no_lead(words, script, expected, price) or _no_rival(words, script, expected, price)


def _no_lead(words: Sequence[str], script: str, expected: str, price: float) -> bool:
    """Whether on no stretch of words the best language of each word, whichever it is, leads the expected one by the price.

    No single language then can.
    """
    leads, state, gain = _leads(script, expected), 0, 0.0
    for word in words:
        state, most = leads[state, word]
        gain += most
        if gain < 0.0:
            gain = 0.0
        elif gain >= price - ROUNDING:
            return False
    return True


def _no_rival(words: Sequence[str], script: str, expected: str, price: float) -> bool:
    candidates = _candidates(script, expected)
    scores = _scores([w[:WORD_CHARACTERS] for w in words], script)[:, [SHARED[script].index(c) for c in candidates]]
    return _worth_a_switch(candidates, scores, expected, price)[0] == [expected]


def says_nothing(word: str) -> bool:
    """A single letter or an acronym, which may stand in a text of any language."""
    return len(word) == 1 or (len(word) <= ACRONYM_LETTERS and word.isupper())


def _path(scores: Floats, opens: Sequence[bool], script: str, expected: str) -> list[str]:
    """The language of each word, in two passes: which languages are there at all, then where each of them is."""
    candidates = _candidates(script, expected)
    scores = scores[:, [SHARED[script].index(c) for c in candidates]]
    first = expected if expected in candidates else next(c for c in candidates if c in COMMON)
    price = STRICT if expected == first else STRICT._replace(start=SHORT)
    candidates, scores = _worth_a_switch(candidates, scores, first, min(price.opening, price.start))
    counts = Counter(_cheapest(scores, opens, candidates.index(first), price))
    there = [n for n in counts if counts[n] >= EVIDENCE_WORDS or 2 * counts[n] > len(scores)] or [candidates.index(first)]
    left = [candidates[n] for n in there]
    scores = scores[:, there] + np.array([BENEFIT if c == expected else 0.0 for c in left])
    return [left[n] for n in _cheapest(scores, opens, left.index(first) if first in left else 0, CHEAP)]


def _candidates(script: str, expected: str) -> list[str]:
    lesser = {kin for kin in _KIN if kin != expected}
    return [c for c in SHARED[script] if c not in lesser and c not in _KIN.get(expected, ())]


def _east_asian(scores: Floats, opens: Sequence[bool], expected: str) -> list[str]:
    own = SHARED["Han"]
    return [own[n] for n in _cheapest(scores, opens, own.index(expected if expected in own else "zh"), HAN)]


def _worth_a_switch(candidates: list[str], scores: Floats, first: str, price: float) -> tuple[list[str], Floats]:
    """The candidates that gain as much over `first`, on some stretch of words, as the cheapest switch costs, and their scores."""
    gain = np.cumsum(scores - scores[:, [candidates.index(first)]], axis=0, dtype=np.float64)
    lowest = np.minimum(np.minimum.accumulate(gain, axis=0), 0.0)
    most = (gain - lowest).max(axis=0)
    kept = [n for n, c in enumerate(candidates) if c == first or most[n] >= price]
    return [candidates[n] for n in kept], scores[:, kept]


def _cheapest(scores: Floats, opens: Sequence[bool], expected: int, price: Price) -> list[int]:
    """Viterbi's path through `scores` (N words, L languages) where every change of language has a price."""
    languages = range(scores.shape[1])
    if len(languages) == 1:
        return [0] * len(scores)
    total = [0.0 if n == expected else -price.start for n in languages]
    total = [t + s for t, s in zip(total, scores[0].tolist(), strict=True)]
    came = []
    for row, opening in zip(scores[1:].tolist(), opens[1:], strict=True):
        best = max(total)
        at, switched = total.index(best), best - (price.opening if opening else price.inside)
        came.append([n if total[n] >= switched else at for n in languages])
        total = [max(t, switched) + s for t, s in zip(total, row, strict=True)]
    path = [total.index(max(total))]
    for step in reversed(came):
        path.append(step[path[-1]])
    return path[::-1]


# --- how well a word fits a language ----------------------------------------------------------------------------------


class _Identifier(NamedTuple):
    """py3langid's automaton over UTF-8 bytes: next state, first entry of a state's row, feature found on entering it or -1.

    `weights` holds, for each script, log P(feature | language) as (features, languages of `SHARED`).
    """

    moves: Any
    rows: list[int]
    features: list[int]
    weights: dict[str, npt.NDArray[np.float16]]


@cache
def _identifier() -> _Identifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

    model = LanguageIdentifier.from_model_file(MODEL_FILE)
    columns = {
        script: [[n for n, c in enumerate(model.nb_classes) if c == code] for code in own] for script, own in SHARED.items()
    }
    weights = {s: np.stack([model.nb_ptc[:, c].max(axis=1) for c in own], axis=1) for s, own in columns.items()}
    return _Identifier(model.tk_nextmove, [row << 8 for row in model.tk_row], model.tk_output, weights)


def _scores(words: Sequence[str], script: str) -> Floats:
    """How well each word fits each language of its script, (N, L), relative to the best: sums over the n-grams that end in it.

    A word's n-grams may begin in the word before it.
    """
    gap, state = "" if script == "Han" else " ", 0
    fits = list[Floats]()
    for word in words:
        state, fit = _fit(state, gap + word, script)
        fits.append(fit)
    scores = np.concatenate(fits).reshape(len(fits), -1)
    if script == "Han":
        scores -= np.array([_against(w) for w in words])
    else:
        scores[[says_nothing(w) for w in words]] = 0.0
    return np.asarray(scores - scores.max(axis=1, keepdims=True), np.float32)


# words repeat: with them remembered a text takes half the time, and 2**16 of them take about 20 MB
@lru_cache(maxsize=2**16)
def _fit(state: int, text: str, script: str) -> tuple[int, Floats]:
    """Where the automaton stands behind a word that it met in `state`, and the sums over the n-grams that end in it, (L,)."""
    moves, rows, features, weights = _identifier()
    found: list[int] = []
    for byte in text.encode("utf-8", "surrogatepass"):
        state = moves[rows[state] + byte]
        if (feature := features[state]) >= 0:
            found.append(feature)
    return state, weights[script][found].sum(axis=0, dtype=np.float64)


class _Leads(dict[tuple[int, str], tuple[int, float]]):
    """Where the automaton stands behind a word met in a state, and the most by which a language leads the expected one.

    A dict that fills itself: every word of every text is looked up here, which must not cost a call.
    """

    __slots__ = ("expected", "others", "script")

    def __init__(self, script: str, expected: str) -> None:
        own = SHARED[script]
        self.script, self.expected = script, own.index(expected)
        self.others = [own.index(c) for c in _candidates(script, expected) if c != expected]

    def __missing__(self, met: tuple[int, str]) -> tuple[int, float]:
        if len(self) >= REMEMBERED:
            self.clear()
        self[met] = found = self._found(met[0], met[1][:WORD_CHARACTERS])
        return found

    def _found(self, state: int, word: str) -> tuple[int, float]:
        state, fit = _fit(state, f" {word}", self.script)
        return state, 0.0 if says_nothing(word) else float(fit[self.others].max() - fit[self.expected])


_leads = cache(_Leads)


@lru_cache(maxsize=2**15)
def _against(character: str) -> tuple[float, float]:
    """What speaks against Japanese and against Chinese, beside the n-grams; kana, in runs, have n-grams enough."""
    if not "\u3400" <= character <= "\u9fff":
        return 0.0, CHINESE
    if not _in(character, "shift_jis"):
        return FOREIGN_CHARACTER, CHINESE
    return 0.0, CHINESE + (0.0 if _in(character, "gb2312") or _in(character, "big5") else FOREIGN_CHARACTER)


def _in(character: str, charset: str) -> bool:
    return bool(character.encode(charset, "ignore"))
