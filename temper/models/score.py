"""Log-probabilities of given tokens from hidden states: the head and its gradient in one pass, no logits kept."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from temper.models.products import available, product

# Tokens whose logits are held at once: 128 rows of a 49k vocabulary are 25 MB, about the share of a core in a common L3 cache.
TILE = 128


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy, both (N,) in nats, of `targets` (N,) under softmax(hidden weight^T / temperature).

    hidden (N, d), weight (V, d). Differentiable in both through the log-probability; the entropy is for looking at.
    """
    return _Scored.apply(hidden, weight, targets, temperature)  # type: ignore[no-any-return, no-untyped-call]


class _Scored(Function):
    """d logp / d hidden = (W[target] - sum_v p_v W_v) / temperature does not depend on the loss, so the forward pass computes it
    while the probabilities are at hand, and the backward pass only scales it. A trained head needs them again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        logprobs, entropies = hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
        for start in range(0, len(hidden), TILE):
            rows = slice(start, start + TILE)
            logits, chances, total = _softmax(hidden[rows], weight, temperature)
            picked = logits.gather(-1, targets[rows, None]).squeeze(1)
            logprobs[rows] = picked - total
            entropies[rows] = total - torch.linalg.vecdot(chances, logits)
            if slopes is not None:
                slopes[rows] = (weight[targets[rows]] - _mm(chances, weight.t())) / temperature
        ctx.save_for_backward(slopes, hidden, weight, targets)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, hidden, weight, targets = ctx.saved_tensors
        grad = grads[0]
        to_hidden = grad[:, None] * slopes if slopes is not None else None
        if not ctx.needs_input_grad[1]:
            return to_hidden, None, None, None
        to_weight = torch.zeros_like(weight)
        for start in range(0, len(hidden), TILE):
            rows = slice(start, start + TILE)
            scale = grad[rows, None] / ctx.temperature
            _, chances, _ = _softmax(hidden[rows], weight, ctx.temperature)
            to_weight -= _mm(chances.mul_(scale).t(), hidden[rows].t())
            to_weight.index_add_(0, targets[rows], hidden[rows] * scale)
        return to_hidden, to_weight, None, None


def _softmax(hidden: Tensor, weight: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled logits (n, V), probabilities (n, V) and the log of their sum (n,)."""
    logits = _mm(hidden / temperature, weight).float()
    top = logits.amax(-1, keepdim=True)
    chances = (logits - top).exp_()
    mass = chances.sum(-1, keepdim=True)
    return logits, chances.div_(mass), (top + mass.log()).squeeze(1)


def _mm(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T."""
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and available()
    return product(x, weight) if fits else x.to(weight.dtype) @ weight.t()
