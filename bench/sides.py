"""One side of the GRPO benchmark in a process of its own: prepares a case, then does one unit of work for each line it is sent.

`stock` is TRL 1.16's GRPOTrainer and transformers' `generate` as they come, with nothing of temper's models and trainers. It is
set for a CPU, which only makes it faster here: fp32 (`bf16=False`), `use_cpu`, gradient checkpointing off. `temper` is
TemperTrainer and temper's sampler as `temper run` uses them, with freed memory kept. bench/grpo.py starts both.

    python bench/sides.py stock|temper FOLDER      with FOLDER/spec.json; lines of JSON come in and go out
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from temper import machine

Spec = dict[str, Any]
# Does one unit and says what it took; the keywords are those of the line that asked for it.
Unit = Callable[..., dict[str, Any]]
PLEASE = "Please think about the following everyday situation and tell me what you would do: "


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of a call, with its CPU seconds (all threads of this process) and its seconds on the clock."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def reward(text: str) -> float:
    """What both sides pay in a whole run: the share of words that come once. Cheap, the same everywhere, rarely equal for two."""
    words = text.split()
    return len(set(words)) / len(words) if words else 0.0


def prompt_of(tokenizer: Any, length: int) -> list[dict[str, str]]:
    """A user turn that is `length` tokens long once the chat template stands around it, give or take one."""
    around = len(prompt_ids(tokenizer, [{"role": "user", "content": ""}]))
    words = tokenizer(PLEASE * (1 + length // 10), add_special_tokens=False)["input_ids"]
    return [{"role": "user", "content": tokenizer.decode(words[: length - around])}]


def prompt_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- the training pass -------------------------------------------------------------------------------------------------------


def stock_pass(spec: Spec, folder: Path) -> tuple[Unit, dict[str, Any]]:
    """TRL samples the answers once, before anything is timed; both sides then train on them."""
    import torch

    trainer = stock_trainer(spec, folder, lambda completions, **_: [reward(c[0]["content"]) for c in completions])
    trainer.model.train()
    torch.manual_seed(spec["seed"])
    rows = [trainer.train_dataset[0]] * spec["stage"]["group"]
    batch = trainer._generate_and_score_completions(rows)
    draw = torch.Generator().manual_seed(0)
    batch["advantages"] = torch.randn(len(rows), generator=draw)
    trained(trainer, spec)
    with torch.no_grad():
        ids, mask = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], 1) for k in ("ids", "mask"))
        logprobs = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, batch["completion_ids"].size(1))[0]
    # a reference some way off: on policy, the loss without its KL term would not depend on what the model computes
    batch["ref_per_token_logps"] = logprobs + 0.3 * torch.randn(logprobs.shape, generator=draw)
    torch.save(batch, folder / "batch.pt")
    return pass_unit(trainer, batch, stock_one_pass), {}


def temper_pass(spec: Spec, folder: Path) -> tuple[Unit, dict[str, Any]]:
    import torch

    trainer = temper_trainer(spec, folder)
    trainer.model.train()
    trained(trainer, spec)
    batch = torch.load(folder / "batch.pt")
    lengths = {k: batch[f"{k}_mask"].sum(1).tolist() for k in ("prompt", "completion")}
    facts = {"prompts": lengths["prompt"][:1], "answers": [lengths["completion"]], "unshared": trainer.unshared}
    return pass_unit(trainer, batch, one_pass), {**facts, **sizes(trainer.model), **rates()}


def one_pass(trainer: Any, batch: dict[str, Any]) -> float:
    """Forward and backward of temper's trainer on one batch, as its training step does them; gives the loss."""
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss)


def stock_one_pass(trainer: Any, batch: dict[str, Any]) -> float:
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss)


def pass_unit(trainer: Any, batch: dict[str, Any], work: Callable[[Any, dict[str, Any]], float]) -> Unit:
    import torch

    weights = [p for p in trainer.model.parameters() if p.requires_grad]

    def unit() -> dict[str, Any]:
        trainer.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            # stands for the optimiser's step: what was made from the weights has to be made anew
            for weight in weights:
                weight.mul_(1 + 2**-23)
        loss, seconds = timed(lambda: work(trainer, batch))
        norm = sum(float(torch.linalg.vector_norm(p.grad)) ** 2 for p in weights if p.grad is not None) ** 0.5
        return {**seconds, "loss": loss, "grad_norm": norm}

    return unit


def trained(trainer: Any, spec: Spec) -> None:
    """The state of a trainer some steps into a run: a KL term, and an adapter that does something, the same on both sides.

    The KL weight is set here because TRL would load a second whole model as the reference of full fine-tuning.
    """
    import torch

    trainer.beta, trainer.current_gradient_accumulation_steps = spec["stage"]["beta"], 1
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in sorted(trainer.model.named_parameters()):
            if "lora_" in name:
                weight.normal_(0, 0.02, generator=draw)


# --- generation --------------------------------------------------------------------------------------------------------------


def stock_generation(spec: Spec, folder: Path) -> tuple[Unit, dict[str, Any]]:
    import torch

    model, tokenizer = stock_model(spec)
    model.eval()
    ids = torch.tensor([prompt_ids(tokenizer, prompt_of(tokenizer, spec["prompt"]))])
    new, temperature = spec["stage"]["max_new_tokens"], spec["stage"]["temperature"]
    # the whole distribution, as GRPO samples it; without `min_new_tokens` rows would end where chance has it
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "min_new_tokens": new, "max_new_tokens": new}

    def unit(rows: int, low: bool = False) -> dict[str, Any]:
        torch.manual_seed(spec["seed"])
        with torch.no_grad():
            work = lambda: model.generate(  # noqa: E731
                ids, attention_mask=torch.ones_like(ids), num_return_sequences=rows, pad_token_id=tokenizer.pad_token_id, **how
            )
            out, seconds = timed(work)
        return {**seconds, "tokens": out[:, ids.size(1) :].numel()}

    return unit, {}


def temper_generation(spec: Spec, folder: Path) -> tuple[Unit, dict[str, Any]]:
    import torch

    from temper.models.generate import Decoding, sample
    from temper.models.load import load
    from temper.models.products import effective
    from temper.types import Checkpoint

    loaded = load(Checkpoint(Path(spec["base"])))
    ids = prompt_ids(loaded.tokenizer, prompt_of(loaded.tokenizer, spec["prompt"]))
    new = spec["stage"]["max_new_tokens"]
    # no token has this number, so no row ends early
    decoding = Decoding(new, frozenset({-1}), loaded.tokenizer.pad_token_id, spec["stage"]["temperature"])

    def unit(rows: int, low: bool = False) -> dict[str, Any]:
        torch.manual_seed(spec["seed"])
        uniforms = torch.rand((rows, new), dtype=torch.float64)

        def work() -> Any:
            # a step of training orders the weights anew, because they have changed
            weights = effective(loaded.model, torch.bfloat16 if low else torch.float32)
            return sample(loaded.model, [ids], [rows], uniforms, decoding, weights=weights)

        groups, seconds = timed(work)
        return {**seconds, "tokens": sum(len(row.ids) for group in groups for row in group)}

    return unit, {"prompts": [len(ids)], **sizes(loaded.model), **rates()}


# --- a whole run -------------------------------------------------------------------------------------------------------------


def stock_run(spec: Spec, folder: Path) -> tuple[Unit, dict[str, Any]]:
    """Load, train and save, with TRL's trainer; the settings are those of the stage."""
    import trl  # noqa: F401 - so that no unit pays for the import

    def run(steps: int, counts: dict[str, int]) -> None:
        def pay(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
            counts["answers"] += sum(map(len, completion_ids))
            return [reward(c[0]["content"]) for c in completions]

        trainer = stock_trainer({**spec, "stage": {**spec["stage"], "steps": steps}}, folder / f"stock-{time.time_ns()}", pay)
        trainer.train()
        trainer.save_model(str(folder / "stock-final"))
        counts["all"] = trainer.state.num_input_tokens_seen

    def unit(steps: int) -> dict[str, Any]:
        gc.collect()  # the run before
        counts = {"answers": 0, "all": 0}
        _, seconds = timed(lambda: run(steps, counts))
        return {**seconds, "tokens": counts["all"], "prompt_tokens": counts["all"] - counts["answers"]}

    return unit, {}


def temper_run(spec: Spec, folder: Path) -> tuple[Unit, dict[str, Any]]:
    """Load, train and save, by the stage's own `run`."""
    import temper.train.trainer  # noqa: F401 - so that no unit pays for the import
    from temper.files import read_rows
    from temper.models.load import load
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.train.trainer import lora_config
    from temper.types import Checkpoint, Completion, Named, Score

    def pay(completions: Sequence[Completion]) -> list[Score]:
        return [Score(reward(c.raw)) for c in completions]

    def unit(steps: int) -> dict[str, Any]:
        gc.collect()  # the run before
        stage = Grpo(**{**spec["stage"], "steps": steps, "rewards": {"words": 1.0}})
        context = Context(seed=spec["seed"], graders={"words": Named("words", pay, "the benchmark's")})
        out = folder / f"temper-{time.time_ns()}"
        _, seconds = timed(lambda: stage.run(Checkpoint(Path(spec["base"])), out, context))
        return {**seconds, "tokens": sum(row["tokens"] for row in read_rows(out / "metrics.jsonl"))}

    from peft import get_peft_model

    stage = Grpo(**{**spec["stage"], "rewards": {"words": 1.0}})
    model = load(Checkpoint(Path(spec["base"])), trainable=True).model
    return unit, {**sizes(get_peft_model(model, lora_config(stage.lora_r, stage.lora_alpha))), **rates()}


# --- what the cases share ----------------------------------------------------------------------------------------------------


def stock_model(spec: Spec) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(spec["base"], padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return model, tokenizer


def stock_trainer(spec: Spec, out: Path, pay: Callable[..., list[float]]) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    stage = spec["stage"]
    model, tokenizer = stock_model(spec)
    adapter = LoraConfig(r=stage["lora_r"], lora_alpha=stage["lora_alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
    arguments = GRPOConfig(
        output_dir=str(out / "trainer"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        per_device_train_batch_size=stage["prompts_per_step"] * stage["group"],
        num_generations=stage["group"],
        max_steps=stage["steps"],
        max_completion_length=stage["max_new_tokens"],
        temperature=stage["temperature"],
        beta=stage["beta"] if spec["kind"] == "run" else 0.0,
        loss_type=stage["loss"],
        epsilon=stage["clip_low"],
        epsilon_high=stage["clip_high"],
        scale_rewards="batch",
        learning_rate=stage["lr"],
        lr_scheduler_type="constant",
        seed=spec["seed"],
        logging_steps=1,
        save_steps=stage["checkpoint_every"],
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
    )
    return GRPOTrainer(
        model=model,
        args=arguments,
        reward_funcs=pay,
        train_dataset=Dataset.from_list(spec.get("table") or [{"prompt": prompt_of(tokenizer, spec["prompt"]), "example": "0"}]),
        processing_class=tokenizer,
        peft_config=adapter if stage["lora_r"] else None,
    )


def temper_trainer(spec: Spec, out: Path) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig

    from temper.models.load import load
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.train.trainer import Carried, TemperTrainer, common_arguments, lora_config
    from temper.types import Checkpoint

    loaded = load(Checkpoint(Path(spec["base"])), trainable=True)
    stage = Grpo(**spec["stage"])
    rows = stage.prompts_per_step * stage.group
    common = common_arguments(out, Context(seed=spec["seed"]), lr=stage.lr, batch=rows, every=stage.checkpoint_every)
    arguments = GRPOConfig(
        **common,
        num_generations=stage.group,
        max_steps=stage.steps,
        max_completion_length=stage.max_new_tokens,
        temperature=stage.temperature,
        beta=0.0,
        loss_type=stage.loss,
        epsilon=stage.clip_low,
        epsilon_high=stage.clip_high,
    )
    return TemperTrainer(
        stage=stage,
        examples={},
        opened=loaded.opened,
        carried=Carried(out),
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt_of(loaded.tokenizer, spec["prompt"]), "example": "0"}]),
        processing_class=loaded.tokenizer,
        peft_config=lora_config(stage.lora_r, stage.lora_alpha) if stage.lora_r else None,
    )


def sizes(model: Any) -> dict[str, Any]:
    """What bench/grpo.py's `Sizes` wants to know: weights of the decoder layers' products, of the head, of the adapter."""
    config = model.config
    named = list(model.named_parameters())
    return {
        "sizes": {
            "body": sum(p.numel() for n, p in named if ".layers." in n and p.dim() == 2 and "lora_" not in n),
            "head": config.vocab_size * config.hidden_size,
            "lora": sum(p.numel() for n, p in named if "lora_" in n),
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        }
    }


def rates() -> dict[str, Any]:
    """GFLOP a CPU second of a 1024-cubed fp32 product, the best of some tries, by both libraries: the larger is the machine's."""
    import torch

    from temper.models.products import available, product

    left, right = torch.randn(2, 1024, 1024).unbind()
    found = {"mm": gflops(lambda: torch.mm(left, right))}
    if available():
        found["onednn"] = gflops(lambda: product(left, right))
    return {"gflops": found}


def gflops(work: Callable[[], Any], *, times: int = 8, tries: int = 6) -> float:
    work()
    seconds = [timed(lambda: [work() for _ in range(times)])[1]["cpu"] for _ in range(tries)]
    return times * 2 * 1024**3 / min(seconds) / 1e9


CASES = {
    ("pass", "stock"): stock_pass,
    ("pass", "temper"): temper_pass,
    ("generation", "stock"): stock_generation,
    ("generation", "temper"): temper_generation,
    ("run", "stock"): stock_run,
    ("run", "temper"): temper_run,
}


def main() -> None:
    side, folder = sys.argv[1], Path(sys.argv[2])
    spec = json.loads((folder / "spec.json").read_text())
    # answers go out on a copy of stdout, since the libraries print on it too
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if side == "temper":
        machine.keep_freed_memory()
    unit, facts = CASES[spec["kind"], side](spec, folder)
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.pop("reset", False):
            machine.reset_peak()
        print(json.dumps({**unit(**asked), "peak": machine.peak_bytes()}), file=answers)


if __name__ == "__main__":
    main()
