"""Shared-prompt sampling gives what the stock path gives, and each row depends on its own random numbers only."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")


def decoding(tokens: int = 12, temperature: float = 0.0, eos: frozenset[int] = frozenset(), **more):  # type: ignore[no-untyped-def]
    from temper.models.generate import Decoding

    return Decoding(tokens, eos, 2, temperature, **more)


def loaded(folder: Path):  # type: ignore[no-untyped-def]
    from temper.models.load import load
    from temper.types import Checkpoint

    return load(Checkpoint(folder))


PROMPTS = [[5, 9, 20], [7] * 11, [30, 31, 32, 33, 34, 35]]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma"])
def test_greedy_tokens_equal_those_of_the_stock_generate(tmp_path: Path, kind: str) -> None:
    from conftest import make_tiny

    from temper.models.generate import sample
    from temper.models.local import sample_stock

    model = loaded(make_tiny(tmp_path / kind, kind)).model
    uniforms = torch.zeros((6, 12))
    ours = sample(model, PROMPTS, [2, 1, 3], uniforms, decoding())
    stock = sample_stock(model, PROMPTS, [1, 1, 1], uniforms, decoding())
    for group, reference in zip(ours, stock, strict=True):
        assert all(row.ids == reference[0].ids for row in group)


def test_a_row_samples_the_same_tokens_whatever_shares_its_batch(tiny_model: Path) -> None:
    from temper.models.generate import sample

    model = loaded(tiny_model).model
    uniforms = torch.rand((5, 12), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = sample(model, PROMPTS, [2, 2, 1], uniforms, decoding(temperature=1.0))
    alone = sample(model, [PROMPTS[1]], [1], uniforms[3:4], decoding(temperature=1.0))
    narrow = sample(model, PROMPTS, [2, 2, 1], uniforms, decoding(temperature=1.0), rows=2)
    assert together[1][1].ids == alone[0][0].ids
    assert narrow == together or [[r.ids for r in g] for g in narrow] == [[r.ids for r in g] for g in together]


def test_sampled_frequencies_follow_the_distribution(tiny_model: Path) -> None:
    from temper.models.generate import choose

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(20_000, 4)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token, logprob = choose(logits, uniform, decoding(temperature=1.0))
    assert torch.allclose(token.bincount(minlength=4) / 20_000, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.01)
    assert torch.allclose(logprob[token == 0], torch.log(torch.tensor(0.5)))


def test_nucleus_sampling_never_leaves_the_nucleus() -> None:
    from temper.models.generate import choose

    logits = torch.log(torch.tensor([[0.6, 0.25, 0.1, 0.05]])).expand(2_000, 4)
    uniform = torch.rand(2_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token, _ = choose(logits, uniform, decoding(temperature=1.0, top_p=0.8))
    assert set(token.tolist()) == {0, 1}


def test_rows_stop_at_their_end_token_and_keep_it(tiny_model: Path) -> None:
    from temper.models.generate import sample

    model = loaded(tiny_model).model
    free = sample(model, PROMPTS, [1, 1, 1], torch.zeros((3, 12)), decoding())
    end = free[0][0].ids[3]
    stopped = sample(model, PROMPTS, [1, 1, 1], torch.zeros((3, 12)), decoding(eos=frozenset({end})))
    first = free[0][0].ids.index(end)
    assert stopped[0][0].ids == free[0][0].ids[: first + 1]
    assert stopped[0][0].ended
    assert all(row.ids.count(end) == (1 if row.ended else 0) for group in stopped for row in group)


def test_log_probabilities_are_those_of_a_plain_forward_pass(tiny_model: Path) -> None:
    from temper.models.generate import sample

    model = loaded(tiny_model).model
    uniforms = torch.rand((1, 8), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    row = sample(model, [PROMPTS[2]], [1], uniforms, decoding(8, temperature=0.7))[0][0]
    ids = torch.tensor([PROMPTS[2] + row.ids])
    logits = model(ids).logits[0, len(PROMPTS[2]) - 1 : -1] / 0.7
    expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(row.ids)[:, None]).squeeze(1)
    assert torch.allclose(torch.tensor(row.logprobs), expected, atol=1e-5)


def test_a_sliding_window_model_says_why_it_is_not_shared() -> None:
    from transformers import MistralConfig

    from temper.models.packed import unshareable

    class Model:
        config = MistralConfig(sliding_window=16)

    assert "window" in (unshareable(Model()) or "") or "sliding" in (unshareable(Model()) or "")


def test_a_local_sampler_asked_for_the_missing_half_gives_the_same_answers(tiny_model: Path) -> None:
    from temper.models.local import Local
    from temper.types import Example, Message

    examples = [Example(f"e{i}", (Message("user", f"question {i} " * i),)) for i in range(1, 6)]
    local = Local(loaded(tiny_model), max_new_tokens=10, temperature=1.0, seed=3)
    whole = local(examples, n=2)
    half = local(examples[3:], n=2)
    assert [[c.raw for c in row] for row in whole[3:]] == [[c.raw for c in row] for row in half]
    assert whole[0][0].raw != whole[0][1].raw


def test_a_model_that_cannot_share_is_sampled_by_the_library_and_says_so(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from temper.models import local
    from temper.types import Example, Message

    local._tell.cache_clear()
    ready = loaded(tiny_model)
    ready.model.config.attention_dropout = 0.1
    answers = local.Local(ready, max_new_tokens=4)([Example("e", (Message("user", "why"),))], n=2)
    assert len(answers[0]) == 2
    assert "the stock generate samples, one prompt at a time, because its config sets attention_dropout" in caplog.text


@pytest.mark.parametrize("kind", ["Olmo2", "Phi3", "SmolLM3", "GPTNeoX", "OPT", "Starcoder2", "Qwen3Moe"])
def test_other_architectures_need_no_code_of_their_own(kind: str) -> None:
    import transformers

    from temper.models.generate import sample
    from temper.models.local import sample_stock
    from temper.models.packed import unshareable

    shape = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 2, "eos_token_id": 1, "bos_token_id": 0}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32} if kind == "Qwen3Moe" else {}
    wide = {"ffn_dim": 64, "word_embed_proj_dim": 32} if kind == "OPT" else {}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**shape, **more, **experts, **wide)
    )
    model.eval()
    assert unshareable(model) is None
    ours = sample(model, PROMPTS, [2, 1, 1], torch.zeros((4, 12)), decoding())
    stock = sample_stock(model, PROMPTS, [1, 1, 1], torch.zeros((3, 12)), decoding())
    assert all(row.ids == reference[0].ids for group, reference in zip(ours, stock, strict=True) for row in group)


def test_an_architecture_whose_sampler_would_be_wrong_is_found_out(tmp_path: Path) -> None:
    from conftest import make_tiny

    from temper.models.generate import unsampleable
    from temper.models.packed import unshareable

    model = loaded(make_tiny(tmp_path, "diffllama")).model  # it asks for attention twice a layer
    assert unshareable(model) is None
    assert "nats from the library's forward pass" in (unsampleable(model, 2) or "")


def test_equal_prompts_are_one_and_a_batch_has_no_more_rows_than_allowed(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from temper.models import generate

    seen: list[tuple[int, list[int]]] = []
    right = generate._sample_batch
    monkeypatch.setattr(
        generate,
        "_sample_batch",
        lambda m, prompts, counts, *more: (seen.append((len(prompts), counts)), right(m, prompts, counts, *more))[1],
    )
    model = loaded(tiny_model).model
    uniforms = torch.rand((9, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    asked = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    rows = generate.sample(model, asked, [2, 6, 1], uniforms, decoding(6, temperature=1.0), rows=4)
    assert seen == [(2, [3, 1]), (1, [4]), (1, [1])]
    alone = generate.sample(model, [PROMPTS[0]], [1], uniforms[8:], decoding(6, temperature=1.0))
    assert rows[2][0].ids == alone[0][0].ids
    assert [len(group) for group in rows] == [2, 6, 1]


def test_a_token_without_a_chance_is_never_drawn() -> None:
    from temper.models.generate import BLOCK, _inverse

    draw = torch.Generator().manual_seed(0)
    chances = torch.rand((400, 3 * BLOCK), generator=draw)
    chances[:, BLOCK - 40 : BLOCK] = chances[:, -40:] = 0
    chances /= chances.sum(-1, keepdim=True)
    edge = chances[:, :BLOCK].sum(-1).double() / chances.double().view(400, 3, BLOCK).sum(-1).sum(-1)
    for uniform in (edge, edge - 1e-9, edge + 1e-9, torch.full((400,), 1 - 2**-53, dtype=torch.float64), torch.zeros(400)):
        token = _inverse(chances, uniform)
        assert (chances.gather(-1, token[:, None]) > 0).all()
