"""A small network before the harm encoder: it says which windows are clear, and only the others are read by the encoder.

Convolutions over a narrow word table, fitted to the encoder's own logits (tools/train_harm_sieve.py). A window is clear where its
estimate lies below a level that was chosen, on rows nothing was fitted on, so that nearly all windows the encoder would find lie
above it. What the sieve was not fitted on, it does not judge: threshold, letters one by one, words in pieces. Leaves out the
encoder (models.encoder), whose windows and calibration stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from temper.errors import ModelError
from temper.files import digest, file_sha256, read_json
from temper.models.encoder import NAMED, Encoder
from temper.text.hazards import HAZARDS

Arrays = Mapping[str, npt.NDArray[np.int64]]
Floats = npt.NDArray[np.float32]

NETWORK, SETTINGS = "sieve.onnx", "sieve.json"
HEADS = ("unsafe", "request")
"""What the sieve estimates, in the order of its outputs."""
OUTPUTS = len(NAMED) + len(HAZARDS)
"""Heads of the encoder."""
RUN = 32
"""Tokens in a row among which odd ones are counted, so that plain text around them does not thin them out."""
WHOLE = frozenset("aistdmou")
"""Letters that stand alone in plain English: words, and the ends that apostrophes leave ("it's", "don't", "I'd", "o'clock")."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sieve:
    """The loaded network; `odd` (V,) marks pieces of words and single letters, `levels` has the level of each head.

    A level is a logit of the encoder: a window whose estimate lies below it is clear for decisions at `least` and above.
    """

    session: Any
    odd: npt.NDArray[np.bool_]
    most_odd: float
    levels: Mapping[str, float]
    least: float
    weights: str

    def estimates(self, given: Arrays, head: str) -> Floats:
        """[rows]: the encoder's logit as the sieve estimates it; infinite where a window has too much that is odd."""
        found: Floats = self.session.run(["logit"], dict(given))[0][:, HEADS.index(head)]
        return np.where(self.strange(given) > self.most_odd, np.float32(np.inf), found)

    def strange(self, given: Arrays) -> npt.NDArray[np.float64]:
        """[rows]: the largest share of odd tokens among any `RUN` in a row (among all of a shorter window)."""
        counted = np.cumsum(self.odd[given["input_ids"]] & (given["attention_mask"] > 0), axis=1)
        before = np.pad(counted, ((0, 0), (RUN, 0)))[:, : counted.shape[1]]
        return np.asarray((counted - before).max(axis=1) / np.minimum(RUN, given["attention_mask"].sum(axis=1)))


@dataclass(frozen=True, slots=True, eq=False)
class Sieved:
    """The encoder's session with a sieve before it: clear windows get the estimate, and no other head says anything of them."""

    sieve: Sieve
    session: Any
    head: str
    level: float

    def run(self, names: list[str], given: Arrays) -> list[Floats]:
        """As onnxruntime's: logits [rows, heads]."""
        estimate = self.sieve.estimates(given, self.head)
        open_ = np.flatnonzero(estimate >= self.level)
        if len(open_) == len(estimate):
            return list(self.session.run(names, dict(given)))
        out = np.full((len(estimate), OUTPUTS), -np.inf, dtype=np.float32)
        out[:, NAMED.index(self.head)] = estimate
        if len(open_):
            longest = int(given["attention_mask"][open_].sum(axis=1).max())
            out[open_] = self.session.run(names, {k: v[open_, :longest] for k, v in given.items()})[0]
        return [out]


def sieved(encoder: Encoder, sieve: Sieve, head: str, threshold: float) -> Encoder:
    """The encoder for one decision: `head` at `threshold`, with the sieve before it unless that is below `least`."""
    if threshold < sieve.least:
        return encoder
    session = Sieved(sieve, encoder.session, head, sieve.levels[head])
    return replace(encoder, session=session, weights=digest([encoder.weights, sieve.weights, head]))


def load_sieve(folder: Path, encoder: Encoder, *, threads: int = 1) -> Sieve:
    """Load `sieve.onnx` and `sieve.json` of a folder, for the encoder that it was fitted to; `threads` are onnxruntime's.

    Raises `ModelError` if one is missing, if the network is not the one the levels were chosen with, or if the encoder is not.
    """
    for name in (NETWORK, SETTINGS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: the harm filter needs {name}, which is not there; install temper again")
    settings, held = read_json(folder / SETTINGS), file_sha256(folder / NETWORK)
    if held != settings["sha256"]:
        raise ModelError(f"{folder / NETWORK}: SHA-256 is {held}, wanted {settings['sha256']}; install temper again")
    if encoder.weights != settings["encoder"]:
        raise ModelError(f"{folder}: the sieve was fitted to encoder {settings['encoder']}, but is given {encoder.weights}")
    levels, least, weights = settings["levels"], settings["least"], digest([held, file_sha256(folder / SETTINGS)])
    return Sieve(_session(folder / NETWORK, threads), odd_words(encoder.tokenizer), settings["most_odd"], levels, least, weights)


def _session(file: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def odd_words(tokenizer: Any) -> npt.NDArray[np.bool_]:
    """[words]: pieces within a word, single letters that are no word, and what the vocabulary does not know."""
    vocabulary = tokenizer.get_vocab()
    odd = np.zeros(len(vocabulary), dtype=np.bool_)
    for word, place in vocabulary.items():
        odd[place] = word.startswith("##") or word == "[UNK]" or (len(word) == 1 and word.isalpha() and word not in WHOLE)
    return odd
