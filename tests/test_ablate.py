"""The main job on a tiny random model: four arms, killed and resumed, proved by a judge that was no reward."""

import json
import os
import shutil
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from child import PATIENCE, temper, wait_until

from temper.cli import main
from temper.files import append_rows, read_json, read_rows, sealed

pytestmark = pytest.mark.train
pytest.importorskip("torch")

GRADERS = '''
from temper import Score

def bytes_seen(completions):
    """Pays for printable answers, so that a random model has something to learn."""
    return [Score(sum(ch.isprintable() for ch in c.raw) / max(1, len(c.raw))) for c in completions]

def judge(completions):
    return [Score((len(c.raw) * 7 % 10) / 10) for c in completions]
judge.better = "low"
'''

RECIPE = """
base = "{base}"
seed = 3

[[stage]]
kind = "sft"
limit = 8
batch = 4
micro_batch = 4
lora_r = 2
checkpoint_every = 1
epochs = {epochs}

[[stage]]
kind = "grpo"
rewards = {{ "{graders}:bytes_seen" = 1.0 }}
limit = 6
steps = {steps}
prompts_per_step = 2
group = 3
max_new_tokens = 12
lora_r = 2
lr = 1e-3
audits = 2
checkpoint_every = 1

[arms]
base = []
sft = ["sft"]
rl = ["grpo"]
hybrid = ["sft", "grpo"]

[prove]
suites = ["harm", "benign"]
gold = "{gold}"
limit = 4
max_new_tokens = 12
"""


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Path:
    return write(tmp_path, tiny_model)


def write(folder: Path, base: Path, *, steps: int = 2, epochs: int = 1, gold: str | None = None) -> Path:
    graders = folder / "mine.py"
    graders.write_text(GRADERS)
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(base=base, graders=graders, steps=steps, epochs=epochs, gold=gold or f"{graders}:judge"))
    return path


@pytest.fixture(scope="module")
def done(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run; tests read it, and copy what they change."""
    from temper.ablate import run

    folder = tmp_path_factory.mktemp("done")
    return run(write(folder, tiny_model), out=folder / "run", command="temper run tiny.toml")


def trained(run: Path) -> dict[str, bytes]:
    return {p.parent.parent.name: p.read_bytes() for p in sorted(run.glob("stages/*/checkpoint/adapter_model.safetensors"))}


def test_a_run_trains_shared_prefixes_once_and_writes_rows_summary_and_report(done: Path) -> None:
    stages = sorted(p.name.split("-")[1] for p in (done / "stages").iterdir())
    assert stages == ["grpo", "grpo", "sft"]
    assert all(sealed(p) for p in (done / "stages").iterdir())
    summary = read_json(done / "summary.json")
    assert list(summary["arms"]) == ["base", "sft", "rl", "hybrid"]
    assert all(summary["arms"][arm]["unsafe"]["n"] == 4 for arm in summary["arms"])
    assert {"value", "n", "low", "high"} <= set(summary["arms"]["base"]["over_refusal"])
    rows = read_rows(done / "evals" / "harm@rl" / "rows.jsonl")
    assert all(r["scores"]["judge"]["value"] is not None for r in rows)
    rollouts = read_rows(next((done / "stages").glob("*-grpo")) / "rollouts.jsonl.zst")
    assert len(rollouts) == 2 * 2 * 3
    assert (done / "report.html").stat().st_size > 10_000
    assert read_json(done / "run.json")["graders"]["judge"]["role"] == "gold"


def test_running_again_recomputes_nothing(done: Path, tmp_path: Path) -> None:
    from temper.ablate import run

    folder = Path(shutil.copytree(done, tmp_path / "run"))
    before = {p: p.stat().st_mtime_ns for p in folder.glob("stages/**/*") if p.is_file()}
    rows = folder / "evals" / "harm@hybrid" / "rows.jsonl"
    told = rows.read_bytes()
    run(done.parent / "tiny.toml", out=folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("stages/**/*") if p.is_file()} == before
    assert rows.read_bytes() == told


def test_a_run_killed_before_its_facts_were_written_starts_afresh(recipe: Path, tmp_path: Path) -> None:
    from temper.ablate import run

    arms = recipe.read_text().partition("[arms]")[2].partition("[prove]")[0]
    recipe.write_text(recipe.read_text().replace(arms, "\nbase = []\n"))  # training is nothing to this
    append_rows(tmp_path / "run" / "events.jsonl", [{"at": 0.0, "kind": "started", "subject": "tiny.toml", "data": {}}])
    assert (run(recipe, out=tmp_path / "run") / "summary.json").is_file()


@pytest.mark.timeout(900)  # a run, one that is killed, and the rest of it
def test_a_run_killed_inside_a_stage_continues_from_its_checkpoint_and_ends_with_the_same_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    from temper.ablate import run

    recipe = write(tmp_path, tiny_model, steps=6)
    whole = run(recipe, out=tmp_path / "whole")
    with temper("run", str(recipe), "--out", str(tmp_path / "cut"), said=tmp_path / "said") as process:
        cut_at = wait_for_checkpoint(tmp_path / "cut", process, tmp_path / "said")
        process.kill()
    assert not all(sealed(p) for p in (tmp_path / "cut" / "stages").iterdir())
    again = run(recipe, out=tmp_path / "cut")
    assert trained(again) == trained(whole)
    resumed = next(p for p in (again / "stages").iterdir() if p.name == cut_at)
    assert [r["step"] for r in read_rows(resumed / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert sorted({r["step"] for r in read_rows(resumed / "rollouts.jsonl.zst")}) == [1, 2, 3, 4, 5, 6]
    events = [e["kind"] for e in read_rows(again / "events.jsonl")]
    assert events.count("resumed") == 1


def wait_for_checkpoint(run: Path, process: BaseProcess, said: Path) -> str:
    """The stage of reinforcement learning that wrote the first checkpoint."""
    state = "stages/*-grpo/trainer/checkpoint-*/trainer_state.json"
    wait_until(lambda: any(run.glob(state)), process, said)
    return next(run.glob(state)).parent.parent.parent.name


def test_a_judge_that_was_a_reward_is_refused_even_under_another_name(tiny_model: Path, tmp_path: Path) -> None:
    from temper.ablate import run
    from temper.errors import ProofError

    write(tmp_path, tiny_model)
    (tmp_path / "copy.py").write_text(GRADERS)
    recipe = write(tmp_path, tiny_model, gold=f"{tmp_path / 'copy.py'}:bytes_seen")
    with pytest.raises(ProofError, match="also the reward"):
        run(recipe, out=tmp_path / "run")


def test_an_arm_of_a_run_can_be_proved_by_itself_and_refuses_its_own_reward(done: Path, tmp_path: Path) -> None:
    from temper.errors import ProofError
    from temper.proof import prove_model
    from temper.train.recipe import Prove

    judge = f"{done.parent / 'mine.py'}:judge"
    own = f"{done.parent / 'mine.py'}:bytes_seen"
    settings = Prove(gold=judge, graders=(own,), limit=4, max_new_tokens=12)
    proved = prove_model(f"{done}@hybrid", ["harm"], out=tmp_path / "alone", prove=settings, seed=3)
    ours = [r["raw"] for r in read_rows(proved / "evals" / "harm@model" / "rows.jsonl")]
    theirs = [r["raw"] for r in read_rows(done / "evals" / "harm@hybrid" / "rows.jsonl")]
    assert ours == theirs
    assert "grader:bytes_seen" in read_json(proved / "summary.json")["metrics"]
    with pytest.raises(ProofError, match="is also the reward"):
        prove_model(f"{done}@hybrid", ["harm"], out=tmp_path / "own", prove=Prove(gold=own, limit=4))


def test_a_loss_that_is_not_a_number_ends_with_one_line_and_keeps_the_rows(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path, tiny_model)
    recipe.write_text(recipe.read_text().replace("lr = 1e-3", "lr = 1e30"))
    monkeypatch.setattr(sys, "argv", ["temper", "run", str(recipe), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr().err
    assert ended.value.code == 1
    assert "the loss became nan" in said
    assert "Traceback" not in said
    assert read_rows(next((tmp_path / "run" / "stages").glob("*-sft")) / "metrics.jsonl")


def test_interrupting_leaves_a_resumable_run_and_says_how(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path, tiny_model, steps=50)
    with temper("run", str(recipe), "--out", str(tmp_path / "run"), said=tmp_path / "said") as process:
        wait_for_checkpoint(tmp_path / "run", process, tmp_path / "said")
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(PATIENCE)
        assert process.exitcode == 130
    said = (tmp_path / "said").read_text()
    assert "To go on:  temper run" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("limit = 8", "limt = 8"), 2, "did you mean 'limit'"),
        (('suites = ["harm", "benign"]', 'suites = ["hram"]'), 2, "did you mean 'harm'"),
        (('kind = "sft"', 'kind = "sft"\ndata = "nowhere.jsonl"'), 2, "nowhere.jsonl"),
    ],
)
def test_bad_input_ends_with_one_clear_line_and_its_exit_code(
    recipe: Path,
    tmp_path: Path,
    change: tuple[str, str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe.write_text(recipe.read_text().replace(*change, 1))
    monkeypatch.setattr(sys, "argv", ["temper", "run", str(recipe), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr().err
    assert ended.value.code == code
    assert message in said
    assert said.count("\n") == 1


def test_events_tell_the_history_of_a_run(done: Path) -> None:
    kinds = [json.loads(line)["kind"] for line in (done / "events.jsonl").read_text().splitlines()]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert kinds.count("stage sealed") == 3
    assert kinds.count("suite proved") == 8


def test_an_auditor_that_is_a_reward_by_another_name_or_within_one_is_refused() -> None:
    from temper import catalog
    from temper.ablate import _check_auditors
    from temper.errors import RecipeError
    from temper.proof import load_graders
    from temper.train.recipe import parse_recipe

    def checked(**rewards: float) -> None:
        stage = {"kind": "grpo", "rewards": rewards, "adapt": {"auditor": "harm"}}
        recipe = parse_recipe({"base": "m", "stage": [stage]})
        _check_auditors(recipe, load_graders(recipe))

    for name in ("process", "worst(harm, format)"):
        with pytest.raises(RecipeError, match=r"the auditor 'harm' is also the reward"):
            checked(**{name: 1.0})
    checked(**{"rules": 1.0, "over-refusal": 0.3})  # which reads Chinese with the auditor's reader
    assert not catalog.grader("over-refusal").traces.isdisjoint(catalog.grader("harm").traces)
