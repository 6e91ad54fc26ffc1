"""The shared training pass has the stock loss and gradient, on every architecture, and says so itself before it is used."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

KINDS = ["llama", "qwen2", "qwen3", "mistral", "gemma"]
# answers' lengths for two prompts of 2 and 4 tokens
SHAPES = {
    "odd lengths and a one-token answer": [[4, 1], [3, 2]],
    "all rows end at once": [[1, 1], [1, 1]],
    "one answer a prompt": [[3], [5]],
    "unequal groups": [[2, 5, 1], [4]],
}


def model_of(folder: Path, lora: bool):  # type: ignore[no-untyped-def]
    from temper.models.load import load
    from temper.train.trainer import with_lora
    from temper.types import Checkpoint

    model = load(Checkpoint(folder), trainable=True).model
    model = with_lora(model, 4 if lora else 0, 8, seed=0)
    if lora:  # a fresh adapter's B is zero, which would hide an error in its gradient
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
    return model


def decoder_of(model):  # type: ignore[no-untyped-def]
    from temper.models.products import Folded
    from temper.train.shared import share
    from temper.train.trainer import _decoder

    decoder = _decoder(model)
    share(decoder, Folded())
    return decoder


def batch(shape: list[list[int]], prompt_sizes: tuple[int, int] = (2, 4)):  # type: ignore[no-untyped-def]
    """Rows of prompts padded on the left and answers padded on the right, as TRL builds them."""
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(5, 60, (n,), generator=draw) for n in prompt_sizes]
    rows = [(prompts[i], n) for i, sizes in enumerate(shape) for n in sizes]
    left, right = max(prompt_sizes), max(n for _, n in rows) + 1
    ids = torch.full((len(rows), left + right), 2)
    mask = torch.zeros_like(ids)
    for r, (prompt, n) in enumerate(rows):
        ids[r, left - len(prompt) : left] = prompt
        ids[r, left : left + n] = torch.randint(5, 60, (n,), generator=draw)
        mask[r, left - len(prompt) : left + n] = 1
    return ids, mask, right


def stock(model, ids, mask, width, temperature):  # type: ignore[no-untyped-def]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -width - 1 : -1].float() / temperature
    logprobs = torch.log_softmax(logits, -1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, ids[:, -width:, None]).squeeze(-1), entropy


def assert_same(model, ids, mask, width) -> None:  # type: ignore[no-untyped-def]
    """Log-probabilities, entropies and the gradient of a random weighting of them, shared against stock."""
    answers = mask[:, -width:]
    weights = torch.randn(answers.shape, generator=torch.Generator().manual_seed(0)) * answers
    decoder_of(model)
    found = []
    for logprobs, entropy in (stock(model, ids, mask, width, 0.7), model(shared_pass=(ids, mask, width, 0.7))):
        model.zero_grad()
        (logprobs * weights).sum().backward()
        gradient = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((logprobs * answers, entropy * answers, gradient))
    (a, ea, ga), (b, eb, gb) = found
    assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(ea, eb, atol=1e-4)
    assert ga.keys() == gb.keys()
    total, apart = (torch.cat([g.flatten() for g in grads]).norm() for grads in (ga.values(), [ga[n] - gb[n] for n in ga]))
    assert (apart / total).item() < 1e-5


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.replace(" ", "-"))
def test_shared_log_probabilities_entropies_and_gradients_equal_the_stock_ones(
    tmp_path: Path, kind: str, lora: bool, shape: str
) -> None:
    from conftest import make_tiny

    assert_same(model_of(make_tiny(tmp_path / kind, kind), lora), *batch(SHAPES[shape]))


@pytest.mark.parametrize("lora", [True, False])
def test_long_prompts_in_blocks_and_weights_computed_again_are_as_exact(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    from temper.models import packed

    monkeypatch.setattr(packed, "BLOCK", 8)
    monkeypatch.setattr(packed, "KEPT", 0)
    assert_same(model_of(tiny_model, lora), *batch([[7, 12], [9, 1, 3]], (19, 33)))


@pytest.mark.parametrize("lora", [True, False])
def test_without_onednn_the_pass_is_the_same(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, lora: bool) -> None:
    from temper.models import products, score

    monkeypatch.setattr(products, "available", lambda: False)
    monkeypatch.setattr(score, "available", lambda: False)
    assert_same(model_of(tiny_model, lora), *batch([[4, 1], [3, 2]]))


def test_the_kernels_of_an_accelerator_see_the_same_tokens() -> None:
    from temper.models.packed import Tree, _library, _TreeAttention

    tree = Tree([[1] * 5, [2] * 9], [[[3] * 4, [4]], [[5] * 2, [], [6] * 7]])
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(len(tree.tokens), heads, 8, generator=draw, requires_grad=True) for heads in (6, 2, 2))
    ours, theirs = _TreeAttention.apply(q, k, v, tree.segments, 0.3), _library(q, k, v, tree.segments, 0.3)
    assert torch.allclose(ours, theirs, atol=1e-6)
    direction = torch.randn(ours.shape, generator=draw)
    for a, b in zip(*(torch.autograd.grad(out, (q, k, v), direction) for out in (ours, theirs)), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("trained_head", [True, False])
def test_token_log_probabilities_and_their_gradient_equal_those_of_the_softmax(
    monkeypatch: pytest.MonkeyPatch, trained_head: bool
) -> None:
    from temper.models import score

    monkeypatch.setattr(score, "TILE", 4)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 16, generator=draw, requires_grad=True)
    weight = torch.randn(50, 16, generator=draw, requires_grad=trained_head)
    targets = torch.randint(0, 50, (11,), generator=draw)
    direction = torch.randn(11, generator=draw)
    ours, entropy = score.token_logprobs(hidden, weight, targets, 0.7)
    full = torch.log_softmax(hidden @ weight.t() / 0.7, -1)
    assert torch.allclose(ours, full.gather(-1, targets[:, None]).squeeze(1), atol=1e-5)
    assert torch.allclose(entropy, -(full.exp() * full).sum(-1), atol=1e-5)
    wanted = torch.autograd.grad(full.gather(-1, targets[:, None]).squeeze(1), _leaves(hidden, weight), direction)
    for a, b in zip(torch.autograd.grad(ours, _leaves(hidden, weight), direction), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def _leaves(*tensors):  # type: ignore[no-untyped-def]
    return [t for t in tensors if t.requires_grad]


@pytest.mark.parametrize("fused", [False, True])
def test_a_folded_adapter_follows_its_optimizer(tiny_model: Path, fused: bool) -> None:
    model = model_of(tiny_model, lora=True)
    decoder_of(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=fused)
    ids, mask, width = batch([[4, 1], [3, 2]])
    for _ in range(3):
        optimizer.zero_grad()
        model(shared_pass=(ids, mask, width, 1.0))[0].sum().backward()
        optimizer.step()
    ours = model(shared_pass=(ids, mask, width, 1.0))[0]
    theirs = stock(model, ids, mask, width, 1.0)[0] * mask[:, -width:]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_folded_adapter_samples_like_an_unfolded_one_and_leaves_no_trace(tiny_model: Path) -> None:
    from temper.models.products import sampled
    from temper.train.trainer import _decoder

    model = model_of(tiny_model, lora=True).eval()
    ids = torch.tensor([[5, 9, 20, 21]])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        adapted = model(ids).logits
        with sampled(_decoder(model)):
            folded = _decoder(model)(ids).logits
        again = model(ids).logits
    assert torch.allclose(adapted, folded, atol=1e-5)
    assert torch.equal(adapted, again)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_unknown_processor_keeps_the_precision_it_had() -> None:
    from temper.models.products import batched

    before = torch.get_float32_matmul_precision()
    with batched():
        left, right = torch.randn(3, 40, 64), torch.randn(3, 64, 50)
        assert (torch.bmm(left, right) - left.double() @ right.double()).abs().max() < 1e-4
    assert torch.get_float32_matmul_precision() == before


def test_groups_stay_together_and_micro_batches_hold_about_the_same() -> None:
    from temper.train.shared import balanced

    rows = balanced([9, 9, 1, 1, 5, 5, 6, 6], group=2, parts=2)
    assert [r.tolist() for r in rows] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_answers_stand_behind_their_prompt_and_continue_its_positions() -> None:
    from temper.models.packed import Tree

    tree = Tree([[1, 2, 3], [4]], [[[5, 6], []], [[7]]])
    assert tree.tokens.tolist() == [1, 2, 3, 5, 6, 4, 7]
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert tree.ends == [2, 5]
