"""The sample stage and distillation: a teacher's accepted answers, a student that starts from its own weights."""

from pathlib import Path

import pytest
from child import temper, wait_until
from test_harvest import GRADERS, made_by

from temper.errors import RecipeError
from temper.files import read_json, read_rows
from temper.subject import subject
from temper.train.recipe import read_recipe
from temper.train.sample import Sample

RECIPE = """
base = "{base}"
seed = 3

[[stage]]
kind = "sft"
limit = 4
batch = 4
micro_batch = 4
lora_r = 2

[[stage]]
kind = "sample"
limit = 40
samples = 2
max_new_tokens = 120
temperature = 1.5

[[stage]]
kind = "harvest"
accept = "{graders}:pleased"
thought = "any"
language = 0.0
refusal = 1.0
balance = 0.0
student = "{student}"

[[stage]]
kind = "sft"
name = "distil"
data = "stage:harvest"
batch = 2
micro_batch = 2
lora_r = 4

[arms]
teacher = ["sft"]
student = ["sft", "sample", "harvest", "distil"]

[prove]
suites = ["harm"]
gold = "{graders}:gold"
limit = 2
max_new_tokens = 4
"""


def write(folder: Path, base: Path, student: Path) -> Path:
    graders = folder / "mine.py"
    graders.write_text(GRADERS)
    path = folder / "distil.toml"
    path.write_text(RECIPE.format(base=base, graders=graders, student=student))
    return path


@pytest.mark.timeout(900)  # a run, one that is killed, and the rest of it
@pytest.mark.train
def test_a_student_is_trained_from_its_own_weights_on_what_the_teacher_answered_also_after_a_kill(tiny_model, tmp_path) -> None:
    pytest.importorskip("torch")
    import shutil

    from temper.ablate import run
    from temper.proof import prove_model

    student = Path(shutil.copytree(tiny_model, tmp_path / "student"))
    path = write(tmp_path, tiny_model, student)
    whole = run(path, out=tmp_path / "whole")
    answers = read_rows(made_by(whole, "sample") / "rollouts.jsonl.zst")
    rows = read_rows(made_by(whole, "harvest") / "rows.jsonl")
    assert len(answers) == 80
    assert rows
    assert {r["lineage"]["stage"] for r in rows} == {made_by(whole, "sample").name}
    adapter = read_json(made_by(whole, "distil") / "checkpoint" / "adapter_config.json")
    assert adapter["r"] == 4
    assert Path(adapter["base_model_name_or_path"]) == student
    assert read_json(whole / "summary.json")["arms"]["student"]["unsafe"]["n"] == 2
    proved = prove_model(f"{whole}@student", ["harm"], out=tmp_path / "proved", prove=read_recipe(path).prove)
    assert read_json(proved / "run.json")["overlap"]["harm"]["n"] == 0
    asked = subject(f"{whole}@student", read_recipe(path))
    assert asked.sampler.args[0].base == student  # type: ignore[attr-defined]
    assert len(asked.trained()) == 44
    cut = tmp_path / "cut"
    with temper("run", str(path), "--out", str(cut), said=tmp_path / "said") as process:
        wait_until(lambda: any(cut.glob("stages/*-sample/rollouts.jsonl.zst")), process, tmp_path / "said")
        process.kill()
    run(path, out=cut)
    assert (made_by(cut, "harvest") / "rows.jsonl").read_bytes() == (made_by(whole, "harvest") / "rows.jsonl").read_bytes()


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"limit": -1}, {"temperature": -0.1}, {"top_p": 0.0}, {"max_new_tokens": 0}])
def test_a_setting_out_of_range_is_an_error(wrong) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        Sample(**wrong).check()


def test_the_answers_of_a_killed_attempt_are_not_asked_for_again(tmp_path, monkeypatch) -> None:
    pytest.importorskip("torch")
    from temper.rewards import journal
    from temper.samplers.scripted import Scripted
    from temper.train.run import Context
    from temper.types import Checkpoint

    stage, asked = Sample(samples=2, limit=40), []
    answers = Scripted(lambda e: "Yes.")

    def counting(examples, n=1):
        asked.extend(e.id for e in examples)
        return answers(examples, n=n)

    monkeypatch.setattr("temper.models.load.load", lambda start, chat_template=None: None)
    monkeypatch.setattr("temper.models.local.Local", lambda *settings: counting)
    first = [c for group in answers(stage.examples()[:32], n=2) for c in group]
    journal.write(tmp_path, [r | {"sampled": True, "tokens": [3, 1]} for r in journal.rows_of(first, {}, {}, step=1)])
    stage.run(Checkpoint(tmp_path), tmp_path, Context(parameters=10))
    assert asked == [e.id for e in stage.examples()[32:]]
    assert read_json(tmp_path / "work.json")["sampled"] == 80
