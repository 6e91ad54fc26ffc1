"""The embedded 135M model once, small: fetched, proved by the real judges, and trained one step of each kind."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.train, pytest.mark.real]
pytest.importorskip("torch")

RECIPE = """
base = "smollm2-135m"
[[stage]]
kind = "sft"
limit = 4
batch = 4
micro_batch = 4
[[stage]]
kind = "grpo"
limit = 8
steps = 1
prompts_per_step = 2
group = 2
max_new_tokens = 24
audits = 1
[arms]
base = []
hybrid = ["sft", "grpo"]
[prove]
suites = ["harm"]
limit = 3
max_new_tokens = 24
"""


@pytest.mark.timeout(1800)  # 135M parameters, trained and judged on however slow a processor
def test_the_embedded_model_is_trained_and_proved_by_the_shipped_graders(tmp_path: Path) -> None:
    from temper.ablate import run
    from temper.files import read_json, read_rows

    recipe = tmp_path / "real.toml"
    recipe.write_text(RECIPE)
    folder = run(recipe, out=tmp_path / "run")
    facts = read_json(folder / "run.json")
    assert facts["model"]["parameters"] == 134_515_008
    assert {facts["graders"][n]["role"] for n in ("harm", "gold")} == {"reward", "gold"}
    assert facts["graders"]["harm"]["weights"] != facts["graders"]["gold"]["weights"] != ""
    rows = read_rows(folder / "evals" / "harm@hybrid" / "rows.jsonl")
    assert len(rows) == 3
    for row in rows:
        assert row["answer"] or row["outcome"] in ("empty", "truncated_in_thought")
        judged = [row["scores"][judge]["value"] for judge in ("harm", "gold")]
        assert all(value is not None for value in judged) or not row["answer"]
    steps = read_rows(next((folder / "stages").glob("*-grpo")) / "metrics.jsonl")
    assert steps[0]["gold_n"] >= 0
    assert set(steps[0]["columns"]) >= {"harm", "over-refusal", "language", "format", "gold"}


def test_its_answers_to_easy_questions_are_sensible(tmp_path: Path) -> None:
    from temper.models.load import load
    from temper.models.local import Local
    from temper.models.resolve import resolve
    from temper.types import Checkpoint, Example, Message

    local = Local(load(Checkpoint(resolve("smollm2-135m").folder)), max_new_tokens=16, temperature=0)
    answer = local([Example("1", (Message("user", "What is the capital of France?"),))])[0][0]
    assert "Paris" in answer.answer
    assert answer.finish == "stop"
