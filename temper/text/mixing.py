"""How much and how often a text changes its language: pure functions of the spans that `language.spans` finds.

A word is a language-bearing one (n − u in the papers' terms): numbers, code, names and quotations are in no span. A switch is a
change of language between neighbouring words, also over a line break. Definitions and sources in docs/language.md.
"""

import math
import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import groupby, pairwise

from temper.text.language import Span

MIN_LINE = 5
"""A line of fewer words is not judged (arXiv 2406.20052, released code)."""


def share(spans: Sequence[Span], languages: Collection[str]) -> float | None:
    """Words in one of `languages` over all words, in [0, 1]; None without words."""
    total = sum(s.words for s in spans)
    return sum(s.words for s in spans if s.language in languages) / total if total else None


def cmi(spans: Sequence[Span]) -> float | None:
    """Code-mixing index, 100 (1 − max words of one language / words), in [0, 100); None without words (Das & Gambäck 2014)."""
    counts = _counts(spans)
    return 100 * (1 - max(counts.values()) / counts.total()) if counts else None


def corpus_cmi(utterances: Sequence[Sequence[Span]]) -> float | None:
    """Code-mixing of a corpus with its switches (Gambäck & Das 2016); `lines` makes utterances of a text.

    100/U (½ Σ [1 − (max − P)/N + δ] + 5/6 S): P switches inside an utterance, N its words, δ = 1 where its main language is not
    that of the one before, S utterances with a switch inside, U utterances with words. None without any.
    """
    spoken = [u for u in utterances if any(s.words for s in u)]
    if not spoken:
        return None
    mains = [_counts(u).most_common(1)[0] for u in spoken]
    inside = [switches(u) for u in spoken]
    words = [sum(s.words for s in u) for u in spoken]
    mixed = sum(1 - (m - p) / n for (_, m), p, n in zip(mains, inside, words, strict=True))
    between = sum(a != b for (a, _), (b, _) in pairwise(mains))
    return 100 / len(spoken) * ((mixed + between) / 2 + 5 / 6 * sum(p > 0 for p in inside))


def m_index(spans: Sequence[Span]) -> float | None:
    """(1 − Σ p²) / ((k − 1) Σ p²) over the k languages found: 0 for one language, 1 for equal parts (Barnett et al. 2000)."""
    counts = _counts(spans)
    if not counts:
        return None
    squares = sum((n / counts.total()) ** 2 for n in counts.values())
    return (1 - squares) / ((len(counts) - 1) * squares) if len(counts) > 1 else 0.0


def i_index(spans: Sequence[Span]) -> float | None:
    """Switches over the places between two words, in [0, 1]; None for fewer than two words (Guzmán et al. 2017)."""
    total = sum(s.words for s in spans)
    return switches(spans) / (total - 1) if total > 1 else None


def entropy(spans: Sequence[Span]) -> float | None:
    """−Σ p log₂ p of the languages, in bits; None without words (Guzmán et al. 2017)."""
    counts = _counts(spans)
    return abs(sum(n / counts.total() * math.log2(n / counts.total()) for n in counts.values())) if counts else None


def burstiness(spans: Sequence[Span]) -> float | None:
    """(σ − μ)/(σ + μ) of the lengths between switches, σ of the population: −1 for regular, towards 1 for bursts.

    None for fewer than two switches, where it says nothing (Goh & Barabási 2008; Guzmán et al. 2017).
    """
    lengths = [sum(s.words for s in run) for _, run in groupby(spans, lambda s: s.language)]
    if len(lengths) < 3:
        return None
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return (deviation - mean) / (deviation + mean)


def switches(spans: Sequence[Span]) -> int:
    """Changes of language from one word to the next."""
    return sum(a.language != b.language for a, b in pairwise(spans))


def unwarranted(spans: Sequence[Span], warranted: Collection[str]) -> float | None:
    """Switches into a language nobody used or asked for, over words, in [0, 1]; to begin in one is a switch, too.

    None without words.
    """
    total = sum(s.words for s in spans)
    entered = [language for language, _ in groupby(s.language for s in spans)]
    return sum(language not in warranted for language in entered) / total if total else None


def lines(spans: Sequence[Span]) -> list[list[Span]]:
    """The spans of each line that has any."""
    return [list(group) for _, group in groupby(spans, lambda s: s.line)]


def line_pass(spans: Sequence[Span], languages: Collection[str]) -> float | None:
    """1 if every line of five words or more is mainly in one of `languages`, else 0; None without such a line.

    Its mean over replies is the line-level pass rate, LPR (arXiv 2406.20052).
    """
    mains = [_counts(line) for line in lines(spans) if sum(s.words for s in line) >= MIN_LINE]
    return float(all(m.most_common(1)[0][0] in languages for m in mains)) if mains else None


def word_pass(spans: Sequence[Span], languages: Collection[str]) -> float | None:
    """1 if no word is in another language, 0 if one is; None where a line fails already, or no line is long enough.

    Its mean over replies is the word-level pass rate, WPR (arXiv 2406.20052), there only of English in other scripts.
    """
    return float(all(s.language in languages for s in spans)) if line_pass(spans, languages) else None


def lcpr(lpr: float, wpr: float) -> float:
    """Language confusion pass rate: the harmonic mean of LPR and WPR (arXiv 2406.20052)."""
    return 2 * lpr * wpr / (lpr + wpr) if lpr + wpr else 0.0


def _counts(spans: Sequence[Span]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for s in spans:
        counts[s.language] += s.words
    return counts
