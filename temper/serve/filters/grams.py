"""A linear model over hashed n-grams of characters and words, at every place of a text at once: weights -> logits of windows.

A text's score is that of its worst window, so that one sentence in a long document counts; windows of several lengths share one
set of weights. Works in any script, on folded text (`serve/fold.py`), in numpy alone. Leaves out what a score means, and training
(tools/train_injection.py), which reads the same features.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

BITS = 18
"""Buckets are numbered with so many bits."""
CHARACTERS, WORDS = (2, 3, 4, 5), (1, 2, 3)
"""Lengths of the n-grams."""
WORD_VALUE = 2.0
"""A word's n-gram counts as much as so many of characters."""
SIZES = (128, 512, 4096)
"""Characters of a window; neighbours of one size share half. A shorter text is one window."""
SMOOTH = 16.0
"""Added to the length of a window: a text of two words says little."""
_MULTIPLY, _FINISH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_LONGEST = 32
"""Characters of a word that are told apart."""
_POWERS = np.array([pow(0x9E3779B97F4A7C15, k + 1, 1 << 64) for k in range(_LONGEST)], dtype=np.uint64)
_IN_WORDS = np.array([chr(c).isalnum() or c == ord("'") for c in range(128)])


def grams(text: str) -> Iterator[tuple[Places, Places, float]]:
    """The n-grams of a folded text, family by family: their buckets, the characters they begin at, and what each counts."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    codes[(codes >= 48) & (codes <= 57)] = 48
    for n in CHARACTERS:
        found = _mixed(codes, n, n)
        yield found, np.arange(len(found)), 1.0
    ids, starts = _words(codes)
    for n in WORDS:
        found = _mixed(ids, n, 16 + n)
        yield found, starts[: len(found)], WORD_VALUE


def windows(length: int) -> npt.NDArray[np.intp]:
    """[windows, 2]: where each window begins and ends, the smaller sizes first."""
    found = []
    for size in SIZES:
        starts = np.arange(0, max(length - size // 2, 1), size // 2)
        found.append(np.stack([starts, np.minimum(starts + size, length)], axis=1))
        if length <= size:
            break
    return np.concatenate(found)


def scale(lengths: npt.NDArray[np.intp]) -> Floats:
    """What the sum over a window is multiplied with."""
    return np.asarray(1 / np.sqrt(lengths + SMOOTH))


def logits(text: str, weights: npt.NDArray[np.int8], step: float, bias: float) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The logit of each window of a folded text, and the windows. `step` is what a weight of 1 stands for."""
    total = np.zeros(len(text) + 1)
    for buckets, starts, value in grams(text):
        total[1:] += np.bincount(starts, weights[buckets], len(text)) * value
    summed = np.cumsum(total) * step
    places = windows(len(text))
    return (summed[places[:, 1]] - summed[places[:, 0]]) * scale(places[:, 1] - places[:, 0]) + bias, places


def _mixed(ids: Ids, n: int, family: int) -> Places:
    """Multiply-shift hashes of the n-grams of a sequence."""
    width = max(len(ids) - n + 1, 0)
    mixed = np.full(width, family, dtype=np.uint64)
    for k in range(n):
        mixed = mixed * _MULTIPLY + ids[k : k + width]
    return ((mixed * _FINISH) >> np.uint64(64 - BITS)).astype(np.intp)


def _words(codes: Ids) -> tuple[Ids, Places]:
    """The words of a text as numbers, and where they begin. Beyond ASCII all but punctuation is part of a word."""
    small = np.minimum(codes, np.uint64(127)).astype(np.intp)
    punctuation = ((codes >= 0x2000) & (codes < 0x2070)) | ((codes >= 0x3000) & (codes < 0x3020)) | (codes == 0x964)
    inside = np.where(codes < 128, _IN_WORDS[small], ~punctuation)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    starts = edges[::2]
    if not len(starts):
        return np.zeros(0, dtype=np.uint64), starts
    first = starts[0]
    begun = np.repeat(starts, np.diff(np.append(starts, len(codes))))
    place = np.minimum(np.arange(first, len(codes)) - begun, _LONGEST - 1)
    value = np.where(inside[first:], codes[first:] * _POWERS[place], np.uint64(0))
    return np.add.reduceat(value, starts - first), starts
