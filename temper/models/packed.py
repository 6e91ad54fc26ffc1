"""Prompts and their answers through a decoder as one packed row: each prompt once, no padding, gradients if wanted.

The tokens of all prompts and answers stand in one sequence. Everything in a decoder works token by token except attention, so
only attention has to know which token sees which: a prompt's tokens see the ones before, an answer's see their prompt and their
own past (the tree of PrefixGrouper, arXiv 2506.05433, without its copies). It is handed in through the attention interface of
transformers, so any decoder that uses the interface, and attends to all of the past, works unchanged.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from temper.models.products import batched

# Queries of a prompt that are attended at once: small enough that half of the square is never computed.
BLOCK = 128
# Attention weights kept for the backward pass, in bytes a layer; above it they are computed again (arXiv 2205.14135).
KEPT = 8 << 20
# Scores are kept in bits: torch's exp takes fifteen times as long where it underflows, as behind a mask, and exp2 does not.
LOG2E = 1 / math.log(2)
# Settings that change scores or logits in ways that the code here does not follow.
CAPPED = ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling", "attention_dropout")

LENGTHENED = ("longrope", "dynamic")


class Shared(Protocol):
    """Knows what each token of a packed row sees. Query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D)."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor: ...


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, *, scaling: float, **kwargs: Any) -> Any:
    shared: Shared = kwargs["shared"]
    return shared.attend(module.layer_idx, query, key, value, scaling), None


ALL_ATTENTION_FUNCTIONS.register("temper", _attention)


def unshareable(model: Any) -> str | None:
    """None if prompts can be shared in this decoder, else the reason why not (for a log line)."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"its layers are {', '.join(sorted(kinds))}, and only full attention can share a prompt here"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "it attends through a sliding window"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention does not go through the interface of transformers"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in LENGTHENED:
        return f"its {rope} positions depend on the longest text in a batch"
    capped = [name for name in CAPPED if getattr(config, name, None)]
    return f"its config sets {', '.join(capped)}" if capped else None


def hidden_states(body: Any, tokens: Tensor, positions: Tensor, shared: Shared) -> Tensor:
    """Last hidden states (T, d) of packed tokens (T,) at `positions` (T,)."""
    with _attending(body.config):
        out = body(input_ids=tokens[None], position_ids=positions[None], use_cache=False, shared=shared)
    return out.last_hidden_state[0]  # type: ignore[no-any-return]


@contextlib.contextmanager
def _attending(config: Any) -> Iterator[None]:
    was = config._attn_implementation
    config._attn_implementation = "temper"
    try:
        yield
    finally:
        config._attn_implementation = was


@dataclass(frozen=True, slots=True)
class Segment:
    """G rows of at most C queries that see tokens `prefix` of the packed row and their own past; `rows` (G, C) are their places.

    `valid` (G, C) is False at padding; None if there is none.
    """

    prefix: slice
    rows: Tensor
    valid: Tensor | None

    @property
    def pairs(self) -> int:
        """Scores computed a head."""
        past: int = self.prefix.stop - self.prefix.start
        return self.rows.numel() * (past + self.rows.size(1))


class Tree:
    """Prompts with their answers, packed one after the other: prompt, its answers, next prompt.

    `tokens` and `positions` (T,); `ends[i]` is the place of prompt i's last token; `places[i][j]` is the slice of its answer j.
    With `keep`, keys and values of each layer are kept, (T, K, D), for a later decoding step.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[Sequence[int]]],
        on: torch.device | str = "cpu",
        *,
        keep: bool = False,
    ) -> None:
        ids: list[int] = []
        positions: list[int] = []
        self.ends: list[int] = []
        self.spans: list[slice] = []
        self.places: list[list[slice]] = []
        for prompt, replies in zip(prompts, answers, strict=True):
            start = len(ids)
            ids.extend(prompt)
            positions.extend(range(len(prompt)))
            self.spans.append(slice(start, len(ids)))
            self.ends.append(len(ids) - 1)
            self.places.append([])
            for reply in replies:
                self.places[-1].append(slice(len(ids), len(ids) + len(reply)))
                ids.extend(reply)
                positions.extend(range(len(prompt), len(prompt) + len(reply)))
        self.tokens, self.positions = torch.tensor(ids, device=on), torch.tensor(positions, device=on)
        self.segments = [s for i in range(len(prompts)) for s in self._segments(i, on)]
        self.kept: dict[int, tuple[Tensor, Tensor]] | None = {} if keep else None

    def _segments(self, i: int, on: torch.device | str) -> Iterator[Segment]:
        span = self.spans[i]
        for start in range(span.start, span.stop, BLOCK):
            stop = min(span.stop, start + BLOCK)
            yield Segment(slice(span.start, start), torch.arange(start, stop, device=on)[None], None)
        replies = [p for p in self.places[i] if p.stop > p.start]
        if not replies:
            return
        starts = torch.tensor([p.start for p in replies])
        sizes = torch.tensor([p.stop - p.start for p in replies])
        steps = torch.arange(int(sizes.max()))
        valid = steps < sizes[:, None]
        rows = torch.where(valid, starts[:, None] + steps, starts[:, None])
        yield Segment(span, rows.to(on), None if bool(valid.all()) else valid.to(on))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
        if self.kept is not None:
            self.kept[layer] = k, v
        if query.device.type == "cpu":
            return _TreeAttention.apply(q, k, v, self.segments, scaling)[None]  # type: ignore[no-any-return, no-untyped-call]
        return _library(q, k, v, self.segments, scaling)[None]


class _TreeAttention(Function):
    """Exact attention over segments; q (T, H, D), k and v (T, K, D) -> (T, H, D).

    Heads that share keys are one product, so keys are never repeated. Up to `KEPT` the weights are kept; beyond, only the log of
    each query's partition sum, so memory grows with the tokens and not with their square.
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: list[Segment], scaling: float) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype)
        small = sum(s.pairs for s in segments) * q.size(1) * q.element_size() <= KEPT
        saved: list[Tensor | None] = []
        with batched():
            for segment in segments:
                part = _Part(segment, q, k, v, scaling)
                far, near = part.scores()
                top = near.amax(-1, keepdim=True) if far is None else torch.maximum(near.amax(-1, True), far.amax(-1, True))
                total = near.sub_(top).exp2_().sum(-1, keepdim=True)
                if far is not None:
                    total += far.sub_(top).exp2_().sum(-1, keepdim=True)
                    far.div_(total)
                attended = torch.bmm(near.div_(total), part.v)
                if far is not None:
                    attended += torch.bmm(part.wide(far), part.far_v).view_as(attended)
                part.put(out, attended)
                saved += (near, far) if small else (top.add_(total.log2_()), None)
        ctx.save_for_backward(q, k, v, out, *saved)
        ctx.segments, ctx.scaling, ctx.small = segments, scaling, small
        return out

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, *saved = ctx.saved_tensors
        to_q = torch.empty(q.shape, dtype=q.dtype)
        to_k, to_v = (torch.zeros(t.shape, dtype=t.dtype) for t in (k, v))
        with batched():
            for i, segment in enumerate(ctx.segments):
                part = _Part(segment, q, k, v, ctx.scaling)
                far, near = (saved[2 * i + 1], saved[2 * i]) if ctx.small else part.weights(saved[2 * i])
                grad = part.queries(grads[0])
                if segment.valid is not None:
                    grad = grad * part.counted()
                delta = (grad * part.queries(out)).sum(-1, keepdim=True)
                part.add(to_v, torch.bmm(near.transpose(1, 2), grad))
                slope = torch.bmm(grad, part.v.transpose(1, 2)).sub_(delta).mul_(near)
                part.add(to_k, torch.bmm(slope.transpose(1, 2), part.q))
                back = torch.bmm(slope, part.k)
                if far is not None:
                    far, wide = part.wide(far), part.wide(grad)
                    to_v[segment.prefix] += torch.bmm(far.transpose(1, 2), wide).transpose(0, 1)
                    slope = torch.bmm(wide, part.far_v.transpose(1, 2)).sub_(part.wide(delta)).mul_(far)
                    to_k[segment.prefix] += torch.bmm(slope.transpose(1, 2), part.wide(part.q)).transpose(0, 1)
                    back += torch.bmm(slope, part.far_k).view_as(back)
                part.put(to_q, back.mul_(ctx.scaling))
        # scores were in bits
        return to_q, to_k.mul_(1 / LOG2E), to_v, None, None


class _Part:
    """One segment's queries, keys and values in the shapes of batched products: a batch of K * G, heads beside queries."""

    def __init__(self, segment: Segment, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> None:
        self.rows, self.valid = segment.rows, segment.valid
        self.G, self.C = segment.rows.shape
        self.K, self.H, self.D = k.size(1), q.size(1), q.size(2)
        self.whole = slice(int(self.rows[0, 0]), int(self.rows[0, 0]) + self.C) if self.G == 1 else None
        self.q = self.queries(q) * (scaling * LOG2E)
        self.k, self.v = self._keys(k), self._keys(v)
        self.alone = segment.prefix.stop == segment.prefix.start
        self.far_k, self.far_v = (t[segment.prefix].transpose(0, 1) for t in (k, v))

    def _take(self, t: Tensor) -> Tensor:
        return t[self.whole][None] if self.whole is not None else t[self.rows]

    def queries(self, t: Tensor) -> Tensor:
        """(T, H, D) -> (K * G, H / K * C, D)."""
        shaped = self._take(t).view(self.G, self.C, self.K, -1, self.D).permute(2, 0, 3, 1, 4)
        return shaped.reshape(self.K * self.G, -1, self.D)

    def _keys(self, t: Tensor) -> Tensor:
        """(T, K, D) -> (K * G, C, D)."""
        return self._take(t).permute(2, 0, 1, 3).reshape(self.K * self.G, self.C, self.D)

    def wide(self, t: Tensor) -> Tensor:
        """(K * G, N, X) -> (K, G * N, X): all rows of a group against the prefix that they share."""
        return t.view(self.K, -1, t.size(-1))

    def scores(self) -> tuple[Tensor | None, Tensor]:
        """Scores, in bits, against the prefix (K * G, H / K * C, P), or None, and the own row (K * G, H / K * C, C)."""
        near = torch.bmm(self.q, self.k.transpose(1, 2))
        future = torch.ones(self.C, self.C, dtype=torch.bool).triu_(1)
        near.view(self.K * self.G, -1, self.C, self.C).masked_fill_(future, -torch.inf)
        if self.alone:
            return None, near
        far = torch.bmm(self.wide(self.q), self.far_k.transpose(1, 2))
        return far.view(self.K * self.G, -1, far.size(-1)), near

    def weights(self, total: Tensor) -> tuple[Tensor | None, Tensor]:
        """The attention weights again, from the log of each query's partition sum."""
        far, near = self.scores()
        return None if far is None else far.sub_(total).exp2_(), near.sub_(total).exp2_()

    def counted(self) -> Tensor:
        assert self.valid is not None
        valid = self.valid[None, :, None, :].expand(self.K, self.G, self.H // self.K, self.C)
        return valid.reshape(self.K * self.G, -1, 1)

    def put(self, out: Tensor, t: Tensor) -> None:
        """Write (K * G, H / K * C, D) to its places in `out` (T, H, D)."""
        shaped = t.view(self.K, self.G, -1, self.C, self.D).permute(1, 3, 0, 2, 4).reshape(self.G, self.C, self.H, self.D)
        if self.whole is not None:
            out[self.whole] = shaped[0]
        elif self.valid is None:
            out[self.rows] = shaped
        else:
            out[self.rows[self.valid]] = shaped[self.valid]

    def add(self, out: Tensor, t: Tensor) -> None:
        """Add (K * G, C, D) at its places in `out` (T, K, D); no place comes twice except at padding, which is left out."""
        shaped = t.view(self.K, self.G, self.C, self.D).permute(1, 2, 0, 3)
        if self.whole is not None:
            out[self.whole] += shaped[0]
        elif self.valid is None:
            out[self.rows] += shaped
        else:
            out[self.rows[self.valid]] += shaped[self.valid]


def _library(q: Tensor, k: Tensor, v: Tensor, segments: list[Segment], scaling: float) -> Tensor:
    """The same attention through torch's own kernels, for accelerators; heads' keys are repeated inside the kernel."""
    out = torch.empty_like(q)
    for s in segments:
        G, C = s.rows.shape
        past = s.prefix.stop - s.prefix.start
        keys, values = (torch.cat([t[s.prefix].expand(G, past, *t.shape[1:]), t[s.rows]], 1).transpose(1, 2) for t in (k, v))
        sees = torch.ones(C, past + C, dtype=torch.bool, device=q.device).tril_(past)
        heads = q[s.rows].transpose(1, 2)
        attended = scaled_dot_product_attention(heads, keys, values, attn_mask=sees, scale=scaling, enable_gqa=True)
        rows, shaped = s.rows, attended.transpose(1, 2)
        out = out.index_put((rows[s.valid] if s.valid is not None else rows,), shaped[s.valid] if s.valid is not None else shaped)
    return out
