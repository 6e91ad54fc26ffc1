"""The `grpo` stage: reinforcement learning on several graders at once, with a judge that watches and has no vote."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from temper.data.read import fingerprint, read
from temper.errors import DataError, RecipeError
from temper.files import write_json
from temper.train.run import Context
from temper.train.vllm import Mode, check_vllm
from temper.types import Checkpoint, Example


@dataclass(frozen=True, slots=True)
class Grpo:
    """Keys of a `grpo` stage.

    Defaults: one on-policy update a step, group-centred advantages on one batch scale, `dr_grpo` loss, KL 0.02 to the stage's
    start, LoRA r 16 on all linear layers, lr 1e-5, temperature 0.7, groups of 8 (R1 stage 2 for the temperature).
    `rewards` maps grader names to weights. `adapt = "audited"` lets `auditor`, a grader that is neither reward nor gold, tighten
    the weight of `harm`. `audits` rows of each step are shown to the gold judge for the curve, with no influence on training.
    `resample` is how often the prompts of groups without a spread are replaced by others in a step (dynamic sampling).
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
    adapt: Literal["none", "audited"] = "none"
    auditor: str = ""
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
        return (*self.rewards, *([self.auditor] if self.auditor else []))

    def examples(self) -> list[Example]:
        return read(self.prompts, split="train", limit=self.limit or None)

    def check(self) -> None:
        """Raise `RecipeError` for settings that contradict each other, `DataError` if there is nothing to train on."""
        rows = self.prompts_per_step * self.group
        if min(self.steps, self.prompts_per_step, self.max_new_tokens, self.checkpoint_every) < 1 or self.temperature <= 0:
            raise RecipeError(
                f"stage {self.name!r}: steps, prompts_per_step, max_new_tokens, checkpoint_every at least 1; temperature > 0"
            )
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
        if (self.adapt == "audited") != bool(self.auditor):
            raise RecipeError(f'stage {self.name!r}: adapt = "audited" and `auditor` go together; give both or neither')
        if self.auditor in self.rewards:
            raise RecipeError(f"stage {self.name!r}: the auditor {self.auditor!r} is also a reward; it must be independent")
        if self.adapt == "audited" and "harm" not in self.rewards:
            raise RecipeError(f'stage {self.name!r}: adapt = "audited" tightens the weight of `harm`, which is no reward here')
        check_vllm(f"stage {self.name!r}", self.vllm, url=self.vllm_url, memory=self.vllm_memory)
        if self.sampling == "bf16" and not self.share_sampling:
            raise RecipeError(f'stage {self.name!r}: sampling = "bf16" is part of share_sampling, which is off; turn one of them')
        found = len(self.examples())
        if found == 0:
            raise DataError(f"{self.prompts}: no prompt to train on; the data set is empty")
        if found < self.prompts_per_step:
            raise DataError(f"{self.prompts}: {found} prompts, fewer than prompts_per_step = {self.prompts_per_step}; lower that")

    def fingerprint(self) -> dict[str, Any]:
        rows = self.examples()
        return {"n": len(rows), "fingerprint": fingerprint(rows)}

    def run(self, start: Checkpoint, out: Path, context: Context) -> Checkpoint:
        """Train from `start` into `out/checkpoint`, resuming inside `out` at the last checkpoint. Raises `TrainError`."""
        from temper.train.trainer import train_grpo

        checkpoint, work = train_grpo(self, self.examples(), start, out, context)
        write_json(out / "work.json", work.as_dict(context.parameters))
        return checkpoint
