"""The `sample` stage: the arm's model, as it is now, answers prompts; a `harvest` after it keeps what a judge accepts.

With an `sft` stage on a student after the harvest this is distillation as R1 does it (arXiv 2501.12948, section 2.4): the
teacher's accepted answers, supervised fine-tuning, no reinforcement learning. It trains nothing and hands on what it was given.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.data.read import fingerprint, read
from temper.errors import DataError, RecipeError
from temper.files import read_rows, write_json
from temper.rewards import journal
from temper.train.run import Context, Progress, Work
from temper.types import Checkpoint, Example

CHUNK = 32
"""Prompts that are answered before their answers are on disk: what a killed run asks again at most."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Keys of a `sample` stage: `samples` answers to each of the first `limit` prompts (0 = all) of the train split."""

    name: str = "sample"
    kind: str = "sample"
    prompts: str = "red-team"
    limit: int = 0
    samples: int = 4
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0

    @property
    def source(self) -> str:
        return self.prompts

    def graders(self) -> tuple[str, ...]:
        return ()

    def examples(self) -> list[Example]:
        return read(self.prompts, split="train", limit=self.limit or None)

    def check(self) -> None:
        """Raise `RecipeError` for settings out of range, `DataError` if there is nothing to ask."""
        if self.samples < 1 or self.max_new_tokens < 1 or self.limit < 0:
            raise RecipeError(
                f"stage {self.name!r}: samples = {self.samples}, max_new_tokens = {self.max_new_tokens}, limit = {self.limit}; "
                "wanted at least 1, 1 and 0"
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise RecipeError(
                f"stage {self.name!r}: temperature = {self.temperature}, top_p = {self.top_p}; wanted >= 0 and (0, 1]"
            )
        if not self.examples():
            raise DataError(f"{self.prompts}: no prompt to ask; the data set is empty")

    def fingerprint(self) -> dict[str, Any]:
        rows = self.examples()
        return {"n": len(rows), "fingerprint": fingerprint(rows)}

    def run(self, start: Checkpoint, out: Path, context: Context) -> Checkpoint:
        """Append the answers to the journal of `out`, going on where an earlier attempt was cut; writes `work.json`."""
        from temper.models.load import load
        from temper.models.local import Local

        examples = self.examples()
        done = {row["id"] for row in read_rows(out / journal.ROLLOUTS)}
        missing = [e for e in examples if e.id not in done]
        if missing:
            model = load(start, chat_template=context.chat_template)
            answer = Local(model, self.max_new_tokens, self.temperature, self.top_p, context.seed)
            for begin in range(0, len(missing), CHUNK):
                self._ask(
                    answer, missing[begin : begin + CHUNK], out, context, len(examples) - len(missing) + begin, len(examples)
                )
        self._account(out, context)
        return start

    def _ask(self, answer: Any, chunk: Sequence[Example], out: Path, context: Context, done: int, total: int) -> None:
        """One chunk of prompts. A chunk is one frame of the journal, so that a kill leaves no prompt half answered."""
        began = time.perf_counter()
        completions = [c for group in answer(chunk, n=self.samples) for c in group]
        tokens = [(c.usage.prompt_tokens, c.usage.completion_tokens) for c in completions]
        rows = journal.rows_of(completions, {}, {}, step=1)
        told = [r | {"sampled": True, "tokens": list(t)} for r, t in zip(rows, tokens, strict=True)]
        journal.write(out, told)
        rate = sum(made for _, made in tokens) / (time.perf_counter() - began)
        context.watch(Progress(context.label, done + len(chunk), total, rate))

    def _account(self, out: Path, context: Context) -> None:
        """The tokens of all attempts, from the journal; a prompt is read once for all its samples."""
        rows = read_rows(out / journal.ROLLOUTS)
        asked = {row["id"]: row["tokens"][0] for row in rows}
        work = Work(forward_tokens=sum(asked.values()) + sum(row["tokens"][1] for row in rows))
        write_json(out / "work.json", {**work.as_dict(context.parameters), "sampled": len(rows)})
