"""The main job on a tiny random model: four arms, killed and resumed, proved by a judge that was no reward."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def trained(run: Path) -> dict[str, bytes]:
    return {p.parent.parent.name: p.read_bytes() for p in sorted(run.glob("stages/*/checkpoint/adapter_model.safetensors"))}


def test_a_run_trains_shared_prefixes_once_and_writes_rows_summary_and_report(recipe: Path, tmp_path: Path) -> None:
    from temper.ablate import run

    folder = run(recipe, out=tmp_path / "run", command="temper run tiny.toml")
    stages = sorted(p.name.split("-")[1] for p in (folder / "stages").iterdir())
    assert stages == ["grpo", "grpo", "sft"]
    assert all(sealed(p) for p in (folder / "stages").iterdir())
    summary = read_json(folder / "summary.json")
    assert list(summary["arms"]) == ["base", "sft", "rl", "hybrid"]
    assert all(summary["arms"][arm]["unsafe"]["n"] == 4 for arm in summary["arms"])
    assert {"value", "n", "low", "high"} <= set(summary["arms"]["base"]["over_refusal"])
    rows = read_rows(folder / "evals" / "harm@rl" / "rows.jsonl")
    assert all(r["scores"]["judge"]["value"] is not None for r in rows)
    rollouts = read_rows(next((folder / "stages").glob("*-grpo")) / "rollouts.jsonl.zst")
    assert len(rollouts) == 2 * 2 * 3
    assert (folder / "report.html").stat().st_size > 10_000
    assert read_json(folder / "run.json")["graders"]["judge"]["role"] == "gold"


def test_running_again_recomputes_nothing(recipe: Path, tmp_path: Path) -> None:
    from temper.ablate import run

    folder = run(recipe, out=tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in folder.glob("stages/**/*") if p.is_file()}
    rows = (folder / "evals" / "harm@hybrid" / "rows.jsonl").read_bytes()
    run(recipe, out=tmp_path / "run")
    assert {p: p.stat().st_mtime_ns for p in folder.glob("stages/**/*") if p.is_file()} == before
    assert (folder / "evals" / "harm@hybrid" / "rows.jsonl").read_bytes() == rows


def test_a_run_killed_before_its_facts_were_written_starts_afresh(recipe: Path, tmp_path: Path) -> None:
    from temper.ablate import run

    append_rows(tmp_path / "run" / "events.jsonl", [{"at": 0.0, "kind": "started", "subject": "tiny.toml", "data": {}}])
    assert (run(recipe, out=tmp_path / "run") / "summary.json").is_file()


def test_a_run_killed_inside_a_stage_continues_from_its_checkpoint_and_ends_with_the_same_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    from temper.ablate import run

    recipe = write(tmp_path, tiny_model, steps=6)
    whole = run(recipe, out=tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "temper.cli", "run", str(recipe), "--out", str(tmp_path / "cut")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cut_at = wait_for_checkpoint(tmp_path / "cut", "grpo", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not all(sealed(p) for p in (tmp_path / "cut" / "stages").iterdir())
    again = run(recipe, out=tmp_path / "cut")
    assert trained(again) == trained(whole)
    resumed = next(p for p in (again / "stages").iterdir() if p.name == cut_at)
    assert [r["step"] for r in read_rows(resumed / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert sorted({r["step"] for r in read_rows(resumed / "rollouts.jsonl.zst")}) == [1, 2, 3, 4, 5, 6]
    events = [e["kind"] for e in read_rows(again / "events.jsonl")]
    assert events.count("resumed") == 1


def wait_for_checkpoint(run: Path, kind: str, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = list(run.glob(f"stages/*-{kind}/trainer/checkpoint-*/trainer_state.json"))
        if found:
            return found[0].parent.parent.parent.name
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    raise AssertionError("no checkpoint was written in time")


def test_a_judge_that_was_a_reward_is_refused_even_under_another_name(tiny_model: Path, tmp_path: Path) -> None:
    from temper.ablate import run
    from temper.errors import ProofError

    write(tmp_path, tiny_model)
    (tmp_path / "copy.py").write_text(GRADERS)
    recipe = write(tmp_path, tiny_model, gold=f"{tmp_path / 'copy.py'}:bytes_seen")
    with pytest.raises(ProofError, match="also the reward"):
        run(recipe, out=tmp_path / "run")


def test_an_arm_of_a_run_can_be_proved_by_itself_and_refuses_its_own_reward(recipe: Path, tmp_path: Path) -> None:
    from temper.ablate import run
    from temper.errors import ProofError
    from temper.proof import prove_model
    from temper.train.recipe import Prove

    folder = run(recipe, out=tmp_path / "run")
    judge = f"{tmp_path / 'mine.py'}:judge"
    own = f"{tmp_path / 'mine.py'}:bytes_seen"
    settings = Prove(gold=judge, graders=(own,), limit=4, max_new_tokens=12)
    proved = prove_model(f"{folder}@hybrid", ["harm"], out=tmp_path / "alone", prove=settings, seed=3)
    ours = [r["raw"] for r in read_rows(proved / "evals" / "harm@model" / "rows.jsonl")]
    theirs = [r["raw"] for r in read_rows(folder / "evals" / "harm@hybrid" / "rows.jsonl")]
    assert ours == theirs
    assert "grader:bytes_seen" in read_json(proved / "summary.json")["metrics"]
    with pytest.raises(ProofError, match="is also the reward"):
        prove_model(f"{folder}@hybrid", ["harm"], out=tmp_path / "own", prove=Prove(gold=own, limit=4))


def test_a_loss_that_is_not_a_number_ends_with_one_line_and_keeps_the_rows(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path, tiny_model)
    recipe.write_text(recipe.read_text().replace("lr = 1e-3", "lr = 1e30"))
    done = command("run", str(recipe), "--out", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "the loss became nan" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_rows(next((tmp_path / "run" / "stages").glob("*-sft")) / "metrics.jsonl")


def test_interrupting_leaves_a_resumable_run_and_says_how(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path, tiny_model, steps=50)
    process = subprocess.Popen(
        [sys.executable, "-m", "temper.cli", "run", str(recipe), "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(tmp_path / "run", "grpo", process)  # type: ignore[arg-type]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To go on:  temper run" in said
    assert "Traceback" not in said


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "temper.cli", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("limit = 8", "limt = 8"), 2, "did you mean 'limit'"),
        (('suites = ["harm", "benign"]', 'suites = ["hram"]'), 2, "did you mean 'harm'"),
        (('kind = "sft"', 'kind = "sft"\ndata = "nowhere.jsonl"'), 2, "nowhere.jsonl"),
    ],
)
def test_bad_input_ends_with_one_clear_line_and_its_exit_code(
    recipe: Path, tmp_path: Path, change: tuple[str, str], code: int, message: str
) -> None:
    recipe.write_text(recipe.read_text().replace(*change, 1))
    done = command("run", str(recipe), "--out", str(tmp_path / "run"))
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_events_tell_the_history_of_a_run(recipe: Path, tmp_path: Path) -> None:
    from temper.ablate import run

    folder = run(recipe, out=tmp_path / "run")
    kinds = [json.loads(line)["kind"] for line in (folder / "events.jsonl").read_text().splitlines()]
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
