"""A plan counts what a recipe will do before anything runs, refuses what cannot fit, and says what would."""

from pathlib import Path

import pytest

from temper import machine
from temper.errors import ModelError, RunError
from temper.train.plan import model_shape, plan_recipe
from temper.train.recipe import parse_recipe, read_recipe

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.toml"


@pytest.fixture(autouse=True)
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gflops", lambda: 100.0)


def test_every_distinct_stage_is_counted_once_and_every_arm_is_proved() -> None:
    plan = plan_recipe(read_recipe(QUICKSTART))
    assert [s.name for s in plan.steps] == [
        "train sft",
        "train grpo",
        "train sft+grpo",
        "prove base",
        "prove sft",
        "prove rl",
        "prove hybrid",
    ]
    assert all(s.tokens > 0 and s.flops > 0 and s.seconds > 0 for s in plan.steps)


def test_training_tokens_cost_twice_the_forward_pass_with_an_adapter_and_three_times_without() -> None:
    def flops_per_token(lora_r: int) -> float:
        recipe = parse_recipe({"base": "smollm2-135m", "stage": [{"kind": "sft", "lora_r": lora_r}]})
        step = plan_recipe(recipe).steps[0]
        return step.flops / step.tokens / 134_515_008

    assert flops_per_token(16) == pytest.approx(4)
    assert flops_per_token(0) == pytest.approx(6)


def test_what_cannot_fit_is_refused_with_the_sizes_and_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2_000_000_000)
    with pytest.raises(RunError, match=r"needs about .* GB of memory, 2\.0 GB are there; lower"):
        plan_recipe(read_recipe(QUICKSTART)).refuse()


def test_a_model_that_is_not_on_this_disk_is_named() -> None:
    with pytest.raises(ModelError, match="not on this disk"):
        plan_recipe(parse_recipe({"base": "org/unknown", "stage": [{"kind": "sft"}]}))


@pytest.mark.train
def test_a_local_folder_is_measured_from_its_headers(tiny_model: Path) -> None:
    pytest.importorskip("torch")
    plan = plan_recipe(parse_recipe({"base": str(tiny_model), "stage": [{"kind": "sft"}]}))
    assert plan.steps[0].flops < 1e12


def test_what_is_not_shared_costs_more_tokens_and_more_memory() -> None:
    from temper.train.grpo import Grpo
    from temper.train.plan import KNOWN, Shape, _grpo

    shape = Shape(**KNOWN["smollm2-135m"])
    whole, apart, again = (
        _grpo("train", Grpo(**more), shape, 100.0)
        for more in ({}, {"share_training": False, "share_sampling": False}, {"resample": 3})
    )
    assert apart.tokens > whole.tokens
    assert apart.memory_bytes > whole.memory_bytes
    assert again.flops > whole.flops
    assert again.memory_bytes == whole.memory_bytes


def test_the_organism_is_planned_before_it_was_ever_made() -> None:
    plan = plan_recipe(read_recipe(QUICKSTART.with_name("organism.toml")))
    assert [s.name for s in plan.steps][:2] == ["train pretrain", "train pretrain+static"]
    assert all(s.flops > 0 for s in plan.steps)


@pytest.mark.train
def test_the_planned_organism_is_the_one_that_is_made(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from temper.models.organism import organism

    assert model_shape("organism") == model_shape(str(organism(tmp_path)))
