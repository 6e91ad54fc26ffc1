"""The only subclass of a TRL trainer, with the settings and callbacks both stages share.

`TemperTrainer` replaces three steps of TRL 1.16's GRPOTrainer and nothing else: how answers are sampled (prompts prefilled once),
how token log-probabilities are computed (prompts once, with gradient; the head only where a loss is), and how rewards become
advantages (`rewards.combine`). Losses, clipping, KL, accumulation, saving and resuming are TRL's.
"""

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import trl.trainer.utils
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import DynamicCache, PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

from temper.errors import TrainError
from temper.files import append_rows, append_zst, read_json, write_json
from temper.models.generate import Decoding, sample, supports_sharing
from temper.models.load import device, eos_ids, load, precision
from temper.models.local import completion
from temper.rewards.adapt import Observed, Rules, State, adapt, apply
from temper.rewards.journal import rewind, rollout_rows
from temper.rewards.signal import Scored, Signal, mean_column
from temper.train.run import Context, Progress, Work
from temper.types import Checkpoint, Completion, Example, Named

if TYPE_CHECKING:
    from temper.train.grpo import Grpo

Score_fn = Callable[[Sequence[Completion], int], Scored]


def common_arguments(out: Path, context: Context, *, lr: float, batch: int, every: int, warmup: float = 0.0) -> dict[str, Any]:
    """Settings that both trainers share. On CPUs TRL's defaults (bf16, gradient checkpointing) are many times slower."""
    on = device()
    return {
        "output_dir": str(out / "trainer"),
        "per_device_train_batch_size": batch,
        "learning_rate": lr,
        "warmup_steps": warmup,
        "seed": context.seed,
        "use_cpu": on.type == "cpu",
        "bf16": precision(on) is torch.bfloat16,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 1,
        "report_to": [],
        "disable_tqdm": True,
        "push_to_hub": False,
        "dataloader_pin_memory": False,
    }


def with_lora(model: Any, r: int, alpha: int, seed: int) -> Any:
    """The model with a fresh adapter on all linear layers; unchanged if it already has one, or if r is 0 (train everything)."""
    if r == 0 or isinstance(model, PeftModel):
        return model
    set_seed(seed)
    return get_peft_model(model, lora_config(r, alpha))


def lora_config(r: int, alpha: int) -> LoraConfig:
    return LoraConfig(r=r, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def latest(out: Path) -> str | None:
    """The newest whole checkpoint of an interrupted stage. One that was being written when the process died is left aside."""
    found = [p for p in (out / "trainer").glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    whole = [p for p in found if (p / "optimizer.pt").is_file() and (p / "scheduler.pt").is_file()]
    return str(max(whole, key=lambda p: int(p.name.split("-")[1]))) if whole else None


def save_final(model: Any, tokenizer: Any, start: Checkpoint, out: Path) -> Checkpoint:
    """Write the trained adapter (or all weights, with their tokenizer) to `out/checkpoint`."""
    folder = out / "checkpoint"
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder), selected_adapters=["default"])
        return Checkpoint(start.base, folder)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return Checkpoint(folder)


@contextlib.contextmanager
def quiet_and_compact(trainer: Any) -> Iterator[None]:
    """While it trains: no printed log dictionaries (the ledger has them), no telemetry, and the head at scored tokens only.

    TRL 1.16 projects every position onto the vocabulary unless Triton is there, because its other target recompiles when shapes
    change; CPUs do not, and the prompt's positions are never scored.
    """
    trainer.remove_callback(PrinterCallback)
    stock = trl.trainer.utils._use_triton
    trl.trainer.utils._use_triton = lambda device: True
    # TRL prints the whole row when no reward applies; ours are counted as `unscored` and stand in the journal
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        trl.trainer.utils._use_triton = stock


class Ledger(TrainerCallback):  # type: ignore[misc]
    """Writes one metrics row a step, tells the watcher, and stops a diverged run with a clear error."""

    def __init__(self, out: Path, context: Context, extra: Callable[[], Mapping[str, Any]] = dict) -> None:
        self.out, self.context, self.extra = out, context, extra
        self.started = self.last = time.perf_counter()
        self.tokens = 0
        self.first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = state.global_step
        rewind(self.out, state.global_step)
        self.started = self.last = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise TrainError(
                f"{self.out.name}: the loss became {loss} at step {state.global_step}; the last checkpoint is kept. "
                "Lower `lr`, or raise `beta` in a grpo stage, and run again"
            )
        now = time.perf_counter()
        total = int(logs.get("num_tokens", 0))
        fresh, seconds = max(0, total - self.tokens), now - self.last
        self.tokens, self.last = total, now
        row = {
            "step": state.global_step,
            "loss": loss,
            "lr": logs.get("learning_rate"),
            "tokens": fresh,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(fresh / seconds, 1),
            **{k: logs[k] for k in ("kl", "entropy") if k in logs},
            **self.extra(),
        }
        append_rows(self.out / "metrics.jsonl", [row])
        done = state.global_step - self.first
        left = (state.max_steps - state.global_step) * (now - self.started) / max(1, done)
        notes = {k: row.get(k) for k in ("loss", "reward", "gold", "kl") if row.get(k) is not None}
        label = self.context.label
        self.context.watch(Progress(label, state.global_step, state.max_steps, fresh / seconds, left, notes))


class AdaptiveState(TrainerCallback):  # type: ignore[misc]
    """Keeps the adaptive weights beside each checkpoint and puts them back on resume."""

    def __init__(self) -> None:
        self.state = State()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / "adaptive.json", asdict(self.state))

    def restore(self, checkpoint: str | None) -> None:
        if checkpoint is None or not (Path(checkpoint) / "adaptive.json").is_file():
            return
        saved = read_json(Path(checkpoint) / "adaptive.json")
        pairs = tuple((float(a), float(b)) for a, b in saved["harm"])
        self.state = State(saved["multiplier"], pairs, tuple(saved["refusals"]))


class TemperTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO with shared prompts and temper's rewards.

    `score(completions, step)` grades one generation batch; the journal of rollouts is written to `out`.
    """

    def __init__(self, *, stage: "Grpo", examples: Mapping[str, Example], score: Score_fn, opened: bool, **kwargs: Any) -> None:
        self.stage, self.examples, self.score, self.opened = stage, examples, score, opened
        self.scored: Scored | None = None
        self.asked: list[Completion] = []
        self.work = Work(adapter=stage.lora_r > 0)
        super().__init__(reward_funcs=self._reward, **kwargs)
        self.unshared = "share_prompts is off" if not stage.share_prompts else supports_sharing(_decoder(self.model))
        if self.accelerator.num_processes > 1:
            self.unshared = "more than one process trains it, and its gradient hooks run in the wrapped forward only"

    def _send_telemetry(self) -> None:
        """Nothing about a user's training leaves their machine."""

    def _reward(
        self, completion_ids: list[list[int]], completions: list[Any], example: list[str], **_: Any
    ) -> list[float | None]:
        ends = eos_ids(_decoder(self.model), self._tokenizer)
        self.asked = [
            completion(self.examples[e], c[0]["content"], ended=ids[-1] in ends, opened=self.opened)
            for e, c, ids in zip(example, completions, completion_ids, strict=True)
        ]
        self.scored = self.score(self.asked, self.state.global_step + 1)
        return self.scored.rewards

    _reward.__name__ = "temper"

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch with our advantages: centred within the group, one scale for the whole batch."""
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.scored is not None:
            batch["advantages"] = torch.tensor(self.scored.advantages, device=batch["advantages"].device)
        completion_tokens = int(batch["completion_mask"].sum())
        prompts = int(batch["prompt_mask"].sum()) // (1 if self.unshared else self.num_generations)
        passes = 1 + (self.beta != 0.0)
        self.work = Work(
            self.work.train_tokens + prompts + completion_tokens,
            self.work.forward_tokens + passes * (prompts + completion_tokens),
            self.work.adapter,
        )
        return batch

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if self.unshared or self.use_vllm:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        prompts, counts = runs(prompt_ids)
        model = self.accelerator.unwrap_model(self.model)
        decoding = Decoding(
            self.max_completion_length, eos_ids(_decoder(model), self._tokenizer), self._tokenizer.pad_token_id, self.temperature
        )
        uniforms = torch.rand((len(prompt_ids), self.max_completion_length), dtype=torch.float64)
        was = model.training
        model.eval()
        with merged(model) as plain:
            groups = sample(plain, prompts, counts, uniforms, decoding)
        model.train(was)
        return [s.ids for group in groups for s in group], None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        if self.unshared:
            return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        decoder = _decoder(self.accelerator.unwrap_model(model))
        with self.accelerator.autocast():
            logprobs, entropy = shared_logprobs(decoder, input_ids, attention_mask, logits_to_keep, self.temperature)
        return logprobs, (entropy if kwargs.get("compute_entropy") else None), None


def shared_logprobs(
    decoder: Any, input_ids: Tensor, attention_mask: Tensor, completion: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (nats) of each completion token; both (B, C), zero where the mask is.

    `input_ids` and `attention_mask` (B, P + C), prompts padded on the left, completions on the right, C = `completion`. Each
    distinct prompt passes once through the body, with gradient; its keys and values are handed to all its completions, and the
    head is applied at completion tokens only. Same loss and gradient as B full rows, at (P + sum C) instead of G (P + C) tokens.
    """
    prompt, prompt_mask = input_ids[:, :-completion], attention_mask[:, :-completion]
    answer, answer_mask = input_ids[:, -completion:], attention_mask[:, -completion:].bool()
    unique, inverse = torch.unique(torch.cat([prompt, prompt_mask], 1), dim=0, return_inverse=True)
    unique, unique_mask = unique.chunk(2, dim=1)
    padding = int((unique_mask.sum(0) > 0).long().argmax())
    unique, unique_mask = unique[:, padding:], unique_mask[:, padding:]
    longest = max(1, int(answer_mask.sum(1).max()))
    answer, answer_mask = answer[:, :longest], answer_mask[:, :longest]

    cache = DynamicCache()
    positions = (unique_mask.cumsum(-1) - 1).clamp(min=0)
    body = decoder.base_model
    before = body(input_ids=unique, attention_mask=unique_mask, position_ids=positions, past_key_values=cache, use_cache=True)
    cache.batch_select_indices(inverse)
    mask = torch.cat([unique_mask[inverse], answer_mask.to(unique_mask.dtype)], 1)
    positions = unique_mask.sum(1)[inverse, None] + torch.arange(longest, device=input_ids.device)
    after = body(input_ids=answer, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    last = before.last_hidden_state[:, -1][inverse]
    hidden = torch.cat([last[:, None], after.last_hidden_state[:, :-1]], 1)

    head = decoder.get_output_embeddings()
    flat, entropy, *_ = ChunkedLogProbFunction.apply(
        hidden[answer_mask], head.weight, head.bias, answer[answer_mask], temperature, CHUNK, None, 1.0, ("entropy",)
    )
    width = (0, completion - longest)
    logprobs = flat.new_zeros(answer.shape).masked_scatter(answer_mask, flat)
    entropies = flat.new_zeros(answer.shape).masked_scatter(answer_mask, entropy.detach().to(flat.dtype))
    return torch.nn.functional.pad(logprobs, width), torch.nn.functional.pad(entropies, width)


def runs(prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Consecutive equal prompts -> each once, with how often it came."""
    unique: list[list[int]] = []
    counts: list[int] = []
    for prompt in prompts:
        if unique and unique[-1] == prompt:
            counts[-1] += 1
        else:
            unique.append(prompt)
            counts.append(1)
    return unique, counts


@contextlib.contextmanager
def merged(model: Any) -> Iterator[Any]:
    """The decoder with its adapter folded into the weights while sampling; the frozen weights come back to the bit.

    Merging in place and subtracting again would let rounding errors pile up in the frozen weights, so the merged copies are new
    tensors and the originals are only set aside. Costs one more copy of the adapted weights while it lasts.
    """
    if not isinstance(model, PeftModel):
        yield model
        return
    layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "get_delta_weight")]
    originals = [layer.base_layer.weight.data for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.base_layer.weight.data = layer.base_layer.weight.data + layer.get_delta_weight("default")
        with model.disable_adapter():
            yield model.get_base_model()
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.base_layer.weight.data = original


def train_grpo(
    stage: "Grpo", examples: Sequence[Example], start: Checkpoint, out: Path, context: Context
) -> tuple[Checkpoint, Work]:
    """Run one grpo stage to its end, from the last checkpoint in `out` if there is one."""
    from datasets import Dataset

    loaded = load(start, chat_template=context.chat_template, trainable=True)
    rows = stage.prompts_per_step * stage.group
    micro = stage.micro_batch or rows
    arguments = GRPOConfig(
        **common_arguments(out, context, lr=stage.lr, batch=micro, every=stage.checkpoint_every),
        gradient_accumulation_steps=rows // micro,
        steps_per_generation=rows // micro,  # one generation an optimiser step: every checkpoint is at a generation boundary
        num_generations=stage.group,
        max_steps=stage.steps,
        max_completion_length=stage.max_new_tokens,
        temperature=stage.temperature,
        beta=stage.beta,
        loss_type=stage.loss,
        epsilon=stage.clip_low,
        epsilon_high=stage.clip_high,
        scale_rewards="none",
        mask_truncated_completions=False,
        lr_scheduler_type="constant",
    )
    table = [{"prompt": [{"role": m.role, "content": m.content} for m in e.messages], "example": e.id} for e in examples]
    pay = tuple(context.graders[name] for name in stage.rewards)
    stated = {context.graders[name].name: weight for name, weight in stage.rewards.items()}
    auditor = context.graders.get(stage.auditor)
    monitors = tuple(g for g in (context.gold, auditor) if g is not None)
    signal = Signal(pay, monitors, stage.audits)
    adaptive, rules = AdaptiveState(), Rules(auditor=stage.auditor)
    latest_row: dict[str, Any] = {}

    def score(completions: Sequence[Completion], step: int) -> Scored:
        weights = apply(adaptive.state, stated, rules) if auditor else stated
        scored = signal(completions, weights, step=step)
        append_zst(out / "rollouts.jsonl.zst", rollout_rows(step, completions, scored, weights))
        latest_row.clear()
        latest_row.update(step_row(scored, completions, weights, context.gold))
        if auditor:
            adaptive.state = adapt(adaptive.state, _observed(scored, completions, auditor), rules)
        return scored

    resume = latest(out)
    adaptive.restore(resume)
    new_adapter = stage.lora_r > 0 and not isinstance(loaded.model, PeftModel)
    trainer = TemperTrainer(
        stage=stage,
        examples={e.id: e for e in examples},
        score=score,
        opened=loaded.opened,
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_list(table),
        processing_class=loaded.tokenizer,
        peft_config=lora_config(stage.lora_r, stage.lora_alpha) if new_adapter else None,
        callbacks=[Ledger(out, context, lambda: latest_row), adaptive],
    )
    if trainer.unshared:
        context.watch(Progress(f"{context.label}: prompts are not shared, because {trainer.unshared}", 0, stage.steps))
    with quiet_and_compact(trainer):
        trainer.train(resume_from_checkpoint=resume)
    return save_final(trainer.model, loaded.tokenizer, start, out), trainer.work


def step_row(
    scored: Scored, completions: Sequence[Completion], weights: Mapping[str, float], gold: Named | None
) -> dict[str, Any]:
    """What a metrics row says of one step's rollouts; `proxy` and `gold` are the mean P(safe) over the same audited rows."""
    rewards = [r for r in scored.rewards if r is not None]
    mean = sum(rewards) / len(rewards) if rewards else None
    spread = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5 if mean is not None else None
    row: dict[str, Any] = {
        "reward": mean,
        "reward_sd": spread,
        "unscored": scored.unscored,
        "zero_variance": scored.zero_variance,
        "truncated": sum(c.finish == "length" for c in completions) / len(completions),
        "completion_words": sum(len(c.raw.split()) for c in completions) / len(completions),
        "weights": dict(weights),
        "columns": {name: mean_column(column) for name, column in scored.columns.items()},
    }
    if gold is None:
        return row
    audited = [i for i, s in enumerate(scored.columns[gold.name]) if s.value is not None]
    row["gold"] = mean_column([scored.columns[gold.name][i] for i in audited], flip=True)
    row["gold_n"] = len(audited)
    if "harm" in scored.columns:
        row["proxy"] = mean_column([scored.columns["harm"][i] for i in audited], flip=True)
    return row


def _observed(scored: Scored, completions: Sequence[Completion], auditor: Named) -> Observed:
    harm = [
        (p.value, a.value)
        for p, a in zip(scored.columns["harm"], scored.columns[auditor.name], strict=True)
        if p.value is not None and a.value is not None
    ]
    refused = [s.value for s in scored.columns.get("over-refusal", []) if s.value is not None]
    good = [(p, a if auditor.better == "low" else 1 - a) for p, a in harm]
    return Observed([p for p, _ in good], [a for _, a in good], refused)


def _decoder(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model
