"""A stage that adapts: replayed to the bit, resumed to the bit, paused, rolled back and shifted as its recipe says."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from temper.errors import TrainError
from temper.files import append_zst, read_json, read_rows
from temper.types import Completion, Example, Message, Named, Score

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

ARC = {"auditor": "auditor", "labels": 40, "upfront": 16, "refresh_every": 2, "heads": 2, "channels": ("learned",)}
SHAPE = {"steps": 6, "prompts_per_step": 2, "group": 4, "max_new_tokens": 6, "checkpoint_every": 2, "reference": 120}
PLAIN = {"arc": None, "reference": 0, "hacks": ()}


def drawn(completion: Completion, salt: int) -> float:
    """A number in [0, 1) of a text, the same in every process."""
    return sum((salt + i) * ord(ch) for i, ch in enumerate(completion.raw)) % 97 / 97


class Opinion:
    """A grader whose opinion depends on the text alone; it may fail at the nth call, as a killed process would."""

    def __init__(self, salt: int, better: str = "high", fails_at: int = 0) -> None:
        self.salt, self.better, self.fails_at, self.calls = salt, better, fails_at, 0

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise TrainError("cut")
        return [Score(drawn(c, self.salt)) for c in completions]


def examples(word: str, count: int = 6) -> list[Example]:
    kinds = ("harmful", "benign")
    made = [(f"{word}{i}", f"{word} " * (i + 1), kinds[i % 2]) for i in range(count)]
    return [Example(name, (Message("user", text),), tags=frozenset({tag})) for name, text, tag in made]


def train(model: Path, out: Path, *, fails_at: int = 0, arc: Mapping[str, Any] | None = ARC, **settings: Any) -> bytes:
    """Run a `grpo` stage of the tiny model; its final adapter's bytes."""
    from temper.rewards.adapt import Arc
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.train.trainer import train_grpo
    from temper.types import Checkpoint

    rewards = {"paid": 1.0, **({"learned": 1.0} if arc else {})}
    values = {"hacks": ("all",), "temperature": 1.0, "lora_r": 4, "lr": 1e-2, "audits": 2, **SHAPE, **settings}
    stage = Grpo(rewards=rewards, adapt=Arc(**arc) if arc else None, **values)
    graders = {
        "paid": Named("paid", Opinion(1, fails_at=fails_at), "p"),
        "auditor": Named("auditor", lambda cs: [Score(float(drawn(c, 7) > 0.5)) for c in cs], "a"),
    }
    gold = Named("gold", Opinion(5, "low"), "g")
    checkpoint, _ = train_grpo(stage, examples("why"), Checkpoint(model), out, Context(seed=1, graders=graders, gold=gold))
    return (checkpoint.path or out).joinpath("adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage that ran to its end as `train` has it; tests read it."""
    folder = tmp_path_factory.mktemp("whole")
    train(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def fixed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage whose reward does not adapt; tests read it, and copy what they change."""
    folder = tmp_path_factory.mktemp("fixed")
    train(tiny_model, folder, **PLAIN)
    return folder


def adapter(folder: Path) -> bytes:
    return (folder / "checkpoint" / "adapter_model.safetensors").read_bytes()


def test_a_replay_recomputes_every_reward_and_weight_to_the_bit(whole: Path) -> None:
    from temper.rewards.replay import replayed

    found = replayed(whole)
    assert found.differences == ()
    assert (found.steps, found.rows) == (7, 120 + 6 * 8)
    assert found.changes > 0
    rows = read_rows(whole / "rollouts.jsonl.zst")
    # a row that is drawn twice costs one label, so the last step may leave one over
    assert ARC["labels"] - 2 <= sum(r["audit"] is not None for r in rows) <= ARC["labels"]
    assert any(r["learned"] for r in rows if r["step"] > 0)


def test_a_replay_finds_a_reward_that_was_changed_afterwards(fixed: Path, tmp_path: Path) -> None:
    from temper.rewards.replay import replayed

    changed = Path(shutil.copytree(fixed, tmp_path / "changed"))
    assert replayed(changed).differences == ()
    rows = read_rows(changed / "rollouts.jsonl.zst")
    rows[10]["reward"] += 1e-12
    (changed / "rollouts.jsonl.zst").unlink()
    append_zst(changed / "rollouts.jsonl.zst", rows)
    [difference] = replayed(changed).differences
    assert difference.startswith("step 2, row 3: reward is")


def test_a_replay_finds_what_was_cut_off_or_falsified(tiny_model: Path, tmp_path: Path) -> None:
    from temper.files import append_rows
    from temper.rewards.replay import replayed

    train(tiny_model, tmp_path, hacks=(), reference=16, steps=4)

    def told(file: str, change: Any) -> list[str]:
        """What a replay says once the rows of a file are changed, which are put back afterwards."""
        path, append = tmp_path / file, append_zst if file.endswith("zst") else append_rows
        right = path.read_bytes()
        rows = change(read_rows(path))
        path.unlink()
        append(path, rows)
        found = replayed(tmp_path).differences
        path.write_bytes(right)
        return list(found)

    assert replayed(tmp_path).differences == ()
    cut = told("rollouts.jsonl.zst", lambda rows: [r for r in rows if r["step"] < 4])
    assert "the journal has 3 steps and ends at step 3; wanted each step from 1 to 4" in cut
    assert told("rollouts.jsonl.zst", lambda rows: rows[:-1])[0].startswith("step 4, row ")
    figures = {"version": "other", "labels": 0, "multipliers": {}, "penalties": {"x": 1.0}, "reward": 9.0}
    for key, value in figures.items():
        [said] = told("metrics.jsonl", lambda rows, key=key, value=value: [*rows[:-1], {**rows[-1], key: value}])
        assert said.startswith(f"step 4: {key} is ")
    assert all(said.startswith("step 4: ") for said in told("metrics.jsonl", lambda rows: rows[:-1]))
    assert told("metrics.jsonl", lambda rows: rows[:-1])
    [paid] = told("reference.jsonl", lambda rows: [{**rows[0], "rewards": [9.0] * 16}, *rows[1:]])
    assert paid == "step 0: the start's answers are paid otherwise than reference.jsonl says"
    [fewer] = told("reference.jsonl", lambda rows: rows[:-1])
    assert fewer.startswith("reference.jsonl has")


@pytest.mark.parametrize("fails_at", [2, 5, 9])
def test_a_stage_that_was_cut_goes_on_to_the_same_weights_and_the_same_journal(
    whole: Path, tiny_model: Path, tmp_path: Path, fails_at: int
) -> None:
    with pytest.raises(TrainError, match="cut"):
        train(tiny_model, tmp_path, fails_at=fails_at)
    assert train(tiny_model, tmp_path) == adapter(whole)
    for file in ("rollouts.jsonl.zst", "reference.jsonl"):
        assert read_rows(tmp_path / file) == read_rows(whole / file)
    events = [[(e["kind"], e["subject"], e["data"]) for e in read_rows(at / "events.jsonl")] for at in (tmp_path, whole)]
    assert events[0] == events[1]


def test_a_journal_that_was_killed_while_it_was_rewound_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.rewards import journal

    rows = [{"step": step} for step in range(4)]
    append_zst(tmp_path / "rollouts.jsonl.zst", rows)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for where, name in ((Path, "replace"), (Path, "open")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(where, name, killed)
            journal.rewind(tmp_path, 2)
        assert read_rows(tmp_path / "rollouts.jsonl.zst") == rows
    journal.rewind(tmp_path, 2)
    assert read_rows(tmp_path / "rollouts.jsonl.zst") == rows[:3]


@pytest.mark.parametrize(("kept", "said"), [(0, "is empty or missing"), (2, "ends at step 1")])
def test_a_stage_does_not_go_on_with_a_journal_that_ends_before_its_checkpoint(
    tiny_model: Path, tmp_path: Path, kept: int, said: str
) -> None:
    from temper.errors import StorageError

    with pytest.raises(TrainError, match="cut"):
        train(tiny_model, tmp_path, fails_at=7, reference=16)
    rows = [row for row in read_rows(tmp_path / "rollouts.jsonl.zst") if row["step"] < kept]
    (tmp_path / "rollouts.jsonl.zst").unlink()
    append_zst(tmp_path / "rollouts.jsonl.zst", rows)
    with pytest.raises(StorageError, match=f"{said}, but the last checkpoint is of step 2"):
        train(tiny_model, tmp_path, reference=16)


def test_a_checkpoint_is_whole_as_soon_as_it_can_be_resumed_from(
    fixed: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import GRPOTrainer

    from temper.train.trainer import latest

    right = GRPOTrainer._save_checkpoint

    def killed(self: Any, *args: Any) -> None:
        right(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GRPOTrainer, "_save_checkpoint", killed)
        train(tiny_model, tmp_path, **PLAIN)
    assert (latest(tmp_path) or "").endswith("checkpoint-2")
    assert train(tiny_model, tmp_path, **PLAIN) == adapter(fixed)
    work = [read_json(Path(latest(at) or "") / "carried.json") for at in (fixed, tmp_path)]
    assert work[0] == work[1]


def test_the_figures_of_a_step_hold_gap_hacks_weights_and_labels(whole: Path) -> None:
    rows = read_rows(whole / "metrics.jsonl")
    wanted = {
        "gap",
        "gold",
        "proxy",
        "hack_rate",
        "hacks",
        "multipliers",
        "penalties",
        "kappa",
        "labels",
        "kl_sequence",
        "entropy",
    }
    assert wanted <= set(rows[-1])
    assert rows[-1]["proxy"] - rows[-1]["gold"] == pytest.approx(rows[-1]["gap"])
    assert set(rows[-1]["hacks"]) <= set(read_json(whole / "design.json")["hacks"])


def test_the_bank_watches_a_stage_that_fines_nothing(fixed: Path) -> None:
    assert read_json(fixed / "design.json")["hacks"] == {}
    assert "repetition" in read_rows(fixed / "metrics.jsonl")[-1]["hacks"]


def test_an_alarm_pauses_once_and_the_same_command_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    from temper.rewards.alarms import Alarms

    limits = Alarms(window=2, entropy=99.0)
    with pytest.raises(TrainError, match=r"paused at step 2, because entropy.* If you change this stage .* it starts anew"):
        train(tiny_model, tmp_path, alarms=limits, on_alarm="pause")
    train(tiny_model, tmp_path, alarms=limits, on_alarm="pause")
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    alarms = [e["data"] for e in read_rows(tmp_path / "events.jsonl") if e["kind"] == "alarm"]
    assert [(a["step"], a["alarm"]) for a in alarms] == [(2, "entropy")]


def test_a_rollback_restores_the_best_weights_and_doubles_the_kl_term(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from temper.rewards.alarms import Alarms
    from temper.rewards.replay import replayed
    from temper.train import trainer
    from temper.train.course import middle

    seen: list[tuple[int, float]] = []
    right = trainer.snapshot.put_back

    def put_back(model: Any, out: Path, step: int) -> None:
        right(model, out, step)
        kept = trainer.snapshot.load_file(out / trainer.snapshot.FOLDER / f"step-{step}.safetensors")
        now = {name: p for name, p in model.named_parameters() if p.requires_grad}
        seen.append((step, max((now[k] - kept[k]).abs().max().item() for k in kept)))

    monkeypatch.setattr(trainer.snapshot, "put_back", put_back)
    limits = Alarms(window=5, entropy=99.0)
    train(tiny_model, tmp_path, alarms=limits, on_alarm="roll-back")
    rolled = [e for e in read_rows(tmp_path / "events.jsonl") if e["kind"] == "rolled back"]
    assert [(e["subject"], e["data"]["step"]) for e in rolled] == [("alarm", 5)]
    to = rolled[0]["data"]["to"]
    assert seen == [(middle(to, -1, 2), 0.0)]
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["beta_factor"] == 2.0
    assert replayed(tmp_path).differences == ()


def ordered(monkeypatch: pytest.MonkeyPatch, orders: Mapping[int, str]) -> None:
    """Have steps name the best ("best"), roll back ("rolled back"), stop the stage ("stopped") or be killed ("cut")."""
    from temper.rewards import adapt

    right = adapt.advance

    def advance(state: Any, rows: Any, arc: Any, *, step: int, **options: Any) -> Any:
        state, changes = right(state, rows, arc, step=step, **options)
        order = orders.get(step, "")
        if order == "cut":
            raise TrainError("cut")
        state = replace(state, best=adapt.Best(step, 0.1, 0.2, 0.5) if order == "best" else state.best)
        if order in ("rolled back", "stopped"):
            changes = [*changes, adapt.Change(order, "stage", {"to": state.best.step})]
            state = adapt.alarmed(state, step) if order == "rolled back" else state
        return state, changes

    monkeypatch.setattr(adapt, "advance", advance)


def watched(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Any]]:
    """The trained weights that each step of the stages to come samples from, as they are filled in."""
    from temper.train.trainer import TemperTrainer

    seen: dict[int, dict[str, Any]] = {}
    right = TemperTrainer._generate_and_score_completions

    def generate(self: Any, inputs: Any) -> Any:
        seen[self.state.global_step + 1] = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        return right(self, inputs)

    monkeypatch.setattr(TemperTrainer, "_generate_and_score_completions", generate)
    return seen


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_step_of_a_rollback_changes_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered(monkeypatch, {2: "best", 4: "rolled back"})
    seen = watched(monkeypatch)
    train(tiny_model, tmp_path, arc={**ARC, "refresh_every": 1}, hacks=(), reference=16, beta=0.5, steps=6)
    assert not same(seen[4], seen[2])
    assert same(seen[5], seen[2])
    assert not same(seen[6], seen[5])


def test_the_middle_of_a_window_stands_for_it() -> None:
    from temper.train.course import middle

    assert [middle(step, -1, 4) for step in (0, 1, 4, 5, 8)] == [0, 2, 2, 6, 6]
    assert [middle(step, -1, 1) for step in (1, 2)] == [1, 2]
    assert middle(20, -1, 5) == 18
    # a rollback at step 7 leaves the window (7, 8], one at 8 all of the next
    assert (middle(8, 7, 8), middle(5, 5, 8), middle(9, 8, 8)) == (8, 7, 12)


def test_the_weights_that_come_back_are_those_in_the_middle_of_the_best_window(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"arc": {**ARC, "refresh_every": 4}, "hacks": (), "reference": 16, "steps": 13, "checkpoint_every": 3}
    with monkeypatch.context() as patch:
        ordered(patch, {8: "best", 12: "rolled back"})
        seen = watched(patch)
        whole = train(tiny_model, tmp_path / "whole", **shape)
        assert same(seen[13], seen[6])
        assert not same(seen[13], seen[8])
    for cut in (7, 9, 11):
        with monkeypatch.context() as patch, pytest.raises(TrainError, match="cut"):
            ordered(patch, {8: "best", cut: "cut"})
            train(tiny_model, tmp_path / "cut", **shape)
    ordered(monkeypatch, {8: "best", 12: "rolled back"})
    assert train(tiny_model, tmp_path / "cut", **shape) == whole


@pytest.mark.parametrize("stop", [3, 4])
def test_a_stage_that_was_stopped_and_then_killed_ends_with_the_best_weights(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    from temper.train import trainer

    shape = {"arc": {**ARC, "refresh_every": 1}, "hacks": (), "reference": 16}
    ordered(monkeypatch, {2: "best", stop: "stopped"})
    whole = train(tiny_model, tmp_path / "whole", **shape)
    right = trainer.save_final

    def before(*_: Any) -> None:
        raise KeyboardInterrupt

    def after(*given: Any) -> None:
        right(*given)
        raise KeyboardInterrupt

    for killed in (before, after):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(trainer, "save_final", killed)
            train(tiny_model, tmp_path / "cut", **shape)
    assert train(tiny_model, tmp_path / "cut", **shape) == whole
    for folder in ("whole", "cut"):
        assert [row["step"] for row in read_rows(tmp_path / folder / "metrics.jsonl")][-1] == stop


def test_an_alarm_after_two_rollbacks_stops_the_stage_with_the_best_weights(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from temper.rewards.alarms import Alarms
    from temper.rewards.replay import replayed

    limits = Alarms(window=5, entropy=99.0)
    shape = {"hacks": (), "reference": 16, "checkpoint_every": 5, "alarms": limits, "on_alarm": "roll-back"}
    ordered(monkeypatch, {2: "rolled back", 4: "rolled back"})
    seen = watched(monkeypatch)
    train(tiny_model, tmp_path, **shape)
    last = read_rows(tmp_path / "events.jsonl")[-1]
    assert (last["kind"], last["subject"], last["data"]["step"]) == ("stopped", "alarm", 5)
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["step"] == 5
    # a resumed attempt trains no further either
    seen.clear()
    train(tiny_model, tmp_path, **shape)
    assert seen == {}
    assert replayed(tmp_path).differences == ()


def test_an_alarm_without_a_best_is_noted_and_rolls_nothing_back(tiny_model: Path, tmp_path: Path) -> None:
    from temper.rewards.alarms import Alarms

    arc = {**ARC, "labels": 1, "upfront": 0, "refresh_every": 9}
    limits = Alarms(window=2, entropy=99.0, hack_rate=1.0, zero_variance=1.0)
    train(tiny_model, tmp_path, arc=arc, hacks=(), reference=0, alarms=limits, on_alarm="roll-back", steps=3)
    [alarm, noted] = read_rows(tmp_path / "events.jsonl")
    assert alarm["data"]["alarm"] == "entropy"
    assert noted["data"] == {"step": 2, "alarm": "entropy", "not_rolled_back": "no audit has named the best weights"}


def test_prompts_shift_in_the_middle_of_a_stage(tiny_model: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.jsonl"
    lines = [json.dumps({"id": f"new{i}", "prompt": f"new {i}", "tags": ["harmful"], "split": "train"}) for i in range(3)]
    new.write_text("\n".join(lines) + "\n")
    train(tiny_model, tmp_path / "out", shift_at=4, shift_prompts=str(new))
    rows = read_rows(tmp_path / "out" / "rollouts.jsonl.zst")
    shifted = {step: sum(r["id"].startswith("new") for r in rows if r["step"] == step) for step in range(1, 7)}
    assert shifted == {1: 0, 2: 0, 3: 0, 4: 4, 5: 4, 6: 4}
