"""A small text encoder run by onnxruntime: pairs of (prompt, response) -> P(unsafe), over windows, without torch.

Leaves out training (tools/train_harm.py) and every decision about when not to judge (graders.harm).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from temper.errors import ModelError

Pair = tuple[str, str]
Floats = npt.NDArray[np.float64]
Window = tuple[list[int], list[int]]

SIZE, PROMPT_ROOM, STRIDE = 256, 96, 128
"""Tokens of a window, the most of them for the prompt, and the step between windows of the response."""
FRAME = 3
"""[CLS] prompt [SEP] response [SEP]."""
BATCH_TOKENS = 4096
"""Padded tokens per run of the network: at one thread the time per token no longer falls above it."""
MODEL, TOKENIZER, SETTINGS = "model.onnx", "tokenizer.json", "harm.json"

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e01ef]"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MIXED = re.compile(r"[A-Za-z][A-Za-z\u0370-\u052f]*[\u0370-\u052f]|[\u0370-\u052f][A-Za-z\u0370-\u052f]*[A-Za-z]")
_WORD = re.compile(r"[A-Za-z\u0370-\u052f]+")
_TWINS = str.maketrans(
    "АВЕЗКМНОРСТУХІЈЅаеорсухіјѕԁһԛԝαβεικνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "ABE3KMHOPCTYXIJSaeopcyxijsdhqwaBeikvoptuxABEZHIKMNOPTYX",
)


@dataclass(frozen=True, slots=True)
class Encoder:
    """A loaded encoder: call it with pairs.

    `threshold` is the shipped decision point, `weights` hashes all that decides its opinions.
    """

    session: Any
    tokenizer: Any
    slope: float
    offset: float
    threshold: float
    weights: str

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        """Calibrated P(unsafe) of each pair, the maximum over its windows; any length, in the order given."""
        framed = [(owner, window) for owner, pair in enumerate(self._tokens(pairs)) for window in _windows(*pair)]
        best = np.full(len(pairs), -np.inf)
        for batch in batches([len(p) + len(r) + FRAME for _, (p, r) in framed], BATCH_TOKENS):
            np.maximum.at(best, [framed[i][0] for i in batch], self._logits([framed[i][1] for i in batch]))
        return [float(p) for p in 1 / (1 + np.exp(-np.clip(self.slope * best + self.offset, -40, 40)))]

    def _tokens(self, pairs: Sequence[Pair]) -> Iterator[Window]:
        flat = self.tokenizer.encode_batch([clean(text) for pair in pairs for text in pair], add_special_tokens=False)
        return ((p.ids, r.ids) for p, r in zip(flat[::2], flat[1::2], strict=True))

    def _logits(self, batch: Sequence[Window]) -> Floats:
        cls, sep = self.tokenizer.token_to_id("[CLS]"), self.tokenizer.token_to_id("[SEP]")
        feed = np.zeros((3, len(batch), max(len(p) + len(r) + FRAME for p, r in batch)), dtype=np.int64)
        for n, (prompt, response) in enumerate(batch):
            ids = [cls, *prompt, sep, *response, sep]
            feed[0, n, : len(ids)], feed[1, n, : len(ids)], feed[2, n, len(prompt) + 2 : len(ids)] = ids, 1, 1
        names = ("input_ids", "attention_mask", "token_type_ids")
        return np.asarray(self.session.run(["logit"], dict(zip(names, feed, strict=True)))[0], dtype=np.float64)


def load_encoder(folder: Path, *, threads: int = 1) -> Encoder:
    """Load `model.onnx`, `tokenizer.json` and `harm.json` of a folder; `threads` are onnxruntime's.

    Raises `ModelError` if one is missing.
    """
    import onnxruntime
    from tokenizers import Tokenizer

    from temper.files import digest, file_sha256, read_json

    for name in (MODEL, TOKENIZER, SETTINGS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: the harm encoder needs {name}, which is not there; install temper again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = read_json(folder / SETTINGS)
    weights = digest([file_sha256(folder / name) for name in (MODEL, TOKENIZER, SETTINGS)])
    return Encoder(session, tokenizer, settings["slope"], settings["offset"], settings["threshold"], weights)


def windows(prompt: Sequence[int], response: Sequence[int], *, room: int, prompt_room: int, stride: int) -> list[Window]:
    """Token ids of a pair -> one (prompt part, response part) per window; together the response parts cover every token.

    A prompt longer than `prompt_room` keeps its first and last halves; `room` is what both parts may take together.
    """
    kept = list(prompt)
    if len(kept) > prompt_room:
        kept = kept[: prompt_room // 2] + kept[-(prompt_room - prompt_room // 2) :]
    size = room - len(kept)
    starts = range(0, max(len(response) - size, 0) + stride, stride)
    return [(kept, list(response[start : start + size])) for start in starts]


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices grouped by length, each group at most `tokens` long when padded (at least one index)."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[index] > tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def clean(text: str) -> str:
    """A text as a reader sees it: compatibility forms unified, invisible and control characters and lone surrogates gone.

    Greek and Cyrillic twins of Latin letters become Latin inside words that mix scripts, so that swapping letters hides nothing.
    """
    if text.isascii() and _CONTROL.search(text) is None:
        return text
    seen = unicodedata.normalize("NFKC", _CONTROL.sub(" ", _INVISIBLE.sub("", text)))
    return _WORD.sub(lambda word: word[0].translate(_TWINS) if _MIXED.search(word[0]) else word[0], seen)


def _windows(prompt: Sequence[int], response: Sequence[int]) -> list[Window]:
    return windows(prompt, response, room=SIZE - FRAME, prompt_room=PROMPT_ROOM, stride=STRIDE)
