"""The shipped encoder run by onnxruntime, without torch: texts -> P(unsafe), P(refusal), P(harmful request) and hazards.

Leaves out training (tools/train_harm.py) and every decision about when not to judge (graders.harm).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from temper.errors import ModelError
from temper.files import digest, file_sha256, read_json
from temper.text.confusables import clean
from temper.text.hazards import HAZARDS, Opinion, RequestOpinion

Pair = tuple[str, str]
Floats = npt.NDArray[np.float64]
Window = tuple[list[int], list[int]]

SIZE, PROMPT_ROOM, OVERLAP = 256, 96, 48
"""Tokens of a window, the most of them for the prompt, and how many tokens of the text neighbouring windows share."""
FRAME = 3
"""[CLS] prompt [SEP] response [SEP]."""
BATCH_TOKENS = 1024
"""Padded tokens per run of the network: what stays in a core's cache; at 4096 a token takes half as long again."""
MODEL, TOKENIZER, SETTINGS = "model.onnx", "tokenizer.json", "harm.json"
NAMED = ("unsafe", "refusal", "request")
HEADS = len(NAMED)
"""The heads before the hazards'."""


@dataclass(frozen=True, slots=True, repr=False)
class Encoder:
    """A loaded encoder, a reader of English (graders.harm): one pass gives every head, each calibrated by its own Platt scaling.

    `slope` and `offset` have one value per head, `thresholds` the shipped decision points; `weights` hashes all that decides its
    opinions. Threads may share it: onnxruntime runs one session for all of them.
    """

    session: Any
    tokenizer: Any
    slope: Floats
    offset: Floats
    thresholds: Mapping[str, float]
    weights: str
    languages: frozenset[str]

    def __repr__(self) -> str:
        return f"Encoder({self.weights})"

    def __call__(self, pairs: Sequence[Pair], /) -> list[Opinion]:
        """Opinions of pairs of any length, in the order given."""
        return [Opinion(float(p[0]), float(p[1]), tuple(map(float, p[HEADS:]))) for p in self.probabilities(pairs)]

    def requests(self, prompts: Sequence[str], /) -> list[RequestOpinion]:
        """Opinions of prompts alone, read as pairs with an empty response."""
        found = self.probabilities([(prompt, "") for prompt in prompts])
        return [RequestOpinion(float(p[2]), tuple(map(float, p[HEADS:]))) for p in found]

    def probabilities(self, pairs: Sequence[Pair]) -> Floats:
        """[pairs, heads]: calibrated probabilities."""
        return 1 / (1 + np.exp(-np.clip(self.slope * self.logits(pairs) + self.offset, -40, 40)))

    def logits(self, pairs: Sequence[Pair]) -> Floats:
        """[pairs, heads]: the maximum over the windows of each pair, before calibration; a window that recurs is read once."""
        owners: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for owner, parts in enumerate(framed(self.tokenizer, pairs)):
            for ids, types in parts:
                owners.setdefault((tuple(ids), sum(types)), []).append(owner)
        once = [(list(ids), [0] * (len(ids) - second) + [1] * second) for ids, second in owners]
        whose, best = list(owners.values()), np.full((len(pairs), len(self.slope)), -np.inf)
        for batch in batches([len(ids) for ids, _ in once], BATCH_TOKENS):
            found = self.session.run(["logit"], feed([once[n] for n in batch]))[0]
            for n, logit in zip(batch, found, strict=True):
                best[whose[n]] = np.maximum(best[whose[n]], logit)
        return best


def feed(rows: Sequence[Window]) -> dict[str, npt.NDArray[np.int64]]:
    """Windows as the network takes them: three int64 arrays [rows, longest], padded with zeros."""
    table = np.zeros((3, len(rows), max(len(ids) for ids, _ in rows)), dtype=np.int64)
    for n, (ids, types) in enumerate(rows):
        table[0, n, : len(ids)], table[1, n, : len(ids)], table[2, n, : len(ids)] = ids, 1, types
    return dict(zip(("input_ids", "attention_mask", "token_type_ids"), table, strict=True))


def load_encoder(folder: Path, *, threads: int = 1) -> Encoder:
    """Load `model.onnx`, `tokenizer.json` and `harm.json` of a folder, once per process; `threads` are onnxruntime's.

    Raises `ModelError` if one is missing.
    """
    for name in (MODEL, TOKENIZER, SETTINGS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: the harm encoder needs {name}, which is not there; install temper again")
    return _loaded(folder.resolve(), threads, (folder / SETTINGS).stat().st_mtime_ns)


@cache
def _loaded(folder: Path, threads: int, changed: int) -> Encoder:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
    settings = read_json(folder / SETTINGS)
    heads = [settings["heads"][name if name in settings["heads"] else "hazards"] for name in (*NAMED, *HAZARDS)]
    slope, offset = (np.array([head[part] for head in heads]) for part in ("slope", "offset"))
    thresholds = {name: float(settings["heads"][name]["threshold"]) for name in NAMED}
    weights = digest([file_sha256(folder / name) for name in (MODEL, TOKENIZER, SETTINGS)])
    tokenizer = plain_tokenizer(folder / TOKENIZER)
    return Encoder(session, tokenizer, slope, offset, thresholds, weights, frozenset(settings["languages"]))


def plain_tokenizer(file: Path) -> Any:
    """A tokenizer that neither cuts nor pads, and reads "[SEP]" in a text as text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


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


def framed(tokenizer: Any, pairs: Sequence[Pair]) -> list[list[Window]]:
    """Per pair its windows as (token ids, segment ids): [CLS] prompt [SEP] response [SEP].

    Without a response the prompt itself is what is read, whole: [CLS] part of the prompt [SEP] [SEP].
    """
    flat = tokenizer.encode_batch([clean(text) for pair in pairs for text in pair], add_special_tokens=False)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    return [
        [([cls, *p, sep, *r, sep], [0] * (len(p) + 2) + [1] * (len(r) + 1)) for p, r in _parts(prompt.ids, response.ids)]
        for prompt, response in zip(flat[::2], flat[1::2], strict=True)
    ]


def _parts(prompt: list[int], response: list[int]) -> list[Window]:
    if not response:
        return [(r, p) for p, r in windows([], prompt, room=SIZE - FRAME, prompt_room=0, stride=SIZE - FRAME - OVERLAP)]
    room = SIZE - FRAME
    stride = room - min(len(prompt), PROMPT_ROOM) - OVERLAP
    return windows(prompt, response, room=room, prompt_room=PROMPT_ROOM, stride=stride)
