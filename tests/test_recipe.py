"""A recipe is checked to its last key, and every error says where, what was given, what was wanted, and the nearest name."""

import re
from pathlib import Path

import pytest

from temper.cli.experiment import experiment
from temper.errors import RecipeError
from temper.rewards.adapt import Arc
from temper.rewards.alarms import Alarms
from temper.train.grpo import Grpo
from temper.train.recipe import find_recipe, parse_recipe, read_recipe
from temper.train.sft import Sft

GOOD = {
    "base": "smollm2-135m",
    "stage": [{"kind": "sft"}, {"kind": "grpo", "rewards": {"harm": 1, "format": 0.5}}],
    "arms": {"base": [], "sft": ["sft"], "rl": ["grpo"], "hybrid": ["sft", "grpo"]},
}


def with_(**changes):  # type: ignore[no-untyped-def]
    return {**GOOD, **changes}


def test_the_shipped_recipes_are_valid() -> None:
    distinct = {}  # recipes share stages, and a stage reads its whole data set to be checked
    for path in sorted((Path(__file__).parent.parent / "recipes").glob("*.toml")):
        recipe = read_recipe(path)
        distinct |= {repr(stage): stage for stage in recipe.stages}
        assert recipe.arms
    for stage in distinct.values():
        stage.check()


def test_a_stage_becomes_its_own_frozen_config() -> None:
    recipe = parse_recipe(GOOD)
    assert recipe.stages == (Sft(), Grpo(rewards={"harm": 1.0, "format": 0.5}))


def test_shared_prefixes_are_trained_once_and_parents_first() -> None:
    assert parse_recipe(GOOD).chains() == [("sft",), ("grpo",), ("sft", "grpo")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (with_(bse="x"), r"recipe: unknown key 'bse'; did you mean 'base'"),
        (with_(stage=[{"kind": "sft", "epoch": 2}]), r"stage 1 \(sft\): unknown key 'epoch'; did you mean 'epochs'"),
        (with_(stage=[{"kind": "grp"}]), r"kind = 'grp' is not a stage; did you mean 'grpo'"),
        (with_(stage=[{"data": "cold-start"}]), r"stage 1: no `kind`; wanted one of grpo, harvest, sample, sft"),
        (with_(stage=[{"kind": "sft"}, {"kind": "sft"}]), r"two stages are called 'sft'"),
        (with_(arms={"x": ["sfft"]}), r"arm 'x' uses stage 'sfft', which is not defined; did you mean 'sft'"),
        (with_(arms={"x": "sft"}), r"arm 'x' is 'sft'; wanted a list"),
        (with_(prove={"limits": {"hram": 3}}), r"limits names suite 'hram', which is not asked; did you mean 'harm'"),
        (with_(prove={"suite": ["harm"]}), r"prove: unknown key 'suite'; did you mean 'suites'"),
        (with_(stage=[{"kind": "sft", "epochs": "two"}]), r"stage 1 \(sft\): epochs = 'two'"),
        (with_(stage=[{"kind": "sft", "lr": True}]), r"lr = true; wanted a number"),
        (with_(stage=[{"kind": "grpo", "hacks": "all"}]), r"stage 1 \(grpo\): hacks = 'all': wanted a list$"),
        (with_(seed="7"), r"seed = '7' is a str; wanted int"),
        (with_(arms={"../x": []}), r"arm '\.\./x' becomes part of a folder's name"),
        (with_(prove={"suites": []}), "suites is empty"),
        (with_(prove={"limit": -1}), "a limit is negative"),
        ({"stage": []}, r"no `base`"),
    ],
)
def test_a_wrong_recipe_is_named_by_place_and_nearest_key(table: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(table)


def test_a_missing_recipe_names_the_nearest_file(tmp_path: Path) -> None:
    (tmp_path / "quickstart.toml").write_text("")
    with pytest.raises(RecipeError, match=r"did you mean 'quickstart\.toml'"):
        read_recipe(tmp_path / "quikstart.toml")


def test_a_folder_is_not_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="wanted a TOML file"):
        read_recipe(tmp_path)


def test_a_recipe_that_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('base = "x"\nseed = = 3')
    with pytest.raises(RecipeError, match="line 2"):
        read_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Grpo(group=1), "at least 2"),
        (Grpo(steps=0), "at least 1"),
        (Grpo(micro_batch=12), "multiple of group"),
        (Grpo(rewards={}), "no reward has a weight"),
        (Grpo(rewards={"harm": -1.0}), "negative"),
        (Grpo(adapt=Arc(auditor="harm")), "must be independent"),
        (Grpo(adapt=Arc(auditor="process"), beta=0.0), "wants beta > 0"),
        (Grpo(adapt=Arc()), "auditor is missing"),
        (Grpo(adapt=Arc(auditor="process", channels=("harm", "ovre-refusal"))), "'ovre-refusal' is no reward .*'over-refusal'"),
        (Grpo(adapt=Arc(auditor="process"), rewards={"format": 1.0}), "'learned' is no reward of this stage"),
        (Grpo(adapt=Arc(auditor="process"), resample=1), "resample = 1 with .*take resample = 0"),
        (Grpo(rewards={"learned": 1.0}), r"add \[stage.adapt\]"),
        (Grpo(on_alarm="roll-back"), "needs audits"),
        (Grpo(shift_at=3), "go together"),
        (Grpo(penalty=-1.0), "wanted at least 0"),
        (Grpo(alarms=Alarms(window=0)), "window = 0"),
    ],
)
def test_settings_of_a_grpo_stage_that_contradict_each_other_are_refused(stage: Grpo, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage.check()


def test_a_table_within_a_stage_names_the_nearest_of_its_own_keys() -> None:
    table = {"base": "m", "stage": [{"kind": "grpo", "adapt": {"auditor": "process", "lables": 3}}]}
    with pytest.raises(RecipeError, match=r"stage 1 \(grpo\): adapt: unknown key 'lables'; did you mean 'labels'"):
        parse_recipe(table)
    table["stage"][0]["adapt"] = {"auditor": "process", "labels": 3}  # type: ignore[index]
    [stage] = parse_recipe(table).stages
    assert stage.adapt == Arc(auditor="process", labels=3)  # type: ignore[attr-defined]


def test_the_page_on_the_adaptive_reward_names_every_key() -> None:
    import dataclasses
    import re

    from temper.rewards.adapt import Arc
    from temper.rewards.alarms import Alarms

    page = (Path(__file__).parent.parent / "docs" / "adaptive-reward.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)`", page))
    for kind in (Arc, Alarms):
        assert {f.name for f in dataclasses.fields(kind)} <= named


def test_every_experiment_that_the_command_names_ships_and_can_be_decided():
    named = re.search(r"Shipped: (.*?)\.\n", experiment.__doc__ or "", re.DOTALL)
    experiments = [name.strip() for name in named[1].split(",")] if named else []
    assert len(experiments) == 8
    for name in experiments:
        assert read_recipe(find_recipe(name)).experiment.condition, name


def test_a_name_that_no_shipped_recipe_has_is_an_error_that_names_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"baseline-stf: no recipe.*'baseline-sft'"):
        find_recipe("baseline-stf")
    assert find_recipe(str(tmp_path / "mine.toml")) == tmp_path / "mine.toml"
