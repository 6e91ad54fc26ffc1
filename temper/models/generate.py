"""Sampling with shared prompts: each distinct prompt is prefilled once, finished rows leave the batch, nothing is padded twice.

Every row draws its own uniform numbers, so what a row samples does not depend on which rows share its batch: a resumed proof
asks for the missing rows only and gets the same answers (up to the rounding of a differently shaped matrix product).
Works for decoders whose layers all attend to the whole past; others go through the library's own `generate`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

# Rows decoded at once. On a 2-core AVX2 CPU a step takes 62 ms for 1 row, 129 for 8 and 289 for 32: wider is cheaper per row
# until the key/value cache no longer fits; 64 rows of 256 positions of the 135M default are 0.75 GB.
ROWS = 64
# Rebuild the batch without its finished rows once this share of them is left: each rebuild copies the cache.
COMPACT_AT = 0.8


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled row: token ids (with the end token, if it came), their log-probabilities in nats, and whether it ended."""

    ids: list[int]
    logprobs: list[float]
    ended: bool


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to sample. `temperature` 0 is greedy; `top_p` 1 keeps the whole distribution."""

    max_new_tokens: int
    eos: frozenset[int]
    pad: int
    temperature: float = 1.0
    top_p: float = 1.0


def supports_sharing(model: Any) -> str | None:
    """None if prompts can be shared, else the reason why not (for a log line)."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"its layers are {', '.join(sorted(kinds))}, and only full attention can share a cached prompt here"
    if getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True):
        return "it attends through a sliding window"
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    return None


@torch.no_grad()
def sample(
    model: Any, prompts: Sequence[Sequence[int]], counts: Sequence[int], uniforms: Tensor, decoding: Decoding, *, rows: int = ROWS
) -> list[list[Sampled]]:
    """Sample `counts[i]` answers to prompt i.

    `uniforms` (sum of counts, max_new_tokens), in [0, 1): row r's token t is the inverse of its distribution at `uniforms[r, t]`.
    Prompts are taken in order of length, so that little padding is computed, and returned in the order given.
    """
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    results: list[list[Sampled]] = [[] for _ in prompts]
    for batch in _batches(prompts, counts, rows):
        picked = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in batch])
        flat = _sample_batch(model, [prompts[i] for i in batch], [counts[i] for i in batch], uniforms[picked], decoding)
        for i in batch:
            results[i] = [next(flat) for _ in range(counts[i])]
    return results


def _batches(prompts: Sequence[Sequence[int]], counts: Sequence[int], rows: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if batch and sum(counts[j] for j in batch) + counts[i] > rows:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _sample_batch(
    model: Any, prompts: list[Sequence[int]], counts: list[int], uniforms: Tensor, decoding: Decoding
) -> Iterator[Sampled]:
    on = model.device
    ids, mask = left_pad(prompts, decoding.pad, on)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = Cache(layer_class_to_replicate=_Grown)
    body, head = model.base_model, model.get_output_embeddings()
    hidden = body(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    fan = torch.arange(len(prompts), device=on).repeat_interleave(torch.tensor(counts, device=on))
    for layer in cache.layers:
        layer.fan_out(fan, decoding.max_new_tokens)
    mask, position = mask[fan], positions[fan, -1] + 1
    logits = head(hidden.last_hidden_state[:, -1])[fan]
    uniforms = uniforms.to(on)

    total = len(fan)
    tokens = torch.full((total, decoding.max_new_tokens), decoding.pad, device=on)
    logprobs = torch.zeros((total, decoding.max_new_tokens), device=on)
    lengths = torch.full((total,), decoding.max_new_tokens, device=on)
    ended = torch.zeros(total, dtype=torch.bool, device=on)
    eos = torch.tensor(sorted(decoding.eos), device=on)
    alive = torch.arange(total, device=on)
    for step in range(decoding.max_new_tokens):
        token, logprob = choose(logits, uniforms[alive, step], decoding)
        tokens[alive, step], logprobs[alive, step] = token, logprob
        stop = torch.isin(token, eos) & ~ended[alive]
        lengths[alive[stop]], ended[alive[stop]] = step + 1, True
        keep = ~ended[alive]
        left = int(keep.sum())
        if left == 0 or step + 1 == decoding.max_new_tokens:
            break
        if left <= COMPACT_AT * len(alive):
            chosen = keep.nonzero().squeeze(1)
            cache.batch_select_indices(chosen)
            alive, mask, position, token = alive[chosen], mask[chosen], position[chosen], token[chosen]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
        step_ids, step_positions = token[:, None], position[:, None]
        hidden = body(input_ids=step_ids, attention_mask=mask, position_ids=step_positions, past_key_values=cache, use_cache=True)
        position = position + 1
        logits = head(hidden.last_hidden_state[:, -1])
    table, scores, ends, sizes = tokens.tolist(), logprobs.tolist(), ended.tolist(), lengths.tolist()
    return iter([Sampled(table[r][: sizes[r]], scores[r][: sizes[r]], ends[r]) for r in range(total)])


def choose(logits: Tensor, uniform: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Invert each row's cumulative distribution at `uniform` (R,); logits (R, V) -> token (R,), log-probability (R,).

    The log-probability is that of the distribution sampled from (after temperature, before `top_p`), in nats.
    """
    logits = logits.float()
    if decoding.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.log_softmax(logits, -1).gather(-1, token[:, None]).squeeze(1)
    logprobs = torch.log_softmax(logits / decoding.temperature, -1)
    if decoding.top_p < 1:
        token = _nucleus(logprobs, uniform, decoding.top_p)
    else:
        mass = logprobs.exp().cumsum(-1)
        token = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True).squeeze(1).clamp(max=logits.size(-1) - 1)
    return token, logprobs.gather(-1, token[:, None]).squeeze(1)


def left_pad(prompts: Sequence[Sequence[int]], pad: int, on: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (N, longest), padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(on), mask.to(on)


def _nucleus(logprobs: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    ordered, index = logprobs.exp().sort(-1, descending=True)
    mass = ordered.cumsum(-1)
    kept = ordered.masked_fill(mass - ordered >= top_p, 0).cumsum(-1)
    rank = torch.searchsorted(kept, (uniform * kept[:, -1])[:, None], right=True).clamp(max=logprobs.size(-1) - 1)
    return index.gather(-1, rank).squeeze(1)


class _Grown(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for the whole answer: a step writes its own column instead of copying all the columns before."""

    keys: Any
    values: Any

    def fan_out(self, rows: Tensor, room: int) -> None:
        """Repeat the prefilled prompts for their samples and reserve `room` more positions."""
        self.used = self.keys.size(-2)
        self.keys, self.values = (self._roomy(t, rows, room) for t in (self.keys, self.values))

    def _roomy(self, states: Tensor, rows: Tensor, room: int) -> Tensor:
        wide = states.new_empty((len(rows), states.size(1), self.used + room, states.size(3)))
        wide[:, :, : self.used] = states[rows]
        return wide

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not hasattr(self, "used"):
            return super().update(key_states, value_states, *args, **kwargs)  # type: ignore[no-any-return]
        end = self.used + key_states.size(-2)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.used if hasattr(self, "used") else int(super().get_seq_length())
