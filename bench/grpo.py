"""One GRPO step of temper beside stock TRL on the same configuration: generation, and the training pass (forward and backward).

Same model, prompts, adapter and dtype; both run in this process by turns, in CPU seconds. Stock TRL is the same trainer with
sharing off, which calls TRL's own methods; its defaults that only hurt on CPUs (bf16, checkpointing) are off for both.
The floor is the matrix products that the step cannot do without, at the speed of a large fp32 product measured now.

    python bench/grpo.py [--threads 1] [--pairs 3]
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tempfile
from pathlib import Path
from typing import Any

from record import Case, cpu_seconds, interleaved, record

CASES = (
    ("8 rows of 8, short prompt", 1, 8, 48, 32),
    ("16 rows, 4 prompts x 4, the quickstart's shape", 4, 4, 40, 64),
    ("8 rows of 8, long prompt", 1, 8, 320, 32),
)


def trainer_for(prompts: int, group: int, length: int, tokens: int, folder: Path) -> Any:
    """A trainer whose prompts have about `length` tokens."""
    from datasets import Dataset
    from trl import GRPOConfig

    from temper.models.load import load
    from temper.models.resolve import resolve
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.train.trainer import TemperTrainer, common_arguments, lora_config
    from temper.types import Checkpoint

    loaded = load(Checkpoint(resolve("smollm2-135m").folder), trainable=True)
    stage = Grpo(steps=1, group=group, prompts_per_step=prompts, max_new_tokens=tokens, beta=0.0)
    words = "Please think about the following everyday situation and tell me what you would do: " * 30
    text = loaded.tokenizer.decode(loaded.tokenizer(words)["input_ids"][: max(8, length - 25)])
    rows = [{"prompt": [{"role": "user", "content": f"{i}. {text}"}], "example": str(i)} for i in range(prompts)]
    common = common_arguments(folder, Context(seed=1), lr=1e-5, batch=prompts * group, every=10)
    arguments = GRPOConfig(**common, num_generations=group, max_completion_length=tokens, max_steps=1, beta=0.0, temperature=0.7)
    return TemperTrainer(
        stage=stage,
        examples={},
        score=lambda completions, step: None,
        opened=False,
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows * 4),
        processing_class=loaded.tokenizer,
        peft_config=lora_config(16, 32),
    )


def measure(name: str, prompts: int, group: int, length: int, tokens: int, pairs: int, gflops: float) -> list[Case]:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(prompts, group, length, tokens, Path(folder))
    table = [[{"role": "user", "content": trainer.train_dataset[i]["prompt"][0]["content"]}] for i in range(prompts)]
    ids, _, _ = trainer._tokenize_prompts([p for p in table for _ in range(group)])
    made: dict[str, list[list[int]]] = {}

    def generate(shared: bool) -> float:
        trainer.unshared = None if shared else "benchmark"
        torch.manual_seed(0)
        seconds = cpu_seconds(lambda: made.update(x=trainer._generate_single_turn(ids, None, {}, group)[0]))
        return seconds / sum(map(len, made["x"]))

    ours, peer, ratio = interleaved(lambda: generate(True), lambda: generate(False), pairs=pairs)
    weights = sum(p.numel() for n, p in trainer.model.named_parameters() if "lora" not in n)
    answer = sum(map(len, made["x"])) / len(made["x"])
    once = (len(ids[0]) / group + answer) / answer  # tokens through the body for each token generated
    floor = 2 * weights * once / gflops / 1e9
    cases = [Case(f"generation, {name}", 1 / ours, 1 / peer, "TRL 1.16", "tokens/CPU s", ratio, pairs, floor / ours)]

    batch = inputs(trainer, ids, made["x"])

    def step(shared: bool) -> float:
        trainer.unshared = None if shared else "benchmark"
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = 1
        return cpu_seconds(lambda: trainer._compute_loss(trainer.model, batch).backward())

    ours, peer, ratio = interleaved(lambda: step(True), lambda: step(False), pairs=pairs)
    trained = int(batch["completion_mask"].sum())
    tokens_once = sum(len(ids[i]) for i in range(0, len(ids), group)) + trained
    floor = 4 * weights * tokens_once / gflops / 1e9
    cases.append(
        Case(f"training pass, {name}", trained / ours, trained / peer, "TRL 1.16", "tokens/CPU s", ratio, pairs, floor / ours)
    )
    return cases


def inputs(trainer: Any, ids: list[list[int]], answers: list[list[int]]) -> dict[str, Any]:
    """A scored batch with fixed answers and advantages that are not zero."""
    import torch

    from temper.models.generate import left_pad

    prompt_ids, prompt_mask = left_pad(ids, 2, torch.device("cpu"))
    width = max(map(len, answers))
    completion_ids = torch.tensor([a + [2] * (width - len(a)) for a in answers])
    completion_mask = torch.tensor([[1] * len(a) + [0] * (width - len(a)) for a in answers])
    advantages = torch.randn(len(ids), generator=torch.Generator().manual_seed(0))
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": advantages,
        "num_items_in_batch": completion_mask.sum(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch

    torch.set_num_threads(given.threads)
    gflops = product_speed()
    cases = [case for shape in CASES for case in measure(*shape, given.pairs, gflops)]
    record("grpo", cases, threads=given.threads, gflops=gflops)


def product_speed() -> float:
    """GFLOP/s of CPU time of a 1024-cubed fp32 product with the threads in use."""
    import torch

    left = torch.randn(1024, 1024)
    left @ left
    return 20 * 2 * 1024**3 / cpu_seconds(lambda: [left @ left for _ in range(20)]) / 1e9


if __name__ == "__main__":
    main()
