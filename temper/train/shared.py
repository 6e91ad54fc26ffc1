"""The training pass with shared prompts: log-probabilities of a batch's answers, each distinct prompt computed once."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from temper.models.packed import Tree, hidden_states
from temper.models.products import Folded, trained
from temper.models.score import token_logprobs

if TYPE_CHECKING:
    from temper.train.trainer import TemperTrainer

log = logging.getLogger(__name__)

# What the self-check allows between the shared step and the stock one: relative, of the loss and of the whole gradient. The two
# round differently; fp32 was measured at 6e-6 on the 135M default, bf16 carries eight bits.
EXACT, ROUNDED = 1e-3, 5e-2
# Tokens of the check's long prompt: more than attention takes at once.
LONG = 150


def share(decoder: Any, folded: Folded) -> None:
    """Teach a decoder's `forward` the keyword `shared_pass`, so that the pass can be called through whatever wraps the model."""
    stock = decoder.forward

    def forward(*args: Any, shared_pass: tuple[Tensor, Tensor, int, float] | None = None, **kwargs: Any) -> Any:
        if shared_pass is None:
            return stock(*args, **kwargs)
        with trained(decoder, folded):
            return shared_logprobs(decoder, *shared_pass)

    decoder.forward = forward


def check(trainer: "TemperTrainer") -> str | None:
    """Compare a small shared step with the stock one, loss and gradient; None if they agree, else why sharing is off.

    A prompt of two blocks and a short one, made of the training set's own tokens, with an answer of a single token each and
    longer ones. Adapters are moved off zero meanwhile, where half of their gradient could not be seen.
    """
    ids, mask, width = _probe(trainer)
    weights = torch.linspace(-1, 1, int(mask[:, -width:].sum()), device=ids.device)
    try:
        with _moved(trainer.decoder):
            (ours, slope, size), (theirs, wanted, _) = (
                _step(trainer, stock, ids, mask, width, weights) for stock in (False, True)
            )
        # the terms of the loss cancel, so its error is measured against their size
        apart = abs(ours - theirs) / size, ((slope - wanted).norm() / wanted.norm().clamp(min=1e-12)).item()
    except Exception as error:  # noqa: BLE001 - whatever fails here, the stock pass still works
        what = str(error).partition("\n")[0]
        reason = f"the self-check of the shared pass failed ({type(error).__name__}: {what})"
    else:
        tolerance = EXACT if trainer.decoder.dtype == torch.float32 and not trainer.args.bf16 else ROUNDED
        if max(apart) <= tolerance:
            return None
        reason = f"the self-check found loss and gradient {apart[0]:.1e} and {apart[1]:.1e} apart, wanted at most {tolerance:.0e}"
    log.warning("prompts are not shared: %s; the stock pass is used, slower and with the same result", reason)
    return reason


def _probe(trainer: "TemperTrainer") -> tuple[Tensor, Tensor, int]:
    rows = [trainer.train_dataset[i % len(trainer.train_dataset)]["prompt"] for i in range(2)]
    prompts, _, _ = trainer._tokenize_prompts(rows)
    long = prompts[0] * (1 + LONG // len(prompts[0]))
    cut = [long[-LONG:], prompts[1][-9:]]
    answers = [[cut[0][-1:], cut[0][:7]], [cut[1][-1:], [*cut[1][-1:], *cut[1][:3]], cut[1][:6]]]
    table = [(p, a) for p, group in zip(cut, answers, strict=True) for a in group]
    left, right = max(len(p) for p, _ in table), max(len(a) for _, a in table)
    ids = [[0] * (left - len(p)) + p + a + [0] * (right - len(a)) for p, a in table]
    mask = [[0] * (left - len(p)) + [1] * (len(p) + len(a)) + [0] * (right - len(a)) for p, a in table]
    on = trainer.accelerator.device
    return torch.tensor(ids, device=on), torch.tensor(mask, device=on), right


@contextlib.contextmanager
def _moved(decoder: Any) -> Iterator[None]:
    """While it lasts, every adapter's B has small random entries; afterwards its own, to the bit."""
    parts = [p for name, p in decoder.named_parameters() if "lora_B" in name]
    kept = [p.detach().clone() for p in parts]
    draw = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for part in parts:
                part.add_(torch.randn(part.shape, generator=draw).to(part) * 0.02)
        yield
    finally:
        with torch.no_grad():
            for part, own in zip(parts, kept, strict=True):
                part.copy_(own)


def _step(
    trainer: "TemperTrainer", stock: bool, ids: Tensor, mask: Tensor, width: int, weights: Tensor
) -> tuple[float, Tensor, float]:
    """Loss, its gradient and the size of its terms, by either pass."""
    was, trainer.unshared = trainer.unshared, "it is being checked" if stock else None
    # the model below any wrapper: a wrapper would wait for a backward pass through it
    model = trainer.accelerator.unwrap_model(trainer.model)
    try:
        logprobs, _, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, width, compute_entropy=True)
    finally:
        trainer.unshared = was
    terms = logprobs[mask[:, -width:].bool()] * weights
    trained_ones = [p for p in model.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(terms.sum(), trained_ones, allow_unused=True)
    flat = [torch.zeros_like(p) if s is None else s for p, s in zip(trained_ones, slopes, strict=True)]
    return terms.sum().item(), torch.cat([s.flatten().float() for s in flat]), terms.abs().sum().item()


def balanced(tokens: Sequence[int], group: int, parts: int) -> list[Tensor]:
    """Row numbers of `parts` micro-batches with about equal numbers of tokens; rows of a group stay together.

    `tokens` are the rows' lengths, groups of `group` consecutive rows. The longest groups are placed first, each where the fewest
    tokens are, so that the fullest micro-batch, which decides the memory, is as small as can be.
    """
    groups = [list(range(i, i + group)) for i in range(0, len(tokens), group)]
    sizes = [sum(tokens[r] for r in g) for g in groups]
    room = len(groups) // parts
    bins: list[list[int]] = [[] for _ in range(parts)]
    for g in sorted(range(len(groups)), key=lambda g: -sizes[g]):
        bins_with_room = [b for b in bins if len(b) < room]
        min(bins_with_room, key=lambda b: sum(sizes[i] for i in b)).append(g)
    return [torch.tensor([r for g in sorted(b) for r in groups[g]]) for b in bins]


def shared_logprobs(
    decoder: Any, input_ids: Tensor, attention_mask: Tensor, completion: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (nats) of each completion token; both (B, C), zero where the mask is.

    `input_ids` and `attention_mask` (B, P + C), prompts padded on the left, completions on the right, C = `completion`. The body
    sees P + sum(C - 1) tokens a prompt instead of G (P + C), the head only the tokens that are scored. Same loss and gradient.
    """
    prompts, answers = _unpadded(input_ids, attention_mask, completion)
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(row)
    # an answer's last token is predicted but predicts nothing, so it does not pass through the body
    tree = Tree(list(groups), [[answers[r][:-1] for r in rows] for rows in groups.values()], input_ids.device)
    hidden = hidden_states(decoder.base_model, tree.tokens, tree.positions, tree)

    sources: list[list[int]] = [[] for _ in prompts]
    for end, places, rows in zip(tree.ends, tree.places, groups.values(), strict=True):
        for place, row in zip(places, rows, strict=True):
            sources[row] = [end, *range(place.start, place.stop)] if answers[row] else []
    flat = torch.tensor([s for row in sources for s in row], device=hidden.device, dtype=torch.long)
    mask = attention_mask[:, -completion:].bool()
    head = decoder.get_output_embeddings().weight
    logprobs, entropy = token_logprobs(hidden[flat], head, input_ids[:, -completion:][mask], temperature)
    empty = logprobs.new_zeros(mask.shape)
    return empty.masked_scatter(mask, logprobs), empty.masked_scatter(mask, entropy)


def _unpadded(input_ids: Tensor, attention_mask: Tensor, completion: int) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Prompts and answers of a padded batch as plain lists, the answers as long as their mask."""
    start = input_ids.size(1) - completion
    ids, mask = input_ids.tolist(), attention_mask.tolist()
    prompts = [tuple(t for t, m in zip(i[:start], k[:start], strict=True) if m) for i, k in zip(ids, mask, strict=True)]
    return prompts, [i[start : start + sum(k[start:])] for i, k in zip(ids, mask, strict=True)]
