"""Train the sieve before the harm encoder (temper/models/sieve.py) and choose its levels: one command, torch on a CPU.

    python tools/train_harm_sieve.py --data DIR --out temper/graders/data/harm

The teacher is the shipped encoder: the sieve learns its logit of each window ("unsafe" of answers, "request" of prompts alone)
and no label. Windows are of rows that the encoder was fitted on (harm_data.py) and of other sources, train split only, never of
a source of the gold judge or a group that one shares. Levels are chosen on groups that were held out of both fits. `--keep`
stores what the teacher said, which takes most of the time.
"""

import argparse
import copy
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

import grading  # noqa: E402
import harm_data  # noqa: E402
from harm_data import GOLD, Mixer  # noqa: E402
from harm_onnx import rounded  # noqa: E402

from temper.files import file_sha256, write_json  # noqa: E402
from temper.models import sieve  # noqa: E402
from temper.models.encoder import BATCH_TOKENS, MODEL, NAMED, Encoder, Window, batches, feed, framed, load_encoder  # noqa: E402

WIDTH, CHANNELS, SPANS, HIDDEN = 16, 96, (5, 3), 64
EPOCHS, BATCH, RATE, DROPPED = 6, 64, 2e-3, 0.1
DECISIONS = (0.5, 0.68, 0.9)
"""Thresholds for which the level holds. At 0.98, which policies have too, 0.5 % of the 44 windows found would be none."""
LOST = 0.005
"""Share of the windows the encoder finds at a decision point, on held-out groups, that may lie below its level."""
ODD_AMONG_PLAIN = 0.97
"""Share of everyday held-out windows that the sieve judges; the others have too much that is odd."""
SEEDS, TEXTS = {"fit": 0, "held": 1}, {"fit": 14_000, "held": 3_000}
"""Of the texts that are fitted on and of those held out: where their draw begins, and how many the teacher reads."""
PLAIN = frozenset({"alpaca_demo", "dpo_demo", "cold_start", "long"})
LEET = str.maketrans("aeiostlbg", "431057189")
EXTRA = {"xsafety": 1400, "harmfulqa": 900, "cyberseceval_injection": 200, "bipia": 160}
"""Further sources of requests without a label that is read, and how many rows of each."""
SHARES = {"diasafety": 0.35, "crossed": 0.7}
"""Of which sources only a part of the rows is taken: many, short and alike."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """Windows of one head with the teacher's logit of each, and the name of where they come from."""

    windows: list[Window]
    head: npt.NDArray[np.int64]
    logit: npt.NDArray[np.float32]
    origin: list[str]


def texts(data: Path, held_out: bool, rng: random.Random) -> Iterator[tuple[str, str, Pair]]:
    """(head, origin, pair): rows as they stand or as the encoder's fit varies them, and disguises of some."""
    inside, outside = harm_data.samples(data)
    helps, asks = harm_data.helpful([s.item for s in inside]), [s.item.prompt for s in inside if s.targets.get("request") == 0.0]
    mixer = Mixer(helps, asks)
    samples = [*outside, *harm_data.cut_short(outside)] if held_out else inside
    kept = samples if held_out else [s for s in samples if rng.random() < SHARES.get(s.item.source, 1.0)]
    for sample in kept:
        head = "request" if sample.asks else "unsafe"
        pair = (sample.item.prompt, sample.item.response)
        yield head, sample.item.source, pair if held_out else mixer(sample, rng)
        if rng.random() < 0.3:
            yield head, "disguised", disguised(pair, helps, rng)
    for _ in range(400 if held_out else 2000):
        yield "unsafe", "long", (rng.choice(asks), long(helps, rng))
        if rng.random() < 0.3:
            yield "request", "long", (long(helps, rng), "")
    for text in [] if held_out else unlabelled(data, {s.item.group for s in outside}, rng):
        yield "request", "unlabelled", (text, "")


def unlabelled(data: Path, held_out: set[str], rng: random.Random) -> Iterator[str]:
    """Requests of further sources, and passages of an encyclopedia; of no group that is held out or the gold judge's."""
    taken = held_out | {
        r["group"] for name in ("responses", "pairs", "sft", "prompts") for r in grading.read(data, name) if r["source"] in GOLD
    }
    for source, most in EXTRA.items():
        rows = [
            r for r in grading.read(data, "prompts")
            if (r["source"], r["split"], r["language"]) == (source, "train", "en") and r["group"] not in taken
        ]  # fmt: skip
        yield from (r["text"] for r in rng.sample(rows, min(most, len(rows))))
    passages = [r["text"] for r in grading.read(data, "langtext") if (r["split"], r["language"]) == ("train", "en")]
    yield from rng.sample(passages, min(200, len(passages)))


def long(helps: Sequence[str], rng: random.Random) -> str:
    """Harmless answers on end, begun anywhere: what a window in the middle of a long text holds."""
    words = "\n\n".join(rng.sample(list(helps), 4)).split(" ")
    start = rng.randrange(max(1, len(words) // 2))
    return " ".join(words[start : start + int(30 * 8 ** rng.random())])


def disguised(pair: Pair, helps: Sequence[str], rng: random.Random) -> Pair:
    """The text that is judged, hidden as people hide it: within harmless text, or with letters changed."""
    prompt, response = pair
    text = response or prompt
    how = rng.choice((padded, padded, padded, noisy, stretch))
    text = how(text, helps, rng)
    return (prompt, text) if response else (text, "")


def padded(text: str, helps: Sequence[str], rng: random.Random) -> str:
    """A part of the text within harmless text of up to a window."""
    words, around = text.split(" "), long(helps, rng).split(" ")
    part = words[: int(10 * 12 ** rng.random())]
    at = rng.randrange(len(around) + 1)
    return " ".join([*around[:at], *part, *around[at:]])


def noisy(text: str, helps: Sequence[str], rng: random.Random) -> str:
    """Digits for letters, gaps within words, capitals, or full stops between letters, in some words or in all."""
    share, kind = rng.choice((0.2, 0.5, 1.0)), rng.randrange(4)
    change: Callable[[str], str] = (
        lambda w: w.translate(LEET), lambda w: " ".join(w) if rng.random() < 0.5 else f"{w[:2]} {w[2:]}", str.upper, ".".join
    )[kind]  # fmt: skip
    return " ".join(change(w) if rng.random() < share else w for w in text.split(" "))


def stretch(text: str, helps: Sequence[str], rng: random.Random) -> str:
    """Some words from anywhere in it, as a scan of a stream reads them."""
    words = text.split(" ")
    start = rng.randrange(max(1, len(words) - 30))
    return " ".join(words[start : start + rng.randint(40, 140)])


def framed_few(encoder: Encoder, found: Sequence[tuple[str, str, Pair]]) -> tuple[list[Window], npt.NDArray[np.int64], list[str]]:
    """At most three windows of each text, the head of each, and where it comes from."""
    rows, head, origin = [], [], []
    for name, source, (prompt, response) in found:
        if name == "unsafe" and not response.strip():
            continue
        parts = framed(encoder.tokenizer, [(prompt, response)])[0]
        for part in parts[:2] + parts[2:][-1:]:
            rows.append(part)
            head.append(sieve.HEADS.index(name))
            origin.append(source)
    return rows, np.array(head), origin


def taught(encoder: Encoder, rows: list[Window], head: npt.NDArray[np.int64], origin: list[str]) -> Seen:
    """Windows with the encoder's logit of their head."""
    logit, began = np.empty((len(rows), len(encoder.slope)), dtype=np.float32), time.process_time()
    for n, batch in enumerate(batches([len(ids) for ids, _ in rows], BATCH_TOKENS)):
        logit[batch] = encoder.session.run(["logit"], feed([rows[i] for i in batch]))[0]
        if n % 200 == 0:
            print(f"taught {n} batches, {time.process_time() - began:.0f} s", flush=True)
    places = np.array([NAMED.index(name) for name in sieve.HEADS])[head]
    return Seen(rows, head, logit[np.arange(len(rows)), places], origin)


def stored(seen: Seen, file: Path) -> None:
    ids = np.concatenate([np.array(ids, dtype=np.int32) for ids, _ in seen.windows])
    lengths = np.array([(len(ids), sum(types)) for ids, types in seen.windows])
    np.savez(file, ids=ids, lengths=lengths, head=seen.head, logit=seen.logit, origin=np.array(seen.origin))


def read(file: Path) -> Seen:
    held = np.load(file)
    parts = np.split(held["ids"], np.cumsum(held["lengths"][:, 0])[:-1])
    windows = [(p.tolist(), [0] * (len(p) - n) + [1] * n) for p, n in zip(parts, held["lengths"][:, 1].tolist(), strict=True)]
    return Seen(windows, held["head"], held["logit"], held["origin"].tolist())


class Network(torch.nn.Module):
    """Windows -> [rows, heads]: narrow word vectors, convolutions, maxima and means of both parts, two layers.

    The word vectors are the encoder's own, projected, plus what is learnt for a word; so a word that no row had has one as well.
    """

    def __init__(self, words: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("words", words)
        main = torch.linalg.eigh(words.T @ words)[1][:, -WIDTH:]
        self.projection = torch.nn.Parameter(main / (words @ main).std(0))
        self.own = torch.nn.Embedding(len(words), WIDTH, _weight=torch.zeros(len(words), WIDTH))
        self.kind = torch.nn.Parameter(torch.zeros(2, WIDTH))
        into = (WIDTH, *(CHANNELS for _ in SPANS))
        layers = [torch.nn.Conv1d(wide, CHANNELS, span, padding=span // 2) for wide, span in zip(into, SPANS, strict=False)]
        self.layers = torch.nn.ModuleList(layers)
        self.inner, self.head = torch.nn.Linear(4 * CHANNELS, HIDDEN), torch.nn.Linear(HIDDEN, len(sieve.HEADS))

    def table(self) -> torch.Tensor:
        """[words, WIDTH]: what is exported."""
        return self.words @ self.projection + self.own.weight

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        x = self.words[ids] @ self.projection + self.own(ids) + self.kind[types]
        if self.training:
            x = x * (torch.rand((*ids.shape, 1)) > DROPPED)
        here = mask.float()[:, None]
        x = x.transpose(1, 2) * here
        for layer in self.layers:
            x = torch.relu(layer(x)) * here
        answer = types.float()[:, None] * here
        pooled = []
        for part in (here - answer, answer):
            pooled += [(x * part).amax(2), (x * part).sum(2) / part.sum(2).clamp(min=1)]
        return self.head(torch.relu(self.inner(torch.cat(pooled, 1))))


def fit(seen: Seen, words: torch.Tensor, epochs: int) -> Network:
    """Cross-entropy with the teacher's probability, and the distance of the logits, which ranks what is far from one half."""
    torch.manual_seed(0)
    model, rng = Network(words), random.Random(0)
    own = [{"params": [model.own.weight], "lr": RATE / 4, "weight_decay": 0.0}]
    rest = [p for n, p in model.named_parameters() if not n.startswith("own")]
    optimiser = torch.optim.AdamW([{"params": rest, "lr": RATE, "weight_decay": 0.01}, *own])
    total, average, done = epochs * (len(seen.windows) // BATCH), copy.deepcopy(model), 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min((s + 1) / (0.05 * total + 1), max(0.0, 1 - s / total)))
    target, head = torch.from_numpy(seen.logit), torch.from_numpy(seen.head)
    began, shown = time.process_time(), 0.0
    for _ in range(epochs):
        model.train()
        for group in shuffled([len(ids) for ids, _ in seen.windows], rng):
            score = model(*tensors([seen.windows[n] for n in group])).gather(1, head[group, None])[:, 0]
            loss = loss_of(score, target[group])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            done, shown = done + 1, shown + loss.item()
            keep = min(0.998, (1 + done) / (10 + done))
            torch._foreach_lerp_([a.data for a in average.parameters()], [b.data for b in model.parameters()], 1 - keep)
        print(f"{done} of {total} steps, loss {shown / (total / epochs):.4f}, {time.process_time() - began:.0f} s", flush=True)
        shown = 0.0
    return average.eval()


def loss_of(score: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    weight = 1 + 2 * (target > 0).float()
    near = smooth_l1_loss(score, target.clamp(-5, 5), reduction="none")
    return (weight * (binary_cross_entropy_with_logits(score, target.sigmoid(), reduction="none") + 0.15 * near)).mean()


def shuffled(lengths: Sequence[int], rng: random.Random) -> list[list[int]]:
    """Batches of windows of about the same length, in random order."""
    order = sorted(range(len(lengths)), key=lambda n: lengths[n] + 24 * rng.random())
    groups = [order[n : n + BATCH] for n in range(0, len(order), BATCH)]
    rng.shuffle(groups)
    return groups


def tensors(rows: Sequence[Window]) -> list[torch.Tensor]:
    return [torch.from_numpy(values) for values in feed(rows).values()]


def words_of(file: Path) -> torch.Tensor:
    """[words, 384]: the encoder's word table, to unit variance."""
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(file)).graph.initializer if "word_embeddings" in t.name}
    name = "body.embeddings.word_embeddings.weight"
    table = torch.from_numpy(held[f"{name}.int8"].astype(np.float32) * held[f"{name}.scale"])
    return (table - table.mean(0)) / table.std()


def write(model: Network, file: Path) -> None:
    """The network as ONNX: the word table in int8 with a scale per word, all else in fp16, computed in fp32."""
    nodes, held = list[Any](), list[Any]()

    def constant(name: str, values: Any) -> str:
        held.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"{kind.lower()}.{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def weight(name: str, values: torch.Tensor) -> str:
        return node("Cast", constant(name, values.detach().numpy().astype(np.float16)), to=TensorProto.FLOAT)

    table, scale = rounded(model.table().detach().numpy(), 1)
    rows = [node("Gather", constant(f"words.{n}", part), "input_ids") for n, part in (("int8", table), ("scale", scale))]
    word = node("Mul", node("Cast", rows[0], to=TensorProto.FLOAT), rows[1])
    x = node("Add", word, node("Gather", weight("kind", model.kind), "token_type_ids"))
    axis, floor = constant("axis", np.array([1])), constant("floor", np.array(1, dtype=np.float32))
    last = constant("last", np.array([2]))
    here = node("Unsqueeze", node("Cast", "attention_mask", to=TensorProto.FLOAT), axis)
    x = node("Mul", node("Transpose", x, perm=[0, 2, 1]), here)
    for n, layer in enumerate(model.layers):
        parts = [weight(f"layer.{n}.{name}", value) for name, value in layer.named_parameters()]
        x = node("Mul", node("Relu", node("Conv", x, *parts, pads=2 * [SPANS[n] // 2])), here)
    answer = node("Mul", node("Unsqueeze", node("Cast", "token_type_ids", to=TensorProto.FLOAT), axis), here)
    pooled = []
    for part in (node("Sub", here, answer), answer):
        mine = node("Mul", x, part)
        count = node("Max", node("ReduceSum", part, last, keepdims=0), floor)
        pooled += [node("ReduceMax", mine, axes=[2], keepdims=0), node("Div", node("ReduceSum", mine, last, keepdims=0), count)]
    inner = [weight(f"inner.{name}", value) for name, value in model.inner.named_parameters()]
    head = [weight(f"head.{name}", value) for name, value in model.head.named_parameters()]
    hidden = node("Relu", node("Gemm", node("Concat", *pooled, axis=1), *inner, transB=1))
    nodes.append(helper.make_node("Gemm", [hidden, *head], ["logit"], transB=1))
    ends = [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["rows", len(sieve.HEADS)])]
    names = ("input_ids", "attention_mask", "token_type_ids")
    starts = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in names]
    body = helper.make_graph(nodes, "sieve", starts, ends, held)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))


def chosen(encoder: Encoder, held_out: Seen, estimate: npt.NDArray[np.float32]) -> dict[str, float]:
    """The level of each head: the lowest of those below which, for one of the decisions, `LOST` of the windows found lie."""
    out: dict[str, float] = {}
    for place, name in enumerate(sieve.HEADS):
        slope, offset = (float(part[NAMED.index(name)]) for part in (encoder.slope, encoder.offset))
        mine = held_out.head == place
        p = grading.sigmoid(slope * held_out.logit[mine] + offset)
        found = [np.sort(estimate[mine][p >= at]) for at in DECISIONS]
        # an estimate is told as it is, so it may not reach the lowest threshold itself
        highest = (np.log(DECISIONS[0] / (1 - DECISIONS[0])) - offset) / slope
        out[name] = round(min(highest, *(float(f[int(LOST * len(f))]) for f in found)), 4)
        left, everyday = estimate[mine] >= out[name], np.isin(np.array(held_out.origin)[mine], sorted(PLAIN))
        print(f"{name}: level {out[name]}, found {[len(f) for f in found]} of {mine.sum()} windows, left open "
              f"{left.mean():.3f}, of everyday ones {left[everyday].mean():.3f}", flush=True)  # fmt: skip
    return out


def strangeness(encoder: Encoder, seen: Seen) -> npt.NDArray[np.float64]:
    """[windows]: the share of odd tokens among any few in a row (models.sieve)."""
    probe = sieve.Sieve(None, sieve.odd_words(encoder.tokenizer), 1.0, {}, 1.0, "")
    return np.concatenate([probe.strange(feed([row])) for row in seen.windows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder with the encoder; the sieve is written beside it")
    parser.add_argument("--keep", type=Path, help="a folder where what the teacher said is stored, and read again")
    parser.add_argument("--rows", type=int, help="smoke test: this many texts of each side")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder(args.out)
    held_out, inside = (seen(args, encoder, side) for side in ("held", "fit"))
    model = fit(inside, words_of(args.out / MODEL), args.epochs)
    write(model, args.out / sieve.NETWORK)
    settings = calibrated(args.out, encoder, held_out)
    settings["training"] = {
        "windows": {"fit": len(inside.windows), "held_out": len(held_out.windows)},
        "torch": torch.__version__,
    }
    write_json(args.out / sieve.SETTINGS, settings)
    print(json.dumps(settings), flush=True)


def calibrated(folder: Path, encoder: Encoder, held_out: Seen) -> dict[str, Any]:
    """What sieve.json holds of the network that lies in the folder: what is too odd for it, and its levels."""
    strange, plain = strangeness(encoder, held_out), np.isin(held_out.origin, sorted(PLAIN))
    most_odd = round(float(np.quantile(strange[plain], ODD_AMONG_PLAIN)), 3)
    settings = {"sha256": file_sha256(folder / sieve.NETWORK), "encoder": encoder.weights, "most_odd": most_odd}
    settings |= {"least": DECISIONS[0], "levels": dict.fromkeys(sieve.HEADS, 0.0)}
    write_json(folder / sieve.SETTINGS, settings)
    estimate = estimated(sieve.load_sieve(folder, encoder), held_out)
    estimate[strange > most_odd] = np.inf
    return {**settings, "levels": chosen(encoder, held_out, estimate)}


def seen(args: argparse.Namespace, encoder: Encoder, side: str) -> Seen:
    file = args.keep / f"{side}.npz" if args.keep else None
    if file is not None and file.is_file():
        return read(file)
    found = list(texts(args.data, side == "held", random.Random(SEEDS[side])))
    random.Random(3).shuffle(found)
    told = taught(encoder, *framed_few(encoder, found[: args.rows or TEXTS[side]]))
    if file is not None:
        stored(told, file)
    return told


def estimated(network: sieve.Sieve, seen: Seen) -> npt.NDArray[np.float32]:
    out = np.empty((len(seen.windows), len(sieve.HEADS)), dtype=np.float32)
    for batch in batches([len(ids) for ids, _ in seen.windows], BATCH_TOKENS):
        out[batch] = network.session.run(["logit"], feed([seen.windows[n] for n in batch]))[0]
    return out[np.arange(len(out)), seen.head]


if __name__ == "__main__":
    main()
