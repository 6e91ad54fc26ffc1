"""Find what a training list shares with a test list, and repeats within one list: exact, by word n-grams, by similarity.

Compares what the user asks; answers are left out. Similarity is the Jaccard index of character 5-grams: MinHash with banding
(Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4) only proposes pairs, and every proposed
pair is then measured exactly, so a reported value is never an estimate and only misses are possible.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from temper.errors import DataError
from temper.types import Example

SHINGLE = 5
"""Characters per shingle. A prompt of ten words has six word 5-grams but fifty of these: one changed word moves it little."""

HASHES = 126
"""Has many divisors, so that it can be cut into bands of 1, 2, 3, 6, 7, 9, 14 or 18 hashes without a rest."""

RECALL = 0.99
"""Bands are made as long, and so as selective, as still proposes a pair at the threshold with this probability."""

_SEED = 20260101
_SLACK = 0.15  # below the threshold, 3.4 standard errors of an estimate from 126 hashes: what may go on to be measured
_BLOCK_PAIRS = 100_000  # proposed pairs looked at together, and
_BLOCK_CHARACTERS = 2_000_000  # characters hashed together, to bound memory
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd: spreads bits by multiplication (Knuth, 6.4)
_HIGH = np.uint64(32)  # only the high half of a product is well mixed

_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯฀-๿]|[^\W_]+")
"""A run of letters and digits; in scripts without spaces every character is a word."""

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Overlap:
    """`detail` is the shared text's length in words (`exact`), the shared words (`ngram`) or the similarity (`near`)."""

    train_id: str
    test_id: str
    kind: Literal["exact", "ngram", "near"]
    detail: str


def overlaps(train: Sequence[Example], test: Sequence[Example], *, ngram: int = 8, jaccard: float = 0.5) -> list[Overlap]:
    """Every pair of a training and a test example that ask the same, each pair once, under the strictest kind that holds.

    `ngram` is how many words in a row count as copied (13 in Brown et al. 2020, 10 in Touvron et al. 2023; 8 suits prompts of one
    sentence). `jaccard` in (0, 1] is the least similarity. Raises `DataError` where either is out of range.
    """
    if ngram < 1 or not 0 < jaccard <= 1:
        raise DataError(f"overlaps: ngram {ngram}, jaccard {jaccard}; wanted ngram of at least 1 and jaccard in (0, 1]")
    left, right = _by_text(train), _by_text(test)
    found: dict[tuple[str, str], Overlap] = {}
    for a, b, kind, detail in _matches(list(left), list(right), ngram, jaccard):
        for x in left[a]:
            for y in right[b]:
                found.setdefault((x, y), Overlap(x, y, kind, detail))
    return list(found.values())


def dedupe(examples: Sequence[Example], *, jaccard: float = 0.8) -> list[Example]:
    """The examples without later ones that ask the same as an earlier kept one; 0.8 as in Lee et al. 2022."""
    asked = [_asked(example) for example in examples]
    texts = list(dict.fromkeys(text for text in asked if text))
    dropped = set[int]()
    for i, j, _ in sorted(_near(texts, texts, jaccard)):
        if i not in dropped:
            dropped.add(j)
    left = {text for k, text in enumerate(texts) if k not in dropped}
    kept = []
    for example, text in zip(examples, asked, strict=True):
        if not text or text in left:
            kept.append(example)
            left.discard(text)
    return kept


def normalise(text: str) -> str:
    """Case, width, punctuation and spacing taken out: the words, one space apart."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _asked(example: Example) -> str:
    return normalise("\n".join(m.content for m in example.messages if m.role == "user"))


def _by_text(examples: Iterable[Example]) -> dict[str, list[str]]:
    """Ids by what is asked; examples that say nothing after normalising (emoji, say) are compared with nothing."""
    ids: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        ids[_asked(example)].append(example.id)
    ids.pop("", None)
    return ids


def _matches(
    train: Sequence[str], test: Sequence[str], ngram: int, jaccard: float
) -> Iterator[tuple[str, str, Literal["exact", "ngram", "near"], str]]:
    known = set(test)
    yield from ((text, text, "exact", f"{len(text.split())} words") for text in train if text in known)
    yield from ((train[i], test[j], "ngram", words) for i, j, words in _shared_ngrams(train, test, ngram))
    yield from ((train[i], test[j], "near", f"{value:.2f}") for i, j, value in _near(train, test, jaccard))


def _shared_ngrams(train: Sequence[str], test: Sequence[str], n: int) -> Iterator[tuple[int, int, str]]:
    """Pairs that share n words in a row, with the first such words."""
    holders: dict[str, list[int]] = defaultdict(list)
    for j, text in enumerate(test):
        for gram in set(_ngrams(text, n)):
            holders[gram].append(j)
    for i, text in enumerate(train):
        shared: dict[int, str] = {}
        for gram in _ngrams(text, n):
            for j in holders.get(gram, ()):
                shared.setdefault(j, gram)
        yield from ((i, j, gram) for j, gram in shared.items())


def _ngrams(text: str, n: int) -> list[str]:
    words = text.split()
    return [" ".join(words[k : k + n]) for k in range(len(words) - n + 1)]


def _near(left: Sequence[str], right: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j) of at least this similarity, with it; i < j where a list is compared with itself."""
    if not left or not right:
        return
    a, b = _signatures(left), _signatures(right)
    length = _band_length(threshold)
    bands = [slice(start, start + length) for start in range(0, HASHES, length)]
    proposed = np.unique(np.concatenate([_promising(a, b, band, threshold, ordered=left is right) for band in bands]))
    pairs = [divmod(pair, len(right)) for pair in proposed.tolist()]
    x = {i: _shingles(left[i]) for i in {i for i, _ in pairs}}
    y = {j: _shingles(right[j]) for j in {j for _, j in pairs}}
    measured = ((i, j, len(x[i] & y[j]) / len(x[i] | y[j])) for i, j in pairs)
    yield from ((i, j, value) for i, j, value in measured if value >= threshold)


def _band_length(threshold: float) -> int:
    """The longest band that keeps RECALL: similarity s agrees in one of HASHES / r bands with 1 - (1 - s^r)^(HASHES / r)."""
    divisors = [r for r in range(1, HASHES + 1) if HASHES % r == 0]
    return max((r for r in divisors if 1 - (1 - threshold**r) ** (HASHES // r) >= RECALL), default=1)


def _shingles(text: str) -> frozenset[str]:
    padded = text.ljust(SHINGLE)
    return frozenset(padded[k : k + SHINGLE] for k in range(len(padded) - SHINGLE + 1))


def _signatures(texts: Sequence[str]) -> U32:
    """MinHash of each text, shape (len(texts), HASHES)."""
    draw = np.random.default_rng(_SEED).integers(1, 2**64, size=(2, HASHES), dtype=np.uint64)
    factors, offsets = draw[0] | np.uint64(1), draw[1]
    return np.concatenate([_block_signatures(block, factors, offsets) for block in _blocks(texts)])


def _blocks(texts: Sequence[str]) -> Iterator[list[str]]:
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text.ljust(SHINGLE))
        size += len(block[-1])
        if size > _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _block_signatures(texts: Sequence[str], factors: U64, offsets: U64) -> U32:
    """All shingles of all texts are hashed as one array, those across a border left out; then one minimum per text and hash."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    hashed = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint64)
    for k in range(SHINGLE):
        hashed = hashed * _MIX + codes[k : k + len(hashed)]
    hashed ^= hashed >> np.uint64(29)
    hashed *= _MIX
    lengths = np.array([len(text) for text in texts])
    starts = np.cumsum(lengths) - lengths
    inside = np.ones(len(codes), dtype=bool)
    for k in range(1, SHINGLE):
        inside[starts + lengths - k] = False
    hashed = hashed[inside[: len(hashed)]]
    starts -= (SHINGLE - 1) * np.arange(len(texts))
    columns = [np.minimum.reduceat((hashed * f + o) >> _HIGH, starts) for f, o in zip(factors, offsets, strict=True)]
    return np.stack(columns, axis=1).astype(np.uint32)


def _promising(a: U32, b: U32, band: slice, threshold: float, *, ordered: bool) -> I64:
    """Pairs, as i * len(b) + j, that agree in one band and whose signatures agree in enough of all places."""
    key_a, key_b = _key(a[:, band]), _key(b[:, band])
    order = np.argsort(key_b, kind="stable")
    first = np.searchsorted(key_b[order], key_a, side="left")
    count = np.searchsorted(key_b[order], key_a, side="right") - first
    i = np.repeat(np.arange(len(a)), count)
    j = order[np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)]
    if ordered:
        i, j = i[i < j], j[i < j]
    cuts = range(0, len(i), _BLOCK_PAIRS)
    alike = [(a[i[c : c + _BLOCK_PAIRS]] == b[j[c : c + _BLOCK_PAIRS]]).mean(axis=1) for c in cuts]
    keep = np.concatenate([np.empty(0), *alike]) >= threshold - _SLACK
    pairs: I64 = i[keep] * len(b) + j[keep]
    return pairs


def _key(band: U32) -> U64:
    key = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        key = (key ^ column) * _MIX
    return key
