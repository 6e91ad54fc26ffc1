"""The independent judge: the first layers of a small decoder with a merged LoRA and one linear head, pairs -> P(unsafe).

Shares no weights, no architecture and no training rows with the shipped encoder (models.encoder). Leaves out training
(tools/train_gold.py) and every decision about when not to judge (graders.gold).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.errors import ModelError
from temper.models.encoder import Pair, batches, windows
from temper.text.confusables import clean

SIZE, PROMPT_ROOM, STRIDE = 384, 128, 160
BEFORE, BETWEEN, AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\nHarmful:"
BATCH_TOKENS = 4096
ADAPTER, SETTINGS = "adapter.safetensors", "config.json"

Marks = tuple[Sequence[int], Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Judge:
    """A loaded judge: call it with pairs.

    `threshold` is the shipped decision point, `weights` hashes all that decides its opinions.
    """

    body: Any
    head: Any
    tokenizer: Any
    marks: Marks
    slope: float
    offset: float
    threshold: float
    weights: str

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        """Calibrated P(unsafe) of each pair, the maximum over its windows; any length, in the order given."""
        best = [-math.inf] * len(pairs)
        framed_all = [(owner, ids) for owner, pair in enumerate(pairs) for ids in self._framed(pair)]
        for batch in batches([len(ids) for _, ids in framed_all], BATCH_TOKENS):
            for index, logit in zip(batch, self._logits([framed_all[i][1] for i in batch]), strict=True):
                owner = framed_all[index][0]
                best[owner] = max(best[owner], logit)
        return [_sigmoid(self.slope * logit + self.offset) for logit in best]

    def _framed(self, pair: Pair) -> list[list[int]]:
        prompt, response = (self.tokenizer.encode(escaped(text), add_special_tokens=False).ids for text in pair)
        return framed(prompt, response, self.marks)

    def _logits(self, batch: Sequence[Sequence[int]]) -> list[float]:
        import torch

        from temper.models import products

        longest, device = max(map(len, batch)), self.head.weight.device
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch], device=device)
        with torch.inference_mode(), products.sampled(self.body, products.effective(self.body, packed=False)):
            hidden = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(batch), device=device), mask.sum(1) - 1]
            return [float(x) for x in self.head(last).squeeze(-1)]


def load_judge(model_folder: Path, adapter: Path, *, device: str | None = None) -> Judge:
    """The first layers of the model in `model_folder` with the shipped adapter merged in, fp32; on the GPU if there is one.

    Raises `ModelError` if a file is missing or the adapter does not fit the model.
    """
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModel

    from temper.files import digest, file_sha256, read_json
    from temper.models.load import quiet

    ours = (adapter / ADAPTER, adapter / SETTINGS)
    for path in (*ours, *(model_folder / name for name in ("config.json", "tokenizer.json", "model.safetensors"))):
        if not path.is_file():
            raise ModelError(
                f"{path}: the gold judge needs this file, which is not there; install temper or fetch the model again"
            )
    settings, state = read_json(adapter / SETTINGS), load_file(adapter / ADAPTER)
    config = AutoConfig.from_pretrained(model_folder, num_hidden_layers=settings["layers"])
    with quiet():  # the layers that are left out are meant to be
        body = AutoModel.from_pretrained(model_folder, config=config, dtype=torch.float32)
    head = torch.nn.Linear(config.hidden_size, 1)
    head.load_state_dict({"weight": state.pop("head.weight").float(), "bias": state.pop("head.bias").float()})
    merge(body, state, settings["alpha"] / settings["rank"], adapter)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    before, between, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in (BEFORE, BETWEEN, AFTER))
    return Judge(
        body=body.eval().to(where),
        head=head.eval().to(where),
        tokenizer=tokenizer,
        marks=(before, between, after),
        slope=settings["slope"],
        offset=settings["offset"],
        threshold=settings["threshold"],
        weights=digest([file_sha256(path) for path in (*ours, model_folder / "model.safetensors")]),
    )


def merge(body: Any, update: dict[str, Any], scale: float, adapter: Path) -> None:
    """Add scale·B·A to every linear layer named in `update` (keys `<module>.a` (r, in) and `<module>.b` (out, r)), in place."""
    import torch

    modules = dict(body.named_modules())
    for name in sorted({key.rpartition(".")[0] for key in update}):
        if name not in modules:
            raise ModelError(f"{adapter / ADAPTER}: the model has no layer {name}; the adapter was made for SmolLM2-135M")
        a, b, layer = update[f"{name}.a"].float(), update[f"{name}.b"].float(), modules[name]
        wanted, given = tuple(layer.weight.shape), (b.shape[0], a.shape[1])
        if wanted != given:
            raise ModelError(f"{adapter / ADAPTER}: {name} is {wanted} in the model, {given} here; wanted SmolLM2-135M")
        with torch.no_grad():
            layer.weight += scale * (b @ a)


def framed(prompt: Sequence[int], response: Sequence[int], marks: Marks) -> list[list[int]]:
    """Token ids of a pair -> the sequences to read, one per window, each in the chat frame and ending in the question.

    `marks` are the ids of BEFORE, BETWEEN and AFTER. The judged texts are tokenised apart from the frame and cannot close it.
    """
    before, between, after = marks
    room = SIZE - sum(map(len, marks))
    parts = windows(prompt, response, room=room, prompt_room=PROMPT_ROOM, stride=STRIDE)
    return [[*before, *p, *between, *r, *after] for p, r in parts]


def escaped(text: str) -> str:
    """The text with nothing in it that the tokenizer would read as a control token."""
    return clean(text).replace("<|", "< |")


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-40.0, min(40.0, x))))
