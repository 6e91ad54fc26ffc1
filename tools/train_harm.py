"""Train the shipped harm grader: MiniLM with a head per question, windows with a maximum; then export it to ONNX with its card.

    python tools/train_harm.py train  --data DIR --encoder DIR --out DIR      (GPU or CPU; torch)
    python tools/train_harm.py export --data DIR --encoder DIR --trained DIR --out temper/graders/data/harm   (CPU)

`train` is one fit from the pretrained MiniLM on rows of train splits (harm_data.py). `export` writes the network (harm_onnx.py),
calibrates what is written on the held-out groups of those splits, and reads the dev splits last, only to measure (harm_card.py).
On a CPU set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000: measured to halve the time.
"""

import argparse
import copy
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import binary_cross_entropy_with_logits

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

import grading  # noqa: E402
import harm_card  # noqa: E402
import harm_data  # noqa: E402
import harm_onnx  # noqa: E402
from harm_data import HEADS, Mixer, Sample  # noqa: E402

from temper.graders.harm import HAZARD_LEVEL, HAZARDS  # noqa: E402
from temper.models.encoder import NAMED, Encoder, framed, load_encoder, plain_tokenizer  # noqa: E402

MOST_WINDOWS = 2
MICRO_TOKENS = 1024
"""Padded tokens per forward pass: activations that fit the cache are faster on a CPU and keep memory under 1 GB."""
PART = 14 * 2**20
SMOOTH = 0.02
RARE = 4.0
"""Weight of a hazard that is present: most rows have none."""


@dataclass(frozen=True, slots=True)
class Setting:
    lr: float = 1e-4
    decay_by_layer: float = 0.9
    epochs: float = 2.0
    batch: int = 32
    ema: float = 0.995


class Scorer(torch.nn.Module):
    """MiniLM, mean over tokens, one logit per head; the word table stays as it was pretrained."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        # without dropout of its shares, written-out attention takes half the time of the fused one on a CPU, backward included
        plain = {"attn_implementation": "eager", "attention_probs_dropout_prob": 0.0, "add_pooling_layer": False}
        self.body = AutoModel.from_pretrained(folder, dtype=torch.float32, **plain)
        self.body.embeddings.word_embeddings.weight.requires_grad_(False)
        self.head = torch.nn.Linear(self.body.config.hidden_size, len(HEADS))
        torch.nn.init.normal_(self.head.weight, std=0.02)
        torch.nn.init.zeros_(self.head.bias)
        self.drop = torch.nn.Dropout(0.1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return self.head(self.drop(mean))


Rows = list[tuple[list[int], list[int]]]


def encode(tokenizer: Tokenizer, texts: list[tuple[str, str]]) -> list[Rows]:
    """Per pair its windows as (ids, type ids), at most `MOST_WINDOWS`, evenly spread."""
    out = []
    for parts in framed(tokenizer, texts):
        few = (
            parts if len(parts) <= MOST_WINDOWS else [parts[i] for i in np.linspace(0, len(parts) - 1, MOST_WINDOWS).astype(int)]
        )
        out.append(few)
    return out


def padded(rows: Rows, device: str) -> torch.Tensor:
    """[3, rows, longest]: ids, mask, types."""
    table = torch.zeros(3, len(rows), max(len(ids) for ids, _ in rows), dtype=torch.long)
    for n, (ids, types) in enumerate(rows):
        table[0, n, : len(ids)], table[1, n, : len(ids)], table[2, n, : len(ids)] = torch.tensor(ids), 1, torch.tensor(types)
    return table.to(device)


def logits(model: Scorer, batch: list[Rows], device: str) -> torch.Tensor:
    """[pairs, heads]: the maximum over the windows of each pair."""
    owner = torch.tensor([n for n, rows in enumerate(batch) for _ in rows], device=device)
    table = padded([row for rows in batch for row in rows], device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=model.training and grading.half_is_fast(torch)):
        score = model(table[0], table[1], table[2]).float()
    best = torch.full((len(batch), score.shape[1]), -1e9, device=device)
    return best.scatter_reduce(0, owner[:, None].expand_as(score), score, "amax")


def micro(index: list[int], encoded: list[Rows]) -> Iterator[list[int]]:
    """A batch in parts of similar length, each at most `MICRO_TOKENS` when padded."""
    part: list[int] = []
    rows, longest = 0, 0
    for n in sorted(index, key=lambda n: max(len(ids) for ids, _ in encoded[n])):
        longest = max(len(ids) for ids, _ in encoded[n])
        if part and (rows + len(encoded[n])) * longest > MICRO_TOKENS:
            yield part
            part, rows = [], 0
        part.append(n)
        rows += len(encoded[n])
    yield part


def by_layer(model: Scorer, setting: Setting) -> list[dict[str, object]]:
    """Parameters with their rates: the nearer to the words, the slower."""
    depth = len(model.body.encoder.layer)
    groups = []
    for name, value in model.named_parameters():
        if not value.requires_grad:
            continue
        layer = int(name.split(".layer.")[1].split(".")[0]) if ".layer." in name else (depth if name.startswith("head") else -1)
        rate = setting.lr * setting.decay_by_layer ** (depth - layer) if layer < depth else 2 * setting.lr
        groups.append({"params": [value], "lr": rate, "weight_decay": 0.01 if value.dim() > 1 else 0.0})
    return groups


def loss_of(score: torch.Tensor, samples: list[Sample], device: str) -> torch.Tensor:
    """Masked cross-entropy, summed: each sample teaches the heads it has targets for."""
    target, weight = torch.zeros(2, len(samples), len(HEADS)).unbind()
    for n, sample in enumerate(samples):
        for m, head in enumerate(HEADS):
            if head in sample.targets:
                rare = RARE if head in harm_data.HAZARDS and sample.targets[head] else 1.0
                target[n, m], weight[n, m] = sample.targets[head], harm_data.HEAD_WEIGHTS[head] * sample.item.weight * rare
    smooth = target * (1 - 2 * SMOOTH) + SMOOTH
    smooth[:, 3:] = target[:, 3:]
    return (binary_cross_entropy_with_logits(score, smooth.to(device), reduction="none") * weight.to(device)).sum()


def fit(samples: list[Sample], setting: Setting, folder: Path, device: str, *, seed: int, steps: int | None) -> Scorer:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = Scorer(folder).to(device).train()
    average = copy.deepcopy(model).eval()
    moving = [(a, b) for a, b in zip(average.parameters(), model.parameters(), strict=True) if b.requires_grad]
    tokenizer = plain_tokenizer(folder / "tokenizer.json")
    mixer = Mixer(harm_data.helpful(s.item for s in samples), [s.item.prompt for s in samples if s.targets.get("request") == 0.0])
    optimiser = torch.optim.AdamW(by_layer(model, setting), fused=True)
    total = steps or round(setting.epochs * len(samples) / setting.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min((s + 1) / (0.06 * total + 1), max(0.0, 1 - s / total)))
    done, began, shown = 0, time.perf_counter(), 0.0
    while done < total:
        encoded = encode(tokenizer, [mixer(s, rng) for s in samples])
        order = rng.sample(range(len(samples)), len(samples))
        for start in range(0, len(order) - setting.batch + 1, setting.batch):
            if done == total:
                break
            for part in micro(order[start : start + setting.batch], encoded):
                loss = loss_of(logits(model, [encoded[n] for n in part], device), [samples[n] for n in part], device)
                (loss / setting.batch).backward()
                shown += loss.item() / setting.batch / 20
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            done += 1
            keep = min(setting.ema, (1 + done) / (10 + done))
            torch._foreach_lerp_([a.data for a, _ in moving], [b.data for _, b in moving], 1 - keep)
            if done % 20 == 0:
                print(done, total, round(shown, 4), round(time.perf_counter() - began), flush=True)
                shown = 0.0
    return average


def train(args: argparse.Namespace) -> None:
    device, started = ("cuda" if torch.cuda.is_available() else "cpu"), time.perf_counter()
    setting = Setting()
    args.out.mkdir(parents=True, exist_ok=True)
    inside, outside = harm_data.samples(args.data)
    ids = "\n".join([*(f"fit\t{s.item.id}" for s in inside), *(f"held out\t{s.item.id}" for s in outside)])
    (args.out / "items.txt").write_text(ids + "\n", encoding="utf-8")
    if args.rows:
        inside = random.Random(0).sample(inside, args.rows)
    model = fit(inside, setting, args.encoder, device, seed=0, steps=args.steps)
    save(model, args.out)
    note = {
        "setting": asdict(setting),
        "fitted_items": len(inside),
        "held_out_items": len(outside),
        "items": {"fit": harm_data.fingerprint(inside), "held_out": harm_data.fingerprint(outside)},
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
        "device": device,
    }
    (args.out / "harm.json").write_text(json.dumps(note, indent=1) + "\n")
    print(json.dumps(note), flush=True)


def save(model: Scorer, out: Path) -> None:
    """Weights as one safetensors stream, cut into parts of 14 MiB."""
    from safetensors.torch import save as to_bytes

    body = to_bytes({k: v.detach().contiguous().cpu() for k, v in model.state_dict().items()})
    for n, start in enumerate(range(0, len(body), PART)):
        (out / f"harm.safetensors.{n}").write_bytes(body[start : start + PART])


def export(args: argparse.Namespace) -> None:
    """Write the network, calibrate the written one on the held-out groups, then measure it on the development rows."""
    args.out.mkdir(parents=True, exist_ok=True)
    note = json.loads((args.trained / "harm.json").read_text())
    harm_onnx.write(trained_state(args.trained), args.out / "model.onnx")
    shutil.copy(args.encoder / "tokenizer.json", args.out / "tokenizer.json")
    held_out = thin(harm_data.samples(args.data)[1], args.rows)
    blank = {name: {"slope": 1.0, "offset": 0.0, "threshold": 0.5} for name in (*NAMED, "hazards")}
    settings = {"heads": blank, "languages": ["en"]}
    (args.out / "harm.json").write_text(json.dumps(settings), encoding="utf-8")
    settings["heads"] = calibrated(load_encoder(args.out), held_out)
    (args.out / "harm.json").write_text(json.dumps({**settings, "training": note}, indent=1) + "\n", encoding="utf-8")
    harm_card.write(args.data, args.out, load_encoder(args.out), note, settings, args.rows)


def trained_state(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load as from_bytes

    return dict(from_bytes(b"".join(part.read_bytes() for part in sorted(folder.glob("harm.safetensors.*")))))


def calibrated(encoder: Encoder, held_out: list[Sample]) -> dict[str, dict[str, float]]:
    """Platt scaling and a threshold per head, on rows nothing was fitted on; the hazards share one scaling."""
    found = [*held_out, *harm_data.cut_short(held_out)]
    logit = encoder.logits([(s.item.prompt, s.item.response) for s in found])
    heads = {name: one_head(found, logit[:, n], name) for n, name in enumerate(NAMED)}
    rows = [(logit[n, len(NAMED) + m], s.targets[h], s.item.weight) for n, s in enumerate(found) for m, h in enumerate(HAZARDS)
            if h in s.targets]  # fmt: skip
    slope, offset = grading.platt(*(np.array(column) for column in zip(*rows, strict=True)))
    return {**heads, "hazards": {"slope": slope, "offset": offset, "threshold": HAZARD_LEVEL}}


def one_head(found: list[Sample], logit: grading.Floats, head: str) -> dict[str, float]:
    """The threshold is chosen over assistant answers (small talk is left out) and everyday requests."""
    mine = [n for n, s in enumerate(found) if head in s.targets]
    label = np.array([found[n].targets[head] for n in mine])
    weight = np.array([found[n].item.weight for n in mine])
    slope, offset = grading.platt(logit[mine], label, weight)
    p = grading.sigmoid(slope * logit[mine] + offset)
    assistant = np.array([found[n].item.source != "diasafety" for n in mine])
    threshold = grading.specific_threshold(p[assistant], label[assistant], weight[assistant])
    return {"slope": slope, "offset": offset, "threshold": threshold}


def thin(found: list[Sample], rows: int | None) -> list[Sample]:
    return found if rows is None else random.Random(0).sample(found, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "export"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--rows", type=int, help="smoke test: this many training rows")
    parser.add_argument("--steps", type=int, help="smoke test: this many optimiser steps")
    args = parser.parse_args()
    train(args) if args.command == "train" else export(args)


if __name__ == "__main__":
    main()
