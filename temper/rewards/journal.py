"""Every rollout with every grader's column and the weights of its step, as rows on disk that a resumed run continues."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from temper.files import append_zst, dumps, read_rows, write_text
from temper.rewards.signal import Scored
from temper.types import Completion


def rollout_rows(step: int, completions: Sequence[Completion], scored: Scored, weights: dict[str, float]) -> list[dict[str, Any]]:
    """One row a completion: what was asked and answered, each column, the combined reward and the advantage it became."""
    return [
        {
            "step": step,
            "id": c.example.id,
            "reasoning": c.reasoning,
            "answer": c.answer,
            "finish": c.finish,
            "thought": c.thought,
            "scores": {name: asdict(column[i]) for name, column in scored.columns.items()},
            "weights": weights,
            "reward": scored.rewards[i],
            "advantage": scored.advantages[i],
        }
        for i, c in enumerate(completions)
    ]


def rewind(folder: Path, step: int) -> None:
    """Drop what a crashed attempt wrote after the checkpoint at `step`, so that a resumed stage writes it once."""
    rollouts, metrics = folder / "rollouts.jsonl.zst", folder / "metrics.jsonl"
    kept = [r for r in read_rows(rollouts) if r["step"] <= step]
    rollouts.unlink(missing_ok=True)
    if kept:
        append_zst(rollouts, kept)
    lines = [dumps(r) for r in read_rows(metrics) if r["step"] <= step]
    write_text(metrics, "".join(line + "\n" for line in lines))
