"""Tokens are credited for the part they belong to, under every tokenizer, and a loss with one advantage a token is right."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

KINDS = ["bytes", "byte-level", "sentencepiece", "wordpiece", "words"]
CORPUS = [
    "<think>\nLet me see.\n</think>\n\nThe answer is 7.</s>",
    "<think>想一想</think>\n\n答案是七。",
    "Sure!\n<think>ok</think>\n\n`</think>`",
] * 8
TEXTS = {
    "closed": ("<think>\nLet me see.\n</think>\n\nThe answer is 7.", False),
    "opened in the prompt": ("\nLet me see.\n</think>\n\nThe answer is 7.", True),
    "no thought": ("The answer is 7.", False),
    "empty thought": ("<think></think>The answer", False),
    "never closed": ("<think>\nLet me see.", False),
    "never closed after an opener in the prompt": ("Let me see.", True),
    "nothing after it": ("<think>Let me see.</think>", False),
    "text before": ("Sure!\n<think>ok</think> The answer is 7.", False),
    "two thoughts": ("<think>ok</think> The <think>Let me see.</think> answer", False),
    "nested": ("<think>Let <think>me</think> see</think> The answer", False),
    "a stray closer": ("<think>ok</think> The answer </think> is 7.", False),
    "quoted tags": ("<think>ok `</think>` ok</think> The answer is `<think>`.", False),
    "Chinese": ("<think>想一想</think>答案是七。", False),
    "characters of many bytes beside the tags": ("\U0001f642<think>\U0001f642</think>\U0001f642", False),
    "another spelling": ("<thinking>ok</Thinking >The answer", False),
}


@pytest.fixture(scope="module")
def tokenizers_() -> dict[str, Any]:
    return {kind: tokenizer_of(kind) for kind in KINDS}


def tokenizer_of(kind: str) -> Any:
    from conftest import _tokenizer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "bytes":
        return _tokenizer()
    special = ["<unk>", "</s>", "<pad>"]
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    elif kind == "sentencepiece":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        whole = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
        made.decoder = decoders.Sequence(whole)
        trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, limit_alphabet=30, show_progress=False)
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Split(_pattern(), "isolated")
        made.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    made.train_from_iterator([*CORPUS, *(text for text, _ in TEXTS.values())], trainer)
    if kind == "sentencepiece":  # what is not in its small alphabet, such as Chinese, is written in bytes
        told = json.loads(made.to_str())
        vocabulary = told["model"]["vocab"]
        vocabulary.update({f"<0x{n:02X}>": len(vocabulary) + n for n in range(256)})
        made = Tokenizer.from_str(json.dumps(told))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


def _pattern() -> Any:
    from tokenizers import Regex

    return Regex(r"</?think(ing)?>|\w+|\s+|[^\w\s]")


def completed(tokenizer: Any, ids: Sequence[int], opened: bool) -> Any:
    from temper.models.local import completion
    from temper.types import Example, Message

    raw = tokenizer.decode(ids, skip_special_tokens=True)
    return completion(Example("x", (Message("user", "q"),)), raw, ended=True, opened=opened)


def slowly(tokenizer: Any, ids: Sequence[int], done: Any, opened: bool) -> list[bool]:
    """Each token by the characters that it, or the next token that has any, adds to what is written."""
    from temper.text.split import thoughts

    if done.thought == "open":
        return [True] * len(ids)
    spans = thoughts(done.raw, opened=opened) if done.thought == "closed" else []
    written = [tokenizer.decode(ids[:k], skip_special_tokens=True) for k in range(len(ids) + 1)]
    reached = [max(n for n in range(len(done.raw) + 1) if text.startswith(done.raw[:n])) for text in written]
    found: list[bool] = []
    for place, (start, end) in enumerate(pairwise(reached)):
        later = next((r for r in reached[place + 1 :] if r > start), end)
        found.append(any(a < later and start < b for a, b in spans) and later > start)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", TEXTS)
def test_each_token_is_credited_with_the_part_its_characters_are_in(tokenizers_: dict[str, Any], kind: str, case: str) -> None:
    from temper.train.credit import think_tokens

    text, opened = TEXTS[case]
    tokenizer = tokenizers_[kind]
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    done = completed(tokenizer, ids, opened)
    found = think_tokens(tokenizer, ids, done, opened)
    assert found == slowly(tokenizer, ids, done, opened)
    assert (done.thought == "none") is (case == "no thought")
    if kind != "wordpiece":  # which puts spaces between words
        assert done.raw == text
        assert (True in found) is (done.thought != "none")
        assert found[-1] is (done.thought == "open")  # the end of an answer is the answer's


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "think", ">", "\n\n", " ", "`", "a", "想", "\U0001f642"])),
    opened=st.booleans(),
)
def test_any_text_is_credited_as_the_slow_way_does(
    tokenizers_: dict[str, Any], kind: str, pieces: list[str], opened: bool
) -> None:
    from temper.train.credit import think_tokens

    tokenizer = tokenizers_[kind]
    ids = tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
    assume(tokenizer.unk_token_id not in ids)  # it decodes to nothing, so it is in neither part
    done = completed(tokenizer, ids, opened)
    assert think_tokens(tokenizer, ids, done, opened) == slowly(tokenizer, ids, done, opened)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.sampled_from([*b"<think></think>", 0xE6, 0x83, 0xB3, 0xF0, 0x9F])), opened=st.booleans())
def test_bytes_that_are_no_text_are_credited_as_the_slow_way_does(
    tokenizers_: dict[str, Any], data: list[int], opened: bool
) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    from temper.train.credit import think_tokens

    tokenizer = tokenizers_["bytes"]
    assert len(ByteLevel.alphabet()) == 256
    known = {tokenizer.decode([i]): i for i in range(3, 259)}
    loose = [i for i in range(3, 259) if tokenizer.decode([i]) == "\ufffd"]
    ids = [known[chr(b)] if b < 0x80 else loose[b % len(loose)] for b in [*b"<think>", *data, *b"</think>", *data]]
    done = completed(tokenizer, ids, opened)
    assert think_tokens(tokenizer, ids, done, opened) == slowly(tokenizer, ids, done, opened)


def test_tokens_of_another_text_are_an_error_and_no_guess(tokenizers_: dict[str, Any]) -> None:
    from temper.errors import TrainError
    from temper.train.credit import think_tokens

    tokenizer = tokenizers_["bytes"]
    done = completed(tokenizer, tokenizer("<think>a</think>b", add_special_tokens=False)["input_ids"], False)
    with pytest.raises(TrainError, match="do not decode to the text they were graded as"):
        think_tokens(tokenizer, tokenizer("another", add_special_tokens=False)["input_ids"], done, False)


def test_each_token_gets_the_advantage_of_its_part() -> None:
    from temper.train.credit import token_advantages

    within = [[True, True, False], [False, False], []]
    found = token_advantages([1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], within, 4)
    assert found.tolist() == [[1.0, 1.0, -1.0, 0.0], [-2.0, -2.0, 0.0, 0.0], [0.0] * 4]


def test_one_advantage_a_row_is_enough_where_no_row_has_two() -> None:
    from temper.train.credit import token_advantages

    assert token_advantages([1.0, 2.0], [1.0, -2.0], [[True, False], [False]], 2).tolist() == [1.0, -2.0]


# --- the loss -----------------------------------------------------------------------------------------------------------------

LOSSES = ["dr_grpo", "dapo", "grpo", "bnpo"]
WIDTH = 9


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer of the tiny model, some way into its adapter, that no step was made with."""
    from conftest import make_tiny
    from datasets import Dataset
    from trl import GRPOConfig

    from temper.models.load import load
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.train.trainer import Carried, TemperTrainer, common_arguments, lora_config
    from temper.types import Checkpoint, Example, Message

    folder = tmp_path_factory.mktemp("credit")
    loaded = load(Checkpoint(make_tiny(folder / "model")), trainable=True)
    arguments = GRPOConfig(
        **common_arguments(folder, Context(), lr=1e-3, batch=4, every=9),
        num_generations=4,
        max_steps=1,
        max_completion_length=WIDTH,
        beta=0.0,
        scale_rewards="none",
    )
    trainer = TemperTrainer(
        stage=Grpo(group=4, prompts_per_step=1, max_new_tokens=WIDTH, sampling="fp32"),
        examples={"e": Example("e", (Message("user", "why"),))},
        opened=False,
        carried=Carried(folder),
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "why"}], "example": "e"}] * 4),
        processing_class=loaded.tokenizer,
        peft_config=lora_config(4, 8),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sorted(trainer.model.named_parameters()):
            if "lora_" in name:
                weight.normal_(0, 0.1, generator=draw)
    return trainer


def batch(advantages: Any, lengths: Sequence[int] = (9, 5, 7, 2)) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    mask = (torch.arange(WIDTH) < torch.tensor(lengths)[:, None]).long()
    return {
        "prompt_ids": torch.full((4, 3), 7),
        "prompt_mask": torch.ones(4, 3, dtype=torch.long),
        "completion_ids": torch.randint(5, 200, (4, WIDTH), generator=draw),
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": -torch.rand(4, WIDTH, generator=draw) - 5,
    }


def slope(trainer: Any, given: dict[str, Any], loss: str, beta: float = 0.0) -> tuple[float, Any]:
    trainer.loss_type, trainer.beta = loss, beta
    trainer.model.zero_grad()
    value = trainer._compute_loss(trainer.model, given)
    value.backward()
    return value.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad])


def same(found: tuple[float, Any], wanted: tuple[float, Any]) -> bool:
    apart = (found[1] - wanted[1]).abs().max().item()
    return abs(found[0] - wanted[0]) < 1e-7 and apart < 1e-7


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_constant_advantage_a_token_is_one_a_row(
    trained: Any, monkeypatch: pytest.MonkeyPatch, loss: str, beta: float, shared: bool
) -> None:
    monkeypatch.setattr(trained, "unshared", None if shared else "the test says so")
    rows = torch.tensor([0.7, -1.2, 0.0, 0.5])
    by_row, by_token = (slope(trained, batch(a), loss, beta) for a in (rows, rows[:, None].expand(4, WIDTH)))
    assert by_row[1].abs().max() > 1e-3
    assert same(by_token, by_row)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_each_tokens_log_probability_times_its_advantage(trained: Any, loss: str) -> None:
    advantages = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2))
    given = batch(advantages)
    mask = given["completion_mask"]
    ids, attention = (torch.cat([given[f"prompt_{x}"], given[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    logits = trained.model(input_ids=ids, attention_mask=attention).logits[:, -WIDTH - 1 : -1].float() / trained.temperature
    logprobs = logits.log_softmax(-1).gather(-1, given["completion_ids"][..., None]).squeeze(-1)
    terms = -(logprobs - logprobs.detach()).exp() * advantages * mask
    wanted = {
        "dr_grpo": terms.sum() / (4 * WIDTH),
        "dapo": terms.sum() / mask.sum(),
        "bnpo": terms.sum() / mask.sum(),
        "grpo": (terms.sum(1) / mask.sum(1)).mean(),
    }[loss]
    weights = [p for p in trained.model.parameters() if p.requires_grad]
    slopes = torch.cat([g.flatten() for g in torch.autograd.grad(wanted, weights)])
    value, found = slope(trained, given, loss)
    assert value == pytest.approx(wanted.item(), abs=1e-6)
    assert ((found - slopes).norm() / slopes.norm()).item() < 1e-4


@pytest.mark.parametrize("loss", ["dr_grpo", "dapo"])
def test_credit_for_the_thought_alone_is_that_of_a_batch_whose_answers_are_masked(trained: Any, loss: str) -> None:
    from temper.train.credit import token_advantages

    think, answer, thought = [0.7, -1.2, 0.3, 0.5], [0.0] * 4, [4, 0, 7, 1]
    given = batch(None)
    lengths = given["completion_mask"].sum(1).tolist()
    within = [[place < n for place in range(length)] for n, length in zip(thought, lengths, strict=True)]
    found = slope(trained, {**given, "advantages": token_advantages(think, answer, within, WIDTH)}, loss)
    masked = batch(torch.tensor([0.7, 0.0, 0.3, 0.5]), lengths=thought)
    # these two divide by counts that come with the batch or the settings, not by the mask's
    wanted = slope(trained, {**masked, "num_items_in_batch": given["num_items_in_batch"]}, loss)
    assert wanted[1].abs().max() > 1e-3
    assert same(found, wanted)


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_whose_every_token_has_no_advantage_are_skipped_and_change_nothing(
    trained: Any, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    advantages = torch.zeros(4, WIDTH)
    advantages[0, :3], advantages[1, 4], advantages[3, 2:] = 0.7, -1.2, 9.0  # the last row's stand on padding
    monkeypatch.setattr(trained, "counts", {})
    trained.loss_type, trained.beta = loss, 0.0
    kept, _ = trained._with_gradient(batch(advantages))
    assert kept["advantages"].tolist() == advantages[:2].tolist()
    assert trained.counts["skipped_rows"] == 2
    found = slope(trained, batch(advantages), loss)
    monkeypatch.setattr(trained, "stage", replace(trained.stage, skip_flat=False))
    wanted = slope(trained, batch(advantages), loss)
    assert found[1].abs().max() > 1e-3
    assert same(found, wanted)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_correction_of_rounded_sampling_weighs_whole_rows_of_tokens(
    trained: Any, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    from temper.train import trainer as subject

    monkeypatch.setattr(trained, "rounded", True)
    monkeypatch.setattr(trained, "counts", {})
    ratios = torch.tensor([0.5, 2.0, 1.0, 0.25])
    monkeypatch.setattr(subject, "corrected", lambda gaps: ratios)
    advantages = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(3))
    sampled = {"sampling_per_token_logps": torch.zeros(4, WIDTH)}
    found = slope(trained, {**batch(advantages), **sampled}, loss)
    assert same(found, slope(trained, batch(advantages * ratios[:, None]), loss))
    rows = advantages[:, 0]
    assert same(slope(trained, {**batch(rows), **sampled}, loss), slope(trained, batch(rows * ratios), loss))


def test_a_step_credits_what_was_sampled(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.models.generate import Sampled
    from temper.rewards.signal import Paid
    from temper.train import trainer as subject

    tokenizer = trained._tokenizer
    texts = ["<think>a</think>b", "no", "<think>a", "<think></think>"]
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    monkeypatch.setattr(subject, "sample", lambda *given, **more: [[Sampled(row, [0.0] * len(row), False)] for row in ids])
    monkeypatch.setattr(
        trained, "course", Pays(Paid(rows_of([1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]), 0, 0.0, frozenset()))
    )
    trained.beta = 0.0
    rows = [trained.train_dataset[i] for i in range(4)]
    found = trained._generate_and_score_completions(rows)["advantages"]
    sizes = [len(row) for row in ids]
    assert found[0, : sizes[0]].tolist() == [-1.0] * (sizes[0] - 1) + [1.0]
    assert found[1, : sizes[1]].tolist() == [2.0] * sizes[1]
    assert found[2, : sizes[2]].tolist() == [-3.0] * sizes[2]
    assert found[3, : sizes[3]].tolist() == [-4.0] * sizes[3]
    monkeypatch.setattr(trained, "course", Pays(Paid(rows_of([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]), 0, 0.0, frozenset())))
    assert trained._generate_and_score_completions(rows)["advantages"].tolist() == [1.0, 2.0, 3.0, 4.0]


def rows_of(answer: Sequence[float], think: Sequence[float]) -> list[dict[str, Any]]:
    return [{"reward": 1.0, "advantage": a, "think_advantage": t} for a, t in zip(answer, think, strict=True)]


class Pays:
    """A course that pays what it is told to."""

    state = None
    orders = ()
    beta_factor = 1.0

    def stands_for_window(self, step: int) -> bool:
        return False

    def __init__(self, paid: Any) -> None:
        self.paid = paid

    def score(self, completions: Sequence[Any], step: int) -> Any:
        return self.paid


@pytest.mark.parametrize("settings_", [{}, {"share_training": False}], ids=["shared", "stock"])
def test_micro_batches_of_credited_tokens_train_the_same_weights_as_one_batch(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings_: dict[str, Any]
) -> None:
    from test_trainer import Paid, apart, train

    from temper.rewards import signal
    from temper.rewards.combine import Advantages
    from temper.train import trainer as subject

    right = signal.advantages
    seen: list[int] = []

    def parted(*given: Any) -> Advantages:
        found = right(*given)
        return Advantages(found.answer, [-a for a in found.answer])

    def first_two(tokenizer: Any, ids: Sequence[int], *_: Any) -> list[bool]:
        seen.append(len(ids))
        return [place < 2 for place in range(len(ids))]

    plain, _ = train(tiny_model, tmp_path / "plain", Paid(), steps=1, beta=0.0, **settings_)
    monkeypatch.setattr(signal, "advantages", parted)
    monkeypatch.setattr(subject, "think_tokens", first_two)
    whole, _ = train(tiny_model, tmp_path / "whole", Paid(), steps=1, beta=0.0, **settings_)
    parts, _ = train(tiny_model, tmp_path / "parts", Paid(), steps=1, beta=0.0, micro_batch=4, **settings_)
    assert len(seen) == 24
    assert apart(whole, parts) < 2e-3
    assert apart(whole, plain) > 1e-2  # a weight moves by the learning rate, 1e-2, whatever its gradient
