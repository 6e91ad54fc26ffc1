"""Matrix products of a model on a CPU: oneDNN's instead of the linked BLAS, adapters folded in, weights packed for sampling.

torch sends fp32 products of x86 CPUs to MKL, which on processors of another maker runs at half the speed of oneDNN or less
(docs/decisions/0008-products.md). Both are exact in fp32; they round differently. `trained` replaces the forward of every linear
layer while gradients are wanted, `sampled` while they are not. On other devices and dtypes the first leaves the layers alone and
the second only folds the adapters in.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as Adapted
from torch import Tensor, nn
from torch.autograd import Function

Forward = Callable[[Tensor], Tensor]


def available() -> bool:
    """Whether this torch has oneDNN's linear product, whose operators are not public API; `TEMPER_PRODUCTS=torch` says no."""
    wanted = os.environ.get("TEMPER_PRODUCTS") or "auto"
    return wanted != "torch" and bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def multiplies_bf16() -> bool:
    """Whether oneDNN takes weights in bf16 on this processor; without AVX-512 or later it refuses them."""
    if not available():
        return False
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(16, 16, dtype=torch.bfloat16))
        return bool((product(torch.ones(4, 16), weight) == 16).all())
    except RuntimeError:
        return False


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (N, in) and weight (out, in), plain or packed, to (N, out) of x's dtype. Any strides; no gradient is recorded.

    A weight in bf16 multiplies in bf16 and sums in fp32; its bias must be in bf16 too.
    """
    out = torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), weight, bias, "none", [], "")
    return out.to(x.dtype)  # type: ignore[no-any-return]


@contextlib.contextmanager
def batched() -> Iterator[None]:
    """While it lasts, batched fp32 products go through oneDNN too, where that was found to be exact.

    torch offers this road only as the setting that also allows bf16 inside; processors without such units compute in fp32 all the
    same, at twice MKL's speed on some. Whether this one does is tried, not guessed.
    """
    was = torch.get_float32_matmul_precision()
    if _exact_at_medium():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(was)


@functools.cache
def _exact_at_medium() -> bool:
    if not available():
        return False
    draw = torch.Generator().manual_seed(0)
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return all(_exact(*shape, draw) for shape in ((2, 3, 64, 40), (3, 128, 64, 128), (2, 300, 128, 64)))
    finally:
        torch.set_float32_matmul_precision(was)


def _exact(batch: int, m: int, k: int, n: int, draw: torch.Generator) -> bool:
    left, right = torch.randn(batch, m, k, generator=draw), torch.randn(batch, k, n, generator=draw)
    wanted = left.double() @ right.double()
    # fp32 errs by about 1e-7 here and bf16 by 3e-3
    return bool((torch.bmm(left, right) - wanted).abs().max() < 1e-5 * wanted.abs().max())


@contextlib.contextmanager
def trained(model: nn.Module, folded: "Folded") -> Iterator[None]:
    """Route the linear layers of a model in training through oneDNN, forward and backward, adapters folded in."""
    if not _suits(model):
        yield
        return
    with _replaced(model, lambda layer: _training_forward(layer, folded)):
        yield


@contextlib.contextmanager
def sampled(model: nn.Module, ready: "Mapping[nn.Module, Tensor] | None" = None) -> Iterator[None]:
    """Run the linear layers on `ready`, or on `effective(model)` made now: adapters folded in, for many small products."""
    weights = effective(model) if ready is None else ready
    multiply = product if _suits(model) else torch.nn.functional.linear
    with _replaced(model, lambda layer: _plain_forward(layer, weights[layer], multiply)):
        yield


@torch.no_grad()
def effective(model: nn.Module, dtype: torch.dtype = torch.float32, *, packed: bool = True) -> dict[nn.Module, Tensor]:
    """Each linear layer's weight with its adapter folded in, on CPUs in the order oneDNN reads it and in `dtype`.

    The head stays as it is: rounding the logits would make up half of the variance of bf16's sampling error. The frozen weights
    are not touched. Costs one more copy of the adapted weights, on CPUs of all weights; not `packed`, which is as fast for long
    rows, only of the adapted ones.
    """
    if not packed or not _suits(model):
        return {layer: _with_adapter(layer) for layer in _linears(model)}
    asked: Any = getattr(model, "get_output_embeddings", None)
    head = asked() if asked else None
    order = torch.ops.mkldnn._reorder_linear_weight
    return {layer: order(_with_adapter(layer).to(torch.float32 if layer is head else dtype)) for layer in _linears(model)}


class Folded:
    """The weights W + scaling B A of adapted layers, made anew only when A or B changed since.

    Exact up to the rounding of one fp32 addition. Costs one more copy of the adapted weights.
    """

    def __init__(self) -> None:
        self.kept: dict[nn.Module, tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def weight(self, layer: Any, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        # compared by value: a fused optimizer changes a tensor without counting up its version
        known = self.kept.get(layer)
        if known is None or not (torch.equal(known[0], a) and torch.equal(known[1], b)):
            # into a new tensor: a backward pass may still hold the old one
            known = a.clone(), b.clone(), torch.addmm(layer.base_layer.weight, b, a, alpha=scaling)
            self.kept[layer] = known
        return known[2]


class _Product(Function):
    """A linear layer whose weight is frozen or trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.with_bias = bias is not None
        return _rows(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.size(0))
        flat = x.reshape(-1, weight.size(1))
        to_x = product(grad, weight.t()).view(x.shape) if ctx.needs_input_grad[0] else None
        to_weight = product(grad.t(), flat.t()) if ctx.needs_input_grad[1] else None
        to_bias = grad.sum(0) if ctx.with_bias and ctx.needs_input_grad[2] else None
        return to_x, to_weight, to_bias


class _AdaptedProduct(Function):
    """A frozen layer with a low-rank adapter, computed as one product with the folded weight.

    The gradient of A is scaling (dy B)^T x and that of B is scaling dy^T (x A^T) (arXiv 2106.09685, section 4.1), so the adapter
    costs four thin products in the backward pass and nothing in the forward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, folded: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
        ctx.save_for_backward(x, a, b, folded)
        ctx.scaling = scaling
        return _rows(x, folded, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, folded = ctx.saved_tensors
        grad, flat = grads[0].reshape(-1, b.size(0)), x.reshape(-1, a.size(1))
        to_x = product(grad, folded.t()).view(x.shape) if ctx.needs_input_grad[0] else None
        narrow = product(grad, b.t()).mul_(ctx.scaling)
        to_a = product(narrow.t(), flat.t())
        to_b = product(product(flat, a).mul_(ctx.scaling).t(), grad.t()).t()
        return to_x, to_a, to_b, None, None, None


def _rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return product(x.reshape(-1, x.size(-1)), weight, bias).view(*x.shape[:-1], -1)


def _suits(model: nn.Module) -> bool:
    first = next(model.parameters())
    return first.device.type == "cpu" and first.dtype == torch.float32 and available()


def _linears(model: nn.Module) -> list[Any]:
    """Linear layers and plainly adapted linear layers, each once, without the parts of an adapter.

    What only inherits from a linear layer may compute something else, and is left as it is.
    """
    adapted = [m for m in model.modules() if isinstance(m, Adapted)]
    parts = {part for m in adapted for part in m.modules() if part is not m}
    return [m for m in model.modules() if (type(m) is nn.Linear and m not in parts) or (m in adapted and _plain(m))]


def _plain(layer: Any) -> bool:
    """Whether an adapted layer is W x + scaling B A x and nothing else."""
    extras = any(layer.use_dora.values()) or any(layer.lora_bias.values())
    dropout = any(not isinstance(d, nn.Identity) for d in layer.lora_dropout.values())
    return type(layer.base_layer) is nn.Linear and not (extras or dropout)


def adapter(layer: Any) -> tuple[Tensor, Tensor, float] | None:
    """A, B and the scaling of the active adapter of a layer; None where none is active. Raises `ValueError` for more than one."""
    if not isinstance(layer, Adapted) or layer.disable_adapters or layer.merged:
        return None
    names = [n for n in layer.active_adapters if n in layer.lora_A]
    if len(names) > 1:
        raise ValueError(f"several adapters are active at once: {', '.join(names)}")
    return (layer.lora_A[names[0]].weight, layer.lora_B[names[0]].weight, layer.scaling[names[0]]) if names else None


def _base(layer: Any) -> nn.Linear:
    base: nn.Linear = layer.base_layer if isinstance(layer, Adapted) else layer
    return base


def _with_adapter(layer: Any) -> Tensor:
    weight, active = _base(layer).weight, adapter(layer)
    if active is None:
        return weight
    a, b, scaling = active
    # adapters are kept in fp32 where the weights are not
    return torch.addmm(weight.float(), b.float(), a.float(), alpha=scaling).to(weight.dtype)


def _plain_forward(layer: Any, weight: Tensor, multiply: Callable[..., Tensor]) -> Forward:
    bias = _base(layer).bias if _base(layer).bias is None else _base(layer).bias.to(weight.dtype)
    return lambda x: multiply(x.reshape(-1, x.size(-1)), weight, bias).view(*x.shape[:-1], -1)


def _training_forward(layer: Any, folded: Folded) -> Forward:
    base, stock = _base(layer), layer.forward

    def forward(x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            return stock(x)  # type: ignore[no-any-return]
        active = adapter(layer)
        if active is None:
            return _Product.apply(x, base.weight, base.bias)  # type: ignore[no-any-return, no-untyped-call]
        a, b, scaling = active
        if not torch.is_grad_enabled() or not a.requires_grad:
            # a reference adapter passes once a step: folding it would cost a copy of the weights for nothing
            return _rows(x, base.weight, base.bias) + _rows(_rows(x, a, None), b, None) * scaling
        weight = folded.weight(layer, a, b, scaling)
        return _AdaptedProduct.apply(x, a, b, weight, base.bias, scaling)  # type: ignore[no-any-return, no-untyped-call]

    return forward


@contextlib.contextmanager
def _replaced(model: nn.Module, forward: Callable[[Any], Forward]) -> Iterator[None]:
    layers = _linears(model)
    try:
        for layer in layers:
            layer.forward = forward(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
