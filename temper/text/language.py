"""How much of a text is in the language it should be in: R1's language consistency, over words.

Words of different scripts are told apart exactly, by Unicode block. Languages that share a script (English and French, Russian
and Ukrainian) are told apart by py3langid, over spans of at least ten words; a shorter span gets the benefit of the doubt. Code,
mathematics, addresses, numbers and words quoted from the user belong to no language and are left out.
"""

import copy
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

SPAN_WORDS = 10
"""Shortest span whose language is identified: at ten words the identifier is right 99.7 % of the time (docs/decisions/0004)."""
MAX_SPAN_WORDS = 20
"""Longest span judged as one, so that a switch inside a long sentence is seen."""
FOREIGN_BELOW = 0.05
FOREIGN_FROM = 0.9
"""A span is foreign if the target gets less than the first and the three best languages together at least the second: near kin
(Malay and Indonesian) share their probability, while lists of symbols spread it and stay in the language."""
LETTERS_PER_WORD = 4
"""Thai, Lao, Khmer and Burmese write no spaces: so many letters count as one word."""
ACRONYM_LETTERS = 5
"""A Latin word of capitals up to this long (AI, HTTPS) belongs to no language where the text is not in Latin script."""

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
_BY_CHARACTER = frozenset({"Han", "Kana"})
_UNSPACED = frozenset({"Thai", "Lao", "Burmese", "Khmer"})

_LATIN = "af ca cs cy da de en es et eu fi fr ga gl hr hu id is it jv lt lv ms mt nl no pl pt ro sk sl sq sv sw tl tr vi"
SHARED: dict[str, tuple[str, ...]] = {
    "Latin": tuple(_LATIN.split()),
    "Cyrillic": ("be", "bg", "kk", "ky", "mk", "mn", "ru", "sr", "uk"),
    "Arabic": ("ar", "fa", "ps", "ug", "ur"),
    "Devanagari": ("hi", "mr", "ne"),
    "Bengali": ("as", "bn"),
}
"""Languages that are told apart inside one script."""

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

_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]{1,400}`", re.DOTALL)
_MATH = re.compile(
    r"\$\$.{1,1500}?\$\$|\\\[.{1,1500}?\\\]|\\\(.{1,1500}?\\\)|\\begin\{(\w{1,20}\*?)\}.{1,1500}?\\end\{\1\}"
    r"|\[asy\].{1,1500}?\[/asy\]|\$(?=\S)[^$\n]{0,400}[\\^_=+<>{}][^$\n]{0,400}\$|\\[A-Za-z]{1,30}(?:\{[^{}\n]{0,200}\}){0,3}",
    re.DOTALL,
)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S{1,2000}|[\w.+-]{1,64}@[\w-]{1,63}\.[\w.]{2,63}|</?[A-Za-z][^<>\n]{0,200}>")
_QUOTE = re.compile(r"“([^”\n]{1,400})”|\"([^\"\n]{1,400})\"|«([^»\n]{1,400})»|「([^」\n]{1,400})」")
_SENTENCE_END = re.compile(r"[.!?…。！？؟।]+[\"'”’)\]]*(?=\s|$)|\n+|[。！？।]")
_MARKS = r"\u0300-\u036f\u200c\u200d"


class WordCount(NamedTuple):
    """Language-bearing words of a text: those in the target language, and all."""

    target: int
    total: int


class _Run(NamedTuple):
    script: str
    text: str
    words: int
    sentence: int


def target_share(text: str, language: str, *, exclude: str = "") -> float | None:
    """Words in the target language over all language-bearing words, in [0, 1] (arXiv 2501.12948, language consistency reward).

    `language` is an ISO 639-1 code, a region or script suffix is ignored; `exclude` is what the user wrote: foreign words quoted
    from it do not count. Han and kana count by character. None if no word bears a language, or the language is not in `SCRIPTS`.
    """
    count = count_words(text, language, exclude=exclude)
    return None if count is None or count.total == 0 else count.target / count.total


def count_words(text: str, language: str, *, exclude: str = "") -> WordCount | None:
    """The two counts behind `target_share`, for averages over several texts; None if the language is not covered."""
    code = language.replace("_", "-").split("-")[0].lower()
    code = "no" if code in ("nb", "nn") else code
    if code not in SCRIPTS:
        return None
    runs = list(_runs(_without_quotes(prose(text), exclude), code, exclude))
    return WordCount(sum(_in_target(runs, code)), sum(r.words for r in runs))


def prose(text: str) -> str:
    """The text with code, mathematics, addresses and markup replaced by a space."""
    if "`" in text or "~~~" in text:
        text = _CODE.sub(" ", text)
    if "$" in text or "\\" in text:
        text = _MATH.sub(" ", text)
    return _ADDRESS.sub(" ", text) if any(mark in text for mark in ("://", "www.", "@", "<")) else text


def _without_quotes(text: str, exclude: str) -> str:
    if not exclude:
        return text
    return _QUOTE.sub(lambda m: " " if next(g for g in m.groups() if g is not None) in exclude else m[0], text)


@cache
def _word_pattern() -> re.Pattern[str]:
    """One alternative per script; a run of words of one script, apart only by spaces and light punctuation, is one match."""
    alternatives = []
    for script, block in _BLOCKS.items():
        word = f"[{block}][{block}{_MARKS}]*(?:['’ʼ·״׳-][{block}][{block}{_MARKS}]*)*"
        alternatives.append(f"(?P<{script}>{word}(?:[ ,\\u00a0،、，]{{1,3}}{word})*)")
    return re.compile("|".join(alternatives))


def _runs(text: str, language: str, exclude: str) -> Iterator[_Run]:
    """Runs of words in one script; foreign ones that the user wrote, and acronyms in another script, are left out."""
    own = SCRIPTS[language]
    start = 0
    for number, end in enumerate([*(m.end() for m in _SENTENCE_END.finditer(text)), len(text)]):
        for match in _word_pattern().finditer(text, start, end):
            script, run = str(match.lastgroup), match[0]
            if script not in own:
                if exclude and run in exclude:
                    continue
                run = _without_acronyms(run) if script == "Latin" else run
            words = _word_count(run, script)
            if words:
                yield _Run(script, run, words, number)
        start = end


def _without_acronyms(run: str) -> str:
    return " ".join(w for w in run.split() if len(w) > 1 and not (w.isupper() and len(w) <= ACRONYM_LETTERS))


def _word_count(run: str, script: str) -> int:
    if script in _BY_CHARACTER:
        return sum(not unicodedata.combining(c) and c not in " ,、，" for c in run)
    if script in _UNSPACED:
        return sum(max(1, round(sum(c.isalpha() for c in piece) / LETTERS_PER_WORD)) for piece in run.split())
    return len(run.replace(",", " ").replace("،", " ").split())


def _in_target(runs: list[_Run], language: str) -> Iterator[int]:
    own = [r for r in runs if r.script in SCRIPTS[language]]
    script = own[0].script if own else ""
    if language in ("zh", "ja"):
        yield from _east_asian(runs, language)
    elif language in SHARED.get(script, ()) and len(SHARED[script]) > 1:
        yield from _same_script(own, language, script)
    else:
        yield from (r.words for r in own)


def _east_asian(runs: list[_Run], language: str) -> Iterator[int]:
    """Han is Japanese in a sentence with kana, else Chinese; in a sentence of few characters it is the target's."""
    kana: dict[int, int] = {}
    han: dict[int, int] = {}
    for run in runs:
        side = {"Kana": kana, "Han": han}.get(run.script)
        if side is not None:
            side[run.sentence] = side.get(run.sentence, 0) + run.words
    for sentence, count in han.items():
        japanese = sentence in kana
        if japanese == (language == "ja") or (not japanese and count < SPAN_WORDS):
            yield count
    if language == "ja":
        yield from kana.values()


def _same_script(runs: list[_Run], language: str, script: str) -> Iterator[int]:
    for span, words in _spans(runs):
        if words < SPAN_WORDS or not _foreign(span, language, script):
            yield words


def _foreign(span: str, language: str, script: str) -> bool:
    ranked: list[tuple[str, float]] = _identifier(script).rank(span)
    return dict(ranked)[language] < FOREIGN_BELOW and sum(p for _, p in ranked[:3]) >= FOREIGN_FROM


def _spans(runs: list[_Run]) -> list[tuple[str, int]]:
    """Stretches of 10 to 20 words, broken at sentence ends where possible; a short rest joins the stretch before it."""
    spans: list[tuple[list[str], int]] = []
    words: list[str] = []
    sentence = -1
    for run in runs:
        if run.sentence != sentence and len(words) >= SPAN_WORDS:
            spans.append((words, len(words)))
            words = []
        sentence = run.sentence
        for word in run.text.replace(",", " ").split():
            words.append(word)
            if len(words) == MAX_SPAN_WORDS:
                spans.append((words, len(words)))
                words = []
    if words and len(words) < SPAN_WORDS and spans:
        spans[-1] = ([*spans[-1][0], *words], spans[-1][1] + len(words))
    elif words:
        spans.append((words, len(words)))
    return [(" ".join(w), n) for w, n in spans]


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _identifier(script: str) -> Any:
    """py3langid, restricted to the languages of one script."""
    restricted = copy.copy(_model())
    restricted.set_languages(SHARED[script])
    return restricted
