"""Log-probabilities of given tokens from hidden states: the head and its gradient in one pass, no logits kept."""

from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function

from temper.models.products import available, product

# Tokens whose logits are held at once: 64 rows of a 49k vocabulary are 13 MB, which fits the last cache of common processors.
TILE = 64


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy, both (N,) in nats, of `targets` (N,) under softmax(hidden weight^T / temperature).

    hidden (N, d), weight (V, d). Differentiable in both through the log-probability; the entropy is for looking at.
    """
    return _Scored.apply(hidden, weight, targets, temperature)  # type: ignore[no-any-return, no-untyped-call]


class _Scored(Function):
    """d logp / d hidden = (W[target] - sum_v p_v W_v) / temperature does not depend on the loss, so the forward pass computes it
    while the probabilities are at hand, and the backward pass only scales it. A trained head needs them again."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        logprobs, entropies = hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
        for start in range(0, len(hidden), TILE):
            rows = slice(start, start + TILE)
            below, chances, mass = _softmax(hidden[rows], weight, temperature)
            total = mass.log()
            logprobs[rows] = below.gather(-1, targets[rows, None]).squeeze(1) - total
            entropies[rows] = total - torch.linalg.vecdot(chances, below) / mass
            if slopes is not None:
                mean = _mm(chances, weight.t()) / mass[:, None]
                slopes[rows] = (weight[targets[rows]] - mean) / temperature
        ctx.save_for_backward(slopes, hidden, weight, targets)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, hidden, weight, targets = ctx.saved_tensors
        grad = grads[0]
        to_hidden = grad[:, None] * slopes if slopes is not None else None
        if not ctx.needs_input_grad[1]:
            return to_hidden, None, None, None
        to_weight = torch.zeros_like(weight)
        for start in range(0, len(hidden), TILE):
            rows = slice(start, start + TILE)
            scale = grad[rows] / ctx.temperature
            _, chances, mass = _softmax(hidden[rows], weight, ctx.temperature)
            to_weight -= _mm(chances.t(), (hidden[rows] * (scale / mass)[:, None]).t())
            to_weight.index_add_(0, targets[rows], hidden[rows] * scale[:, None])
        return to_hidden, to_weight, None, None


def _softmax(hidden: Tensor, weight: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled logits below their row's highest (n, V), their exponentials (n, V), and the sum of those (n,).

    The sum is divided out of the small results and not out of the large table.
    """
    logits = _mm(hidden / temperature, weight).float()
    below = logits.sub_(logits.amax(-1, keepdim=True))
    chances = below.exp()
    return below, chances, chances.sum(-1)


def _mm(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T."""
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and available()
    return product(x, weight) if fits else x.to(weight.dtype) @ weight.t()
