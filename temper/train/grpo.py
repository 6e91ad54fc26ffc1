"""The `grpo` stage: reinforcement learning on several graders at once, with a judge that watches and has no vote.

What it pays is fixed by the recipe, or adapts to an auditor's labels (`adapt`); known hacks can be fined (`hacks`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from temper.data.read import fingerprint, read
from temper.errors import DataError, RecipeError, nearest
from temper.files import write_json
from temper.rewards import hacks
from temper.rewards.adapt import CHANNELS, Arc
from temper.rewards.alarms import Alarms
from temper.rewards.combine import How
from temper.rewards.scope import HarmScope
from temper.rewards.signal import LEARNED
from temper.train.run import Context
from temper.train.vllm import Mode, check_vllm
from temper.types import Checkpoint, Example


@dataclass(frozen=True, slots=True)
class Grpo:
    """Keys of a `grpo` stage.

    Defaults: one on-policy update a step, group-centred advantages on one batch scale, `dr_grpo` loss, KL 0.02 to the stage's
    start, LoRA r 16 on all linear layers, lr 1e-5, temperature 0.7, groups of 8 (R1 stage 2 for the temperature).
    `rewards` maps grader names to weights; the name `learned` stands for a model of the auditor's opinion, fitted on the stage's
    own audits. `harm_scope` says what a harm cost reads and which tokens it reaches, `normalise` how rewards become advantages
    (`rewards.scope`, `rewards.combine`). `hacks` names entries of the bank, each fined with `penalty`; `-name` leaves one out.
    `reference` answers of the stage's start are scored before the first step: the map of the gap and the detectors' thresholds
    come from them. `[stage.adapt]` lets an auditor, a grader that is neither reward nor gold, adapt what is paid
    (`rewards.adapt.Arc`). `[stage.alarms]` sets limits; `on_alarm` warns, pauses for a person, or rolls back to the best audited
    weights. From step `shift_at` on, half of the prompts come from `shift_prompts`.
    `audits` rows of each step are shown to the gold judge for the curve, with no influence on training.
    `resample` is how often the prompts of groups without a spread are replaced by others in a step (dynamic sampling); not with
    `[stage.adapt]`, whose rates are those of all prompts.
    `share_sampling` and `share_training` compute each prompt once; `skip_flat` leaves out rows that have no gradient. `sampling`
    is the precision of the weights that answers are drawn from: bf16 where a CPU has it, with the importance ratio that corrects
    for it (`train.trainer.corrected`); fp32 needs none.
    `vllm` samples with vLLM in this process ("colocate") or at `vllm_url` ("server"); `vllm_memory` is its share of the GPU.
    """

    name: str = "grpo"
    kind: str = "grpo"
    prompts: str = "red-team"
    rewards: Mapping[str, float] = field(
        default_factory=lambda: {"harm": 0.5, "over-refusal": 0.3, "language": 0.1, "format": 0.1}
    )
    harm_scope: HarmScope = "targeted"
    normalise: How = "center"
    hacks: tuple[str, ...] = ()
    penalty: float = 1.0
    reference: int = 0
    adapt: Arc | None = None
    alarms: Alarms = field(default_factory=Alarms)
    on_alarm: Literal["warn", "pause", "roll-back"] = "warn"
    shift_at: int = 0
    shift_prompts: str = ""
    limit: int = 0
    steps: int = 100
    prompts_per_step: int = 8
    group: int = 8
    micro_batch: int = 0
    max_new_tokens: int = 256
    temperature: float = 0.7
    lr: float = 1e-5
    beta: float = 0.02
    loss: Literal["dr_grpo", "dapo", "grpo", "bnpo"] = "dr_grpo"
    clip_low: float = 0.2
    clip_high: float = 0.28
    lora_r: int = 16
    lora_alpha: int = 32
    audits: int = 4
    resample: int = 0
    share_sampling: bool = True
    share_training: bool = True
    skip_flat: bool = True
    sampling: Literal["auto", "fp32", "bf16"] = "auto"
    vllm: Mode = "off"
    vllm_url: str = ""
    vllm_memory: float = 0.3
    checkpoint_every: int = 5

    @property
    def source(self) -> str:
        return self.prompts

    def graders(self) -> tuple[str, ...]:
        return (*self.paid(), *([self.adapt.auditor] if self.adapt else []))

    def paid(self) -> tuple[str, ...]:
        """The graders among the rewards: all but the learned model."""
        return tuple(name for name in self.rewards if name != LEARNED)

    def examples(self) -> list[Example]:
        return [*self.opening(), *self.shifted()]

    def opening(self) -> list[Example]:
        """The prompts it trains on from the first step."""
        return read(self.prompts, split="train", limit=self.limit or None)

    def shifted(self) -> list[Example]:
        """The prompts that come in at `shift_at`."""
        return read(self.shift_prompts, split="train") if self.shift_at else []

    def first_answers(self) -> int:
        """How many answers of the stage's start are scored before its first step."""
        return max(self.reference, self.adapt.upfront if self.adapt else 0)

    def check(self) -> None:
        """Raise `RecipeError` for settings that contradict each other, `DataError` if there is nothing to train on."""
        rows = self.prompts_per_step * self.group
        if min(self.steps, self.prompts_per_step, self.max_new_tokens, self.checkpoint_every) < 1 or self.temperature <= 0:
            raise RecipeError(
                f"stage {self.name!r}: steps, prompts_per_step, max_new_tokens, checkpoint_every at least 1; temperature > 0"
            )
        if self.lr <= 0:
            raise RecipeError(f"stage {self.name!r}: lr = {self.lr}; wanted a learning rate above 0")
        if self.resample < 0:
            raise RecipeError(f"stage {self.name!r}: resample = {self.resample}; wanted how often, 0 for never")
        if self.group < 2:
            raise RecipeError(f"stage {self.name!r}: group = {self.group}; an advantage compares answers: give at least 2")
        if self.micro_batch and (rows % self.micro_batch or self.micro_batch % self.group):
            raise RecipeError(
                f"stage {self.name!r}: micro_batch = {self.micro_batch}; wanted a multiple of group ({self.group}) that divides "
                f"prompts_per_step * group ({rows}), or 0 for all rows at once"
            )
        if not self.rewards or all(w == 0 for w in self.rewards.values()):
            raise RecipeError(f"stage {self.name!r}: no reward has a weight; wanted for example rewards = {{ harm = 0.5 }}")
        if any(w < 0 for w in self.rewards.values()):
            raise RecipeError(
                f"stage {self.name!r}: a weight is negative; graders already say which end is good, give it as positive"
            )
        self._check_pay()
        check_vllm(f"stage {self.name!r}", self.vllm, url=self.vllm_url, memory=self.vllm_memory)
        if self.sampling == "bf16" and not self.share_sampling:
            raise RecipeError(f'stage {self.name!r}: sampling = "bf16" is part of share_sampling, which is off; turn one of them')
        found = len(self.opening())
        if found == 0:
            raise DataError(f"{self.prompts}: no prompt to train on; the data set is empty")
        if found < self.prompts_per_step:
            raise DataError(f"{self.prompts}: {found} prompts, fewer than prompts_per_step = {self.prompts_per_step}; lower that")

    def _check_pay(self) -> None:
        """What is fined and what adapts, against each other and against what is paid."""
        where = f"stage {self.name!r}"
        hacks.bank(self.hacks)
        self.alarms.check(f"{where}: alarms")
        if self.penalty < 0 or self.reference < 0:
            raise RecipeError(f"{where}: penalty = {self.penalty}, reference = {self.reference}; wanted at least 0")
        if bool(self.shift_at) != bool(self.shift_prompts) or not 0 <= self.shift_at <= self.steps:
            raise RecipeError(
                f"{where}: shift_at = {self.shift_at}, shift_prompts = {self.shift_prompts!r}; they go together, and the step "
                f"must be one of the {self.steps}: give both or neither"
            )
        if LEARNED in self.rewards and self.adapt is None:
            raise RecipeError(f"{where}: the reward `{LEARNED}` is fitted on audits; add [stage.adapt] with an auditor")
        if self.on_alarm == "roll-back" and self.adapt is None:
            raise RecipeError(
                f'{where}: on_alarm = "roll-back" needs audits to know the best weights; add [stage.adapt], or "pause"'
            )
        if self.adapt is None:
            return
        try:
            self.adapt.check()
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None
        if self.adapt.auditor in self.rewards:
            raise RecipeError(f"{where}: the auditor {self.adapt.auditor!r} is also a reward; it must be independent")
        if self.beta <= 0:
            raise RecipeError(f"{where}: beta = {self.beta}; a rollback raises the KL weight, so [stage.adapt] wants beta > 0")
        if self.resample:
            raise RecipeError(
                f"{where}: resample = {self.resample} with [stage.adapt]: audits would be drawn from what resampling left, and "
                "every audited rate be off; take resample = 0"
            )
        self._check_channels(where, self.adapt)

    def _check_channels(self, where: str, arc: Arc) -> None:
        """A multiplier multiplies a reward; of the default channels one that is paid is enough."""
        unknown = [name for name in arc.channels if name not in self.rewards]
        given = [name for name in unknown if name not in CHANNELS]
        if arc.multipliers and (given or len(unknown) == len(arc.channels)):
            name = (given or unknown)[0]
            raise RecipeError(
                f"{where}: [stage.adapt] channels: {name!r} is no reward of this stage, so no multiplier reaches it; "
                f"{nearest(name, self.rewards)}; or multipliers = false"
            )

    def fingerprint(self) -> dict[str, Any]:
        rows = self.examples()
        return {"n": len(rows), "fingerprint": fingerprint(rows)}

    def run(self, start: Checkpoint, out: Path, context: Context) -> Checkpoint:
        """Train from `start` into `out/checkpoint`, resuming inside `out` at the last checkpoint. Raises `TrainError`."""
        from temper.train.trainer import train_grpo

        checkpoint, work = train_grpo(self, self.opening(), start, out, context)
        write_json(out / "work.json", work.as_dict(context.parameters))
        return checkpoint
