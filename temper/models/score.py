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
            logits, chances = _softmax(hidden[rows], weight, temperature)
            # the log of the sum, from the likeliest token, whose chance cannot underflow
            top, likeliest = logits.max(-1)
            total = top - chances.gather(-1, likeliest[:, None]).squeeze(1).log()
            logprobs[rows] = logits.gather(-1, targets[rows, None]).squeeze(1) - total
            entropies[rows] = total - torch.linalg.vecdot(chances, logits)
            if slopes is not None:
                slopes[rows] = (weight[targets[rows]] - _mm(chances, weight.t())) / temperature
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
            _, chances = _softmax(hidden[rows], weight, ctx.temperature)
            scaled = hidden[rows] * scale[:, None]
            to_weight -= _mm(chances.t(), scaled.t())
            to_weight.index_add_(0, targets[rows], scaled)
        return to_hidden, to_weight, None, None


def _softmax(hidden: Tensor, weight: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Scaled logits and probabilities, both (n, V).

    By torch's softmax and not by `exp`: an exponential that underflows halfway takes thirty times as long.
    """
    logits = _mm(hidden / temperature, weight).float()
    return logits, torch.softmax(logits, -1)


def _mm(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T."""
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and available()
    return product(x, weight) if fits else x.to(weight.dtype) @ weight.t()
