"""Who is meant by a model's name, and how to ask: a model in this process or in vLLM, an endpoint, an arm of a run.

Rows are the same for all.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from temper.errors import RunError, UnknownName, UsageError, nearest
from temper.files import digest, read_json, sealed
from temper.train.recipe import Prove, Recipe, read_recipe
from temper.types import Checkpoint, Example, Sampler

REMOTE = ("http://", "https://")
VLLM = "vllm:"
CONCURRENCY = 8
SECONDS_PER_TOKEN = 0.2  # of one request on a busy server, at the slowest
# Names of served models that write a thought before every answer.
_THINKERS = re.compile(r"(?<![a-z])(?:r1|qwq|reasoner|reasoning|thinking|magistral)(?![a-z])", re.IGNORECASE)
PROFILES: Mapping[str, Mapping[str, Any]] = {"r1": {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 4096}}
"""Decoding as a family of models is published with; R1's card also wants no system prompt, and none is ever added here."""


def profiled(prove: Prove, name: str) -> Prove:
    """The decoding of a family's profile over one's own settings; "" changes nothing. Raises `UnknownName`."""
    if name and name not in PROFILES:
        raise UnknownName(f"profile {name!r}: no such decoding; {nearest(name, PROFILES)}")
    return replace(prove, **PROFILES[name]) if name else prove


Make = Callable[[Checkpoint, Recipe], Sampler]
"""Brings a checkpoint up to be asked."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is proved: what identifies the weights, how to get a sampler when an answer is missing, and the number of weights.

    `thinks` says that a thought is expected before every answer; `trained` gives the prompts that an arm of a run was trained on,
    none where that is unknown.
    """

    identity: str
    sampler: Callable[[], Sampler]
    parameters: int
    rewards: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    thinks: bool = False
    trained: Callable[[], Sequence[Example]] = tuple


def subject(model: str, recipe: Recipe, *, concurrency: int = CONCURRENCY) -> Asked:
    """Who is meant by a model's name: an endpoint (`http://host/v1#model`), an arm of a run (`runs/x@hybrid`), or a model.

    `vllm:` before a model or an arm samples it with vLLM in this process; an endpoint has `concurrency` requests under way. An
    arm of a run brings along what its rewards were, so that no judge is its own reward. Raises `UsageError`, `ModelError`.
    """
    if model.startswith(REMOTE):
        return _endpoint(model, recipe.prove, concurrency)
    if model.startswith(VLLM):
        asked = _in_process(model.removeprefix(VLLM), recipe, offline_sampler)
        # two engines round otherwise, so their answers are not each other's
        return replace(asked, identity=digest([VLLM, asked.identity]))
    return _in_process(model, recipe, local_sampler)


def _in_process(model: str, recipe: Recipe, make: Make) -> Asked:
    from temper.models.resolve import resolve

    folder, _, arm = model.rpartition("@")
    if folder and (Path(folder) / "run.json").is_file():
        return _arm(Path(folder), arm, recipe, make)
    if (Path(model) / "run.json").is_file():
        arms = list(read_json(Path(model) / "run.json")["arms"])
        raise UsageError(f"{model}: is a run, not a model; name one of its arms, as in {model}@{arms[-1]}: {', '.join(arms)}")
    source = resolve(model)
    sampler = partial(make, Checkpoint(source.folder), recipe)
    return Asked(source.sha256, sampler, source.parameters, sha256=source.sha256, thinks=_thinks(model))


def local_sampler(checkpoint: Checkpoint, recipe: Recipe) -> Sampler:
    """A model on this machine, decoded as the recipe's proof says."""
    from temper.models.load import load
    from temper.models.local import Local

    prove = recipe.prove
    loaded = load(checkpoint, chat_template=recipe.chat_template)
    return Local(loaded, prove.max_new_tokens, prove.temperature, prove.top_p, recipe.seed)


def offline_sampler(checkpoint: Checkpoint, recipe: Recipe) -> Sampler:
    """The same model, decoding and prompts in vLLM's engine, in this process."""
    from temper.models.offline import Offline, start

    prove = recipe.prove
    engine = start(checkpoint, longest=prove.max_new_tokens, chat_template=recipe.chat_template)
    return Offline(engine, prove.max_new_tokens, prove.temperature, prove.top_p, recipe.seed)


def _endpoint(url: str, prove: Prove, concurrency: int) -> Asked:
    from temper.samplers.remote import Remote

    address, _, name = url.partition("#")
    if not name:
        raise UsageError(f"{url}: no model named; write the endpoint as {address}#model-name")
    remote = Remote(
        address,
        name,
        max_tokens=prove.max_new_tokens,
        temperature=prove.temperature,
        top_p=prove.top_p,
        concurrency=concurrency,
        # a thought at its cap takes minutes, and a server that is full lets it wait
        timeout=max(120.0, prove.max_new_tokens * SECONDS_PER_TOKEN),
    )
    return Asked(url, lambda: remote, 0, thinks=_thinks(name))


def _arm(folder: Path, arm: str, recipe: Recipe, make: Make) -> Asked:
    from temper.models.resolve import count_parameters, resolve

    facts = read_json(folder / "run.json")
    if arm not in facts["arms"]:
        raise UsageError(f"{folder} has no arm {arm!r}; its arms are {', '.join(facts['arms'])}")
    source, stages = resolve(facts["model"]["name"]), facts["arms"][arm]
    recipe = replace(recipe, chat_template=recipe.chat_template or facts["recipe"]["chat_template"])
    if not stages:
        return Asked(source.sha256, partial(make, Checkpoint(source.folder), recipe), source.parameters, sha256=source.sha256)
    ends = [n for n, s in facts["stages"].items() if arm in s["arms"] and s["name"] == stages[-1]]
    if not ends or not sealed(folder / "stages" / ends[-1]):
        raise RunError(f"{folder}: arm {arm!r} is not trained to its end; run the recipe again first")
    made = result_of(folder / "stages" / ends[-1], source.folder)
    trained = partial(_trained_on, folder / "recipe.toml", stages)
    rewards = {n: g for n, g in facts["graders"].items() if g["role"] == "reward"}
    sha = digest([source.sha256, ends[-1]])
    return Asked(sha, partial(make, made, recipe), count_parameters(made.base), rewards, sha, trained=trained)


def _trained_on(recipe: Path, stages: Sequence[str]) -> list[Example]:
    """The prompts of an arm's stages, read again from their data. Raises `DataError` if a file of them is gone."""
    return [example for stage in read_recipe(recipe).stages if stage.name in stages for example in stage.examples()]


def _thinks(name: str) -> bool:
    return _THINKERS.search(name) is not None


def result_of(stage: Path, base: Path) -> Checkpoint:
    """What a stage folder holds: an adapter on the weights it was trained on (a student's, or else the base), or all weights."""
    final = stage / "checkpoint"
    config = final / "adapter_config.json"
    if not config.is_file():
        return Checkpoint(final)
    named = Path(str(read_json(config).get("base_model_name_or_path")))
    return Checkpoint(named if (named / "config.json").is_file() else base, final)
