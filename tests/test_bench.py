"""The benchmark's arithmetic: floors counted by hand, ratios pair by pair, rows that stay, a worker that dies."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def grpo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("grpo")


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("record")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def counted(prompts: list[int], answers: list[list[int]]) -> tuple[int, int, int]:
    """Tokens, answer tokens and (query, key) pairs, one by one."""
    tokens = scored = pairs = 0
    for prompt, group in zip(prompts, answers, strict=True):
        for place in range(prompt):
            tokens, pairs = tokens + 1, pairs + place + 1
        for answer in group:
            for place in range(answer):
                tokens, scored, pairs = tokens + 1, scored + 1, pairs + prompt + place + 1
    return tokens, scored, pairs


def test_the_floor_of_sampling_is_two_flops_a_weight_and_a_pair_dimension_counted_one_by_one(grpo: ModuleType) -> None:
    sizes = grpo.Sizes(body=1000, head=300, lora=0, layers=2, heads=3, head_dim=5)
    prompts, answers = [7, 4], [[3, 1, 2], [5]]
    tokens, scored, pairs = counted(prompts, answers)
    wanted = 2 * (1000 * tokens + 300 * scored) + 4 * 3 * 5 * 2 * pairs
    assert grpo.flops(sizes, prompts, answers, "forward") == wanted


def test_training_an_adapter_doubles_frozen_products_and_triples_its_own_and_attention(grpo: ModuleType) -> None:
    sizes = grpo.Sizes(body=1000, head=300, lora=20, layers=2, heads=3, head_dim=5)
    tokens, scored, pairs = counted([7], [[3, 2]])
    wanted = 4 * (1000 * tokens + 300 * scored) + 6 * 20 * tokens + 3 * 4 * 3 * 5 * 2 * pairs
    assert grpo.flops(sizes, [7], [[3, 2]], "lora") == wanted


def test_training_everything_costs_three_times_the_forward_pass(grpo: ModuleType) -> None:
    sizes = grpo.Sizes(body=1000, head=300, lora=0, layers=2, heads=3, head_dim=5)
    assert grpo.flops(sizes, [7], [[3, 2]], "full") == 3 * grpo.flops(sizes, [7], [[3, 2]], "forward")


def test_the_floor_in_seconds_takes_the_faster_product(grpo: ModuleType) -> None:
    assert grpo.floor_seconds({"gflops": {"mm": 50.0, "onednn": 100.0}}, 1e11, 1e11) == 2.0


def test_the_parent_of_the_benchmark_imports_no_torch(grpo: ModuleType) -> None:
    import subprocess

    code = "import sys; sys.path.insert(0, sys.argv[1]); import grpo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(BENCH)], check=False, timeout=240).returncode == 0


def test_a_side_that_dies_is_named_with_the_end_of_its_log(grpo: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({"kind": "no such kind"}))
    with pytest.raises(RuntimeError, match=r"the stock side died(.|\n)*no such kind"), grpo.process("stock", tmp_path, 1):
        pass


def test_the_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians(record: ModuleType) -> None:
    found = record.compared([1.0, 2.0, 4.0], [3.0, 2.0, 20.0])
    assert (found["ours"], found["peer"]) == (2.0, 3.0)
    assert (found["ratio_min"], found["ratio"], found["ratio_max"], found["pairs"]) == (1.0, 3.0, 5.0, 3)
    assert record.compared([6.0], [2.0], more_is_better=True)["ratio"] == 3.0


def test_rows_of_other_cases_stay_and_those_of_another_machine_do_not(record: ModuleType, tmp_path: Path) -> None:
    case = record.Case("b", 1.0, 2.0, "peer", "s", 2.0, 1)
    record.record("x", [case])
    record.record("x", [record.Case("a", 1.0, 3.0, "peer", "s", 3.0, 1)], others=record.stored("x"))
    assert [(r["case"], r["ratio"]) for r in record.stored("x")] == [("a", 3.0), ("b", 2.0)]
    file = tmp_path / "x.json"
    file.write_text(file.read_text().replace('"cores"', '"kernels"'))
    assert record.stored("x") == []


@pytest.mark.train
def test_both_sides_compute_the_same_pass_and_generate_the_same_number_of_tokens(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import asdict

    from temper.train.grpo import Grpo

    monkeypatch.syspath_prepend(str(BENCH))
    sides = importlib.import_module("sides")
    monkeypatch.setattr(sides, "rates", dict)
    stage = Grpo(steps=1, prompts_per_step=1, group=4, max_new_tokens=5)
    spec = {
        "base": str(tiny_model),
        "stage": {**asdict(stage), "rewards": dict(stage.rewards)},
        "prompt": 40,
        "seed": 7,
        "kind": "pass",
    }
    (stock, _), (ours, facts) = (sides.CASES["pass", side](spec, tmp_path) for side in ("stock", "temper"))
    theirs, found = stock(), ours()
    assert facts["unshared"] is None
    assert found["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert found["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    (stock, _), (ours, _) = (sides.CASES["generation", side](spec, tmp_path) for side in ("stock", "temper"))
    assert stock(rows=3)["tokens"] == ours(rows=3)["tokens"] == 15
