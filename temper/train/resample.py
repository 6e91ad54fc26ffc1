"""Dynamic sampling: groups whose answers are all paid the same teach nothing, so other prompts are drawn in their place.

DAPO (arXiv 2503.14476, section 3.2) fills the batch until every group has a spread; here at most `resample` times, since a model
that has learned a task leaves ever fewer such prompts. What was drawn and thrown away is counted, not hidden.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from temper.train.trainer import TemperTrainer


@dataclass(frozen=True, slots=True)
class Drawn:
    """Answers that are already sampled: token ids and, where the sampler gives them, log-probabilities, a row each."""

    ids: list[list[int]]
    logprobs: list[list[float]] | None


def resample(trainer: "TemperTrainer", inputs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Drawn]:
    """Sample answers to `inputs`, replacing the prompts of flat groups up to `stage.resample` times.

    A prompt that was thrown away does not come back in the same step. Returns the rows that were kept and their answers. The draw
    uses torch's generator, which a checkpoint saves.
    """
    size = trainer.num_generations
    rows = list(inputs)
    answers = _draw(trainer, rows)
    used = {r["example"] for r in rows}
    dropped = tokens = 0
    for _ in range(trainer.stage.resample):
        asked = trainer.completions_of([r["example"] for r in rows], [a for a, _ in answers])
        trainer.ahead.wait()
        flat = trainer.course.flat(asked) if trainer.course else set()
        starts = [i for i in range(0, len(rows), size) if rows[i]["example"] in flat]
        fresh = _others(trainer, used, len(starts))
        if not fresh:
            break
        used |= {row["example"] for row in fresh}
        dropped += len(fresh)
        places = [i for start in starts[: len(fresh)] for i in range(start, start + size)]
        tokens += sum(len(answers[i][0]) for i in places)
        new = [row for row in fresh for _ in range(size)]
        for place, row, answer in zip(places, new, _draw(trainer, new), strict=True):
            rows[place], answers[place] = row, answer
    trainer.counts |= {"resampled": dropped, "resampled_tokens": tokens}
    kept = [p for _, p in answers]
    return rows, Drawn([a for a, _ in answers], None if None in kept else kept)  # type: ignore[arg-type]


def _draw(trainer: "TemperTrainer", rows: list[dict[str, Any]]) -> list[tuple[list[int], list[float] | None]]:
    trainer.asking = [r["example"] for r in rows]
    prompts, images, fields = trainer._tokenize_prompts([r["prompt"] for r in rows])
    ids, logprobs = trainer._generate_single_turn(prompts, images, fields, trainer.num_generations)
    return list(zip(ids, logprobs or [None] * len(ids), strict=True))


def _others(trainer: "TemperTrainer", used: set[str], count: int) -> list[dict[str, Any]]:
    """Up to `count` training rows, in a random order, whose examples were not asked in this step."""
    if count == 0:
        return []
    left = [i for i, example in enumerate(trainer.order) if example not in used]
    return [trainer.train_dataset[left[i]] for i in torch.randperm(len(left))[:count].tolist()]
