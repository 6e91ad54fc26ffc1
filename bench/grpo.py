"""temper's GRPO beside stock TRL 1.16: the training pass, generation, and a whole run of the quickstart's stage.

Each side lives in a process of its own (bench/sides.py) and they take turns, so that a machine that slows down slows both.
Seconds are CPU seconds. Training passes see the same answers, and their losses and gradient norms are compared. The peak is the
resident memory of the whole process, from the second unit on.

    python bench/grpo.py [--threads 1] [--pairs 5] [--runs 2] [--only a,b,c,d,e]

a: LoRA, long prompt. b: LoRA, short prompt. c: full fine-tuning, short prompt. d: 20 steps of the quickstart's GRPO stage.
e: generation at 1, 8 and 32 rows of a prompt. With --only the rows of the other cases stay as they were.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from record import Case, compared, record, stored

from temper.train.grpo import Grpo

HERE = Path(__file__).parent
PASSES = {
    "a": ("LoRA r16, P 345, C 32, G 8", 345, Grpo(steps=1, prompts_per_step=1, group=8, max_new_tokens=32)),
    "b": ("LoRA r16, P 105, C 48, G 8", 105, Grpo(steps=1, prompts_per_step=1, group=8, max_new_tokens=48)),
    "c": ("full fine-tuning, P 105, C 48, G 8", 105, Grpo(steps=1, prompts_per_step=1, group=8, max_new_tokens=48, lora_r=0)),
}
STEPS, ROWS, NEW = 20, (1, 8, 32), 64
TRL = "TRL 1.16"


@dataclass(frozen=True)
class Sizes:
    """Weights in the products of the decoder layers, of the head, of the adapter; and the shape of the attention."""

    body: int
    head: int
    lora: int
    layers: int
    heads: int
    head_dim: int


# How many products of its own size a weight takes part in, for a frozen weight, an adapter's, and the two of attention: one
# forward, one for the gradient of its input, one for its own.
PRODUCTS = {"forward": (1, 0, 1), "lora": (2, 3, 3), "full": (3, 0, 3)}


def flops(sizes: Sizes, prompts: Sequence[float], answers: Sequence[Sequence[float]], work: str) -> float:
    """FLOPs nobody can leave out: distinct prompts and answers once through the body, the head at answer tokens only.

    `prompts` are the lengths of distinct prompts, `answers[i]` those of the answers to prompt i, `work` a key of `PRODUCTS`. A
    multiply-add is two. Softmax, norms and everything else that is no product are left out, so 100 % cannot be reached.
    """
    frozen, adapter, attention = PRODUCTS[work]
    scored = sum(map(sum, answers))
    tokens = sum(prompts) + scored
    # a query meets its own key and those before it; its answer's past and its prompt are before it
    pairs = sum(p * (p + 1) / 2 + sum(c * p + c * (c + 1) / 2 for c in cs) for p, cs in zip(prompts, answers, strict=True))
    linear = frozen * (sizes.body * tokens + sizes.head * scored) + adapter * sizes.lora * tokens
    # a pair costs head_dim multiply-adds for its score and as many for its value
    return 2 * linear + 2 * attention * 2 * sizes.heads * sizes.head_dim * sizes.layers * pairs


def floor_seconds(facts: dict[str, Any], *amounts: float) -> float:
    """CPU seconds for FLOPs at the faster of the two measured products."""
    return sum(amounts) / max(facts["gflops"].values()) / 1e9


@dataclass(frozen=True)
class Pair:
    """Both sides of a case, ready; `facts` is what ours said of its model, its lengths and the machine's speed."""

    ours: Callable[..., dict[str, Any]]
    peer: Callable[..., dict[str, Any]]
    facts: dict[str, Any]

    def turns(self, pairs: int, **unit: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Units by turns; who goes first changes, so that neither always follows the other."""
        both: list[list[dict[str, Any]]] = [[], []]
        for turn in range(pairs):
            for side in (0, 1) if turn % 2 else (1, 0):
                both[side].append((self.ours, self.peer)[side](**unit))
        return both[0], both[1]


@contextlib.contextmanager
def started(spec: dict[str, Any], threads: int) -> Iterator[Pair]:
    """Both processes, with the case prepared. Stock goes first: it samples the answers that both train on."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "spec.json").write_text(json.dumps(spec))
        peer, _ = stack.enter_context(process("stock", folder, threads))
        ours, facts = stack.enter_context(process("temper", folder, threads))
        yield Pair(ours, peer, facts)


@contextlib.contextmanager
def process(side: str, folder: Path, threads: int) -> Iterator[tuple[Callable[..., dict[str, Any]], dict[str, Any]]]:
    """One worker: a function that asks it for a unit, and what it said when it was ready. Raises `RuntimeError` if it dies."""
    still = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, str(HERE / "sides.py"), side, str(folder)]
    log = folder / f"{side}.log"
    with (
        log.open("w") as noise,
        subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            env={**os.environ, **still, **offline},
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        to, fro = worker.stdin, worker.stdout

        def heard() -> dict[str, Any]:
            line = fro.readline()
            if not line:
                raise RuntimeError(f"the {side} side died:\n{log.read_text()[-4000:]}")
            return dict(json.loads(line))

        def ask(**unit: Any) -> dict[str, Any]:
            to.write(json.dumps(unit).encode() + b"\n")
            return heard()

        try:
            yield ask, heard()
        finally:
            worker.kill()


def training_pass(letter: str, threads: int, pairs: int) -> list[Case]:
    name, length, stage = PASSES[letter]
    with started({"kind": "pass", **spec_of(stage), "prompt": length, "seed": 7}, threads) as pair:
        if pair.facts["unshared"]:
            raise RuntimeError(
                f"ours trains with TRL's own methods, because {pair.facts['unshared']}; there is nothing to compare"
            )
        warm(pair)
        ours, peer = pair.turns(pairs)
    work = "lora" if stage.lora_r else "full"
    floor = floor_seconds(pair.facts, flops(Sizes(**pair.facts["sizes"]), pair.facts["prompts"], pair.facts["answers"], work))
    check = {
        "loss": ours[-1]["loss"],
        "loss_difference": max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, peer, strict=True)),
        "grad_norm": ours[-1]["grad_norm"],
        "grad_norm_difference": max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(ours, peer, strict=True)),
    }
    seconds = compared([u["cpu"] for u in ours], [u["cpu"] for u in peer])
    lengths = {"prompt_tokens": sum(pair.facts["prompts"]), "answer_tokens": sum(map(sum, pair.facts["answers"]))}
    common = fields(pair, ours, peer, floor, **lengths)
    return [Case(f"{letter}: training pass, {name}", peer_name=TRL, unit="CPU s a pass", check=check, **seconds, **common)]


def generation(letter: str, threads: int, pairs: int) -> list[Case]:
    stage = Grpo(max_new_tokens=NEW)
    cases = []
    with started({"kind": "generation", **spec_of(stage), "prompt": 105, "seed": 7}, threads) as pair:
        for rows, low in [*((r, False) for r in ROWS), *((r, True) for r in ROWS)]:
            warm(pair, rows=rows, low=low)
            ours, peer = pair.turns(pairs, rows=rows, low=low)
            must = flops(Sizes(**pair.facts["sizes"]), pair.facts["prompts"], [[NEW] * rows], "forward")
            floor = floor_seconds(pair.facts, must)
            rates = compared(*([u["tokens"] / u["cpu"] for u in side] for side in (ours, peer)), more_is_better=True)
            check = {"tokens_difference": max(abs(a["tokens"] - b["tokens"]) for a, b in zip(ours, peer, strict=True))}
            common = fields(pair, ours, peer, floor, prompt_tokens=sum(pair.facts["prompts"]), answer_tokens=NEW * rows)
            # the floor is that of fp32 products in both
            name = f"{letter}: generation, P 105, {NEW} tokens, {rows:2} rows" + (", ours from bf16 weights" if low else "")
            cases.append(Case(name, peer_name="model.generate", unit="tokens/CPU s", check=check, **rates, **common))
    return cases


def whole_run(letter: str, threads: int, pairs: int) -> list[Case]:
    """A row by step and a row by answer token, since what is sampled, and so how much there is to train on, differs."""
    from temper.train.recipe import read_recipe

    recipe = read_recipe(HERE.parent / "recipes" / "quickstart.toml")
    stage = next(s for s in recipe.stages if isinstance(s, Grpo))
    table = [{"prompt": [{"role": m.role, "content": m.content} for m in e.messages], "example": e.id} for e in stage.examples()]
    with started({"kind": "run", **spec_of(stage), "table": table, "seed": recipe.seed}, threads) as pair:
        pair.peer(steps=1, reset=True)
        pair.ours(steps=1, reset=True)
        ours, peer = pair.turns(pairs, steps=STEPS)
    prompts = peer[0]["prompt_tokens"]  # the same on both sides, and every copy of a prompt counted
    for unit in (*ours, *peer):
        unit["answer_tokens"] = unit["tokens"] - prompts
    answers = sum(u["answer_tokens"] for u in ours) / len(ours)
    floor = floor_seconds(pair.facts, *run_flops(Sizes(**pair.facts["sizes"]), stage, prompts / stage.group, answers))
    common = fields(
        pair,
        ours,
        peer,
        floor,
        prompt_tokens=prompts / stage.group,
        ours_answer_tokens=answers,
        peer_answer_tokens=sum(u["answer_tokens"] for u in peer) / len(peer),
    )
    name = f"{letter}: {STEPS} steps of the quickstart's GRPO stage"
    steps = compared([u["cpu"] / STEPS for u in ours], [u["cpu"] / STEPS for u in peer])
    tokens = compared(*([u["answer_tokens"] / u["cpu"] for u in side] for side in (ours, peer)), more_is_better=True)
    return [
        Case(f"{name}, by step", peer_name=TRL, unit="CPU s a step", **steps, **common),
        Case(f"{name}, by answer token", peer_name=TRL, unit="tokens/CPU s", **tokens, **common),
    ]


def run_flops(sizes: Sizes, stage: Grpo, prompt_tokens: float, answer_tokens: float) -> list[float]:
    """Sampling, the reference's pass and the training pass of a run; its prompts and answers are taken as all of mean length."""
    prompts = STEPS * stage.prompts_per_step
    lengths = [prompt_tokens / prompts] * prompts
    answers = [[answer_tokens / prompts / stage.group] * stage.group] * prompts
    passes = ["forward", "forward", "lora"] if stage.beta else ["forward", "lora"]
    return [flops(sizes, lengths, answers, work) for work in passes]


def spec_of(stage: Grpo) -> dict[str, Any]:
    from temper.models.resolve import resolve

    return {"base": str(resolve("smollm2-135m").folder), "stage": {**asdict(stage), "rewards": dict(stage.rewards)}}


def warm(pair: Pair, **unit: Any) -> None:
    """A unit that is not counted, and a second after memory was given back, from which on the peak is read."""
    for side in (pair.peer, pair.ours):
        side(**unit)
        side(**unit, reset=True)


def fields(
    pair: Pair, ours: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]], floor: float, **lengths: float
) -> dict[str, Any]:
    """What every row says beside its ratio: the share of the floor, both peaks, and how it came about."""
    cpu, wall = (compared([u[clock] for u in ours], [u[clock] for u in peer]) for clock in ("cpu", "wall"))
    speeds = {f"gflops_{name}": speed for name, speed in pair.facts["gflops"].items()}
    clocks = {"ours_wall_seconds": wall["ours"], "peer_wall_seconds": wall["peer"]}
    return {
        "floor_share": floor / cpu["ours"],
        "ours_peak_bytes": max(u["peak"] for u in ours),
        "peer_peak_bytes": max(u["peak"] for u in peer),
        "notes": {**lengths, "floor_cpu_seconds": floor, **clocks, **speeds},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    head = f"{'case':62}{'ours':>9}{'peer':>9}  {'unit':14}{'ratio':>6}  {'spread':13}{'floor':>6}{'ours GB':>9}{'peer GB':>9}"
    lines = [
        f"{r['case']:62}{r['ours']:9.4g}{r['peer']:9.4g}  {r['unit']:14}{r['ratio']:6.2f}"
        f"  {r['ratio_min']:5.2f} - {r['ratio_max']:5.2f}{r['floor_share']:6.0%}"
        f"{r['ours_peak_bytes'] / 1e9:9.2f}{r['peer_peak_bytes'] / 1e9:9.2f}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of training passes and of generations")
    parser.add_argument("--runs", type=int, default=2, help="pairs of whole runs, minutes each")
    parser.add_argument("--only", default="a,b,c,d,e", help="cases to measure")
    given = parser.parse_args()
    work = {**dict.fromkeys("abc", (training_pass, given.pairs)), "d": (whole_run, given.runs), "e": (generation, given.pairs)}
    letters = given.only.split(",")
    if not set(letters) <= set(work):
        parser.error(f"--only {given.only}: wanted some of {','.join(sorted(work))}")
    for letter in letters:
        measure, pairs = work[letter]
        cases = measure(letter, given.threads, pairs)
        # after each case, so that an hour's work is not lost with the last one
        others = [r for r in stored("grpo") if "ratio_min" in r and not r["case"].startswith(f"{letter}:")]
        record("grpo", cases, others=others, threads=given.threads)
    print(table(stored("grpo")))


if __name__ == "__main__":
    main()
