"""Weights set aside while training goes on, and put back when the reward turns out to have been gamed."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FOLDER = "trainer/best"  # beside the checkpoints, which are removed as it is when the stage is sealed


def keep(model: Any, out: Path, step: int) -> None:
    """Write the trained weights as they are when the answers of `step` are sampled."""
    file = _file(out, step)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    save_file({name: p.detach().cpu().contiguous() for name, p in _trained(model)}, beside)
    beside.replace(file)


def put_back(model: Any, out: Path, step: int) -> None:
    """Restore the weights of `step`."""
    kept = load_file(_file(out, step))
    with torch.no_grad():
        for name, p in _trained(model):
            p.copy_(kept[name])


def forget(optimizer: Any) -> None:
    """Zero all that an optimiser remembers of the steps it made."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()


def tidy(out: Path, needed: Collection[int]) -> None:
    """Remove all snapshots but those of the steps that are needed."""
    wanted = {_file(out, step) for step in needed}
    for file in (out / FOLDER).glob("step-*.safetensors"):
        if file not in wanted:
            file.unlink()


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _file(out: Path, step: int) -> Path:
    return out / FOLDER / f"step-{step}.safetensors"
