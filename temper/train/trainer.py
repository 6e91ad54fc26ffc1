"""The only subclass of a TRL trainer, with the settings and callbacks both stages share.

`TemperTrainer` replaces three steps of TRL 1.16's GRPOTrainer and nothing else: how answers are sampled (prompts prefilled once),
how token log-probabilities are computed (prompts once, with gradient; the head only where a loss is), and how rewards become
advantages (`rewards.combine`). Losses, clipping, KL, accumulation, saving and resuming are TRL's.
"""

import contextlib
import logging
import math
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import trl.trainer.utils
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from temper.errors import TrainError
from temper.files import append_rows, read_json, write_json
from temper.models.generate import Decoding, sample, unsampleable
from temper.models.load import device, eos_ids, load
from temper.models.local import completion
from temper.models.packed import unshareable
from temper.models.products import Folded, effective
from temper.models.profile import in_bf16, sampling
from temper.rewards.journal import rewind
from temper.rewards.signal import Paid
from temper.train import snapshot
from temper.train.course import Course, course_of, noted
from temper.train.credit import think_tokens, token_advantages
from temper.train.prefetch import Ahead, sampled
from temper.train.resample import Drawn, resample
from temper.train.run import Context, Progress, Work
from temper.train.shared import balanced, check, share
from temper.train.vllm import disconnect, unchanged, vllm_arguments
from temper.types import Checkpoint, Completion, Example

if TYPE_CHECKING:
    from temper.train.grpo import Grpo

log = logging.getLogger(__name__)

# Nats a token between sampling and training in fp32, which round at 1e-6: beyond this one of the two is wrong.
WRONG = 1e-2


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
        "bf16": in_bf16(on),
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
    if os.environ.get("TEMPER_HEAD") != "full":
        trl.trainer.utils._use_triton = lambda device: True
    # TRL prints the whole row when no reward applies; ours are counted as `unscored` and stand in the journal
    chatty = logging.getLogger("trl.trainer.grpo_trainer")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        trl.trainer.utils._use_triton = stock
        chatty.setLevel(level)


class Ledger(TrainerCallback):  # type: ignore[misc]
    """Writes one metrics row a step, tells the watcher, and stops a diverged run with a clear error."""

    def __init__(
        self,
        out: Path,
        context: Context,
        extra: Callable[[], Mapping[str, Any]] = dict,
        alarms: Callable[[dict[str, Any]], Sequence[str]] = lambda row: (),
    ) -> None:
        self.out, self.context, self.extra, self.alarms = out, context, extra, alarms
        self.started = self.last = time.perf_counter()
        self.tokens = 0
        self.first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first, self.tokens = state.global_step, int(state.num_input_tokens_seen)
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
        if "kl" in row and "answer_tokens" in row:
            row["kl_sequence"] = row["kl"] * row["answer_tokens"]
        raised = self.alarms(row)
        append_rows(self.out / "metrics.jsonl", [row])
        done = state.global_step - self.first
        left = (state.max_steps - state.global_step) * (now - self.started) / max(1, done)
        label, said = self.context.label, "; ".join(f"{name} is {row[name]:.3f}" for name in raised)
        self.context.watch(Progress(label, state.global_step, state.max_steps, fresh / seconds, left, noted(row), said))


class Carried(TrainerCallback):  # type: ignore[misc]
    """What a checkpoint of a grpo stage keeps beside TRL's own state, and what ends the stage before its last step."""

    def __init__(self, out: Path, course: Course | None = None) -> None:
        self.out, self.course = out, course
        self.work = Work()
        self.paused = ""
        self.undo: Callable[[], None] | None = None  # what a rollback does once its own step is over

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.undo is not None:
            self.undo()
            self.undo = None
        control.should_training_stop |= self.course is not None and self.course.ended

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.paused:
            control.should_save = control.should_training_stop = True
        control.should_training_stop |= self.course is not None and self.course.ended

    def restore(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.work = Work(**read_json(Path(checkpoint) / "carried.json")["work"])


class TemperTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO with shared prompts and temper's rewards.

    `course` pays each generation batch and tells what that calls for (roll back, stop); `shift` holds the prompts that come in at
    `stage.shift_at`. `unshared` says why the stock pass trains, `unsampled` why the stock method samples; None where ours does.
    """

    def __init__(
        self,
        *,
        stage: "Grpo",
        examples: Mapping[str, Example],
        shift: Sequence[Example] = (),
        opened: bool,
        carried: Carried,
        course: Course | None = None,
        ahead: Ahead | None = None,
        **kwargs: Any,
    ) -> None:
        self.stage, self.opened, self.carried, self.course = stage, opened, carried, course
        self.examples = {**examples, **{e.id: e for e in shift}}
        self.shift_rows = dataset_rows(shift)
        self.paid: Paid | None = None
        self.asked: list[Completion] = []
        self.sampled_ids: list[list[int]] = []
        self.ahead, self.asking = ahead or Ahead(), list[str]()
        self.counts: dict[str, Any] = {}
        self.seen = torch.zeros(5, dtype=torch.float64)
        self.drawn: Drawn | None = None
        self.checked = False
        self.pending: tuple[Tensor, Tensor | None, None] | None = None
        self._last_loaded_step = -1  # TRL sets it where vLLM is on
        self._buffered_inputs: list[dict[str, Any]] | None = None
        super().__init__(reward_funcs=self._reward, **kwargs)
        self.order: list[str] = list(self.train_dataset["example"])
        self.decoder = _decoder(self.accelerator.unwrap_model(self.model))
        self.unsampled = self._unsampled()
        self.unshared = self._unshared()
        self.sampled_in_bf16 = not self.unsampled and sampling(self.accelerator.device, stage.sampling)[0] == "bf16"
        # sampling and training round differently, and the loss is corrected for it
        self.rounded = self.sampled_in_bf16 or self.args.bf16
        self.folded = Folded()
        for model in (self.model, self.ref_model):
            if model is not None:
                share(_decoder(self.accelerator.unwrap_model(model)), self.folded)

    def _unsampled(self) -> str | None:
        if self.use_vllm:
            return "vLLM samples"
        if not self.stage.share_sampling:
            return "share_sampling is off"
        was = self.decoder.training
        reason = unsampleable(self.decoder.eval(), self._tokenizer.pad_token_id)
        self.decoder.train(was)
        return reason

    def _unshared(self) -> str | None:
        if not self.stage.share_training:
            return "share_training is off"
        if self.args.gradient_checkpointing:
            return "gradient checkpointing is on"
        if self.aux_loss_enabled:
            return "its experts are balanced by a loss of their own"
        return unshareable(self.decoder)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's order of prompts, but an epoch's depends on its number: TRL's starts anew in a run that goes on."""
        order = super()._get_train_sampler(dataset)
        order.set_epoch = lambda epoch: order.generator.manual_seed(self.args.seed + epoch)
        return order

    def _send_telemetry(self) -> None:
        """Nothing about a user's training leaves their machine."""

    def completions_of(self, examples: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> list[Completion]:
        """Sampled token ids as completions, the way the graders see them."""
        ends = eos_ids(self.decoder, self._tokenizer)
        texts = self._tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        return [
            completion(self.examples[e], text, ended=bool(ids) and ids[-1] in ends, opened=self.opened)
            for e, text, ids in zip(examples, texts, completion_ids, strict=True)
        ]

    def _credited(self, paid: Paid, width: int) -> Tensor:
        """An advantage for each row, or for each token where thoughts and answers earned different ones."""
        answer, think = ([row[key] for row in paid.rows] for key in ("advantage", "think_advantage"))
        within = [[False] * len(ids) for ids in self.sampled_ids]
        if think != answer:
            pairs = zip(self.sampled_ids, self.asked, strict=True)
            within = [think_tokens(self._tokenizer, ids, c, self.opened) for ids, c in pairs]
        return token_advantages(think, answer, within, width)

    def _reward(self, completion_ids: list[list[int]], example: list[str], **_: Any) -> list[float | None]:
        self.sampled_ids = completion_ids
        self.asked = self.completions_of(example, completion_ids)
        if self.course is None:
            raise TrainError("this trainer has no course, and nothing that pays; wanted one to train with")
        self.ahead.wait()
        self.paid = self.course.score(self.asked, self.state.global_step + 1)
        return self.paid.rewards

    _reward.__name__ = "temper"

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch with our advantages: centred within the group, one scale for the whole batch."""
        self.counts, self.seen = {}, torch.zeros(5, dtype=torch.float64)
        self.set_aside(self.state.global_step + 1)
        inputs = self._shifted(inputs)
        self.asking = [row["example"] for row in inputs]
        if self.stage.resample:
            inputs, self.drawn = resample(self, inputs)
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.drawn = None
        if self.paid is not None:
            batch["advantages"] = self._credited(self.paid, batch["completion_ids"].size(1)).to(batch["advantages"].device)
            self._carry_out()
        completion_tokens = int(batch["completion_mask"].sum())
        self.counts["answer_tokens"] = completion_tokens / len(batch["completion_mask"])
        prompts = int(batch["prompt_mask"].sum()) // (1 if self.unshared else self.num_generations)
        passes = 1 + (self.beta != 0.0) + self.use_vllm
        done, drawn_away = self.carried.work, self.counts.get("resampled_tokens", 0)
        self.carried.work = Work(
            done.train_tokens + prompts + completion_tokens,
            done.forward_tokens + passes * (prompts + completion_tokens) + drawn_away,
            self.stage.lora_r > 0,
        )
        return batch

    def _carry_out(self) -> None:
        """On an order to roll back or stop, put the best weights back when this step is over.

        Not before: what this step's KL term does to the weights would come on top, and its momentum after that.
        """
        if self.course is None or self.course.state is None:
            return
        if any(order.kind in ("rolled back", "stopped") for order in self.course.orders):
            self.carried.undo = self.go_back
        self.beta = self.stage.beta * self.course.beta_factor

    def set_aside(self, step: int) -> None:
        """Keep the weights that the answers of `step` are sampled from, if they stand for those of an audited window."""
        if self.course is not None and self.course.stands_for_window(step):
            snapshot.keep(self.model, self.carried.out, step)

    def go_back(self) -> None:
        """Restore the best audited weights and forget the optimiser's momentum, which points to where they came from."""
        if self.course is not None:
            snapshot.put_back(self.model, self.carried.out, self.course.kept)
            snapshot.forget(self.optimizer)

    def _shifted(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """From the step at which the world shifts, every second prompt comes from the new ones; drawn by seed and step."""
        step, new = self.state.global_step + 1, self.shift_rows
        if not new or step < self.stage.shift_at:
            return inputs
        draw, size = random.Random(f"{self.args.seed} {step}"), self.num_generations
        chosen = {start: draw.choice(new) for start in range(0, len(inputs), 2 * size)}
        return [chosen.get(i // size * size, row) for i, row in enumerate(inputs)]

    def first_answers(self, examples: Sequence[Example], count: int) -> list[Completion]:
        """Answers of the model as it stands to `count` prompts spread evenly over the examples, several to one if need be."""
        asked = [examples[i * len(examples) // count] for i in range(count)]
        size = self.stage.prompts_per_step * self.stage.group
        found: list[Completion] = []
        for start in range(0, count, size):
            part = asked[start : start + size]
            rows = [{"prompt": [{"role": m.role, "content": m.content} for m in e.messages]} for e in part]
            self.asking = [e.id for e in part]
            prompts, images, fields = self._tokenize_prompts([row["prompt"] for row in rows])
            ids, _ = self._generate_single_turn(prompts, images, fields, 1)
            found += self.completions_of([e.id for e in part], ids)
        self.ahead.wait()
        return found

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if self.drawn is not None:
            return self.drawn.ids, self.drawn.logprobs
        if self.use_vllm and self.state.global_step != self._last_loaded_step:
            with unchanged(self.accelerator.unwrap_model(self.model)):
                self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step
        if self.unsampled:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        ends = eos_ids(self.decoder, self._tokenizer)
        decoding = Decoding(self.max_completion_length, ends, self._tokenizer.pad_token_id, self.temperature)
        uniforms = torch.rand((len(prompt_ids), self.max_completion_length), dtype=torch.float64)
        was = self.decoder.training
        try:
            weights = effective(self.decoder.eval(), torch.bfloat16 if self.sampled_in_bf16 else torch.float32)
            rows = sampled(self, prompt_ids, uniforms, partial(sample, self.decoder, decoding=decoding, weights=weights))
        finally:
            self.decoder.train(was)
        return [r.ids for r in rows], [r.logprobs for r in rows]

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's buffer of micro-batches, but a group stays in one micro-batch: TRL shuffles rows, which would part them."""
        if self.unshared or not self.model.training:
            return super()._prepare_inputs(generation_batch)  # type: ignore[no-any-return]
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            rows = balanced(batch["completion_mask"].sum(1).tolist(), self.num_generations, steps)
            self._buffered_inputs = [_rows_of(batch, r) for r in rows]
        inputs: dict[str, Any] = self._buffered_inputs[self._step % steps]
        return inputs

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's checkpoint, with what the stage carries put there first, since TRL's last file makes it whole (`latest`)."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        write_json(folder / "carried.json", {"work": asdict(self.carried.work)})
        super()._save_checkpoint(model, trial)
        if self.course is not None:
            snapshot.tidy(self.carried.out, self.course.needed(self.state.global_step))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        if not self.checked and not self.unshared:
            self.unshared = check(self)
            self.checked = True
        return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-any-return]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss on the rows that have a gradient, weighted for what sampling rounded; the gap between the two is counted."""
        kept, factor = self._with_gradient(inputs)
        if self.use_vllm or "sampling_per_token_logps" not in kept:
            return super()._compute_loss(model, kept) * factor  # type: ignore[no-any-return]
        ids, mask = (torch.cat([kept[f"prompt_{x}"], kept[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        width = kept["completion_ids"].size(1)
        # TRL asks for the same log-probabilities again, and is handed these
        self.pending = self._get_per_token_logps_and_entropies(
            model, ids, mask, width, compute_entropy=True, compute_aux_loss=self.aux_loss_enabled
        )
        gaps = (self.pending[0].detach() - kept["sampling_per_token_logps"]) * kept["completion_mask"]
        ratios = corrected(gaps)
        self._count(gaps, ratios, kept["completion_mask"])
        if self.rounded:
            advantages = kept["advantages"]
            kept = {**kept, "advantages": advantages * (ratios if advantages.dim() == 1 else ratios.unsqueeze(1))}
        return super()._compute_loss(model, kept) * factor  # type: ignore[no-any-return]

    def _count(self, gaps: Tensor, ratios: Tensor, mask: Tensor) -> None:
        """Keep the step's mean gap a token and effective sample size over all its micro-batches; stop sampling that is wrong."""
        self.seen += torch.tensor(
            [gaps.abs().sum(), mask.sum(), ratios.sum(), (ratios**2).sum(), len(ratios)], dtype=torch.float64
        )
        gap, tokens, total, squares, rows = self.seen.tolist()
        self.counts["sampling_gap"] = round(gap / tokens, 6)
        if self.rounded:
            self.counts["sampling_ess"] = round(total**2 / squares / rows, 4)
        elif gap / tokens > WRONG and self.decoder.dtype == torch.float32:
            self.unsampled = f"its log-probabilities were {gap / tokens:.1e} nats a token from those in training"
            log.warning("prompts are not shared in sampling any more: %s", self.unsampled)

    def _with_gradient(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """The rows whose advantage is not zero, and what their loss must be multiplied by for the stock normaliser.

        With a KL term every row has a gradient. One row stays if there is none, so that every process has a loss.
        """
        if self.unshared or not self.stage.skip_flat or self.beta != 0.0:
            return inputs, 1.0
        alive = inputs["advantages"] != 0
        if alive.dim() > 1:  # an advantage a token, of which those on padding are nobody's
            alive = (alive & inputs["completion_mask"].bool()).any(1)
        self.counts["skipped_rows"] = self.counts.get("skipped_rows", 0) + int((~alive).sum())
        if bool(alive.all()):
            return inputs, 1.0
        if not bool(alive.any()):
            alive[inputs["completion_mask"].sum(1).argmin()] = True
        kept = _rows_of(inputs, alive.nonzero().squeeze(1))
        if self.loss_type == "bnpo":
            return kept, float(kept["completion_mask"].sum() / inputs["completion_mask"].sum())
        # dapo divides by a count of tokens that comes with the batch; the others by rows
        return kept, 1.0 if self.loss_type == "dapo" else len(kept["advantages"]) / len(inputs["advantages"])

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        if self.pending is not None:
            ready, self.pending = self.pending, None
            return ready
        if self.unshared:
            return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        with self.accelerator.autocast():
            # through the wrapped model, so that the hooks which average gradients over processes run
            logprobs, entropy = model(shared_pass=(input_ids, attention_mask, logits_to_keep, self.temperature))
        return logprobs, (entropy if kwargs.get("compute_entropy") else None), None


def corrected(gaps: Tensor) -> Tensor:
    """Importance ratio of each answer (B,), from the gaps (B, C) between its log-probabilities in training and in sampling.

    The ratio of whole answers makes the expected gradient that of the model that is trained, whatever the answers were sampled
    from. It is cut at 2, which bounds the variance and is almost never reached; TRL cuts that of inference engines likewise.
    """
    return gaps.sum(1).exp().clamp(max=2.0)


def _rows_of(batch: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    size = len(batch["advantages"])
    return {k: v[rows] if isinstance(v, Tensor) and v.dim() and len(v) == size else v for k, v in batch.items()}


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
        **vllm_arguments(stage.vllm, url=stage.vllm_url, memory=stage.vllm_memory),
    )
    course, resume = course_of(stage, out, context), latest(out)
    carried = Carried(out, course)
    carried.restore(resume)
    new_adapter = stage.lora_r > 0 and not isinstance(loaded.model, PeftModel)
    trainer = TemperTrainer(
        stage=stage,
        examples={e.id: e for e in examples},
        shift=stage.shifted(),
        opened=loaded.opened,
        carried=carried,
        course=course,
        ahead=Ahead([view.grader for view in course.signal.views]),
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_list(dataset_rows(examples)),
        processing_class=loaded.tokenizer,
        peft_config=lora_config(stage.lora_r, stage.lora_alpha) if new_adapter else None,
        callbacks=[Ledger(out, context, lambda: {**course.latest, **trainer.counts}, lambda row: alarmed(trainer, row)), carried],
    )
    if stage.adapt is not None and trainer.accelerator.num_processes > 1:
        count = trainer.accelerator.num_processes
        raise TrainError(f"{context.label}: [stage.adapt] keeps one journal; run it in one process, not {count}")
    for what, reason in (("sampling", trainer.unsampled), ("training", trainer.unshared)):
        if reason:
            context.watch(Progress(f"{context.label}: prompts are not shared in {what}, because {reason}", 0, stage.steps))
    try:
        if resume is None:
            count = stage.first_answers()
            if count:
                context.watch(Progress(f"{context.label}: {count} answers of its start", 0, 1))
            course.begin(lambda n: trainer.first_answers(examples, n), count)
            trainer.set_aside(0)
        else:
            course.resume(int(resume.rpartition("-")[2]))
        if not course.ended:
            with quiet_and_compact(trainer):
                trainer.train(resume_from_checkpoint=resume)
    finally:
        disconnect(trainer)
    if carried.paused:
        raise TrainError(carried.paused)
    if course.ended:
        snapshot.put_back(trainer.model, out, course.kept)
    return save_final(trainer.model, loaded.tokenizer, start, out), carried.work


def dataset_rows(examples: Sequence[Example]) -> list[dict[str, Any]]:
    return [{"prompt": [{"role": m.role, "content": m.content} for m in e.messages], "example": e.id} for e in examples]


def alarmed(trainer: TemperTrainer, row: dict[str, Any]) -> Sequence[str]:
    """The alarms that a step's figures raise, and what the recipe wants done about them."""
    course, carried, step = trainer.course, trainer.carried, row["step"]
    if course is None:
        return ()
    raised = course.alarms(row)
    if not raised:
        return ()
    if trainer.stage.on_alarm == "pause":
        carried.paused = (
            f"{carried.out.name}: paused at step {step}, because {', '.join(raised)} crossed a limit; "
            "see metrics.jsonl and events.jsonl. Nothing is lost: run the same command to go on. If you change this stage in the "
            "recipe, it starts anew"
        )
    # gold has no influence on training: what only it saw is for a person to judge
    own = [name for name in raised if name != "gap"]
    if trainer.stage.on_alarm == "roll-back" and own and course.roll_back(step, ", ".join(own)):
        trainer.go_back()
    return raised


def _decoder(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model
