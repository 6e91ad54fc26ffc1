"""Rollouts that a judge accepts become rows for another SFT stage, each traceable; whatever is left out is counted."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from child import temper, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data.read import read, read_dialogues
from temper.errors import RecipeError, TrainError
from temper.files import append_zst, digest, read_json, read_rows, sealed
from temper.train.harvest import Harvest, Rollout, harvested, unbalanced
from temper.train.plan import plan_recipe
from temper.train.recipe import parse_recipe
from temper.train.run import Context, Earlier
from temper.types import Checkpoint, Completion, Example, Message, Named, Score

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty", "knoll", "lagoon", "quarry")


def text(n: int, length: int = 9) -> str:
    """A sentence that shares next to nothing with that of another number."""
    return " ".join(WORDS[(n * 7 + i * (n % 5 + 1)) % len(WORDS)] + str(n) for i in range(length))


def rollout(n: int, **changes: Any) -> dict[str, Any]:
    """A journal row that nothing speaks against."""
    answer = text(n)
    row = {
        "step": 1,
        "id": f"p{n}",
        "class": "harmful" if n % 2 else "benign",
        "prompt": f"Tell me of {text(n + 100)}",
        "language": "en",
        "reasoning": f"I weigh {n}.",
        "answer": answer,
        "finish": "stop",
        "thought": "closed",
        "raw": f"<think>\nI weigh {n}.\n</think>\n\n{answer}",
        "flags": {"refusal-prefix": 0.0, "repetition": None},
        "learned": None,
        "scores": {"harm": {"value": 0.5}},
        "weights": {"harm": 1.0},
        "penalties": {},
        "reward": 0.5,
        "advantage": 0.0,
    }
    return {**row, **changes}


def fixed(value: float | None, *, low: bool = False, told: dict[str, float | None] | None = None) -> Any:
    """A grader of one opinion, but for the answers in `told`."""

    def grade(completions: Sequence[Completion]) -> list[Score]:
        return [Score((told or {}).get(c.answer, value)) for c in completions]

    grade.better = "low" if low else "high"  # type: ignore[attr-defined]
    return grade


def context(folder: Path, rows: Sequence[dict[str, Any]], examples: Sequence[Example] = (), **graders: Any) -> Context:
    """A run in which a grpo stage wrote these rows, its journal written once."""
    stage = folder / "0123-grpo"
    if not stage.is_dir():
        stage.mkdir(parents=True)
        append_zst(stage / "rollouts.jsonl.zst", rows)
    wanted = {"harm": fixed(0.0, low=True), "refusal": fixed(0.0), "language": fixed(1.0), "verify": fixed(1.0), **graders}
    return Context(
        graders={name: Named(name, grade, name) for name, grade in wanted.items()},
        base=Checkpoint(Path("base")),
        base_sha256="abc",
        earlier=(Earlier("grpo", stage, lambda: list(examples)),),
    )


def harvest(folder: Path, rows: Sequence[dict[str, Any]], stage: Harvest | None = None, **graders: Any) -> list[dict[str, Any]]:
    out = folder / "harvest"
    (stage or Harvest(balance=0)).run(Checkpoint(Path("trained")), out, context(folder, rows, **graders))
    return read_rows(out / "rows.jsonl")


def asked(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(r["lineage"]["prompt"] for r in rows)


def test_a_harvested_row_reads_as_a_dialogue_and_leads_back_to_its_journal_row(tmp_path: Path) -> None:
    rows = [rollout(n, step=n) for n in (1, 2)]
    made = harvest(tmp_path, rows)
    journal = {digest(r): r for r in read_rows(tmp_path / "0123-grpo" / "rollouts.jsonl.zst")}
    dialogues = {d.example.id: d for d in read_dialogues(str(tmp_path / "harvest" / "rows.jsonl"), split="train")}
    assert len(made) == 2
    for row in made:
        came_from = journal[row["lineage"]["row"]]
        assert row["lineage"]["stage"] == "0123-grpo"
        assert row["lineage"]["step"] == came_from["step"]
        assert row["lineage"]["reward"] == 0.5
        assert {k: row["lineage"][k] for k in ("judge", "identity", "safe", "base")} == {
            "judge": "harm",
            "identity": "harm",
            "safe": 1.0,
            "base": "abc",
        }
        dialogue = dialogues[row["id"]]
        assert (dialogue.reasoning, dialogue.answer) == (came_from["reasoning"], came_from["answer"])
        assert dialogue.example.prompt == came_from["prompt"]
        assert came_from["class"] in dialogue.example.tags


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"finish": "length"}, "cut by the token cap"),
        ({"thought": "open", "answer": ""}, "no closed thought"),
        ({"thought": "none", "reasoning": ""}, "no closed thought"),
        ({"reasoning": " \u200b"}, "no closed thought"),
        ({"answer": " \u200b"}, "no answer"),
        ({"answer": "Yes. <think> and more </think> Sure."}, "tags in the text"),
        ({"flags": {"repetition": 1.0}}, "hack seen"),
        ({"reward": None}, "not paid"),
        ({"class": "other"}, "prompt without a class"),
        ({"step": 0}, "of an early step"),
    ],
)
def test_what_no_judge_need_see_is_left_out_and_counted(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    seen = list[str]()

    def judge(completions: Sequence[Completion]) -> list[Score]:
        seen.extend(c.example.id for c in completions)
        return [Score(1.0) for _ in completions]

    made = harvest(tmp_path, [rollout(2), rollout(4, **changes)], harm=judge)
    assert asked(made) == seen == ["p2"]
    assert read_json(tmp_path / "harvest" / "harvest.json")["rejected"] == {reason: 1}


@pytest.mark.parametrize(
    ("grader", "value", "reason"),
    [
        ("harm", 0.2, "unsafe to the judge"),
        ("harm", None, "not graded by judge"),
        ("refusal", 0.5, "refused without need"),
        ("refusal", None, "not graded by refusal"),
        ("language", 0.4, "another language"),
        ("language", None, "not graded by language"),
        ("verify", 0.0, "wrong result"),
        ("verify", None, "not graded by verify"),
    ],
)
def test_what_a_grader_does_not_want_is_left_out_and_counted(
    tmp_path: Path, grader: str, value: float | None, reason: str
) -> None:
    good = {"harm": 0.0, "refusal": 0.0, "language": 1.0, "verify": 1.0}[grader]
    poor = fixed(good, low=grader == "harm", told={text(4): value})
    example = [Example("p4", (Message("user", "What is 2 + 2?"),), target="4", tags=frozenset({"reasoning"}))]
    Harvest(balance=0).run(
        Checkpoint(Path("x")), tmp_path / "harvest", context(tmp_path, [rollout(2), rollout(4)], example, **{grader: poor})
    )
    assert asked(read_rows(tmp_path / "harvest" / "rows.jsonl")) == ["p2"]
    assert read_json(tmp_path / "harvest" / "harvest.json")["rejected"] == {reason: 1}


def test_a_refusal_of_a_harmful_prompt_is_kept(tmp_path: Path) -> None:
    assert asked(harvest(tmp_path, [rollout(1), rollout(2)], refusal=fixed(1.0))) == ["p1"]


def test_a_planted_test_prompt_is_removed_as_prompt_and_as_text_of_an_answer(tmp_path: Path) -> None:
    planted = next(e.prompt for e in read("harm") if len(e.prompt.split()) > 9)
    stage = Harvest(balance=0, avoid=("harm",))
    rows = [rollout(1), rollout(3, prompt=planted.upper()), rollout(5, answer=f"You ask: {planted} {text(5)}")]
    assert asked(harvest(tmp_path, rows, stage)) == ["p1"]
    assert read_json(tmp_path / "harvest" / "harvest.json")["rejected"] == {"stands in the proof": 2}


def test_without_the_suite_the_planted_prompt_would_have_been_kept(tmp_path: Path) -> None:
    planted = next(e.prompt for e in read("harm") if len(e.prompt.split()) > 9)
    assert asked(harvest(tmp_path, [rollout(1), rollout(3, prompt=planted)])) == ["p1", "p3"]


def test_the_best_paid_answer_to_a_prompt_is_kept(tmp_path: Path) -> None:
    rows = [rollout(1, reward=r, answer=text(n), step=n) for n, r in ((1, 0.2), (3, 0.9), (5, 0.4))]
    [made] = harvest(tmp_path, rows)
    assert made["lineage"]["reward"] == 0.9
    assert read_json(tmp_path / "harvest" / "harvest.json")["rejected"] == {"a better answer to its prompt is kept": 2}


def test_a_reward_that_is_larger_because_weights_and_penalties_grew_is_no_better_answer(tmp_path: Path) -> None:
    early = rollout(1, step=1, reward=1.9, penalties={"refusal-prefix": 1.0})
    grown = {"weights": {"harm": 4.0}, "penalties": {"refusal-prefix": 4.0}}
    late = rollout(1, step=9, reward=4 * 0.5 + 4.0, answer=text(3), raw="", **grown)
    [made] = harvest(tmp_path, [early, late])
    assert made["lineage"]["step"] == 1


def test_of_two_dialogues_that_are_almost_alike_the_better_paid_one_is_kept(tmp_path: Path) -> None:
    twin = rollout(1, id="p9", prompt=rollout(1)["prompt"] + "!", reward=0.8)
    assert asked(harvest(tmp_path, [rollout(1), twin, rollout(2)])) == ["p2", "p9"]


def test_an_example_of_the_stage_brings_all_its_fields_and_needs_no_prompt_in_the_row(tmp_path: Path) -> None:
    asks = (Message("system", "Be kind."), Message("user", "How do I sharpen a knife?"))
    known = Example("p2", asks, tags=frozenset({"benign", "category:kitchen"}), source="temper", license="Apache-2.0", group="g")
    old = {k: v for k, v in rollout(2).items() if k not in ("class", "prompt", "language", "raw", "flags")}
    Harvest(balance=0).run(Checkpoint(Path("x")), tmp_path / "harvest", context(tmp_path, [old], [known]))
    [dialogue] = read_dialogues(str(tmp_path / "harvest" / "rows.jsonl"))
    assert (dialogue.example.messages, dialogue.example.tags) == (known.messages, known.tags)
    assert (dialogue.example.license, dialogue.example.group) == ("Apache-2.0", "g")


def test_a_row_of_which_nobody_knows_what_was_asked_is_an_error(tmp_path: Path) -> None:
    old = {k: v for k, v in rollout(2).items() if k != "prompt"}
    with pytest.raises(TrainError, match=r"step 1 answers 'p2'.*no prompt of its stage"):
        harvest(tmp_path, [old])


def test_only_the_last_steps_are_read_where_that_is_asked(tmp_path: Path) -> None:
    rows = [rollout(n, step=n) for n in range(1, 7)]
    assert asked(harvest(tmp_path, rows, Harvest(balance=0, last_steps=2))) == ["p5", "p6"]


def test_nothing_accepted_is_an_error_that_counts_the_reasons(tmp_path: Path) -> None:
    rows = [rollout(1, finish="length"), rollout(3, finish="length"), rollout(2)]
    with pytest.raises(TrainError, match=r"none of 3 rollouts became a row: 2 cut by the token cap, 1 unsafe to the judge"):
        harvest(tmp_path, rows, harm=fixed(0.9, low=True))


def test_every_rollout_is_a_row_or_is_counted_once(tmp_path: Path) -> None:
    rows = [rollout(n, step=n % 4, reward=n % 3 / 3, finish="length" if n % 5 == 0 else "stop") for n in range(30)]
    rows += [rollout(n, answer=text(n + 50)) for n in range(10)]
    made = harvest(tmp_path, rows, Harvest(), refusal=fixed(0.0, told={text(2): 1.0}))
    facts = read_json(tmp_path / "harvest" / "harvest.json")
    assert facts["rollouts"] == 40 == len(made) + sum(facts["rejected"].values())
    assert facts["classes"]["harmful"] == facts["classes"]["benign"]


def test_a_harvest_that_was_cut_asks_about_no_row_again_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    rows = [rollout(n) for n in range(200)]
    calls = list[int]()

    def counting(completions: Sequence[Completion]) -> list[Score]:
        calls.append(len(completions))
        return [Score(1.0) for _ in completions]

    def dying(completions: Sequence[Completion]) -> list[Score]:
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counting(completions)

    harvest(tmp_path / "whole", rows, harm=counting)
    whole, calls[:] = sum(calls), []
    with pytest.raises(KeyboardInterrupt):
        harvest(tmp_path / "cut", rows, harm=dying)
    harvest(tmp_path / "cut", rows, harm=counting)
    assert sum(calls) == whole
    assert (tmp_path / "cut" / "harvest" / "rows.jsonl").read_bytes() == (
        tmp_path / "whole" / "harvest" / "rows.jsonl"
    ).read_bytes()


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.5, 1.0, 2.0]))
def test_the_balance_is_kept_by_leaving_out_the_worst_of_one_side(harmful: int, other: int, balance: float) -> None:
    tags = ["harmful"] * harmful + ["benign"] * other
    found = [
        Rollout("f", 1, {}, str(i), Completion(Example(str(i), (Message("user", "?"),), tags=frozenset({tag})), "a"))
        for i, tag in enumerate(tags)
    ]
    reasons = unbalanced(found, balance)
    left = [f.kind for f, reason in zip(found, reasons, strict=True) if reason is None]
    kept, rest = left.count("harmful"), left.count("benign")
    assert abs(kept - balance * rest) <= max(1.0, balance)
    assert kept == harmful or rest == other, "both sides lost rows"
    first = [r is None for r in reasons[:harmful]]
    assert first == sorted(first, reverse=True)


def test_the_stage_after_it_starts_from_the_base_or_from_the_model_it_was_given(tmp_path: Path) -> None:
    start, rows = Checkpoint(Path("base"), Path("adapter")), [rollout(1)]
    for origin, wanted in (("base", Checkpoint(Path("base"))), ("start", start)):
        stage = Harvest(balance=0, continue_from=origin)  # type: ignore[arg-type]
        assert stage.run(start, tmp_path / origin, context(tmp_path, rows)) == wanted


def recipe(*arm: str, harvest: dict[str, Any] | None = None, data: str = "stage:harvest") -> dict[str, Any]:
    stages = [{"kind": "sft"}, {"kind": "grpo"}, {"kind": "harvest", **(harvest or {})}]
    return {"base": "b", "stage": [*stages, {"kind": "sft", "name": "sft-2", "data": data}], "arms": {"twice": list(arm)}}


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (recipe("sft", "harvest", "sft-2"), r"arm 'twice'.*no grpo or sample stage stands before 'harvest'"),
        (recipe("sft", "grpo", "harvest"), r"ends with 'harvest', which trains nothing; add an sft stage"),
        (recipe("grpo", "sft-2", "harvest", "sft"), r"'sft-2' has data = 'stage:harvest', and no harvest"),
        (recipe("grpo", "harvest", "sft-2", data="stage:harvst"), r"did you mean 'harvest'"),
    ],
)
def test_a_harvest_out_of_place_is_named_before_anything_runs(table: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        parse_recipe(table)


@pytest.mark.parametrize("wrong", [{"least": 1.5}, {"near": 0.0}, {"per_prompt": 0}, {"balance": -1}])
def test_a_setting_out_of_range_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        Harvest(**wrong).check()


def test_a_harvest_keeps_clear_of_the_suites_of_the_proof_and_its_address_depends_on_them() -> None:
    table = recipe("grpo", "harvest", "sft-2", harvest={"avoid": ["reasoning"]})
    parsed = [parse_recipe({**table, "prove": {"suites": suites}}).stage("harvest") for suites in (["harm"], ["harm", "benign"])]
    assert [s.avoid for s in parsed] == [("reasoning", "harm"), ("reasoning", "harm", "benign")]  # type: ignore[attr-defined]
    assert parsed[0].fingerprint() != parsed[1].fingerprint()


def test_harvested_data_is_that_of_the_latest_stage_of_its_name_and_a_wrong_name_is_an_error(tmp_path: Path) -> None:
    earlier = [Earlier("harvest", tmp_path / n, list) for n in ("first", "second")]
    assert harvested("harvest", earlier) == tmp_path / "second" / "rows.jsonl"
    with pytest.raises(RecipeError, match="did you mean 'harvest'"):
        harvested("harvst", earlier)


def test_the_recipe_of_the_docs_is_a_recipe_and_can_be_planned() -> None:
    page = (Path(__file__).parent.parent / "docs" / "harvest.md").read_text()
    parsed = parse_recipe(tomllib.loads(page.partition("```toml\n")[2].partition("```")[0]))
    steps = {s.name: s for s in plan_recipe(parsed).steps}
    assert steps["train sft+grpo+harvest"].tokens == 0
    assert steps["train sft+grpo+harvest+sft-2"].tokens > 0
    assert parsed.stage("sft-2").examples() == []


# --- with a model ------------------------------------------------------------------------------------------------------------

GRADERS = """
from temper import Score

def printable(completions):
    return [Score(sum(ch.isprintable() for ch in c.raw) / max(1, len(c.raw))) for c in completions]

def pleased(completions):
    return [Score(1.0) for _ in completions]

def gold(completions):
    return [Score((len(c.raw) * 7 % 10) / 10) for c in completions]
gold.better = "low"
"""

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
kind = "grpo"
rewards = {{ "{graders}:printable" = 1.0 }}
limit = 8
steps = 3
prompts_per_step = 4
group = 4
max_new_tokens = 120
temperature = 1.5
lora_r = 2
audits = 0
checkpoint_every = 1

[[stage]]
kind = "harvest"
accept = "{graders}:{accept}"
thought = "any"
flagged = true
language = 0.0
refusal = 1.0
balance = 0.0

[[stage]]
kind = "sft"
name = "sft-2"
data = "stage:harvest"
batch = 2
micro_batch = 2
epochs = 2
lora_r = 4
checkpoint_every = 1

[arms]
hybrid = ["sft", "grpo"]
twice = ["sft", "grpo", "harvest", "sft-2"]

[prove]
suites = ["harm"]
gold = "{graders}:gold"
limit = 2
max_new_tokens = 4
"""


def write(folder: Path, base: Path, *, accept: str = "pleased") -> Path:
    graders = folder / "mine.py"
    graders.write_text(GRADERS)
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(base=base, graders=graders, accept=accept))
    return path


def made_by(run: Path, stage: str) -> Path:
    return next(p for p in (run / "stages").iterdir() if p.name.partition("-")[2] == stage)


@pytest.mark.timeout(900)  # a run, one that is killed, and the rest of it
@pytest.mark.train
def test_a_second_round_of_sft_trains_from_the_base_on_what_was_harvested_also_after_a_kill(
    tiny_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from temper.ablate import run

    path = write(tmp_path, tiny_model)
    whole = run(path, out=tmp_path / "whole")
    rollouts = {digest(r) for r in read_rows(made_by(whole, "grpo") / "rollouts.jsonl.zst")}
    rows = read_rows(made_by(whole, "harvest") / "rows.jsonl")
    assert rows
    assert {r["lineage"]["row"] for r in rows} <= rollouts
    assert {r["lineage"]["stage"] for r in rows} == {made_by(whole, "grpo").name}
    facts = read_json(whole / "run.json")["stages"][made_by(whole, "harvest").name]
    assert facts["harvested"] == len(rows) == facts["rollouts"] - sum(facts["rejected"].values())
    # the adapter that came in has rank 2 and would have been trained on
    assert read_json(made_by(whole, "sft-2") / "checkpoint" / "adapter_config.json")["r"] == 4
    assert read_json(whole / "summary.json")["arms"]["twice"]["unsafe"]["n"] == 2
    cut = tmp_path / "cut"
    with temper("run", str(path), "--out", str(cut), said=tmp_path / "said") as process:
        wait_until(lambda: any(p.name.endswith("-harvest") for p in cut.glob("stages/*")), process, tmp_path / "said")
        process.kill()
    assert not all(sealed(p) for p in (cut / "stages").iterdir())
    run(path, out=cut)
    for stage, file in (("harvest", "rows.jsonl"), ("sft-2", "checkpoint/adapter_model.safetensors")):
        assert (made_by(cut, stage) / file).read_bytes() == (made_by(whole, stage) / file).read_bytes()


@pytest.mark.train
def test_the_gold_judge_may_not_choose_what_is_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from temper.ablate import run
    from temper.errors import ProofError

    with pytest.raises(ProofError, match="gold"):
        run(write(tmp_path, tiny_model, accept="gold"), out=tmp_path / "run")
