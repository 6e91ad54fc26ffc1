"""A recipe: base model, stages, arms and proof, read from TOML once and checked to the last key. Torch-free."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import temper
from temper import registry
from temper.config import build, known_keys
from temper.errors import RecipeError, UnknownName, nearest
from temper.train.harvest import MADE, Harvest
from temper.train.planned import Experiment, check_experiment
from temper.train.sft import Sft
from temper.types import Checkpoint, Example

if TYPE_CHECKING:
    from temper.train.run import Context


class StageSpec(Protocol):
    """A stage as a recipe states it: a frozen dataclass whose fields are the keys it accepts and whose `run` does the work."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def source(self) -> str:
        """Name of the data it trains on."""

    def check(self) -> None:
        """Raise for settings that contradict each other and for data that is not there, before anything is loaded."""

    def graders(self) -> tuple[str, ...]:
        """Names of the graders it pays with or adapts by."""

    def examples(self) -> list[Example]:
        """The prompts it trains on."""

    def fingerprint(self) -> dict[str, Any]:
        """Number and content hash of its data."""

    def run(self, start: Checkpoint, out: Path, context: "Context") -> Checkpoint:
        """Train from `start` inside `out`, resuming there; the result lies in `out/checkpoint`."""


@dataclass(frozen=True, slots=True)
class Prove:
    """What is measured at the end of every arm.

    `gold` is the judge that never was a reward. `limit` caps the prompts of each suite (0 = all), spread evenly over its file;
    `limits` does so for single suites. `samples` is the number of answers a prompt; temperature 0 is greedy. `standard = false`
    leaves out the graders of natural language that every proof has (harm, language, readability, ...), for a model that does not
    speak any. `monitor` is a grader that reads the reasoning of every arm and took no part in training: whether thoughts still
    tell what answers do is compared before and after (`prove.monitorability`). `rewrites` and `attacks` are what else is done to
    the suites (`prove.rewrite`, `prove.attack`), `grid` the number of cells of a fractional design of rewrites, `attacker` the
    model of attacks that write their own prompts.
    """

    suites: tuple[str, ...] = ("harm", "over-refusal", "benign", "reasoning")
    gold: str = "gold"
    graders: tuple[str, ...] = ()
    standard: bool = True
    monitor: str = ""
    limit: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    rewrites: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    grid: int = 0
    attacker: str = ""
    samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0

    def cap(self, suite: str) -> int:
        """Most prompts of one suite; 0 for all."""
        return self.limits.get(suite, self.limit)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole experiment. `arms` maps an arm's name to the names of its stages, in order; shared prefixes are trained once."""

    base: str
    stages: tuple[StageSpec, ...]
    arms: Mapping[str, tuple[str, ...]]
    prove: Prove = field(default_factory=Prove)
    seed: int = 0
    chat_template: str | None = None
    experiment: Experiment = field(default_factory=Experiment)

    def stage(self, name: str) -> StageSpec:
        return next(s for s in self.stages if s.name == name)

    def chains(self) -> list[tuple[str, ...]]:
        """Every distinct prefix of stages that some arm needs, shortest first, so that parents come before children."""
        prefixes = {names[: i + 1] for names in self.arms.values() for i in range(len(names))}
        return sorted(prefixes, key=lambda p: (len(p), [self._order(n) for n in p]))

    def _order(self, name: str) -> int:
        return [s.name for s in self.stages].index(name)


def shipped() -> dict[str, Path]:
    """The recipes that come with temper, by name: inside an installed package, or beside it in a checkout."""
    package = Path(temper.__file__).parent
    inside = package / "recipes"
    folder = inside if inside.is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(given: str) -> Path:
    """A recipe file by its path or by the name of one that ships. Raises `RecipeError` for a bare name that nothing has."""
    path = Path(given)
    if path.is_file() or path.suffix == ".toml" or path.parent != Path():
        return path
    known = shipped()
    if given not in known:
        raise RecipeError(f"{given}: no recipe of this name ships, and there is no such file; {nearest(given, known)}")
    return known[given]


def read_recipe(path: Path) -> Recipe:
    """Parse and check a recipe file. Raises `RecipeError` naming the place, what was given, what was wanted, the nearest key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in sorted(path.parent.glob("*.toml"))]) if path.parent.is_dir() else ""
        raise RecipeError(f"{path}: no such recipe; {near or 'its folder does not exist either'}") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); wanted a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML ({error})") from None
    return parse_recipe(table, where=str(path))


def parse_recipe(table: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Check a recipe given as a table, in the shape that TOML gives."""
    top = {"base", "seed", "chat_template", "stage", "arms", "prove", "experiment"}
    known_keys(table, top, where)
    if "base" not in table:
        raise RecipeError(f'{where}: no `base`; wanted a model, for example base = "smollm2-135m"')
    stages = tuple(_stage(row, f"{where}: stage {i}") for i, row in enumerate(_tables(table, "stage", where), 1))
    _unique([s.name for s in stages], where)
    arms = _arms(table.get("arms", {}), [s.name for s in stages], where)
    recipe = {"base": table["base"], "seed": table.get("seed", 0), "chat_template": table.get("chat_template")}
    for key, kind in (("base", str), ("seed", int), ("chat_template", (str, type(None)))):
        if not isinstance(recipe[key], kind) or isinstance(recipe[key], bool):
            raise RecipeError(f"{where}: {key} = {recipe[key]!r} is a {type(recipe[key]).__name__}; wanted {_kinds(kind)}")
    prove = build(Prove, table.get("prove", {}), f"{where}: prove")
    _prove_makes_sense(prove, f"{where}: prove")
    _harvests_make_sense(stages, arms, where)
    stages = tuple(_clear_of(stage, prove.suites) for stage in stages)
    for name in prove.limits:
        if name not in prove.suites:
            raise RecipeError(f"{where}: prove: limits names suite {name!r}, which is not asked; {nearest(name, prove.suites)}")
    planned = build(Experiment, table.get("experiment", {}), f"{where}: experiment")
    check_experiment(planned, arms, prove.suites, f"{where}: experiment")
    return Recipe(stages=stages, arms=arms, prove=prove, experiment=planned, **recipe)


def _stage(row: Mapping[str, Any], where: str) -> StageSpec:
    kind = row.get("kind")
    known = registry.names("stage")
    if not isinstance(kind, str):
        raise RecipeError(f'{where}: no `kind`; wanted one of {", ".join(known)}, for example kind = "sft"')
    try:
        spec = registry.find("stage", kind)
    except UnknownName:
        raise RecipeError(f"{where}: kind = {kind!r} is not a stage; {nearest(kind, known)}") from None
    stage: StageSpec = build(spec, {"name": kind, **row}, f"{where} ({kind})")
    return stage


def _arms(table: Any, stages: list[str], where: str) -> dict[str, tuple[str, ...]]:
    if not table:
        return {"base": (), "trained": tuple(stages)} if stages else {"base": ()}
    if not isinstance(table, Mapping):
        raise RecipeError(f'{where}: arms is a {type(table).__name__}; wanted a table such as hybrid = ["sft", "grpo"]')
    for arm, names in table.items():
        if not re.fullmatch(r"[\w.-]+", arm) or arm.startswith("."):
            raise RecipeError(f"{where}: arm {arm!r} becomes part of a folder's name; use letters, digits, - and _")
        if not isinstance(names, list):
            raise RecipeError(f"{where}: arm {arm!r} is {names!r}; wanted a list of stage names, [] for the base model")
        for name in names:
            if name not in stages:
                raise RecipeError(f"{where}: arm {arm!r} uses stage {name!r}, which is not defined; {nearest(str(name), stages)}")
    return {arm: tuple(names) for arm, names in table.items()}


def _harvests_make_sense(stages: tuple[StageSpec, ...], arms: Mapping[str, tuple[str, ...]], where: str) -> None:
    """A harvest needs answers before it and a stage that uses it after it; an sft stage on harvested rows, their harvest."""
    by_name = {s.name: s for s in stages}
    for arm, names in arms.items():
        inside = [by_name[n] for n in names]
        for i, stage in enumerate(inside):
            if isinstance(stage, Harvest):
                _harvest_has_its_place(stage, inside[:i], inside[i + 1 :], f"{where}: arm {arm!r}")
            if isinstance(stage, Sft) and stage.made_by:
                _rows_are_made_before(stage, inside[:i], f"{where}: arm {arm!r}")


def _harvest_has_its_place(stage: Harvest, before: list[StageSpec], after: list[StageSpec], where: str) -> None:
    if not any(s.kind in ("grpo", "sample") for s in before):
        raise RecipeError(f"{where}: no grpo or sample stage stands before {stage.name!r}, which reads their answers")
    if not after:
        add = f'add an sft stage with data = "{MADE}{stage.name}"'
        raise RecipeError(f"{where} ends with {stage.name!r}, which trains nothing; {add}")


def _rows_are_made_before(stage: Sft, before: list[StageSpec], where: str) -> None:
    harvests = [s.name for s in before if isinstance(s, Harvest)]
    if stage.made_by not in harvests:
        raise RecipeError(
            f"{where}: stage {stage.name!r} has data = {stage.data!r}, and no harvest of that name stands before it; "
            f"{nearest(stage.made_by, harvests)}"
        )


def _clear_of(stage: StageSpec, suites: tuple[str, ...]) -> StageSpec:
    """A harvest keeps clear of what the recipe proves, whatever else its `avoid` names."""
    if not isinstance(stage, Harvest):
        return stage
    return dataclasses.replace(stage, avoid=tuple(dict.fromkeys([*stage.avoid, *suites])))


def _prove_makes_sense(prove: Prove, where: str) -> None:
    if not prove.suites:
        raise RecipeError(f"{where}: suites is empty; nothing would be measured")
    if prove.samples < 1 or prove.max_new_tokens < 1:
        raise RecipeError(
            f"{where}: samples = {prove.samples}, max_new_tokens = {prove.max_new_tokens}; wanted at least 1 of each"
        )
    if min([prove.limit, *prove.limits.values()]) < 0:
        raise RecipeError(f"{where}: a limit is negative; wanted the number of prompts, or 0 for all")
    if prove.temperature < 0 or not 0 < prove.top_p <= 1:
        raise RecipeError(f"{where}: temperature = {prove.temperature}, top_p = {prove.top_p}; wanted >= 0 and in (0, 1]")


def _tables(table: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(r, Mapping) for r in rows):
        raise RecipeError(f"{where}: `{key}` must be written as [[{key}]], once for each {key}")
    return rows


def _kinds(kind: type | tuple[type, ...]) -> str:
    return " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))


def _unique(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"{where}: two stages are called {name!r}; give one of them a `name`")
