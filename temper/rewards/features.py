"""Texts as hashed word unigrams and bigrams, answer and reasoning apart: what the learned reward reads, without a model.

One word is a run of letters and digits, one Han, kana or Thai character, or one punctuation mark.
"""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Text = tuple[str, str]  # reasoning, answer

BUCKET_BITS = 14
KNOWN_BITS = 18  # finer than the buckets, so that a corpus of a million words does not make every text look known
DENSE = 3  # columns behind the buckets: 1, log length of the answer, log length of the reasoning
WIDTH = (2 << BUCKET_BITS) + DENSE
BIAS = 2 << BUCKET_BITS

_BY_CHARACTER = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(f"[{_BY_CHARACTER}]|[^\\W{_BY_CHARACTER}]+|[^\\w\\s]")


class Grams(NamedTuple):
    """Every unigram and bigram of some texts: its text's number, its side (0 reasoning, 1 answer), its 64-bit hash."""

    row: NDArray[np.intp]
    side: NDArray[np.intp]
    hash: NDArray[np.uint64]


def matrix(texts: Sequence[Text]) -> csr_array:
    """Log counts of hashed grams, each side of Euclidean length 1, and three dense columns; shape (N, WIDTH), sorted columns."""
    found = grams(texts)
    bucket = (found.hash >> np.uint64(64 - BUCKET_BITS)).astype(np.intp) + (found.side << BUCKET_BITS)
    cells, counts = np.unique(found.row * WIDTH + bucket, return_counts=True)
    row, column, value = cells // WIDTH, cells % WIDTH, np.log1p(counts)
    part = row * 2 + (column >> BUCKET_BITS)
    length = np.sqrt(np.bincount(part, weights=value**2, minlength=2 * len(texts)))
    words = np.log1p(np.bincount(found.row * 2 + found.side, minlength=2 * len(texts))).reshape(-1, 2) / 5
    dense = np.column_stack([np.ones(len(texts)), words[:, 1], words[:, 0]])
    rows = np.concatenate([row, np.repeat(np.arange(len(texts)), DENSE)])
    columns = np.concatenate([column, np.tile(BIAS + np.arange(DENSE), len(texts))])
    values = np.concatenate([value / length[part], dense.reshape(-1)])
    cells_of = (rows.astype(np.int32), columns.astype(np.int32))  # half the memory of the default, which is what products cost
    return csr_array((values, cells_of), shape=(len(texts), WIDTH))


def known(texts: Sequence[Text]) -> bytes:
    """A bitmap of the grams that occur in some texts, 32 KB."""
    seen = np.zeros(1 << KNOWN_BITS, dtype=bool)
    seen[grams(texts).hash >> np.uint64(64 - KNOWN_BITS)] = True
    return np.packbits(seen).tobytes()


def novelty(texts: Sequence[Text], seen: bytes) -> Floats:
    """Share of each text's grams that the bitmap does not hold, in [0, 1]; 0 for an empty text or an empty bitmap; shape (N,).

    A cheap stand-in for the p-value of a Mahalanobis distance to reference answers (InfoRM, 2402.09345): it sees new words, a
    new language or a code, and does not see known words put together in a new way beyond pairs.
    """
    if not seen:
        return np.zeros(len(texts))
    found = grams(texts)
    bits = np.unpackbits(np.frombuffer(seen, dtype=np.uint8))
    new = 1.0 - bits[found.hash >> np.uint64(64 - KNOWN_BITS)]
    total = np.bincount(found.row, minlength=len(texts))
    return np.asarray(np.bincount(found.row, weights=new, minlength=len(texts)) / np.maximum(total, 1))


def grams(texts: Sequence[Text]) -> Grams:
    ids, owner = [], []
    for i, (reasoning, answer) in enumerate(texts):
        for side, text in enumerate((reasoning, answer)):
            words = [_word_id(w) for w in _WORD.findall(text.lower())]
            ids += [*words, 0]  # no bigram reaches over an end
            owner += [2 * i + side] * (len(words) + 1)
    word, at = np.asarray(ids, dtype=np.uint64), np.asarray(owner, dtype=np.intp)
    one = np.flatnonzero(word != 0)
    two = np.flatnonzero((word[:-1] != 0) & (word[1:] != 0))
    where = np.concatenate([at[one], at[two]])
    hashes = np.concatenate([_mixed(word[one], np.uint64(0)), _mixed(word[two], word[two + 1])])
    return Grams(where // 2, where % 2, hashes)


@lru_cache(maxsize=1 << 16)
def _word_id(word: str) -> int:
    return zlib.crc32(word.encode(errors="surrogatepass")) or 1


def _mixed(first: NDArray[np.uint64], second: "NDArray[np.uint64] | np.uint64") -> NDArray[np.uint64]:
    """Multiply-shift hash of a pair of word ids; the high bits are the good ones."""
    return np.asarray((first * np.uint64(0x9E3779B97F4A7C15) + second) * np.uint64(0xD6E8FEB86659FD93), dtype=np.uint64)
