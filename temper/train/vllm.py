"""Sampling a grpo stage's answers with vLLM, as TRL offers it: beside the training (`colocate`) or behind a URL (`server`).

The training pass stays temper's; nothing here starts a server or chooses devices. Torch-free, so that a recipe can be checked
without torch.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from temper.errors import RecipeError, nearest

Mode = Literal["off", "colocate", "server"]
# drivers of NVIDIA GPUs, of GPUs inside WSL, and of AMD GPUs, which torch also calls cuda
DRIVERS = ("nvidia*", "dxg", "kfd")


def vllm_arguments(mode: Mode, *, url: str = "", memory: float = 0.3) -> dict[str, Any]:
    """The keywords of TRL's `GRPOConfig` for a stage's `vllm`, `vllm_url` and `vllm_memory` (share of the GPU; TRL's default)."""
    if mode == "off":
        return {}
    place: dict[str, Any] = {"vllm_gpu_memory_utilization": memory}
    if mode == "server":
        # TRL appends "/health" and waits for ever on an answer that is not 200
        place = {"vllm_server_base_url": url.rstrip("/")}
    # vLLM's kernels and precision give other log-probabilities to the same tokens than the training pass does, so its samples
    # are slightly off-policy; without the ratio of the two the gradient would belong to a policy that sampled nothing.
    return {"use_vllm": True, "vllm_mode": mode, "vllm_importance_sampling_correction": True, **place}


def check_vllm(where: str, mode: str, *, url: str = "", memory: float = 0.3) -> None:
    """Raise `RecipeError` for settings that contradict each other or that this machine cannot run; `where` names the stage."""
    if mode not in get_args(Mode):
        raise RecipeError(f"{where}: vllm = {mode!r}; wanted off, colocate or server; {nearest(mode, get_args(Mode))}")
    if (mode == "server") != bool(url):
        raise RecipeError(
            f'{where}: vllm = {mode!r}, vllm_url = {url!r}; vllm = "server" and `vllm_url` go together, '
            'for example vllm_url = "http://localhost:8000"'
        )
    if mode == "off":
        return
    if mode == "server":
        _check_url(where, url)
    elif not 0 < memory < 1:
        raise RecipeError(f"{where}: vllm_memory = {memory}; wanted the share of the GPU that vLLM may take, for example 0.3")
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            f"{where}: vllm = {mode!r}, and the vllm package is not installed (TRL needs it in server mode too); "
            'pip install "temper-llm[train,vllm]", or set vllm = "off"'
        )
    if not has_gpu():
        need = "runs vLLM on the GPU that trains" if mode == "colocate" else "sends weights from the GPU that trains, over NCCL"
        raise RecipeError(
            f"{where}: vllm = {mode!r} {need}, and no CUDA GPU is in use here; "
            'run it on a machine with one (and without TEMPER_DEVICE = "cpu"), or set vllm = "off"'
        )


def has_gpu() -> bool:
    """Whether temper would train on a GPU, told from its driver's device files: asking CUDA would need torch."""
    if "TEMPER_DEVICE" in os.environ:
        return os.environ["TEMPER_DEVICE"].startswith("cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(any(Path("/dev").glob(driver)) for driver in DRIVERS)


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """While it lasts, adapters are merged into copies; afterwards the frozen weights are there again, to the bit.

    TRL sends weights by adding the adapter in place and subtracting it again, and the rounding of both would pile up in the
    frozen weights, which are also the reference of the KL term. Costs one more copy of the adapted weights while it lasts.
    """
    layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "get_delta_weight")]
    originals = [layer.base_layer.weight.data for layer in layers]
    try:
        for layer, original in zip(layers, originals, strict=True):
            layer.base_layer.weight.data = original.clone()
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.base_layer.weight.data = original


def disconnect(trainer: Any) -> None:
    """Leave the server's weight group: it holds a port of this process, which the next stage's group needs."""
    if trainer.use_vllm and trainer.vllm_mode == "server" and trainer.accelerator.is_main_process:
        trainer.vllm_generation.vllm_client.close_communicator()


def _check_url(where: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RecipeError(f'{where}: vllm_url = {url!r}; wanted an http or https URL, for example "http://localhost:8000"')
    if parts.path.rstrip("/").endswith("/v1"):
        shorter = url.rstrip("/").removesuffix("/v1")
        raise RecipeError(f"{where}: vllm_url = {url!r}; wanted the server's root, not its OpenAI path: {shorter!r}")
