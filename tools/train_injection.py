"""Train the learnt part of the gateway's injection filter and write its weights; numpy and scipy, minutes on one core.

    python tools/train_injection.py DATA [--without SOURCE] [--jobs 4] [--out FOLDER]

DATA holds prompts, sft, reasoning and langtext as .jsonl.gz. Weights, calibration and thresholds come from `train` rows and the
train half of `tools/data/injection_lookalikes.jsonl` alone: thresholds from scores of folds that were not trained on. `dev` is
measured by `tools/filter_rates.py DATA injection`; with `--without` the model has not seen a source of attacks.

Two heads over one set of features (temper/serve/filters/grams.py). `user`: attacks in what somebody asks. `tool`: instructions in
what a tool or a document says, where they have no business; its attacks are mostly made, by putting an instruction into a
document. An attack lies somewhere in its text, and nobody says where: its window is chosen by the model of the round before.
"""

import argparse
import gzip
import hashlib
import json
import multiprocessing
import random
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize  # type: ignore[import-untyped,unused-ignore]
from scipy.sparse import csr_matrix  # type: ignore[import-untyped,unused-ignore]

from temper.files import file_sha256, write_json
from temper.serve.filters import grams
from temper.serve.fold import fold

Floats = npt.NDArray[np.float64]
LOOKALIKES = Path(__file__).parent / "data" / "injection_lookalikes.jsonl"
SEED = 7
MOST = 2000
"""Characters of a text that are trained on."""
FOLDS = 3
ROUNDS = 2
RIDGE = 1.0
ALARMS, SOURCE_ALARMS, ENOUGH = 0.003, 0.02, 200
"""Shares of harmless texts, of all and of a source of so many texts, that may reach the threshold."""
OUT = Path(__file__).parents[1] / "temper" / "serve" / "filters"


@dataclass(frozen=True)
class Case:
    """One text, whether it is an attack, and where in it the attack lies if that is known (characters of the text)."""

    id: str
    source: str
    group: str
    attack: bool
    text: str
    place: tuple[int, int] | None = None


@dataclass
class Read:
    """A case as the model sees it: hashed n-grams in order of their places."""

    case: Case
    buckets: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    length: int
    windows: npt.NDArray[np.intp]
    place: tuple[int, int] | None = None


def rows(data: Path, name: str, split: str) -> Iterator[dict[str, Any]]:
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from (row for row in map(json.loads, lines) if row["split"] == split)


def lookalikes(split: str, *kinds: str) -> Iterator[dict[str, Any]]:
    for line in LOOKALIKES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] == split and row["kind"] in kinds:
            yield row


def few(items: Iterable[Case], most: int) -> list[Case]:
    """At most so many, chosen by a hash of their id."""
    return sorted(items, key=lambda c: hashlib.sha256(c.id.encode()).digest())[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--without", default="", help="leave out of training the attacks whose source holds this word")
    parser.add_argument("--jobs", type=int, default=1, help="processes that fit at once; each takes 1 GB")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for injection.npy and injection.json")
    given = parser.parse_args()
    weights, told = [], {}
    for head, cases in train_cases(given.data).items():
        _items[:] = [read(case) for case in cases]
        jobs: list[tuple[str, int | str]] = [("without", given.without), *(("fold", k) for k in range(FOLDS))]
        with multiprocessing.get_context("fork").Pool(given.jobs) as pool:
            found = pool.map(fitted, jobs, chunksize=1)
        whole, made = settled(_items, found[0], found[1:])
        weights.append(whole)
        told[head] = made
        print(head, len(cases), "texts", {k: round(v, 4) for k, v in made.items()}, flush=True)
    written(given.out, weights, told)


def written(out: Path, weights: Sequence[npt.NDArray[np.int8]], told: Mapping[str, Mapping[str, float]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "injection.npy", np.stack(weights))
    sha = file_sha256(out / "injection.npy")
    write_json(out / "injection.json", {"version": sha[:12], "weights": "injection.npy", "sha256": sha, "heads": told})


Fitted = tuple[npt.NDArray[np.floating[Any]], float, Floats]


def settled(items: Sequence[Read], whole: Fitted, folds: Sequence[Fitted]) -> tuple[npt.NDArray[np.int8], dict[str, float]]:
    """The weights in eight bits; calibration and threshold by the score that each text has from the fold it was not in."""
    found = np.asarray([folds[fold_of(i.case)][2][n] for n, i in enumerate(items)])
    label = np.asarray([float(i.case.attack) for i in items])
    slope, offset = platt(found, label)
    level = 1 / (1 + np.exp(-(slope * threshold(items, found) + offset)))
    small, step = quantised(whole[0])
    made = {"step": step, "bias": float(whole[1]), "slope": slope, "offset": offset, "threshold": float(f"{level:.4f}")}
    return small, made


def threshold(items: Sequence[Read], found: Floats) -> float:
    """The lowest logit that at most so many harmless texts reach whose group was not trained on: of all, and of every source."""
    plain = [(i.case.source, x) for i, x in zip(items, found, strict=True) if not i.case.attack and "(" not in i.case.source]
    level = float(np.quantile([x for _, x in plain], 1 - ALARMS))
    for source in {source for source, _ in plain}:
        mine = [x for s, x in plain if s == source]
        if len(mine) >= ENOUGH:
            level = max(level, float(np.quantile(mine, 1 - SOURCE_ALARMS)))
    return level


def quantised(weights: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.int8], float]:
    step = float(f"{np.abs(weights).max() / 127:.6g}")
    return np.rint(weights / step).astype(np.int8), step


# --- what is read ------------------------------------------------------------------------------------------------------


def attacks(data: Path, split: str) -> Iterator[Case]:
    """Attacks as a user sends them."""
    for row in rows(data, "prompts", split):
        if row["kind"] in ("jailbreak", "injection"):
            source = row["source"]
            if source == "cyberseceval_injection":
                source += " indirect" if "(indirect)" in row["category"] else " direct"
            if row["label"] == "harmful" or source == "xsafety":
                yield Case(row["id"], source, row["group"], True, row["text"])


def asked(data: Path, split: str) -> Iterator[Case]:
    """What people ask, harmful or not, that is no attack on the model's instructions."""
    for row in rows(data, "prompts", split):
        if row["kind"] in ("jailbreak", "injection"):
            continue
        source = row["source"] if row["label"] == "benign" else f"{row['source']} ({row['label']})"
        if row["source"] == "xsafety" and row["category"] == "Role_Play_Instruction":
            source = "xsafety role play"
        yield Case(row["id"], source, row["group"], False, row["text"])
    for row in rows(data, "sft", split):
        source = row["source"] if row["tag"] == "helpful" else f"{row['source']} (harmful)"
        yield Case(row["id"], source, row["group"], False, row["messages"][0]["content"])
    for row in rows(data, "reasoning", split):
        yield Case(row["id"], row["source"], row["group"], False, row["question"])
    for row in rows(data, "pairs", split):
        said = "\n".join(m["content"] for m in row["prompt"] if m["role"] == "user")
        source = f"{row['source']} pairs" + (" (harmful)" if row["aspect"] == "harmlessness" else "")
        yield Case(row["id"], source, row["group"], False, said)
    seen = set()
    for row in rows(data, "prompts", split):
        if row["source"] == "cyberseceval_injection":
            said = row["messages"][0]["content"]
            if row["messages"][0]["role"] == "system" and said not in seen:
                seen.add(said)
                yield Case("system " + row["id"], "system prompts", row["group"], False, said)
    for row in lookalikes(split, "discussion", "role-play", "system-prompt", "command", "code"):
        yield Case(row["id"], f"written: {row['kind']}", row["id"], False, row["text"])


def documents(data: Path, split: str) -> Iterator[Case]:
    """What a tool may bring or a user paste: passages, mails, pages, code, answers."""
    for row in rows(data, "langtext", split):
        yield Case(row["id"], row["source"], row["group"], False, row["text"])
    for row in rows(data, "prompts", split):
        if row["source"] == "bipia" and row["label"] == "benign":
            yield Case(row["id"], "bipia clean", row["group"], False, row["text"])
    for row in rows(data, "sft", split):
        yield Case("answer " + row["id"], f"{row['source']} answers", row["group"], False, row["messages"][-1]["content"])
    for row in rows(data, "reasoning", split):
        if row.get("rationale"):
            yield Case("rationale " + row["id"], f"{row['source']} rationales", row["group"], False, row["rationale"])
    yield from papers(split)
    for row in lookalikes(split, "email", "web", "tool", "code"):
        yield Case(row["id"], f"written: {row['kind']}", row["id"], False, row["text"])


def papers(split: str) -> Iterator[Case]:
    """Pieces of Python's standard library and of installed packages' pages; a file lies on one side by a hash of its name."""
    for source, root, files in (
        ("standard library", "stdlib", "*.py"),
        ("pages of packages", "purelib", "*.dist-info/METADATA"),
    ):
        for file in sorted(Path(sysconfig.get_paths()[root]).glob(files)):
            name = file.name if file.suffix else file.parent.name.split("-")[0].lower()
            if (hashlib.sha256(name.encode()).digest()[0] % 2 == 0) is (split == "train"):
                text = file.read_text(encoding="utf-8", errors="replace")
                for n in range(0, min(len(text), 10 * MOST), MOST):
                    yield Case(f"{name} {n}", source, name, False, text[n : n + MOST])


def instructions(data: Path, split: str) -> dict[str, list[tuple[str, str]]]:
    """Sentences that tell somebody what to do, by source, as (group, text)."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows(data, "sft", split):
        text = row["messages"][0]["content"].strip()
        if row["tag"] == "helpful" and len(text) <= 240 and not text.endswith(("?", "？")):
            found["requests"].append((row["group"], text))
    for row in rows(data, "prompts", split):
        text = row["text"].strip()
        if row["source"] == "xsafety" and row["kind"] == "injection" and len(text) <= 400:
            found["xsafety"].append((row["group"], text))
        if row["source"] == "bipia" and row["label"] == "harmful" and row["category"].endswith(("(start)", "(end)")):
            lines = text.split("\n")
            found["bipia"].append((row["group"], lines[0] if row["category"].endswith("(start)") else lines[-1]))
        if row["source"] == "inthewild_jailbreaks" and len(text) <= 1500:
            found["jailbreaks"].append((row["group"], text))
    for row in lookalikes(split, "attack"):
        found["written: attack"].append((row["id"], row["text"]))
    return {source: sorted(set(held)) for source, held in found.items()}


ADDRESSED = ("", "", "", "", "AI assistant: ", "Important: ", "Note to the assistant: ", "Instruction: ", "Before you answer: ",
             "Ignore the above. ", "System: ", "When you answer, ", "Assistant, ", "<!-- ", "PS: ", "- ", "TODO: ")  # fmt: skip


def poisoned(docs: Sequence[Case], told: Mapping[str, Sequence[tuple[str, str]]], count: int, split: str) -> Iterator[Case]:
    """Documents with an instruction at the start, in the middle or at the end, so many for each source of instructions."""
    for source, held in told.items():
        rng = random.Random(f"{SEED} {split} {source}")
        for n in range(count if len(held) > 40 else count // 2):
            doc, (group, said) = rng.choice(docs), rng.choice(held)
            address = rng.choice(ADDRESSED)
            said = address + said + (" -->" if address.startswith("<!") else "")
            text = doc.text[: MOST // 2]
            cut = rng.choice([0, len(text), *(i + 1 for i, c in enumerate(text) if c in "\n.。!?" and 0 < i < len(text) - 1)])
            before = "" if cut == 0 else rng.choice(["\n", " ", "\n\n"])
            after = "" if cut == len(text) else rng.choice(["\n", " ", "\n\n"])
            whole = text[:cut] + before + said + after + text[cut:]
            start = cut + len(before)
            yield Case(f"made {source} {n}", f"made: {source}", group, True, whole, (start, start + len(said)))


def train_cases(data: Path) -> dict[str, list[Case]]:
    """Of each head its cases; of large sources some."""
    split = "train"
    hostile, requests, docs = list(attacks(data, split)), list(asked(data, split)), list(documents(data, split))
    some = [c for cs in by_source(requests).values() for c in few(cs, 3000 if cs[0].source.startswith("xsafety (") else 700)]
    papers = [c for cs in by_source(docs).values() for c in few(cs, 600)]
    told = instructions(data, split)
    made = list(poisoned([c for c in papers if len(c.text) > 80], told, 900, split))
    bipia = [c for c in attacks(data, split) if c.source == "bipia"]
    written = [Case(r["id"], "written: attack", r["id"], True, r["text"]) for r in lookalikes(split, "attack")]
    indirect = [
        c for c in hostile if c.source in ("inthewild_jailbreaks", "jbb_artifacts", "xsafety", "cyberseceval_injection indirect")
    ]
    return {
        "user": [c for c in hostile if c.source not in ("bipia",)] + some + papers,
        "tool": indirect + bipia + made + written + papers,
    }


def by_source(cases: Iterable[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        found[case.source].append(case)
    return dict(sorted(found.items()))


# --- features ----------------------------------------------------------------------------------------------------------


def read(case: Case) -> Read:
    folded = fold(case.text[:MOST])
    text = folded.text
    parts = [(b, s, np.full(len(b), v)) for b, s, v in grams.grams(text)]
    buckets, starts, values = (np.concatenate([p[k] for p in parts]) for k in range(3))
    order = np.argsort(starts, kind="stable")
    place = None if case.place is None else (folded.at(case.place[0]), folded.at(min(case.place[1], MOST)))
    return Read(
        case, buckets[order].astype(np.int32), starts[order].astype(np.int32), values[order].astype(np.float32),
        len(text), grams.windows(len(text)), place,
    )  # fmt: skip


def scores(item: Read, weights: npt.NDArray[np.floating], bias: float) -> Floats:
    total = np.concatenate([[0.0], np.cumsum(weights[item.buckets] * item.values)])
    at = np.searchsorted(item.starts, item.windows)
    return (total[at[:, 1]] - total[at[:, 0]]) * grams.scale(item.windows[:, 1] - item.windows[:, 0]) + bias


def matrix(items: Sequence[tuple[Read, int]]) -> Any:
    """[windows, 2**BITS + 1]: the n-grams of each chosen window, and a constant."""
    data, columns, ends = [], [], [0]
    for item, k in items:
        a, b = item.windows[k]
        i, j = np.searchsorted(item.starts, (a, b))
        factor = grams.scale(np.array([b - a]))[0]
        data += [item.values[i:j] * factor, [1.0]]
        columns += [item.buckets[i:j], [1 << grams.BITS]]
        ends.append(ends[-1] + int(j - i) + 1)
    flat = np.concatenate(data).astype(np.float32)
    return csr_matrix(
        (flat, np.concatenate(columns).astype(np.int32), np.asarray(ends)), shape=(len(items), (1 << grams.BITS) + 1)
    )


# --- model -------------------------------------------------------------------------------------------------------------


def fit(items: Sequence[Read], *, ridge: float = RIDGE, power: float = 0.5) -> tuple[npt.NDArray[np.float32], float]:
    """Ridge logistic regression over windows. The first round reads the largest window of each text, the others the worst windows
    of the model before, of an attack one and of other texts two, and one at random."""
    rng = np.random.default_rng(SEED)
    chosen = [(item, _first(item, rng)) for item in items]
    weights, bias = np.zeros(1 << grams.BITS, dtype=np.float32), 0.0
    start = None
    for n in range(ROUNDS + 1):
        if n:
            chosen = [(item, ks) for item, ks in ((i, _worst(i, scores(i, weights, bias), rng)) for i in items)]
        pairs = [(item, int(k)) for item, ks in chosen for k in ks]
        found = logistic(matrix(pairs), *labels(pairs, power), ridge=ridge, start=start)
        start = found
        weights, bias = found[:-1].astype(np.float32), float(found[-1])
    return weights, bias


def _inside(item: Read) -> npt.NDArray[np.intp]:
    """The windows that hold most of the attack, or lie mostly in it."""
    assert item.place is not None
    a, b = item.place
    shared = np.minimum(item.windows[:, 1], b) - np.maximum(item.windows[:, 0], a)
    size = item.windows[:, 1] - item.windows[:, 0]
    return np.flatnonzero(shared >= 0.6 * np.minimum(size, b - a))


def _first(item: Read, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    if item.case.attack:
        return rng.permutation(_inside(item))[:1] if item.place is not None else np.array([len(item.windows) - 1])
    return np.unique(np.append(rng.permutation(len(item.windows))[:1], len(item.windows) - 1))


def _worst(item: Read, found: Floats, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    if item.case.attack and item.place is not None:
        inside = _inside(item)
        return inside[np.argsort(-found[inside])[:1]]
    order = np.argsort(-found)
    if item.case.attack:
        return order[:1]
    return np.unique(np.concatenate([order[:2], rng.permutation(len(found))[:1]]))


def labels(pairs: Sequence[tuple[Read, int]], power: float) -> tuple[Floats, Floats]:
    """Labels, and weights: a source counts by the root of its windows, and both labels alike."""
    size: dict[tuple[str, bool], int] = defaultdict(int)
    for item, _ in pairs:
        size[item.case.source, item.case.attack] += 1
    weight = np.asarray([size[i.case.source, i.case.attack] ** -power for i, _ in pairs])
    label = np.asarray([float(i.case.attack) for i, _ in pairs])
    for side in (0, 1):
        weight[label == side] /= weight[label == side].sum()
    return label, weight * len(pairs) / 2


def logistic(rows_: Any, label: Floats, weight: Floats, *, ridge: float, start: Floats | None) -> Floats:
    sign = (2 * label - 1).astype(np.float32)
    turned = rows_.T.tocsr()

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = sign * (rows_ @ w.astype(np.float32))
        pull = (-sign * weight / (1 + np.exp(np.clip(margin, -50, 50)))).astype(np.float32)
        value = float((weight * np.logaddexp(0, -margin)).sum() + ridge / 2 * w[:-1] @ w[:-1])
        slope = np.asarray(turned @ pull, dtype=np.float64)
        slope[:-1] += ridge * w[:-1]
        return value, slope

    begin = np.zeros(rows_.shape[1]) if start is None else start
    return np.asarray(minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": 40, "maxfun": 50}).x)


def platt(score: Floats, label: Floats) -> tuple[float, float]:
    """Slope and offset of a probability, both labels weighing the same (Platt 1999)."""
    weight = np.where(label == 1, 0.5 / label.sum(), 0.5 / (1 - label).sum())

    def loss(ab: Floats) -> tuple[float, Floats]:
        z = ab[0] * score + ab[1]
        pull = weight * (1 / (1 + np.exp(-np.clip(z, -50, 50))) - label)
        return float((weight * (np.logaddexp(0, z) - label * z)).sum()), np.asarray([pull @ score, pull.sum()])

    slope, offset = minimize(loss, np.asarray([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    return float(slope), float(offset)


def highest(items: Sequence[Read], weights: npt.NDArray[np.floating], bias: float) -> Floats:
    return np.asarray([scores(item, weights, bias).max() for item in items])


_items: list[Read] = []
"""What the processes that fit share: read once, before they are forked."""


def fitted(job: tuple[str, int | str]) -> tuple[npt.NDArray[np.float32], float, Floats]:
    """The model of a job, ("fold", k) without that fold or ("without", word) without such attacks, and the texts' scores."""
    kind, what = job
    if kind == "fold":
        kept = [fold_of(i.case) != what for i in _items]
    else:
        kept = [what not in i.case.source or not i.case.attack for i in _items] if what else [True] * len(_items)
    weights, bias = fit([i for i, k in zip(_items, kept, strict=True) if k])
    return weights, bias, highest(_items, weights, bias)


def fold_of(case: Case) -> int:
    return int(hashlib.sha256(case.group.encode()).hexdigest(), 16) % FOLDS


if __name__ == "__main__":
    main()
