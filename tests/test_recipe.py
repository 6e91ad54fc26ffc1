"""A recipe is checked to its last key, and every error says where, what was given, what was wanted, and the nearest name."""

from pathlib import Path

import pytest

from temper.errors import RecipeError
from temper.train.grpo import Grpo
from temper.train.recipe import parse_recipe, read_recipe
from temper.train.sft import Sft

GOOD = {
    "base": "smollm2-135m",
    "stage": [{"kind": "sft"}, {"kind": "grpo", "rewards": {"harm": 1, "format": 0.5}}],
    "arms": {"base": [], "sft": ["sft"], "rl": ["grpo"], "hybrid": ["sft", "grpo"]},
}


def with_(**changes):  # type: ignore[no-untyped-def]
    return {**GOOD, **changes}


def test_the_shipped_recipes_are_valid() -> None:
    for path in sorted((Path(__file__).parent.parent / "recipes").glob("*.toml")):
        recipe = read_recipe(path)
        assert {"base", "sft", "rl", "hybrid"} <= set(recipe.arms)


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
        (with_(stage=[{"data": "cold-start"}]), r"stage 1: no `kind`; wanted one of grpo, sft"),
        (with_(stage=[{"kind": "sft"}, {"kind": "sft"}]), r"two stages are called 'sft'"),
        (with_(arms={"x": ["sfft"]}), r"arm 'x' uses stage 'sfft', which is not defined; did you mean 'sft'"),
        (with_(arms={"x": "sft"}), r"arm 'x' is 'sft'; wanted a list"),
        (with_(prove={"limits": {"hram": 3}}), r"limits names suite 'hram', which is not asked; did you mean 'harm'"),
        (with_(prove={"suite": ["harm"]}), r"prove: unknown key 'suite'; did you mean 'suites'"),
        (with_(stage=[{"kind": "sft", "epochs": "two"}]), r"stage 1 \(sft\): epochs = 'two'"),
        (with_(stage=[{"kind": "sft", "lr": True}]), r"lr = true; wanted a number"),
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
        (Grpo(adapt="audited"), "go together"),
        (Grpo(adapt="audited", auditor="harm"), "must be independent"),
    ],
)
def test_settings_of_a_grpo_stage_that_contradict_each_other_are_refused(stage: Grpo, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage.check()
