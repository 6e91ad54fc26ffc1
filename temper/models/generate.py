"""Sampling with shared prompts: each distinct prompt is prefilled once, finished rows leave the batch, nothing is padded twice.

Every row draws its own uniform numbers, so what a row samples does not depend on which rows share its batch: a resumed proof
asks for the missing rows only and gets the same answers (up to the rounding of a differently shaped matrix product).
Works for decoders whose layers all attend to the whole past; others go through the library's own `generate`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from temper.models.packed import Tree, hidden_states, unshareable
from temper.models.products import sampled

# Rows decoded at once: a row of the 135M default is cheaper the more share its step, up to about this many; the keys and values
# of 64 answers of 256 tokens are 0.75 GB.
ROWS = 64
# Rebuild the batch without its finished rows once this share of them is left: each rebuild copies the cache.
COMPACT_AT = 0.8
# Tokens of the long prompt of a trial, and how far its log-probabilities may be from the library's: fp32 rounds at 1e-6.
PROBE, NEAR, NEAR_IN_BF16 = 150, 1e-3, 0.25
# Entries of the vocabulary that are summed at once when a token is drawn.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled row: token ids (with the end token, if it came), their log-probabilities in nats, and whether it ended."""

    ids: list[int]
    logprobs: list[float]
    ended: bool


Told = Callable[[int, list[int]], None]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to sample. `temperature` 0 is greedy; `top_p` 1 keeps the whole distribution."""

    max_new_tokens: int
    eos: frozenset[int]
    pad: int
    temperature: float = 1.0
    top_p: float = 1.0


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    counts: Sequence[int],
    uniforms: Tensor,
    decoding: Decoding,
    *,
    rows: int = ROWS,
    weights: Mapping[Any, Tensor] | None = None,
    told: Told | None = None,
) -> list[list[Sampled]]:
    """Sample `counts[i]` answers to prompt i from a decoder, its adapters folded in.

    `uniforms` (sum of counts, max_new_tokens), in [0, 1): row r's token t is the inverse of its distribution at `uniforms[r, t]`.
    Equal prompts are one prompt; prompts are taken in order of length, at most `rows` answers at once, and returned in the order
    given. `weights` are those of `products.effective`, for a caller that samples from the same model many times. `told(row, ids)`
    hears of each answer as soon as it has ended, while the others are still drawn.
    """
    asked = [i for i, count in enumerate(counts) for _ in range(count)]
    wanted: dict[tuple[int, ...], list[int]] = {}
    for row, i in enumerate(asked):
        wanted.setdefault(tuple(prompts[i]), []).append(row)
    results: list[list[Sampled]] = [[] for _ in prompts]
    done: dict[int, Sampled] = {}
    with sampled(model, weights):
        for batch in _batches(wanted, rows):
            order = [row for _, places in batch for row in places]
            sizes = [len(places) for _, places in batch]
            hears = None if told is None else partial(_renumbered, told, order)
            found = _sample_batch(model, [prompt for prompt, _ in batch], sizes, uniforms[order], decoding, hears)
            done.update(zip(order, found, strict=True))
    for row, i in enumerate(asked):
        results[i].append(done[row])
    return results


def _renumbered(told: Told, order: Sequence[int], row: int, ids: list[int]) -> None:
    told(order[row], ids)


def unsampleable(model: Any, pad: int) -> str | None:
    """None if `sample` draws from this decoder what the library's forward pass says, else the reason why it must not be used.

    Tried on two short answers to a prompt of two blocks and one to a short prompt: an architecture may look right and not be.
    """
    reason = unshareable(model)
    if reason is not None:
        return reason
    long = torch.randint(0, model.config.vocab_size, (PROBE,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [long[:3], long]
    uniforms = torch.rand((3, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    try:
        groups = sample(model, prompts, [1, 2], uniforms, Decoding(4, frozenset({-1}), pad))
        apart = max(_gap(model, p, row) for p, group in zip(prompts, groups, strict=True) for row in group)
    except Exception as error:  # noqa: BLE001 - whatever it is, the library's own generate still works
        return f"a trial of it failed ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    if apart <= (NEAR if model.dtype == torch.float32 else NEAR_IN_BF16):
        return None
    return f"a trial of it was {apart:.1e} nats from the library's forward pass"


@torch.no_grad()
def _gap(model: Any, prompt: Sequence[int], row: Sampled) -> float:
    """How far a row's log-probabilities are from those of the library's forward pass over the same tokens, in nats."""
    ids = torch.tensor([[*prompt, *row.ids]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    wanted = torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None]).squeeze(1)
    return (wanted - torch.tensor(row.logprobs, device=model.device)).abs().max().item()


def _batches(wanted: Mapping[tuple[int, ...], Sequence[int]], rows: int) -> Iterator[list[tuple[tuple[int, ...], Sequence[int]]]]:
    """Prompts with the rows that answer them, shortest first, in batches of at most `rows` rows; a large group is cut."""
    batch: list[tuple[tuple[int, ...], Sequence[int]]] = []
    room = rows
    for prompt in sorted(wanted, key=len):
        places = wanted[prompt]
        while places:
            if room == 0 or (len(places) <= rows and len(places) > room):
                yield batch
                batch, room = [], rows
            batch.append((prompt, places[:room]))
            taken = len(batch[-1][1])
            places, room = places[taken:], room - taken
    if batch:
        yield batch


def _sample_batch(
    model: Any, prompts: list[tuple[int, ...]], counts: list[int], uniforms: Tensor, decoding: Decoding, told: Told | None = None
) -> Iterator[Sampled]:
    on = model.device
    body, head = model.base_model, model.get_output_embeddings()
    tree = Tree(prompts, [[] for _ in prompts], on, keep=True)
    hidden = hidden_states(body, tree.tokens, tree.positions, tree)
    owner = torch.arange(len(prompts), device=on).repeat_interleave(torch.tensor(counts, device=on))
    growing = Growing(tree, owner, decoding.max_new_tokens)
    position = torch.tensor([len(p) for p in prompts], device=on)[owner]
    logits = _logits(head, hidden[torch.tensor(tree.ends, device=on)], decoding)[owner]
    uniforms = uniforms.to(on)

    total = len(owner)
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
        if told is not None:
            for row in alive[stop].tolist():
                told(row, tokens[row, : step + 1].tolist())
        keep = ~ended[alive]
        left = int(keep.sum())
        if left == 0 or step + 1 == decoding.max_new_tokens:
            break
        if left <= COMPACT_AT * len(alive):
            chosen = keep.nonzero().squeeze(1)
            growing.select(chosen)
            alive, position, token = alive[chosen], position[chosen], token[chosen]
        logits = _logits(head, hidden_states(body, token, position, growing), decoding)
        growing.used += 1
        position = position + 1
    table, scores, ends, sizes = tokens.tolist(), logprobs.tolist(), ended.tolist(), lengths.tolist()
    if told is not None:
        for row in (row for row in range(total) if not ends[row]):
            told(row, table[row])
    return iter([Sampled(table[r][: sizes[r]], scores[r][: sizes[r]], ends[r]) for r in range(total)])


def _logits(head: Any, hidden: Tensor, decoding: Decoding) -> Tensor:
    """fp32 logits (R, V), divided by the temperature."""
    return head(hidden / decoding.temperature if decoding.temperature else hidden).float()  # type: ignore[no-any-return]


def choose(logits: Tensor, uniform: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Invert each row's cumulative distribution at `uniform` (R,); logits (R, V) -> token (R,), log-probability (R,).

    The logits are already divided by the temperature; the log-probability, in nats, is that of the distribution before `top_p`.
    """
    if decoding.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.log_softmax(logits, -1).gather(-1, token[:, None]).squeeze(1)
    chances = torch.softmax(logits, -1)
    token = _nucleus(chances, uniform, decoding.top_p) if decoding.top_p < 1 else _inverse(chances, uniform)
    return token, chances.gather(-1, token[:, None]).squeeze(1).log()


def _inverse(chances: Tensor, uniform: Tensor) -> Tensor:
    """The first token at which the summed chances (R, V) exceed `uniform` (R,) of their total.

    Found in two steps, a block of the vocabulary and a place in it: a running sum over the whole vocabulary is a slow operation.
    """
    padded = torch.nn.functional.pad(chances, (0, -chances.size(-1) % BLOCK)).view(len(chances), -1, BLOCK)
    mass = padded.sum(-1).cumsum(-1, dtype=torch.float64)
    target = _below(uniform.double()[:, None] * mass[:, -1:], mass[:, -1:])
    # the bounds are reached with weights that are no numbers only; the loss tells of those
    block = torch.searchsorted(mass, target, right=True).clamp(max=mass.size(-1) - 1)
    before = torch.where(block > 0, mass.gather(-1, (block - 1).clamp(min=0)), 0.0)
    inside = padded.gather(1, block[..., None].expand(-1, 1, BLOCK)).squeeze(1).cumsum(-1, dtype=torch.float64)
    # the block's own running sum may end elsewhere than the fp32 sum by which the block was found, so the place is a share of it
    share = (target - before) / (mass.gather(-1, block) - before)
    place = torch.searchsorted(inside, _below(share * inside[:, -1:], inside[:, -1:]), right=True)
    return (block * BLOCK + place.clamp(max=BLOCK - 1)).squeeze(1).clamp(max=chances.size(-1) - 1)


def _below(value: Tensor, total: Tensor) -> Tensor:
    """Rounding may lift a share of a total to the whole; nothing with a chance of zero must be drawn for that."""
    return torch.minimum(value, torch.nextafter(total, torch.zeros_like(total)))


def _nucleus(chances: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    ordered, index = chances.sort(-1, descending=True)
    mass = ordered.cumsum(-1)
    kept = ordered.masked_fill(mass - ordered >= top_p, 0).cumsum(-1)
    rank = torch.searchsorted(kept, (uniform * kept[:, -1])[:, None], right=True).clamp(max=chances.size(-1) - 1)
    return index.gather(-1, rank).squeeze(1)


class Growing:
    """Keys and values of rows that grow by one token a step on shared prompts: each prompt's stand once, whatever its rows.

    `owner` (R,) is each row's prompt, in ascending order. Keys of prompts (N * K, P, D), padded on the right; of answers
    (R * K, room, D), one column written a step.
    """

    def __init__(self, tree: Tree, owner: Tensor, room: int) -> None:
        assert tree.kept is not None
        self.used, self.owner = 0, owner
        sizes = torch.tensor([s.stop - s.start for s in tree.spans], device=owner.device)
        self.longest = int(sizes.max())
        self.hidden = torch.arange(self.longest, device=owner.device) >= sizes[:, None]
        self.layers: dict[int, list[Tensor]] = {}
        for layer, pair in tree.kept.items():
            prompts = [self._padded(t, tree.spans) for t in pair]
            _, heads, _, size = prompts[0].shape
            answers = [t.new_empty(len(owner) * heads, room, size) for t in pair]
            self.layers[layer] = [*(p.flatten(0, 1) for p in prompts), *answers]
        tree.kept.clear()
        self._place()

    def _padded(self, t: Tensor, spans: list[slice]) -> Tensor:
        """(T, K, D) -> (N, K, P, D)."""
        rows = torch.nn.utils.rnn.pad_sequence([t[s] for s in spans], batch_first=True)
        return rows.transpose(1, 2).contiguous()

    def _place(self) -> None:
        """Each row's slot in a table of prompts by the most rows a prompt has; `slots` is None where the table has no hole."""
        counts = torch.bincount(self.owner, minlength=len(self.hidden))
        self.width = int(counts.max())
        first = counts.cumsum(0) - counts
        full = bool((counts == self.width).all())
        rank = torch.arange(len(self.owner), device=self.owner.device) - first[self.owner]
        self.slots = None if full else self.owner * self.width + rank
        self.mask = bool(self.hidden.any())

    def select(self, rows: Tensor) -> None:
        """Keep only these rows, and only the prompts that still have one."""
        before, owner = len(self.owner), self.owner[rows]
        kept, self.owner = torch.unique(owner, return_inverse=True)
        fewer = len(kept) < len(self.hidden)
        for tensors in self.layers.values():
            heads = tensors[2].size(0) // before
            tensors[2:] = [_by_row(t, heads)[rows].flatten(0, 1) for t in tensors[2:]]
            if fewer:
                tensors[:2] = [_by_row(t, heads)[kept].flatten(0, 1) for t in tensors[:2]]
        self.hidden = self.hidden[kept]
        self._place()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        far_k, far_v, near_k, near_v = self.layers[layer]
        R, H, D = query.size(2), query.size(1), query.size(3)
        K = key.size(1)
        for new, kept in ((key, near_k), (value, near_v)):
            kept[:, self.used] = new[0].transpose(0, 1).reshape(R * K, D)
        q = query[0].transpose(0, 1).reshape(R * K, H // K, D) * scaling
        end = self.used + 1
        near = torch.bmm(q, near_k[:, :end].transpose(1, 2))
        far = torch.bmm(self._table(q, K), far_k.transpose(1, 2))
        if self.mask:
            _by_row(far, K).masked_fill_(self.hidden[:, None, None], -torch.inf)
        weights = torch.softmax(torch.cat([self._rows(far, K, H // K), near], -1), -1)
        far, near = weights[..., : self.longest], weights[..., self.longest :]
        out = torch.bmm(near, near_v[:, :end]) + self._rows(torch.bmm(self._table(far, K), far_v), K, H // K)
        return out.view(1, R, H, D)

    def _table(self, t: Tensor, K: int) -> Tensor:
        """(R * K, h, X) -> (N * K, width * h, X): a prompt's rows beside each other."""
        rows = _by_row(t, K)
        if self.slots is not None:
            rows = rows.new_zeros(len(self.hidden) * self.width, *rows.shape[1:]).index_copy_(0, self.slots, rows)
        return _by_row(rows, self.width).transpose(1, 2).flatten(0, 1).flatten(1, 2)

    def _rows(self, t: Tensor, K: int, h: int) -> Tensor:
        """The inverse of `_table`."""
        rows = t.view(-1, K, self.width, h, t.size(-1)).transpose(1, 2).flatten(0, 1)
        return (rows if self.slots is None else rows[self.slots]).flatten(0, 1)


def _by_row(t: Tensor, heads: int) -> Tensor:
    """(R * heads, ...) -> (R, heads, ...)."""
    return t.view(-1, heads, *t.shape[1:])
