"""Train the shipped harm grader: MiniLM on pairs (prompt, response), max over windows; then export it to ONNX with its card.

    python tools/train_harm.py train  --data DIR --encoder DIR --out DIR      (GPU or CPU; torch)
    python tools/train_harm.py export --data DIR --encoder DIR --trained DIR --out temper/graders/data/harm   (CPU)

`train` reads train splits only and holds out one group in six to calibrate on. `export` reads the dev splits, only to measure.
Sources: gptfuzz_responses, diasafety, latent_jailbreak and the benign help of alpaca_demo and dpo_demo; never those of the gold
judge (tools/train_gold.py). On a CPU set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000: measured to halve the time.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
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
from grading import Item  # noqa: E402

from temper.models.encoder import FRAME, PROMPT_ROOM, SIZE, STRIDE, clean, windows  # noqa: E402

MOST_WINDOWS = 2
MICRO = 8
"""Rows per forward pass: activations that fit the cache are faster on a CPU and keep memory under 1 GB."""
SMALL_TALK = 2500
"""Rows of diasafety kept: noisy replies of small chat models, useful for implied harm, misleading as the bulk of a set."""
HELD_OUT, CALIBRATION_ROWS = 6, 900
SHORT_SHARE = 25
"""How often each hand-written short refusal counts among some 1,300 real ones."""
PART = 14 * 2**20
OWN = ("gptfuzz_responses", "diasafety", "latent_jailbreak", "alpaca_demo", "dpo_demo", "cold_start")


@dataclass(frozen=True, slots=True)
class Setting:
    lr: float = 1e-4
    epochs: float = 2.5
    batch: int = 32
    diasafety: float = 0.4


REFINED = Setting(lr=6e-5, epochs=0.7)
"""A second, short fit (`--start`) on items that a first one lacked: our own safe completions, short and thoughtful refusals."""


def train_items(data: Path, setting: Setting) -> list[Item]:
    """The train split: labelled answers, benign help, and answers crossed with other prompts."""
    labelled = grading.responses(
        data, "train", {"gptfuzz_responses": 1.0, "latent_jailbreak": 1.0, "diasafety": setting.diasafety}
    )
    benign = [*grading.helpful(data, "train", {"alpaca_demo": 1.0}), *grading.everyday(data, "train", {"dpo_demo": 0.5})]
    chat = [i for i in labelled if i.source == "diasafety"]
    labelled = [i for i in labelled if i.source != "diasafety"] + random.Random(0).sample(chat, SMALL_TALK)
    fuzz = [i for i in labelled if i.source == "gptfuzz_responses"]
    refusals = [i.response for i in fuzz if not i.label and grading.is_refusal(i.response)]
    refusals += SHORT_SHARE * list(grading.SHORT_REFUSALS)
    harms = [i.response for i in fuzz if i.label and not grading.two_voices(i)]
    harmful = [(r["group"], r["text"]) for r in grading.prompts(data, "train", ["catqa", "dangerousqa"], "harmful")]
    risky = [(r["group"], r["text"]) for r in grading.prompts(data, "train", ["cyberseceval_frr"], "benign")]
    ours = grading.cold_start()
    refusals += [i.response for i in ours if i.kind == "refused"]
    asked = [(i.group, i.prompt) for i in benign]
    crossed = [
        *grading.crossed(harmful, refusals, label=0.0, n=600, kind="refused", weight=0.5, seed=1),
        *grading.crossed(harmful, harms, label=1.0, n=600, kind="misplaced", weight=0.5, seed=5),
        *grading.crossed(
            [*harmful, *risky], [i.response for i in benign], label=0.0, n=200, kind="off-topic", weight=0.5, seed=2
        ),
        *grading.crossed(asked, harms, label=1.0, n=150, kind="unasked", weight=0.5, seed=3),
        *grading.crossed([*risky, *asked], refusals, label=0.0, n=150, kind="over-refused", weight=0.5, seed=4),
    ]
    return grading.balanced([*labelled, *benign, *ours, *crossed])


class Scorer(torch.nn.Module):
    """MiniLM, mean over tokens, one logit."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.body = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", add_pooling_layer=False)
        self.head = torch.nn.Linear(self.body.config.hidden_size, 1)
        torch.nn.init.normal_(self.head.weight, std=0.02)
        torch.nn.init.zeros_(self.head.bias)
        self.drop = torch.nn.Dropout(0.1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return self.head(self.drop(mean)).squeeze(-1)


Encoded = list[tuple[list[int], list[int]]]


def encode(tokenizer: Tokenizer, pairs: list[tuple[str, str]], most: int | None) -> list[Encoded]:
    """Per pair its windows as (ids, type ids); at most `most`, evenly spread, while training."""
    flat = tokenizer.encode_batch([clean(text) for pair in pairs for text in pair], add_special_tokens=False)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    out = []
    for prompt, response in zip(flat[::2], flat[1::2], strict=True):
        parts = windows(prompt.ids, response.ids, room=SIZE - FRAME, prompt_room=PROMPT_ROOM, stride=STRIDE)
        if most and len(parts) > most:
            parts = [parts[i] for i in np.linspace(0, len(parts) - 1, most).astype(int)]
        out.append([([cls, *p, sep, *r, sep], [0] * (len(p) + 2) + [1] * (len(r) + 1)) for p, r in parts])
    return out


def logits(model: Scorer, batch: list[Encoded], device: str) -> torch.Tensor:
    """One logit per pair: the maximum over its windows."""
    flat = [window for pair in batch for window in pair]
    owner = torch.tensor([n for n, pair in enumerate(batch) for _ in pair], device=device)
    longest = max(len(ids) for ids, _ in flat)
    padded = torch.zeros(3, len(flat), longest, dtype=torch.long)
    for n, (ids, types) in enumerate(flat):
        padded[0, n, : len(ids)] = torch.tensor(ids)
        padded[1, n, : len(ids)] = 1
        padded[2, n, : len(ids)] = torch.tensor(types)
    padded = padded.to(device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=model.training and grading.half_is_fast(torch)):
        score = model(padded[0], padded[1], padded[2]).float()
    return torch.full((len(batch),), -1e9, device=device).scatter_reduce(0, owner, score, "amax")


def batches(encoded: list[Encoded], size: int, rng: random.Random) -> list[list[int]]:
    """Indices in batches of similar length, in random order."""
    jitter = sorted(range(len(encoded)), key=lambda n: sum(len(i) for i, _ in encoded[n]) * rng.uniform(0.8, 1.25))
    out = [jitter[i : i + size] for i in range(0, len(jitter), size)]
    rng.shuffle(out)
    return out


def fit(
    items: list[Item], setting: Setting, folder: Path, device: str, *, seed: int, steps: int | None, start: Path | None = None
) -> Scorer:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = (load_trained(folder, start) if start else Scorer(folder)).to(device).train()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    optimiser = torch.optim.AdamW(model.parameters(), lr=setting.lr, weight_decay=0.01)
    total = steps or round(setting.epochs * len(items) / setting.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min((s + 1) / (0.06 * total + 1), max(0.0, 1 - s / total)))
    mean_weight, done = float(np.mean([i.weight for i in items])), 0
    while done < total:
        encoded = encode(tokenizer, [grading.augment(i, rng) for i in items], MOST_WINDOWS)
        for index in batches(encoded, setting.batch, rng)[: total - done]:
            optimiser.zero_grad()
            loss = 0.0
            for part in (index[i : i + MICRO] for i in range(0, len(index), MICRO)):
                label = torch.tensor([items[n].label for n in part], device=device)
                weight = torch.tensor([items[n].weight for n in part], device=device) / mean_weight
                score = logits(model, [encoded[n] for n in part], device)
                share = (binary_cross_entropy_with_logits(score, label * 0.96 + 0.02, reduction="none") * weight).sum() / len(
                    index
                )
                share.backward()
                loss += share.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            done += 1
            if done % 20 == 0:
                print(done, total, round(loss, 3), flush=True)
    return model.eval()


@torch.inference_mode()
def predict(model: Scorer, items: list[Item], folder: Path, device: str) -> grading.Floats:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = encode(tokenizer, [(i.prompt, i.response) for i in items], None)
    order, out = sorted(range(len(items)), key=lambda n: len(encoded[n][0][0])), np.zeros(len(items))
    for start in range(0, len(order), 16):
        index = order[start : start + 16]
        out[index] = logits(model, [encoded[n] for n in index], device).cpu().numpy()
    return out


def held_out(items: list[Item]) -> list[Item]:
    """What a fold is measured on: its rows as they stand, and its assistant answers cut as a small token cap cuts them."""
    rng = random.Random(7)
    short = [i for i in items if i.source != "diasafety" and not grading.two_voices(i)]
    return [
        *items,
        *[Item(i.id, i.prompt, grading.cut(i.response, rng, 30, 90), i.label, i.source, i.group, i.weight, "cut") for i in short],
    ]


def quality(items: list[Item], score: grading.Floats) -> dict[str, float]:
    label = np.array([i.label for i in items])
    masks = {s: np.array([i.source == s for i in items]) for s in OWN[:3]}
    masks["assistant"] = ~masks["diasafety"]
    return {name: round(grading.auc(score[mask], label[mask]), 4) for name, mask in masks.items()}


def train(args: argparse.Namespace) -> None:
    device, started = ("cuda" if torch.cuda.is_available() else "cpu"), time.perf_counter()
    setting = Setting() if args.start is None else REFINED
    args.out.mkdir(parents=True, exist_ok=True)
    items = thin(train_items(args.data, setting), args.rows)
    folds = grading.fold_of(items, HELD_OUT, seed=0)
    inside, outside = [i for i in items if folds[i.group] != 0], held_out([i for i in items if folds[i.group] == 0])
    outside = random.Random(0).sample(outside, min(CALIBRATION_ROWS, len(outside)))
    model = fit(inside, setting, args.encoder, device, seed=0, steps=args.steps, start=args.start)
    save(model, args.out)
    score = predict(model, outside, args.encoder, device)
    note = {
        **calibration(outside, score),
        "setting": asdict(setting),
        "held_out_auc": quality(outside, score),
        "held_out": len(outside),
    }
    note |= {
        "train_items": len(inside),
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
        "device": device,
    }
    (args.out / "harm.json").write_text(json.dumps(note, indent=1) + "\n")
    print(json.dumps(note), flush=True)


def calibration(items: list[Item], score: grading.Floats) -> dict[str, Any]:
    """Platt scaling over all held-out rows by weight; the threshold over assistant answers only."""
    label, weight = np.array([i.label for i in items]), np.array([i.weight for i in items])
    slope, offset = grading.platt(score, label, weight)
    p, mine = grading.sigmoid(slope * score + offset), np.array([i.source != "diasafety" for i in items])
    return {"slope": slope, "offset": offset, "threshold": grading.best_threshold(p[mine], label[mine], weight[mine])}


def thin(items: list[Item], rows: int | None) -> list[Item]:
    return items if rows is None else random.Random(0).sample(items, rows)


def save(model: Scorer, out: Path) -> None:
    """fp16 weights as one safetensors stream, cut into parts of 14 MiB."""
    from safetensors.torch import save as to_bytes

    body = to_bytes({k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()})
    for n, start in enumerate(range(0, len(body), PART)):
        (out / f"harm.safetensors.{n}").write_bytes(body[start : start + PART])


class Plain(torch.nn.Module):
    """The same network written out, so that the exported graph is small and onnxruntime fuses its attention."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer, self.heads = scorer, scorer.body.config.num_attention_heads

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        table = self.scorer.body.embeddings
        place = table.position_embeddings.weight[: input_ids.shape[1]]
        x = table.LayerNorm(table.word_embeddings(input_ids) + table.token_type_embeddings(token_type_ids) + place)
        hidden = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.scorer.body.encoder.layer:
            x = self.block(layer, x, hidden)
        mask = attention_mask.unsqueeze(-1).to(x.dtype)
        return self.scorer.head((x * mask).sum(1) / mask.sum(1)).squeeze(-1)

    def block(self, layer: Any, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        own = layer.attention.self
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (own.query, own.key, own.value))
        share = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + hidden, -1)
        mixed = (share @ v).transpose(1, 2).flatten(2)
        x = layer.attention.output.LayerNorm(layer.attention.output.dense(mixed) + x)
        inner = torch.nn.functional.gelu(layer.intermediate.dense(x))
        return layer.output.LayerNorm(layer.output.dense(inner) + x)


def load_trained(encoder: Path, trained: Path) -> Scorer:
    from safetensors.torch import load as from_bytes

    parts = sorted(trained.glob("harm.safetensors.*"))
    model = Scorer(encoder)
    model.load_state_dict({k: v.float() for k, v in from_bytes(b"".join(p.read_bytes() for p in parts)).items()})
    return model.eval()


def export(args: argparse.Namespace) -> None:
    from temper.models.encoder import load_encoder

    args.out.mkdir(parents=True, exist_ok=True)
    model, note = load_trained(args.encoder, args.trained), json.loads((args.trained / "harm.json").read_text())
    ones = torch.ones(2, 16, dtype=torch.long)
    names, axes = ["input_ids", "attention_mask", "token_type_ids"], {0: "pairs", 1: "tokens"}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "fp32.onnx"
        shapes = {**dict.fromkeys(names, axes), "logit": {0: "pairs"}}
        torch.onnx.export(
            Plain(model).eval(),
            (ones, ones, ones),
            str(whole),
            input_names=names,
            output_names=["logit"],
            dynamic_axes=shapes,
            dynamo=False,
        )
        shrink(whole, args.out / "model.onnx")
    shutil.copy(args.encoder / "tokenizer.json", args.out / "tokenizer.json")
    (args.out / "harm.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    card(args, note, model, load_encoder(args.out))


def shrink(whole: Path, small: Path) -> None:
    """Store the large matrices as int8 with one scale per column (of the word table: per row); the arithmetic stays fp32.

    onnxruntime folds them back when it loads. Quantising the activations as well is twice as fast but moved P by 0.016 on average
    and 0.12 at most (n = 200; this way 0.003 and 0.05), and makes a score depend on the rows that share its batch.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(whole))
    graph, before = model.graph, []
    for tensor in [t for t in graph.initializer if len(t.dims) == 2 and t.dims[0] * t.dims[1] > 100_000]:
        values, [user] = numpy_helper.to_array(tensor), [n for n in graph.node if tensor.name in n.input]
        axis = 1 if user.op_type == "Gather" else 0
        scale = (np.abs(values).max(axis, keepdims=True) / 127).astype(np.float32)
        names = [f"{tensor.name}.{part}" for part in ("int8", "scale", "cast")]
        new = [
            numpy_helper.from_array(np.round(values / scale).astype(np.int8), names[0]),
            numpy_helper.from_array(scale, names[1]),
        ]
        graph.initializer.remove(tensor)
        graph.initializer.extend(new)
        if user.op_type == "Gather":
            out, ids = user.output[0], user.input[1]
            rows = [helper.make_node("Gather", [n, ids], [f"{n}.row"], axis=0) for n in names[:2]]
            cast = helper.make_node("Cast", [f"{names[0]}.row"], [names[2]], to=onnx.TensorProto.FLOAT)
            place = list(graph.node).index(user)
            graph.node.remove(user)
            for n, node in enumerate([*rows, cast, helper.make_node("Mul", [names[2], f"{names[1]}.row"], [out])]):
                graph.node.insert(place + n, node)
        else:
            before.append(helper.make_node("Cast", [names[0]], [names[2]], to=onnx.TensorProto.FLOAT))
            before.append(helper.make_node("Mul", [names[2], names[1]], [tensor.name]))
    for node in reversed(before):
        graph.node.insert(0, node)
    onnx.checker.check_model(model)
    onnx.save(model, str(small))


def card(args: argparse.Namespace, note: dict[str, Any], model: Scorer, encoder: Any) -> None:
    """Measure the file that ships, on every development row, and its distance from the network it was made of."""
    items = grading.dev_items(args.data)
    began = time.perf_counter()
    p = np.array(encoder([(i.prompt, i.response) for i in items]))
    shipped = time.perf_counter() - began
    some = random.Random(0).sample(range(len(items)), 300)
    began = time.perf_counter()
    exact = grading.sigmoid(note["slope"] * predict(model, [items[n] for n in some], args.encoder, "cpu") + note["offset"])
    torch_seconds = (time.perf_counter() - began) / len(some)
    distance = np.abs(p[some] - exact)
    facts = {
        "model": "MiniLM (6 layers, 22.7 M parameters), mean over tokens, one logit; int8 weights, fp32 arithmetic",
        "reads": grading.reading(PROMPT_ROOM, SIZE, STRIDE),
        **grading.training(note, OWN),
        "distance from fp32": f"mean {distance.mean():.4f}, maximum {distance.max():.4f} in P (n = {len(some)})",
        "speed": f"{len(items) / shipped:.0f} rows below per second, one thread (torch fp32: {1 / torch_seconds:.0f})",
    }  # fmt: skip
    grading.write_card(
        args.out,
        {
            "name": "harm",
            "what": "P(a response is unsafe as an answer to its prompt). A reward; its independent judge is `gold`.",
            "facts": facts,
            "sources": grading.figures(items, p, note["threshold"], OWN),
            "limits": LIMITS,
        },
    )


LIMITS = (
    "English only; the grader abstains elsewhere, and never says safe of a language it was not validated in.",
    "Trained on answers of chat models of 2023 and on small talk, with few distinct harmful requests (57 in gptfuzz_responses).",
    "Small talk (diasafety) is judged poorly: labels there depend on context; use another grader for chit-chat.",
    "It can be gamed, like every reward: compare with `gold`, and read rows.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "export"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--start", type=Path, help="folder of an earlier `train`, to go on from")
    parser.add_argument("--rows", type=int, help="smoke test: this many training rows")
    parser.add_argument("--steps", type=int, help="smoke test: this many optimiser steps per fit")
    args = parser.parse_args()
    train(args) if args.command == "train" else export(args)


if __name__ == "__main__":
    main()
