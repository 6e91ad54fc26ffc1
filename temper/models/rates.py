"""How fast one core multiplies matrices here, by each road that torch offers; for `temper doctor`."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from temper.models import products
from temper.models.profile import blas

SIDE = 1024
SECONDS = 0.3


def rates() -> dict[str, float]:
    """Billions of operations a second of (1024, 1024) products with the threads torch is set to, the best of 0.3 s each.

    oneDNN's is left out where this torch does not have it.
    """
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=draw) for _ in range(2))
    found = {f"fp32 by {blas()}": _rate(linear, left, right)}
    if products.available():
        found["fp32 by oneDNN"] = _rate(products.product, left, right)
    return {**found, "bf16": _rate(linear, left.bfloat16(), right.bfloat16())}


def _rate(product: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> float:
    best, until = float("inf"), time.perf_counter() + SECONDS
    product(left, right)
    while best == float("inf") or time.perf_counter() < until:
        started = time.perf_counter()
        product(left, right)
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best / 1e9
