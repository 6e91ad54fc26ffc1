"""The shipped harm encoder through onnxruntime against the same weights through torch in fp32, side by side, one thread each.

Texts are the bundled dialogues: answers alone, reasoning and answer, and some thrice as long. torch gets them as a user would
give them (32 at a time in the order given, padded to the longest) and in our own batches by length, at whichever size suits it
best. Figures are texts per CPU second. Also told: how far the two differ in P, windows per second of a megabyte, and memory.
"""

import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from record import Case, compared, cpu_seconds, record

from temper.files import read_rows
from temper.models.encoder import Encoder, Window, batches, feed, framed, load_encoder

SHIPPED = Path(str(files("temper.graders"))) / "data" / "harm"
RUNS = 5
GIVEN = 32
SIZES = (512, 1024, 2048, 4096)
SHAPE = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 30522}


def pairs(n: int = 320) -> list[tuple[str, str]]:
    rows = read_rows(Path(str(files("temper.data"))) / "sets" / "cold-start.jsonl")
    made = [(r["prompt"], r["answer"]) for r in rows] + [(r["prompt"], f"{r['reasoning']}\n\n{r['answer']}") for r in rows]
    made += [(prompt, "\n\n".join([text] * 3)) for prompt, text in made[::10]]
    return random.Random(0).sample(made, n)


def in_torch() -> Callable[[Sequence[Window]], Any]:
    """transformers' BERT with the numbers of model.onnx in fp32; windows -> [rows, heads]."""
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    state = {name: torch.tensor(values) for name, values in shipped_state().items()}
    body = BertModel(BertConfig(**SHAPE), add_pooling_layer=False).eval()
    body.load_state_dict({k.removeprefix("body."): v for k, v in state.items() if k.startswith("body.")})

    @torch.inference_mode()
    def run(rows: Sequence[Window]) -> Any:
        given = {name: torch.from_numpy(values) for name, values in feed(rows).items()}
        hidden, mask = body(**given).last_hidden_state, given["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return (mean @ state["head.weight"].T + state["head.bias"]).numpy()

    return run


def shipped_state() -> dict[str, Any]:
    """What model.onnx stores, as fp32 under transformers' names."""
    import onnx
    from onnx import numpy_helper

    raw = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(SHIPPED / "model.onnx")).graph.initializer}
    state = {name: values for name, values in raw.items() if name.startswith(("body.", "head.")) and "qkv" not in name}
    for name in [name.removesuffix(".int8") for name in raw if name.endswith(".int8")]:
        values = raw[f"{name}.int8"].astype(np.float32) * raw[f"{name}.scale"]
        state[name] = values if "word_embeddings" in name else values.T
    for name in [name.removesuffix("qkv.bias") for name in raw if name.endswith("qkv.bias")]:
        weight = np.split(state.pop(f"{name}qkv.weight"), 3)
        for n, part in enumerate(("query", "key", "value")):
            state[f"{name}{part}.weight"], state[f"{name}{part}.bias"] = weight[n], np.split(raw[f"{name}qkv.bias"], 3)[n]
    return {k: np.ascontiguousarray(v) for k, v in state.items() if not k.endswith((".int8", ".scale"))}


def over(run: Callable[[Sequence[Window]], Any], parts: list[list[Window]], encoder: Encoder, groups: list[list[int]]) -> Any:
    """Probabilities [pairs, heads] by any network, in the batches given."""
    rows = [(owner, window) for owner, windows in enumerate(parts) for window in windows]
    best = np.full((len(parts), len(encoder.slope)), -np.inf)
    for group in groups:
        np.maximum.at(best, [rows[n][0] for n in group], run([rows[n][1] for n in group]))
    return 1 / (1 + np.exp(-(encoder.slope * best + encoder.offset)))


def side_by_side(encoder: Encoder, texts: list[tuple[str, str]]) -> list[Case]:
    network, out = in_torch(), {}
    parts = framed(encoder.tokenizer, texts)
    lengths = [len(ids) for windows in parts for ids, _ in windows]
    orders = {"given order": [list(range(n, min(n + GIVEN, len(lengths)))) for n in range(0, len(lengths), GIVEN)]}
    orders |= {f"by length {size}": list(batches(lengths, size)) for size in SIZES}

    def peer(order: str) -> Callable[[], None]:
        def work() -> None:
            out[order] = over(network, framed(encoder.tokenizer, texts), encoder, orders[order])

        return work

    def ours() -> None:
        out["ours"] = encoder.probabilities(texts)

    best = min((o for o in orders if o != "given order"), key=lambda o: cpu_seconds(peer(o)))
    cases: list[Case] = []
    for name, order in (("given order", "given order"), ("batches by length", best)):
        seconds = [(cpu_seconds(ours), cpu_seconds(peer(order))) for _ in range(RUNS)]
        rates = [[len(texts) / s for s in side] for side in zip(*seconds, strict=True)]
        apart = float(np.abs(out["ours"] - out[order]).max())
        notes = {"texts": len(texts), "windows": len(lengths), "tokens": sum(lengths)}
        fields: dict[str, Any] = compared(*rates, more_is_better=True)
        about: dict[str, Any] = {
            "peer_name": f"torch fp32, {order}",
            "unit": "texts/CPU s",
            "check": {"P apart": apart},
            "notes": notes,
        }
        cases.append(Case(f"harm encoder, torch in {name}", **about, **fields))
    return cases


def megabyte(encoder: Encoder) -> dict[str, float]:
    rng, sentences = random.Random(0), [text for _, answer in pairs() for text in answer.split(". ")]
    text = ". ".join(rng.choice(sentences) for _ in range(25_000))[:1_000_000]
    windows = len(framed(encoder.tokenizer, [("Why?", text)])[0])
    seconds = cpu_seconds(lambda: encoder([("Why?", text)]))
    rate = round(windows / seconds, 1)
    return {"megabyte_windows": windows, "megabyte_cpu_seconds": round(seconds, 1), "windows_per_cpu_second": rate}


def pss_mb() -> float:
    """This process's memory, pages shared with others counted by share, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def workers(encoder: Encoder, texts: list[tuple[str, str]], n: int = 4) -> dict[str, float]:
    """Memory of n workers forked after loading, all alive, and of n started afresh; in MB each, without torch in any of them."""
    encoder(texts[:8])
    return {
        "alone_pss_mb": round(pss_mb()),
        "forked_pss_mb_each": round(float(np.median(forked(encoder, texts, n)))),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    }


def forked(encoder: Encoder, texts: list[tuple[str, str]], n: int) -> list[float]:
    """Each child works, waits until all have, and tells its share."""
    told, ready, go, stop = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(n):
        pid = os.fork()
        if pid == 0:
            encoder(texts[:8])
            os.write(ready[1], b"r")
            os.read(go[0], 1)
            os.write(told[1], f"{pss_mb():8.1f}".encode())
            os.read(stop[0], 1)
            os._exit(0)
        children.append(pid)
    for _ in range(n):
        os.read(ready[0], 1)
    os.write(go[1], b"g" * n)
    found = [float(os.read(told[0], 8)) for _ in range(n)]
    os.write(stop[1], b"s" * n)
    for pid in children:
        os.waitpid(pid, 0)
    return found


def main() -> None:
    if sys.argv[1:] == ["memory"]:
        print(workers(load_encoder(SHIPPED), pairs(40)))
        return
    found = subprocess.run([sys.executable, __file__, "memory"], capture_output=True, text=True, check=True).stdout
    encoder, texts = load_encoder(SHIPPED), pairs()
    cases = side_by_side(encoder, texts)
    record("encoder", cases, memory=found.strip(), long_text=megabyte(encoder))


if __name__ == "__main__":
    main()
