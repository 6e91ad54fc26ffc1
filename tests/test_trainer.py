"""Which checkpoint is resumed from, how groups are dealt to micro-batches, and what the trainer leaves out of a step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")


def test_a_checkpoint_that_was_being_written_is_not_resumed_from(tmp_path: Path) -> None:
    from temper.train.trainer import latest

    for step, files in {5: ("trainer_state.json", "optimizer.pt", "scheduler.pt"), 10: ("trainer_state.json",)}.items():
        folder = tmp_path / "trainer" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text("{}")
    assert (latest(tmp_path) or "").endswith("checkpoint-5")


@pytest.fixture
def rounded() -> None:
    """Skips where oneDNN refuses weights in bf16 (no AVX-512)."""
    from temper.models.products import multiplies_bf16

    if not multiplies_bf16():
        pytest.skip("this processor's products have no bf16")


class Paid:
    """A grader that pays by the answer's first letter, or the same for every answer to some prompts."""

    def __init__(self, flat: Sequence[str] = ()) -> None:
        self.flat = flat
        self.asked: list[tuple[str, str]] = []

    def __call__(self, completions: Sequence[Any], /) -> list[Any]:
        from temper.types import Score

        self.asked += [(c.example.id, c.raw) for c in completions]
        return [Score(0.5 if c.example.id in self.flat else sum(map(ord, c.raw)) % 97 / 97) for c in completions]


def train(
    folder: Path, out: Path, grader: Any, prompts: int = 6, **settings: Any
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """Train the tiny model with the `grpo` stage's own code; its final adapter and its metrics rows."""
    from safetensors.torch import load_file

    from temper.files import read_rows
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.train.trainer import train_grpo
    from temper.types import Checkpoint, Example, Message, Named

    shape = {"steps": 2, "prompts_per_step": 3, "group": 4, "max_new_tokens": 6, "checkpoint_every": 9}
    values = {**shape, "temperature": 1.0, "lora_r": 4, "lr": 1e-2}
    stage = Grpo(rewards={"paid": 1.0}, audits=0, **{**values, **settings})
    examples = [Example(f"e{i}", (Message("user", "why " * (i + 1)),)) for i in range(prompts)]
    context = Context(seed=1, graders={"paid": Named("paid", grader, "test")})
    checkpoint, _ = train_grpo(stage, examples, Checkpoint(folder), out, context)
    return load_file((checkpoint.path or out) / "adapter_model.safetensors"), list(read_rows(out / "metrics.jsonl"))


def apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.mark.parametrize("loss", ["dr_grpo", "dapo", "grpo"])
@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_micro_batches_train_the_same_weights_as_one_batch(tiny_model: Path, tmp_path: Path, loss: str, beta: float) -> None:
    # a weight moves by about the learning rate, 1e-2, a step, whatever its gradient: a wrong sign would be 2e-2 apart
    whole, _ = train(tiny_model, tmp_path / "whole", Paid(), loss=loss, beta=beta)
    parts, _ = train(tiny_model, tmp_path / "parts", Paid(), loss=loss, beta=beta, micro_batch=4)
    assert apart(whole, parts) < 2e-3


@pytest.mark.parametrize("loss", ["dr_grpo", "dapo", "grpo", "bnpo"])
def test_leaving_out_rows_without_a_gradient_changes_nothing_and_is_counted(tiny_model: Path, tmp_path: Path, loss: str) -> None:
    flat = [f"e{i}" for i in range(3)]
    short, rows = train(tiny_model, tmp_path / "short", Paid(flat), loss=loss, beta=0.0)
    full, other = train(tiny_model, tmp_path / "full", Paid(flat), loss=loss, beta=0.0, skip_flat=False)
    assert apart(short, full) < 2e-3
    assert sum(r["skipped_rows"] for r in rows) >= 4
    assert "skipped_rows" not in other[0]
    assert rows[0]["loss"] == pytest.approx(other[0]["loss"], abs=1e-5)


def test_a_step_in_which_nothing_has_a_gradient_leaves_the_weights_alone(tiny_model: Path, tmp_path: Path) -> None:
    weights, rows = train(tiny_model, tmp_path, Paid([f"e{i}" for i in range(6)]), beta=0.0)
    assert rows[0]["loss"] == 0.0
    assert rows[0]["skipped_rows"] == 12
    assert all(torch.equal(w, torch.zeros_like(w)) for name, w in weights.items() if "lora_B" in name)


def test_what_was_sampled_is_what_is_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    _, rows = train(tiny_model, tmp_path, Paid(), sampling="fp32")
    assert max(r["sampling_gap"] for r in rows) < 1e-5


@pytest.mark.usefixtures("rounded")
@pytest.mark.parametrize("share", [True, False])
def test_answers_sampled_from_rounded_weights_are_corrected_for_it(tiny_model: Path, tmp_path: Path, share: bool) -> None:
    _, rows = train(tiny_model, tmp_path, Paid(), sampling="bf16", share_training=share)
    assert all(0 < r["sampling_gap"] < 0.05 for r in rows)
    assert all(0.9 < r["sampling_ess"] <= 1 for r in rows)


@pytest.mark.usefixtures("rounded")
def test_the_correction_weighs_the_answers_it_is_given(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.train import trainer

    monkeypatch.setattr(trainer, "corrected", lambda gaps: torch.full((len(gaps),), 1e-12))
    weights, _ = train(tiny_model, tmp_path, Paid(), sampling="bf16", beta=0.0)
    assert all(w.abs().max() < 1e-4 for name, w in weights.items() if "lora_B" in name)  # the learning rate is 1e-2


@pytest.mark.usefixtures("rounded")
def test_the_gap_of_a_step_is_that_of_all_its_micro_batches(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from temper.train import trainer

    seen: list[Any] = []
    right = trainer.corrected
    monkeypatch.setattr(trainer, "corrected", lambda gaps: (seen.append(gaps), right(gaps))[1])
    _, rows = train(tiny_model, tmp_path, Paid(), sampling="bf16", micro_batch=4, steps=1)
    assert len(seen) == 3
    tokens = sum((g != 0).sum().item() for g in seen)
    assert rows[0]["sampling_gap"] == pytest.approx(sum(g.abs().sum().item() for g in seen) / tokens, rel=0.05)


def test_the_expected_gradient_is_that_of_the_trained_model_whatever_was_sampled_from() -> None:
    from temper.train.trainer import corrected

    draw = torch.Generator().manual_seed(0)
    # every answer of two tokens from a vocabulary of five, drawn from q and trained under p, which depends on its first token
    logits = torch.randn(5, generator=draw, dtype=torch.float64, requires_grad=True)
    table = torch.randn(5, 5, generator=draw, dtype=torch.float64)
    first, second = (t.flatten() for t in torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij"))

    def logprobs(top: Any, rest: Any) -> Any:
        return torch.stack([top.log_softmax(0)[first], (rest + top[:, None]).log_softmax(1)[first, second]], 1)

    p = logprobs(logits, table)
    near, far = (
        logprobs(logits.detach() + size * torch.randn(5, generator=draw, dtype=torch.float64), table + size)
        for size in (0.1, 0.0)
    )
    advantage = torch.randn(25, generator=draw, dtype=torch.float64)
    wanted = torch.autograd.grad((p.sum(1).exp() * advantage).sum(), logits, retain_graph=True)[0]
    for q in (near, far):
        drawn = q.sum(1).exp()
        ratio = corrected(p.detach() - q)
        found = torch.autograd.grad((drawn * ratio * advantage * p.sum(1)).sum(), logits, retain_graph=True)[0]
        assert torch.allclose(found, wanted, atol=1e-12)
    uncorrected = torch.autograd.grad((near.sum(1).exp() * advantage * p.sum(1)).sum(), logits)[0]
    assert not torch.allclose(uncorrected, wanted, atol=1e-3)
    assert corrected(torch.full((1, 40), 1.0)).item() == 2.0


def test_bf16_on_a_processor_shares_prompts_too(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEMPER_PRECISION", "bf16")
    _, rows = train(tiny_model, tmp_path, Paid(), sampling="fp32")
    assert "self-check" not in caplog.text
    # the answers were sampled in fp32, so the two differ by what bf16 rounds away, and by no more
    assert 0 < max(r["sampling_gap"] for r in rows) < 0.05


def test_flat_groups_are_replaced_by_other_prompts_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    from temper.files import read_rows

    grader = Paid(["e0", "e1", "e2"])
    _, rows = train(tiny_model, tmp_path, grader, resample=20)
    assert sum(r["resampled"] for r in rows) >= 1
    assert all(r["zero_variance"] == 0.0 for r in rows)
    trained = {r["id"] for r in read_rows(tmp_path / "rollouts.jsonl.zst")}
    assert trained == {"e3", "e4", "e5"}
    # an answer that was kept is not graded a second time for the journal
    assert len(grader.asked) <= sum(12 + 4 * r["resampled"] for r in rows)


def test_resampling_ends_at_its_bound(tiny_model: Path, tmp_path: Path) -> None:
    _, rows = train(tiny_model, tmp_path / "bound", Paid([f"e{i}" for i in range(12)]), prompts=12, resample=2)
    assert [r["resampled"] for r in rows] == [6, 6]
    assert all(24 <= r["resampled_tokens"] <= 144 for r in rows)
    # what was thrown away does not come back, so the other prompts may be used up first
    _, rows = train(tiny_model, tmp_path / "few", Paid([f"e{i}" for i in range(6)]), resample=9)
    assert [r["resampled"] for r in rows] == [3, 3]
    assert all(r["zero_variance"] == 1.0 for r in rows)


def test_a_shared_pass_that_differs_from_the_stock_one_is_not_used(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from temper.train import shared

    right = shared.token_logprobs
    monkeypatch.setattr(shared, "token_logprobs", lambda *given: tuple(1.01 * t for t in right(*given)))
    train(tiny_model, tmp_path / "wrong", Paid())
    assert "and 1.0e-02 apart, wanted at most 1e-03" in caplog.text


def test_an_adapter_that_is_folded_wrongly_does_not_pass_the_check(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from temper.models import products

    right = products.Folded.weight
    monkeypatch.setattr(products.Folded, "weight", lambda self, layer, a, b, scaling: right(self, layer, a, b, 3 * scaling))
    train(tiny_model, tmp_path, Paid())
    assert "the self-check found loss and gradient" in caplog.text


def test_a_sampler_that_differs_from_the_model_is_not_used_further(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from temper.train import trainer

    right = trainer.sample

    def off(*given: Any, **more: Any) -> Any:
        from dataclasses import replace

        return [[replace(r, logprobs=[x - 0.1 for x in r.logprobs]) for r in group] for group in right(*given, **more)]

    monkeypatch.setattr(trainer, "sample", off)
    _, rows = train(tiny_model, tmp_path, Paid(), sampling="fp32")
    assert rows[0]["sampling_gap"] == pytest.approx(0.1, abs=1e-4)
    assert "sampling_gap" not in rows[1]
    assert "prompts are not shared in sampling any more" in caplog.text


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen3moe", {"beta": 0.0}),
        ("mixtral", {}),
        ("phi", {"lora_r": 0, "beta": 0.0}),
        ("diffllama", {"sampling": "fp32"}),
    ],
)
def test_an_architecture_that_is_not_shared_trains_all_the_same(
    tmp_path: Path, kind: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    from conftest import make_tiny

    from temper.files import read_rows

    folder = make_tiny(tmp_path / kind, kind)
    if settings.get("lora_r") == 0:
        with pytest.raises(FileNotFoundError):  # it saves all weights and no adapter
            train(folder, tmp_path / "out", Paid(), **settings)
    else:
        train(folder, tmp_path / "out", Paid(), **settings)
    rows = list(read_rows(tmp_path / "out" / "metrics.jsonl"))
    assert len(rows) == 2
    assert all(r.get("sampling_gap", 0.0) < 1e-3 or "sampling_ess" in r for r in rows)


@pytest.mark.parametrize("settings", [{}, {"resample": 2}], ids=["plain", "resampled"])
def test_a_run_cut_after_its_first_epoch_goes_on_to_the_bit(tiny_model: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    from temper.errors import TrainError
    from temper.train import trainer

    given = {"prompts": 7, "steps": 5, "checkpoint_every": 3, **settings}  # two steps are an epoch
    whole, rows = train(tiny_model, tmp_path / "whole", Paid(["e0"]), **given)
    step = trainer.Ledger.on_log

    def cut(self: Any, args: Any, state: Any, *given: Any, **more: Any) -> None:
        if state.global_step == 4:
            raise TrainError("cut")
        step(self, args, state, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Ledger, "on_log", cut)
        with pytest.raises(TrainError):
            train(tiny_model, tmp_path / "cut", Paid(["e0"]), **given)
    again, continued = train(tiny_model, tmp_path / "cut", Paid(["e0"]), **given)
    assert all(torch.equal(again[k], whole[k]) for k in whole)
    assert [r["tokens"] for r in continued] == [r["tokens"] for r in rows]


def test_a_shared_pass_that_fails_is_not_used(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from temper.train import shared

    def fails(*given: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(shared, "token_logprobs", fails)
    train(tiny_model, tmp_path, Paid())
    assert "the self-check of the shared pass failed (RuntimeError: no such kernel)" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [{"share_sampling": False}, {"share_training": False}, {"share_sampling": False, "share_training": False}, {"lora_r": 0}],
    ids=["stock sampling", "stock training", "stock", "full"],
)
def test_every_way_to_train_ends_with_weights(tiny_model: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.train.trainer import train_grpo
    from temper.types import Checkpoint, Example, Message, Named

    stage = Grpo(rewards={"paid": 1.0}, audits=0, steps=1, prompts_per_step=2, group=2, max_new_tokens=4, **settings)
    examples = [Example(f"e{i}", (Message("user", "why " * (i + 1)),)) for i in range(3)]
    checkpoint, work = train_grpo(
        stage, examples, Checkpoint(tiny_model), tmp_path, Context(graders={"paid": Named("paid", Paid(), "test")})
    )
    assert checkpoint.path is not None or checkpoint.base != tiny_model
    assert work.train_tokens > 0
