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

    Returns the rows that were kept and their answers. The draw uses torch's generator, which a checkpoint saves.
    """
    size = trainer.num_generations
    rows = list(inputs)
    answers = _draw(trainer, rows)
    dropped = 0
    for _ in range(trainer.stage.resample):
        flat = trainer.flat(trainer.completions_of([r["example"] for r in rows], [a for a, _ in answers]))
        starts = [i for i in range(0, len(rows), size) if rows[i]["example"] in flat]
        fresh = _others(trainer, {r["example"] for r in rows}, len(starts))
        if not starts or not fresh:
            break
        dropped += len(fresh)
        places = [i for start in starts[: len(fresh)] for i in range(start, start + size)]
        new = [row for row in fresh for _ in range(size)]
        for place, row, answer in zip(places, new, _draw(trainer, new), strict=True):
            rows[place], answers[place] = row, answer
    trainer.counts["resampled"] = dropped
    kept = [p for _, p in answers]
    return rows, Drawn([a for a, _ in answers], None if None in kept else kept)  # type: ignore[arg-type]


def _draw(trainer: "TemperTrainer", rows: list[dict[str, Any]]) -> list[tuple[list[int], list[float] | None]]:
    prompts, images, fields = trainer._tokenize_prompts([r["prompt"] for r in rows])
    ids, logprobs = trainer._generate_single_turn(prompts, images, fields, trainer.num_generations)
    return list(zip(ids, logprobs or [None] * len(ids), strict=True))


def _others(trainer: "TemperTrainer", used: set[str], count: int) -> list[dict[str, Any]]:
    """Up to `count` training rows whose examples are not in this batch."""
    data = trainer.train_dataset
    order = torch.randperm(len(data)).tolist()
    return [row for i in order if (row := data[i])["example"] not in used][:count]
