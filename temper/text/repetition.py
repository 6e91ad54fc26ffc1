"""How much a text repeats itself: distinct n-grams, loops, and compressibility; works in any script."""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from temper.text.invisible import CONTROL, visible

GRAM = 4
LOOP_GRAM = 50
REMEMBERED = 4000
"""Characters of the longest text that is remembered with its words and how it repeats itself; all of them take at most
20 MB together."""
LOOP_TIMES = 3
SHORT_LOOP_GRAM = 10
"""Texts too short to hold three 50-grams side by side loop when a 10-gram occurs three times (10-gram: the length that R1's own
decontamination takes for a copied passage, arXiv 2501.12948)."""

_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+(?:'[^\W_]+)*")
_SPACES = bytes(ord(chr(c).lower()) if chr(c).isalnum() or chr(c) == "'" else 0x20 for c in range(128)) + bytes(range(128, 256))
_TYPESET = (("’", "'"), *((mark, " ") for mark in "“”‘–—…•→×\u00a0"))
"""What English text holds besides ASCII, mostly; a chain of `replace` is ten times as fast as `translate`."""


class Repeats(NamedTuple):
    """rep-4 of a text (None below four words), and whether it goes round in circles."""

    share: float | None
    loop: bool


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and invisible characters; every Thai, Han or kana character is a word of its own."""
    return list(_known_words(text) if len(text) <= REMEMBERED else _words(text))


def _words(text: str) -> list[str]:
    if not text.isascii():
        text = visible(text)
        for mark, instead in _TYPESET:
            text = text.replace(mark, instead)
        if not text.isascii():
            return _WORD.findall(text.casefold())
    plain = text.encode("ascii").translate(_SPACES, CONTROL).decode("ascii")
    if "'" in plain:  # kept inside a word only
        plain = f" {plain} ".replace("''", "  ").replace(" '", "  ").replace("' ", "  ")
    return plain.split()


# several graders read the words of the same answers, batch by batch
_known_words = lru_cache(maxsize=2**9)(_words)


def repeats(text: str) -> Repeats:
    """rep-4 and the loop flag in one pass over the words."""
    return _remembered(text) if len(text) <= REMEMBERED else _repeats(text)


def _repeats(text: str) -> Repeats:
    tokens = words(text)
    grams = list(_grams(tokens, GRAM))
    distinct = len(set(grams))
    return Repeats(1 - distinct / len(grams) if grams else None, _circular(tokens, grams, len(grams) - distinct))


# a grader asks, and whoever tells the outcome of the same batch
_remembered = lru_cache(maxsize=2**9)(_repeats)


def repeated(text: str, *, n: int = GRAM) -> float | None:
    """rep-n = 1 - distinct n-grams / n-grams, in [0, 1) (Welleck et al., arXiv 1908.04319); None below n words."""
    grams = list(_grams(words(text), n))
    return 1 - len(set(grams)) / len(grams) if grams else None


def loops(text: str) -> bool:
    """Whether the text goes round in circles: the same 50 words three times, in a text under 150 words the same 10."""
    return repeats(text).loop


def compressed(text: str) -> float | None:
    """zlib's output over its input in bytes: about 0.4 to 0.6 for prose, under 0.2 for a loop; None for an empty text."""
    raw = text.encode("utf-8", errors="surrogatepass")
    return len(zlib.compress(raw, 6)) / len(raw) if raw else None


def _circular(tokens: Sequence[str], grams: Sequence[tuple[str, ...]], repeated_grams: int) -> bool:
    n = LOOP_GRAM if len(tokens) >= LOOP_GRAM * LOOP_TIMES else SHORT_LOOP_GRAM
    # a long gram that recurs is a run of n - 3 four-grams seen before; counting long grams costs ten times as much as this
    if repeated_grams < n - GRAM + 1 or _longest_run(grams) < n - GRAM + 1:
        return False
    return max(Counter(_grams(tokens, n)).values(), default=0) >= LOOP_TIMES


def _longest_run(grams: Sequence[tuple[str, ...]]) -> int:
    """The most four-grams in a row that each occurred before."""
    seen: set[tuple[str, ...]] = set()
    run = longest = 0
    for gram in grams:
        run = run + 1 if gram in seen else 0
        longest = max(longest, run)
        seen.add(gram)
    return longest


def _grams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)
