"""How much a text repeats itself: distinct n-grams, loops, and compressibility; works in any script."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence

GRAM = 4
LOOP_GRAM = 50
LOOP_TIMES = 3
SHORT_LOOP_GRAM = 10
"""Texts too short to hold three 50-grams side by side loop when a 10-gram occurs three times (10-gram: the length that R1's own
decontamination takes for a copied passage, arXiv 2501.12948)."""

_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; every Thai, Han or kana character is a word of its own."""
    return _WORD.findall(text.casefold())


def repeated(text: str, *, n: int = GRAM) -> float | None:
    """rep-n = 1 - distinct n-grams / n-grams, in [0, 1) (Welleck et al., arXiv 1908.04319); None below n words."""
    grams = _grams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def loops(text: str) -> bool:
    """Whether the text goes round in circles: the same 50 words three times, in a text under 150 words the same 10."""
    tokens = words(text)
    n = LOOP_GRAM if len(tokens) >= LOOP_GRAM * LOOP_TIMES else SHORT_LOOP_GRAM
    return max(Counter(_grams(tokens, n)).values(), default=0) >= LOOP_TIMES


def compressed(text: str) -> float | None:
    """zlib's output over its input in bytes: about 0.4 to 0.6 for prose, under 0.2 for a loop; None for an empty text."""
    raw = text.encode("utf-8", errors="surrogatepass")
    return len(zlib.compress(raw, 6)) / len(raw) if raw else None


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))
