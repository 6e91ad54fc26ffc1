"""The `sft` stage: supervised fine-tuning on dialogues whose reasoning stands in think tags (the cold start)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.data.read import Dialogue, fingerprint, read_dialogues
from temper.errors import DataError, RecipeError
from temper.files import write_json
from temper.train.harvest import MADE, harvested
from temper.train.run import Context, Earlier, Work
from temper.types import Checkpoint, Example


@dataclass(frozen=True, slots=True)
class Sft:
    """Keys of an `sft` stage.

    Defaults follow the cold-start recipes for small models: LoRA on all linear layers, r 16, alpha 32, lr 1e-4, loss on the
    completion only (ThinkSafe 2601.23143; "LoRA without regret"). `lora_r = 0` trains all weights. `epochs` may be a fraction.
    `batch` is dialogues a step, `micro_batch` how many of them go through the model at once. `data = "stage:NAME"` is what the
    harvest stage NAME, before this one in the arm, took from the rollouts.
    """

    name: str = "sft"
    kind: str = "sft"
    data: str = "cold-start"
    limit: int = 0
    epochs: float = 1.0
    lr: float = 1e-4
    batch: int = 8
    micro_batch: int = 8
    max_tokens: int = 1024
    warmup: float = 0.05
    lora_r: int = 16
    lora_alpha: int = 32
    checkpoint_every: int = 10

    @property
    def source(self) -> str:
        return self.data

    def graders(self) -> tuple[str, ...]:
        return ()

    @property
    def made_by(self) -> str:
        """The stage whose rows are the data, "" where they are there before the run."""
        return self.data.removeprefix(MADE) if self.data.startswith(MADE) else ""

    def examples(self) -> list[Example]:
        """Its prompts; none where a stage before it makes the data, whose prompts are counted as that stage's."""
        return [] if self.made_by else [d.example for d in self.dialogues()]

    def dialogues(self, earlier: Sequence[Earlier] = ()) -> list[Dialogue]:
        source = str(harvested(self.made_by, earlier)) if self.made_by else self.data
        return read_dialogues(source, split="train", limit=self.limit or None)

    def check(self) -> None:
        """Raise `RecipeError` for settings that contradict each other, `DataError` if there is nothing to train on."""
        if self.micro_batch < 1 or self.batch % self.micro_batch:
            raise RecipeError(f"stage {self.name!r}: batch = {self.batch} is no multiple of micro_batch = {self.micro_batch}")
        if self.epochs <= 0:
            raise RecipeError(f"stage {self.name!r}: epochs = {self.epochs}; wanted more than 0")
        if not self.made_by and not self.dialogues():
            raise DataError(f"{self.data}: no dialogue to train on; the data set is empty")

    def fingerprint(self) -> dict[str, Any]:
        if self.made_by:
            return {"stage": self.made_by}  # which rows that makes is decided by the stages before this one
        rows = self.dialogues()
        return {"n": len(rows), "fingerprint": fingerprint(rows)}

    def run(self, start: Checkpoint, out: Path, context: Context) -> Checkpoint:
        """Train from `start` into `out/checkpoint`, resuming inside `out` if an earlier attempt was cut. Raises `TrainError`."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        from temper.models.load import load
        from temper.models.products import Folded, trained
        from temper.train.trainer import Ledger, common_arguments, latest, quiet_and_compact, save_final, with_lora

        loaded = load(start, chat_template=context.chat_template, trainable=True)
        rows = [encode(loaded, d, self.max_tokens) for d in self.dialogues(context.earlier)]
        model = with_lora(loaded.model, self.lora_r, self.lora_alpha, context.seed)
        arguments = SFTConfig(
            **common_arguments(out, context, lr=self.lr, batch=self.micro_batch, every=self.checkpoint_every, warmup=self.warmup),
            gradient_accumulation_steps=self.batch // self.micro_batch,
            num_train_epochs=self.epochs,
            max_length=self.max_tokens,
            completion_only_loss=True,
            packing=False,
            lr_scheduler_type="cosine",
        )
        ledger = Ledger(out, context)
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=loaded.tokenizer,
            callbacks=[ledger],
        )
        with quiet_and_compact(trainer), trained(trainer.model, Folded()):
            trainer.train(resume_from_checkpoint=latest(out))
        tokens = sum(len(r["input_ids"]) for r in rows) * self.epochs
        work = Work(train_tokens=int(tokens), adapter=self.lora_r > 0)
        write_json(out / "work.json", work.as_dict(context.parameters))
        return save_final(trainer.model, loaded.tokenizer, start, out)


def encode(loaded: Any, dialogue: Dialogue, max_tokens: int) -> dict[str, list[int]]:
    """One dialogue as `input_ids` and `completion_mask`, the prompt rendered by the model's own template.

    Where the template already opens the think block, the completion starts inside it. Raises `DataError` for a dialogue that
    does not fit, because a cut answer would teach the model to stop in mid-sentence.
    """
    from temper.models.load import render

    prompt = render(loaded.tokenizer, [dialogue.example])[0]
    thought = f"{'' if loaded.opened else '<think>'}\n{dialogue.reasoning}\n</think>\n\n" if dialogue.reasoning else ""
    answer = loaded.tokenizer(thought + dialogue.answer, add_special_tokens=False)["input_ids"] + [loaded.tokenizer.eos_token_id]
    if len(prompt) + len(answer) > max_tokens:
        raise DataError(
            f"dialogue {dialogue.example.id!r} has {len(prompt) + len(answer)} tokens, more than max_tokens = {max_tokens}; "
            "raise max_tokens or leave the row out"
        )
    return {"input_ids": [*prompt, *answer], "completion_mask": [0] * len(prompt) + [1] * len(answer)}
