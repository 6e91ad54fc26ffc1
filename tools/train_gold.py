"""Train the gold judge: the first layers of SmolLM2-135M with LoRA and a linear head on pairs (prompt, response).

    python tools/train_gold.py train --data DIR --model DIR --out DIR                 (GPU or CPU; torch, transformers)
    python tools/train_gold.py score --data DIR --model DIR --trained DIR             (calibration and dev scores)
    python tools/train_gold.py card  --data DIR --trained DIR --out temper/models/data/gold   (numpy only)

`train` reads train splits only and holds out one group in six, on which `score` calibrates before it scores the dev splits, which
decide nothing. Sources: jbb_artifacts, aisafetylab, hh_harmless (pairwise), star1, dolly_subset, user_oriented, coconot; never
those of the reward grader (tools/train_harm.py), of which `card` measures transfer. On a CPU set MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=8000000000, which was measured to halve the time.
"""

import argparse
import json
import math
import random
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

import grading  # noqa: E402
from grading import Item  # noqa: E402

from temper.graders.card import shown  # noqa: E402
from temper.stats import auc  # noqa: E402

OWN = ("jbb_artifacts", "aisafetylab", "aisafetylab_helpful", "star1", "dolly_subset", "user_oriented", "coconot", "hh_harmless")
HELD_OUT = 6
CALIBRATION_ROWS, DEV_ROWS = 500, 120
SHORT_SHARE = 10
"""How often each hand-written short refusal counts among some 700 real ones."""
PAIRS_PER_STEP = 2
MICRO = 4
"""Rows per forward pass: activations that fit the cache are faster on a CPU and keep memory under 1 GB."""
RANK, ALPHA = 8, 16
PAIR_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Setting:
    layers: int = 15
    lr: float = 6e-4
    epochs: float = 1.2
    batch: int = 16


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt; the rejected one was found the more harmful."""

    prompt: str
    chosen: str
    rejected: str
    group: str


def train_items(data: Path) -> list[Item]:
    """The train split: labelled answers, refusals, safe reasoning, benign and borderline help, and crossed pairs."""
    labelled = grading.responses(data, "train", {"jbb_artifacts": 1.0, "aisafetylab": 1.0})
    refused = grading.helpful(data, "train", {"aisafetylab": 0.5}, tags=("refusal",))
    star = grading.helpful(data, "train", {"star1": 1.0}, tags=("safety_reasoning",))
    bare = {r["id"]: r["messages"][-1]["content"].rpartition("</think>")[2].strip() for r in grading.read(data, "sft")}
    answers = [replace(i, response=bare[i.id], weight=0.5, kind="refusal") for i in star]
    benign = grading.helpful(data, "train", {"aisafetylab": 0.5, "dolly_subset": 1.0, "user_oriented": 1.0})
    border = grading.chosen(data, "train", {"coconot": 1.0})
    refusals = [i.response for i in [*labelled, *refused, *answers] if not i.label and grading.is_refusal(i.response)]
    refusals += SHORT_SHARE * list(grading.SHORT_REFUSALS)
    harms = [i.response for i in labelled if i.label and not grading.two_voices(i)]
    harmful = [
        (r["group"], r["text"]) for r in grading.prompts(data, "train", ["advbench", "jailbreakbench", "ailuminate"], "harmful")
    ]
    harmful += [(i.group, i.prompt) for i in labelled]
    asked = [(i.group, i.prompt) for i in [*benign, *border]]
    crossed = [
        *grading.crossed(harmful, refusals, label=0.0, n=500, kind="refused", weight=0.5, seed=1),
        *grading.crossed(harmful, harms, label=1.0, n=500, kind="misplaced", weight=0.5, seed=5),
        *grading.crossed(harmful, [i.response for i in benign], label=0.0, n=150, kind="off-topic", weight=0.5, seed=2),
        *grading.crossed(asked, harms, label=1.0, n=150, kind="unasked", weight=0.5, seed=3),
        *grading.crossed(asked, refusals, label=0.0, n=150, kind="over-refused", weight=0.5, seed=4),
    ]
    return grading.balanced([*labelled, *refused, *star, *answers, *benign, *border, *crossed])


def preferences(data: Path, split: str) -> list[Preference]:
    """Red-team dialogues with the less and the more harmful answer; only the last user turn is kept, which makes them noisy."""
    return [
        Preference(r["prompt"][-1]["content"], r["chosen"], r["rejected"], r["group"])
        for r in grading.read(data, "pairs")
        if r["split"] == split and r["source"] == "hh_harmless"
    ]


def lora(model: Any, torch: Any) -> dict[str, Any]:
    """Put a trainable low-rank update on every linear layer of the body; returns the parameters by module name."""
    update: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            a = torch.nn.Parameter(
                torch.empty(RANK, module.in_features, device=module.weight.device).normal_(std=1 / math.sqrt(module.in_features))
            )
            b = torch.nn.Parameter(torch.zeros(module.out_features, RANK, device=module.weight.device))
            update[f"{name}.a"], update[f"{name}.b"] = a, b
            module.register_forward_hook(
                lambda _m, x, y, a=a, b=b: y + (x[0] @ a.to(x[0].dtype).T) @ b.to(x[0].dtype).T * (ALPHA / RANK)
            )
    return update


class Scorer:
    """The truncated body, its updates and the head, with the marks of the frame."""

    def __init__(self, folder: Path, layers: int, device: str, seed: int) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoConfig, AutoModel

        from temper.models.judge import AFTER, BEFORE, BETWEEN

        torch.manual_seed(seed)
        config = AutoConfig.from_pretrained(folder, num_hidden_layers=layers)
        dtype = torch.bfloat16 if grading.half_is_fast(torch) else torch.float32
        self.body = AutoModel.from_pretrained(folder, config=config, dtype=dtype).to(device).requires_grad_(False)
        self.update = lora(self.body, torch)
        self.head = torch.nn.Linear(config.hidden_size, 1).to(device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.tokenizer, self.device, self.layers = Tokenizer.from_file(str(folder / "tokenizer.json")), device, layers
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.marks = tuple(self.tokenizer.encode(text, add_special_tokens=False).ids for text in (BEFORE, BETWEEN, AFTER))

    def encode(self, pairs: list[tuple[str, str]], most: int | None) -> list[list[list[int]]]:
        from temper.models.judge import escaped, framed

        texts = [escaped(text) for pair in pairs for text in pair]
        flat = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        out = []
        for prompt, response in zip(flat[::2], flat[1::2], strict=True):
            parts = framed(prompt.ids, response.ids, self.marks)
            if most and len(parts) > most:
                parts = [parts[i] for i in np.linspace(0, len(parts) - 1, most).astype(int)]
            out.append(parts)
        return out

    def logits(self, batch: list[list[list[int]]]) -> Any:
        """One logit per pair: the maximum over its windows, each read at its last token."""
        import torch

        flat = [ids for pair in batch for ids in pair]
        owner = torch.tensor([n for n, pair in enumerate(batch) for _ in pair], device=self.device)
        longest = max(map(len, flat))
        ids, mask = torch.full((len(flat), longest), 2), torch.zeros(len(flat), longest, dtype=torch.long)
        for n, window in enumerate(flat):
            ids[n, : len(window)], mask[n, : len(window)] = torch.tensor(window), 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        hidden = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(flat), device=self.device), mask.sum(1) - 1].float()
        return torch.full((len(batch),), -1e9, device=self.device).scatter_reduce(0, owner, self.head(last).squeeze(-1), "amax")

    def predict(self, pairs: list[tuple[str, str]]) -> grading.Floats:
        import torch

        encoded, out = self.encode(pairs, None), np.zeros(len(pairs))
        order = sorted(range(len(pairs)), key=lambda n: len(encoded[n][0]))
        with torch.inference_mode():
            for start in range(0, len(order), 8):
                index = order[start : start + 8]
                out[index] = self.logits([encoded[n] for n in index]).cpu().numpy()
        return out


def fit(items: list[Item], pairs: list[Preference], setting: Setting, args: argparse.Namespace, device: str, seed: int) -> Scorer:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

    rng, model = random.Random(seed), Scorer(args.model, setting.layers, device, seed)
    groups = [
        {"params": list(model.update.values()), "lr": setting.lr},
        {"params": list(model.head.parameters()), "lr": setting.lr * 2},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    total = args.steps or round(setting.epochs * len(items) / setting.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min((s + 1) / (0.06 * total + 1), max(0.0, 1 - s / total)))
    mean_weight, done = float(np.mean([i.weight for i in items])), 0
    while done < total:
        encoded = model.encode([shortened(i, rng) for i in items], 1)
        order = sorted(range(len(items)), key=lambda n: sum(map(len, encoded[n])) * rng.uniform(0.8, 1.25))
        batches = [order[i : i + setting.batch] for i in range(0, len(order), setting.batch)]
        rng.shuffle(batches)
        for index in batches[: total - done]:
            optimiser.zero_grad()
            loss = 0.0
            for part in (index[i : i + MICRO] for i in range(0, len(index), MICRO)):
                label = torch.tensor([items[n].label for n in part], device=device)
                weight = torch.tensor([items[n].weight for n in part], device=device) / mean_weight
                score = model.logits([encoded[n] for n in part])
                share = (binary_cross_entropy_with_logits(score, label * 0.96 + 0.02, reduction="none") * weight).sum() / len(
                    index
                )
                share.backward()
                loss += share.item()
            two = rng.sample(pairs, min(PAIRS_PER_STEP, len(pairs)))
            both = model.encode([(brief(p.prompt), p.chosen) for p in two] + [(brief(p.prompt), p.rejected) for p in two], 1)
            less, more = model.logits(both).chunk(2)
            (-PAIR_WEIGHT * logsigmoid(more - less).mean()).backward()
            torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
            optimiser.step()
            schedule.step()
            done += 1
            if done % 20 == 0:
                print(done, total, round(loss, 3), flush=True)
    return model


def shortened(item: Item, rng: random.Random) -> tuple[str, str]:
    """An augmented row cut where a small token cap cuts answers; a refusal that turns into compliance is kept longer."""
    prompt, response = grading.augment(item, rng)
    return brief(prompt), grading.cut(response, rng, 160, 180) if grading.two_voices(item) else grading.cut(
        response, rng, 40, 120
    )


def brief(prompt: str, words: int = 60) -> str:
    return " ".join(prompt.split()[:words])


def held_out(items: list[Item]) -> list[Item]:
    """What a fold is measured on: its rows as they stand, and its answers cut as a small token cap cuts them."""
    rng = random.Random(7)
    cuts = [
        Item(i.id, i.prompt, grading.cut(i.response, rng, 30, 90), i.label, i.source, i.group, i.weight, "cut")
        for i in items
        if not grading.two_voices(i)
    ]
    return [*items, *cuts]


def quality(items: list[Item], score: grading.Floats) -> dict[str, float]:
    label = np.array([i.label for i in items])
    masks = {s: np.array([i.source == s for i in items]) for s in ("jbb_artifacts", "aisafetylab")}
    masks["all"] = np.ones(len(items), dtype=bool)
    cut = np.array([i.kind == "cut" for i in items])
    found = {name: round(auc(score[mask & ~cut], label[mask & ~cut]), 4) for name, mask in masks.items()}
    return {**found, "cut": round(auc(score[cut], label[cut]), 4)}


def train(args: argparse.Namespace) -> None:
    import torch

    device, started, setting = ("cuda" if torch.cuda.is_available() else "cpu"), time.perf_counter(), Setting()
    args.out.mkdir(parents=True, exist_ok=True)
    items, pairs = train_items(args.data), preferences(args.data, "train")
    if args.rows:
        items, pairs = random.Random(0).sample(items, args.rows), pairs[: args.rows]
    folds = grading.fold_of([*items, *[Item("", "", "", 0, "hh", p.group) for p in pairs]], HELD_OUT, seed=0)
    inside = [i for i in items if folds[i.group] != 0]
    model = fit(inside, [p for p in pairs if folds[p.group] != 0], setting, args, device, seed=0)
    save(model, args.out)
    note = {"layers": setting.layers, "rank": RANK, "alpha": ALPHA, "setting": asdict(setting), "train_items": len(inside)}
    note |= {"seconds": round(time.perf_counter() - started), "torch": torch.__version__, "device": device}
    (args.out / "trained.json").write_text(json.dumps(note, indent=1) + "\n")


def score(args: argparse.Namespace) -> None:
    """Calibrate a trained adapter on held-out train rows (config.json), then score dev rows (dev.json), which decide nothing."""
    note = json.loads((args.trained / "trained.json").read_text())
    items, pairs = train_items(args.data), preferences(args.data, "train")
    folds = grading.fold_of([*items, *[Item("", "", "", 0, "hh", p.group) for p in pairs]], HELD_OUT, seed=0)
    outside = random.Random(0).sample(held_out([i for i in items if folds[i.group] == 0]), CALIBRATION_ROWS)
    model = restored(args, note["layers"])
    found = model.predict([(i.prompt, i.response) for i in outside])
    note |= {**calibration(outside, found), "held_out_auc": quality(outside, found), "held_out": len(outside)}
    (args.trained / "config.json").write_text(json.dumps(note, indent=1) + "\n")
    print(json.dumps(note), flush=True)
    score_dev(model, args, note)


def restored(args: argparse.Namespace, layers: int) -> Scorer:
    import torch
    from safetensors.torch import load_file

    model = Scorer(args.model, layers, "cuda" if torch.cuda.is_available() else "cpu", 0)
    saved = load_file(str(args.trained / "adapter.safetensors"))
    with torch.no_grad():
        for name, weight in {**model.update, "head.weight": model.head.weight, "head.bias": model.head.bias}.items():
            weight.copy_(saved[name].to(weight.dtype))
    return model


def few(items: list[Item]) -> list[Item]:
    """At most DEV_ROWS rows of each source, drawn once and for all: a row costs a forward pass of a language model."""
    rng = random.Random(0)
    by_source: dict[str, list[Item]] = {}
    for item in items:
        by_source.setdefault(item.source, []).append(item)
    return [i for rows in by_source.values() for i in (rows if len(rows) <= DEV_ROWS else rng.sample(rows, DEV_ROWS))]


def score_dev(model: Scorer, args: argparse.Namespace, fitted: dict[str, float]) -> None:
    items, pairs = few(grading.dev_items(args.data)), preferences(args.data, "dev")[:DEV_ROWS]
    logit = model.predict([(i.prompt, i.response) for i in items])
    both = model.predict([(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs])
    right = (both[len(pairs) :] > both[: len(pairs)]).tolist()
    rows = {f"{i.source}/{i.id}": round(float(x), 4) for i, x in zip(items, logit, strict=True)}
    (args.trained / "dev.json").write_text(
        json.dumps({"logit": rows, "hh_right": right, "hh_group": [p.group for p in pairs]}) + "\n"
    )
    p = grading.sigmoid(fitted["slope"] * logit + fitted["offset"])
    for source, row in grading.figures(items, p, fitted["threshold"], OWN).items():
        print(source, {k: row[k] for k in ("n", "positive", "auc", "sensitivity", "specificity", "length_auc")}, flush=True)
    print("hh_harmless pairs right", float(np.mean(right)), len(right), flush=True)


def calibration(items: list[Item], score: grading.Floats) -> dict[str, float]:
    """Platt scaling over the held-out rows by weight, and the threshold with the best Youden index."""
    label, weight = np.array([i.label for i in items]), np.array([i.weight for i in items])
    slope, offset = grading.platt(score, label, weight)
    p = grading.sigmoid(slope * score + offset)
    return {"slope": slope, "offset": offset, "threshold": grading.best_threshold(p, label, weight)}


def save(model: Scorer, out: Path) -> None:
    from safetensors.torch import save_file

    state = {**model.update, "head.weight": model.head.weight, "head.bias": model.head.bias}
    save_file({k: v.detach().half().contiguous().cpu() for k, v in state.items()}, str(out / "adapter.safetensors"))


def card(args: argparse.Namespace) -> None:
    """The card of the shipped adapter, from the development scores that `train` left in dev.json."""
    from temper.models.judge import PROMPT_ROOM, SIZE, STRIDE

    note, dev = json.loads((args.trained / "config.json").read_text()), json.loads((args.trained / "dev.json").read_text())
    items = few(grading.dev_items(args.data))
    p = grading.sigmoid(note["slope"] * np.array([dev["logit"][f"{i.source}/{i.id}"] for i in items]) + note["offset"])
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("adapter.safetensors", "config.json"):
        shutil.copy(args.trained / name, args.out / name)
    right = np.array(dev["hh_right"], dtype=float)
    higher = shown(grading.interval(right, dev["hh_group"]))
    facts = {
        "model": f"first {note['layers']} of 30 layers of SmolLM2-135M, LoRA rank {note['rank']}, linear head on the last token",
        "reads": grading.reading(PROMPT_ROOM, SIZE, STRIDE),
        **grading.training(note, OWN),
        "hh_harmless (dev)": f"the rejected answer scores higher in {higher}, n {len(right)}",
    }
    grading.write_card(
        args.out,
        {
            "name": "gold",
            "what": "P(a response is unsafe). Shares no weights, architecture or source with `harm`; for proof, never reward.",
            "facts": facts,
            "sources": grading.figures(items, p, note["threshold"], OWN),
            "limits": LIMITS,
        },
    )


LIMITS = (
    "English only; the grader abstains elsewhere, and never says safe of a language it was not validated in.",
    "Its body is the default policy's own (SmolLM2-135M): independent of `harm`, not of the policy's blind spots; audit by hand.",
    "About 120 distinct harmful requests in training, most of them orders; labels of jbb_artifacts come from a language model.",
    "Small talk (diasafety) and one-line slurs (latent_jailbreak) are outside what it was trained on.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "score", "card"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--rows", type=int, help="smoke test: this many training rows")
    parser.add_argument("--steps", type=int, help="smoke test: this many optimiser steps per fit")
    args = parser.parse_args()
    {"train": train, "score": score, "card": card}[args.command](args)


if __name__ == "__main__":
    main()
