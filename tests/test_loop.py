"""Corrections become rows that were asked nowhere else, a recipe trains on them, and only what passes the gate is served."""

import asyncio
import base64
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ops_parts import gateway, policy
from test_serve_export import held
from typer.testing import CliRunner

from temper import loop
from temper.cli.loop import app
from temper.data.read import read, read_dialogues
from temper.errors import ProofError, UsageError
from temper.files import read_json, seal, write_json, write_text
from temper.prove.gate import read_policy
from temper.serve import ids
from temper.serve.export import Item
from temper.train.recipe import parse_recipe, read_recipe
from temper.types import Message

JUDGE = """
from temper import Score

def judge(completions):
    return [Score((len(c.raw) * 7 % 10) / 10) for c in completions]
judge.better = "low"
"""


def item(question: str, answer: str = "so", **changes: Any) -> Item:
    given: dict[str, Any] = {"id": ids.new("hold"), "kind": "review", "response_id": "r", "at": 1.0, "key_id": "local"}
    given |= {"policy": "p", "value": 0.0, "messages": (Message("user", question),), "bad": "bad", "good": answer}
    return Item(**{**given, **changes})


def gathered(monkeypatch: pytest.MonkeyPatch, folder: Path, items: list[Item], **given: Any) -> loop.Gathered:
    monkeypatch.setattr(loop.export, "items", lambda *_, **__: items)

    async def main() -> loop.Gathered:
        async with gateway(folder, policy()) as made:
            return loop.gather(made.store, made.vault, made.keyring, **given)

    return asyncio.run(main())


QUESTIONS = [item(f"how do I mend item number {i} of the {i * 7} that fell off my {i * 13} carts?") for i in range(60)]


def test_what_a_suite_asks_is_not_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = read("benign")[0].prompt
    found = gathered(monkeypatch, tmp_path, [item(asked), item(f"Hello. {asked}"), item("is rye a grass?")], suites=("benign",))
    assert [row["messages"][0]["content"] for row in found.rows] == ["is rye a grass?"]
    assert found.left_out == {"asks what a suite asks": 2}


def test_a_part_of_the_questions_is_held_out_whole_and_stays_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = gathered(monkeypatch, tmp_path, QUESTIONS, suites=())
    assert 4 <= found.splits["dev"] <= 22 and sum(found.splits.values()) == 60
    again = gathered(monkeypatch, tmp_path, [*QUESTIONS[::-1], item("another?")], suites=())
    sides = {row["group"]: row["split"] for row in again.rows}
    assert all(sides[row["group"]] == row["split"] for row in found.rows)


def test_of_two_corrections_of_a_question_the_later_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = gathered(monkeypatch, tmp_path, [item("q?", "first"), item("q?", "second")], suites=())
    assert [row["messages"][-1]["content"] for row in found.rows] == ["second"]
    assert found.left_out == {"corrected again later": 1}


def test_personal_data_stays_out_unless_it_is_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = [item("mail bob.smith@example.org?", "no, alice.smith@example.org")]
    assert "smith" not in str(gathered(monkeypatch, tmp_path, given, suites=()).rows)
    assert "smith" in str(gathered(monkeypatch, tmp_path, given, suites=(), redact=False).rows)


def test_a_plan_is_a_recipe_and_a_gate_that_their_readers_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = gathered(monkeypatch, tmp_path, QUESTIONS, suites=())
    made = read_recipe(loop.plan(tmp_path / "plan", "smollm2-135m", found, limit=60))
    assert made.arms == {"base": (), "corrected": ("corrections",)} and made.prove.limit == 60
    assert len(made.stages[0].examples()) == found.splits["train"]
    assert {d.example.id for d in read_dialogues(str(tmp_path / "plan" / "rows.jsonl"), split="dev")}
    assert [rule.metric for rule in read_policy(tmp_path / "plan" / "gate.toml").rules] == ["unsafe", "over_refusal", "accuracy"]
    with pytest.raises(UsageError, match="has a plan already"):
        loop.plan(tmp_path / "plan", "smollm2-135m", found)


def test_a_plan_quotes_whatever_stands_in_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = gathered(monkeypatch, tmp_path, QUESTIONS, suites=())
    folder = tmp_path / 'a "quoted" \\ folder'
    recipe = loop.plan(folder, 'mo"del', found, suites=("harm",))
    assert tomllib.loads(recipe.read_text())["base"] == 'mo"del'
    assert parse_recipe(tomllib.loads(recipe.read_text())).stages[0].examples()


def test_nothing_to_train_on_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = gathered(monkeypatch, tmp_path, [item("q?", "")], suites=())
    with pytest.raises(UsageError, match="1 left out: no correction"):
        loop.plan(tmp_path / "plan", "m", found)


def a_run(folder: Path, *, trained: bool = True) -> Path:
    stage = {"kind": "sft", "name": "corrections", "arms": ["corrected"]}
    write_json(folder / "run.json", {"arms": {"base": [], "corrected": ["corrections"]}, "stages": {"s1": stage}})
    (folder / "stages" / "s1").mkdir(parents=True)
    if trained:
        seal(folder / "stages" / "s1", {})
    return folder


def decided(monkeypatch: pytest.MonkeyPatch, verdict: str) -> None:
    from temper.prove import finished, gate

    class Made:
        def __init__(self) -> None:
            self.verdict, self.checks, self.evidence = gate.Verdict(verdict), (), None

    monkeypatch.setattr(gate, "decide", lambda *_: Made())
    monkeypatch.setattr(finished, "finished", lambda *_: {})
    monkeypatch.setattr(finished, "together", lambda *_: Made())


@pytest.fixture
def gate_file(tmp_path: Path) -> Path:
    write_text(tmp_path / "gate.toml", '[[rule]]\nmetric = "unsafe"\nmax = 0.1\n')
    return tmp_path / "gate.toml"


def test_only_what_passes_is_promoted_and_the_way_back_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate_file: Path
) -> None:
    models = tmp_path / "models"
    assert loop.serving(models) is None
    for number, verdict in enumerate(["fail", "pass", "inconclusive", "pass"]):
        decided(monkeypatch, verdict)
        assert loop.promote(a_run(tmp_path / f"run{number}"), gate_file, models=models) == verdict
        assert loop.serving(models) == {0: None, 3: f"{tmp_path}/run3@corrected"}.get(number, f"{tmp_path}/run1@corrected")
    assert loop.roll_back(models) == loop.serving(models) == f"{tmp_path}/run1@corrected"
    with pytest.raises(UsageError, match="nothing to roll back to"):
        loop.roll_back(models)
    assert [row["verdict"] for row in loop.history(models)] == ["fail", "pass", "inconclusive", "pass", "rolled back"]
    assert read_json(models / "model.json")["gate"]
    assert "rolled back" in CliRunner().invoke(app, ["history", "--models", str(models)]).output


def test_a_model_that_is_not_trained_to_its_end_is_not_promoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate_file: Path
) -> None:
    decided(monkeypatch, "pass")
    with pytest.raises(ProofError, match="not trained to its end"):
        loop.promote(a_run(tmp_path / "run", trained=False), gate_file, models=tmp_path / "models")
    assert loop.serving(tmp_path / "models") is None and loop.history(tmp_path / "models") == []


@pytest.mark.train
def test_corrections_are_trained_on_proved_gated_and_promoted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way on a tiny random model: from decided holds in a gateway's database to the pointer."""
    pytest.importorskip("torch")

    async def main() -> None:
        async with gateway(tmp_path, policy()) as made:
            held(made, "edited", edit="for six minutes")

    asyncio.run(main())
    monkeypatch.setenv("TEMPER_SECRET", base64.b64encode(bytes(range(32))).decode())
    monkeypatch.setattr(loop, "HELD_OUT", 0.0)
    plan, models = tmp_path / "plan", tmp_path / "models"
    database = ["--database", f"sqlite:///{tmp_path}/temper.db"]
    told = CliRunner().invoke(app, ["plan", str(tiny_model), "--out", str(plan), *database, "--suites", "benign", "--limit", "4"])
    assert told.exit_code == 0 and "1 rows to train on" in told.output, told.output
    write_text(tmp_path / "judge.py", JUDGE)
    recipe = (plan / "recipe.toml").read_text()
    small = recipe.replace("[arms]", "micro_batch = 1\nlora_r = 2\n\n[arms]")
    write_text(plan / "recipe.toml", f'{small}gold = "{tmp_path}/judge.py:judge"\nmax_new_tokens = 8\n')
    write_text(plan / "gate.toml", '[[rule]]\nmetric = "empty"\nmax = 1.0\n')
    told = CliRunner().invoke(app, ["run", str(plan), "--models", str(models)])
    assert told.exit_code == 0, (told.output, told.exception)
    assert loop.serving(models) == f"{plan / 'run'}@corrected"
