"""The shared training pass has the stock loss and gradient; merging an adapter leaves the frozen weights as they were."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

KINDS = ["llama", "qwen2", "qwen3", "mistral", "gemma"]


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


def batch():  # type: ignore[no-untyped-def]
    """Two prompts with two completions each, of 4, 1, 3 and 2 tokens, padded to 5: odd lengths and one-token answers."""
    prompts = torch.tensor([[2, 2, 5, 9], [2, 2, 5, 9], [7, 8, 9, 10], [7, 8, 9, 10]])
    prompt_mask = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    answers = torch.tensor([[20, 21, 22, 1, 2], [30, 2, 2, 2, 2], [40, 41, 1, 2, 2], [50, 1, 2, 2, 2]])
    answer_mask = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    return torch.cat([prompts, answers], 1), torch.cat([prompt_mask, answer_mask], 1), answer_mask


def stock(model, ids, mask, width, temperature):  # type: ignore[no-untyped-def]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -width - 1 : -1].float() / temperature
    logprobs = torch.log_softmax(logits, -1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, ids[:, -width:, None]).squeeze(-1), entropy


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_log_probabilities_entropies_and_gradients_equal_the_stock_ones(tmp_path: Path, kind: str, lora: bool) -> None:
    from conftest import make_tiny

    from temper.train.trainer import _decoder, shared_logprobs

    model = model_of(make_tiny(tmp_path / kind, kind), lora)
    ids, mask, answer_mask = batch()
    weights = torch.randn(answer_mask.shape, generator=torch.Generator().manual_seed(0)) * answer_mask
    gradients = []
    for logprobs, entropy in (stock(model, ids, mask, 5, 0.7), shared_logprobs(_decoder(model), ids, mask, 5, 0.7)):
        model.zero_grad()
        (logprobs * weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        gradients.append((logprobs * answer_mask, entropy * answer_mask, gradient))
    (a, ea, ga), (b, eb, gb) = gradients
    assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(ea, eb, atol=1e-4)
    assert ((ga - gb).norm() / ga.norm()).item() < 1e-5


def test_a_merged_adapter_samples_like_an_unmerged_one_and_leaves_no_trace(tiny_model: Path) -> None:
    from temper.train.trainer import merged

    model = model_of(tiny_model, lora=True).eval()
    ids = torch.tensor([[5, 9, 20, 21]])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        adapted = model(ids).logits
        with merged(model) as plain:
            folded = plain(ids).logits
        again = model(ids).logits
    assert torch.allclose(adapted, folded, atol=1e-5)
    assert torch.equal(adapted, again)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_consecutive_equal_prompts_are_counted_once() -> None:
    from temper.train.trainer import runs

    assert runs([[1], [1], [2], [1]]) == ([[1], [2], [1]], [2, 1, 1])


def test_a_checkpoint_that_was_being_written_is_not_resumed_from(tmp_path: Path) -> None:
    from temper.train.trainer import latest

    for step, files in {5: ("trainer_state.json", "optimizer.pt", "scheduler.pt"), 10: ("trainer_state.json",)}.items():
        folder = tmp_path / "trainer" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text("{}")
    assert (latest(tmp_path) or "").endswith("checkpoint-5")
