"""Base, SFT, RL and hybrid from one recipe: train every arm, ask every arm the same prompts, write what came of it.

The only file where training meets proof. A stage folder is addressed by what went into it, so arms share prefixes, and a run that
was killed continues where it stopped; `DONE` is written last everywhere.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import temper
from temper import catalog, machine
from temper.errors import RecipeError
from temper.files import Row, digest, read_json, read_rows, seal, sealed, storage, write_json, write_text
from temper.meter import Meter
from temper.proof import (
    Run,
    all_suites,
    arm_rows,
    asked_data,
    computing,
    held_out,
    judge_costs,
    load_gold,
    load_graders,
    locked,
    origin,
    overlap,
    proof_costs,
    prove_arm,
    summarised,
    total,
)
from temper.prove.compare import Trained
from temper.prove.evaluate import Panel, check_independence, grader_facts
from temper.prove.gaming import Ablation, Gaming, ablations, gaming
from temper.prove.gap import Gold
from temper.prove.monitorability import change, check_monitor
from temper.prove.variants import check_attacks
from temper.rewards import journal
from temper.rewards.hacks import bank
from temper.rewards.replay import DESIGN
from temper.subject import Asked, local_sampler, result_of
from temper.train.harvest import handed_on
from temper.train.plan import plan_recipe
from temper.train.recipe import Recipe, StageSpec, read_recipe
from temper.train.run import Context, Earlier, Progress, Watch, unwatched
from temper.types import Checkpoint, Example, Named, Suite

# Flagged answers that the ablation test asks a reward about again, for each hack.
MOST_ABLATED = 30


@dataclass(frozen=True, slots=True)
class Chain:
    """A prefix of an arm: its stages, the address of the last one, its folder, and the checkpoint it starts from or made."""

    names: tuple[str, ...]
    address: str
    folder: Path


def run(
    recipe_path: Path, *, out: Path | None = None, seed: int | None = None, command: str = "", watch: Watch = unwatched
) -> Path:
    """Train all arms of a recipe, prove them, and write the report; returns the run folder.

    Running it again continues: sealed stages and stored rows are used as they are. Raises `UsageError` for a bad recipe or data,
    `RunError` for what failed on the way; every finished row is kept.
    """
    recipe = read_recipe(recipe_path)
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    folder = out or Path("runs") / recipe_path.stem
    machine.keep_freed_memory()
    with locked(folder):
        return _run(recipe, recipe_path, Run(folder), command, watch)


def _run(recipe: Recipe, recipe_path: Path, this: Run, command: str, watch: Watch) -> Path:
    from temper.models.resolve import count_parameters, resolve

    suites = all_suites(recipe)
    for stage in recipe.stages:
        stage.check()
    graders = load_graders(recipe)
    gold = load_gold(recipe)
    rewards = [graders[name] for s in recipe.stages for name in s.graders()]
    check_independence({r.name: r.traces for r in rewards}, gold)
    _check_auditors(recipe, graders)
    panel = Panel(tuple(g for g in graders.values() if g.name != gold.name), graders["refusal"], gold, hacks=bank())
    check_attacks(suites, panel, attacker=recipe.prove.attacker, seed=recipe.seed)
    monitor = catalog.grader(recipe.prove.monitor) if recipe.prove.monitor else None
    if monitor is not None:
        check_monitor({r.name: r.traces for r in rewards}, monitor)
    watch(Progress(f"model {recipe.base}", 0, 1))
    source = resolve(recipe.base)
    plan_recipe(replace(recipe, base=str(source.folder))).refuse()
    base = Checkpoint(source.folder)
    chains = address_chains(recipe, this.folder, source.sha256, graders)
    again = (this.folder / "run.json").is_file()  # not its events: a run killed before its facts were written starts afresh
    write_text(this.folder / "recipe.toml", recipe_path.read_text(encoding="utf-8"))
    this.note("resumed" if again else "started", recipe_path.name, command=command)
    this.record(
        **origin(recipe, command, this.folder),
        started=this.facts.get("started", time.time()) if again else time.time(),
        model={"name": source.name, "sha256": source.sha256, "parameters": source.parameters},
        graders={
            **{g.name: grader_facts(g, "reward" if any(g is r for r in rewards) else "monitor") for g in graders.values()},
            gold.name: grader_facts(gold, "gold"),
        },
        data=_data_facts(recipe, suites),
        overlap=overlap(_training_examples(recipe), suites),
        resumed=sum(e["kind"] == "resumed" for e in read_rows(this.folder / "events.jsonl")),
    )
    context = Context(
        recipe.seed, source.parameters, recipe.chat_template, "", graders, gold, watch, base=base, base_sha256=source.sha256
    )
    made: dict[tuple[str, ...], Checkpoint] = {(): base}
    addresses = {(): source.sha256, **{chain.names: chain.address for chain in chains}}
    with computing(this):
        for chain in chains:
            stage = recipe.stage(chain.names[-1])
            size = count_parameters(made[chain.names[:-1]].base)  # a student may be of another size than the base
            known = replace(context, parameters=size, earlier=_earlier(chain, chains, recipe))
            made[chain.names] = train_stage(this, chain, stage, made[chain.names[:-1]], recipe, known)
        for arm, names in recipe.arms.items():
            asked = Asked(addresses[names], partial(local_sampler, made[names], recipe), count_parameters(made[names].base))
            prove_arm(this, arm, asked, recipe, suites, panel, watch)
    this.record(judges=judge_costs([*graders.values(), gold]))
    return finish(this, recipe, chains, suites, panel, monitor)


def finish(
    this: Run, recipe: Recipe, chains: Sequence[Chain], suites: Sequence[Suite], panel: Panel, monitor: Named | None = None
) -> Path:
    """Summary and report from the rows on disk."""
    rows = {arm: arm_rows(this, arm, suites) for arm in recipe.arms}
    gamed = gaming_by_stage(recipe, chains, rows, panel, monitor)
    return summarised(
        this,
        recipe,
        suites,
        rows,
        costs=costs(recipe, chains, this.facts),
        held_out=held_out(_training_examples(recipe), suites),
        trained=_trained(recipe, chains, gamed),
        told={"gaming": {stage: found.as_dict() for stage, found in gamed.items()}} if gamed else {},
    )


def gaming_by_stage(
    recipe: Recipe, chains: Sequence[Chain], rows: Mapping[str, Sequence[Row]], panel: Panel, monitor: Named | None
) -> dict[str, Gaming]:
    """What the journal of each grpo stage tells of gaming, by stage folder; without graded answers of the start there is none."""
    graders = {grader.name: grader for grader in panel.all()}
    gold = catalog.short(recipe.prove.gold)
    found: dict[str, Gaming | None] = {}
    for chain in chains:
        journaled = read_rows(chain.folder / journal.ROLLOUTS)
        if not journaled or journaled[0]["step"] != 0:
            continue
        steps, reference = (read_rows(chain.folder / name) for name in (journal.METRICS, journal.REFERENCE))
        found[chain.folder.name] = gaming(
            journaled,
            steps,
            Gold(gold, graders[gold].better),
            reference=reference,
            ablations=_ablated(journaled, chain.folder, graders),
            monitorability=None if monitor is None else _monitored(recipe, chain, rows, monitor),
        )
    return {stage: measured for stage, measured in found.items() if measured is not None}


def _ablated(rows: Sequence[Row], stage: Path, graders: Mapping[str, Named]) -> tuple[Ablation, ...]:
    """The ablation test by the reward that weighs most, on the last tenth of the steps: was the span there for it?"""
    paid = read_json(stage / DESIGN)["weights"]
    payers = {name: weight for name, weight in paid.items() if name in graders}
    if not payers:
        return ()
    last = [row for row in rows if row["step"] > 0.9 * rows[-1]["step"]]
    return ablations(last, bank(), graders[max(payers, key=lambda name: payers[name])], most=MOST_ABLATED)


def _monitored(recipe: Recipe, chain: Chain, rows: Mapping[str, Sequence[Row]], monitor: Named) -> dict[str, Any] | None:
    """How well the monitor reads the reasoning of the arm that ends with this stage, against the first arm's."""
    first = next(iter(recipe.arms))
    arm = next((arm for arm, names in recipe.arms.items() if names == chain.names and arm != first), None)
    return None if arm is None else change(rows[first], rows[arm], monitor, gold=catalog.short(recipe.prove.gold)).as_dict()


def _trained(recipe: Recipe, chains: Sequence[Chain], gamed: Mapping[str, Gaming]) -> dict[str, Trained]:
    """What training tells of each arm: of its last stage that has something to tell, as chains come shortest first."""
    return {
        arm: gamed[chain.folder.name].trained
        for arm, names in recipe.arms.items()
        for chain in chains
        if names[: len(chain.names)] == chain.names and chain.folder.name in gamed
    }


def train_stage(this: Run, chain: Chain, stage: StageSpec, start: Checkpoint, recipe: Recipe, context: Context) -> Checkpoint:
    """Run one stage, or take it as it is if it is sealed."""
    folder, label = chain.folder, "+".join(chain.names)
    if not sealed(folder):
        meter, before = Meter.start(), _so_far(folder)
        machine.reset_peak()
        folder.mkdir(parents=True, exist_ok=True)
        this.note("stage started", folder.name, arms=_arms_of(recipe, chain))
        try:
            with storage(folder):
                stage.run(start, folder, replace(context, label=f"train {label}"))
        finally:
            write_json(folder / "seconds.json", _added(before, meter.spent().as_dict()))
        work = read_json(folder / "work.json")
        facts = {**work, **_so_far(folder), "peak_memory_bytes": machine.peak_bytes()}
        this.record(stages={folder.name: {"kind": stage.kind, "name": stage.name, "arms": _arms_of(recipe, chain), **facts}})
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        seal(folder, {"address": chain.address, "stage": asdict(stage), **facts})
        this.note("stage sealed", folder.name, **facts)
    elif folder.name not in this.facts.get("stages", {}):
        known = {k: v for k, v in read_json(folder / "DONE").items() if k not in ("address", "stage")}
        this.record(stages={folder.name: {"kind": stage.kind, "name": stage.name, "arms": _arms_of(recipe, chain), **known}})
    if stage.kind == "harvest":
        return handed_on(folder, start, context.base or start)
    if stage.kind == "sample":
        return start
    return result_of(folder, start.base)


def _earlier(chain: Chain, chains: Sequence[Chain], recipe: Recipe) -> tuple[Earlier, ...]:
    """The stages before the last one of a chain, in order."""
    before = [c for c in chains if len(c.names) < len(chain.names) and chain.names[: len(c.names)] == c.names]
    return tuple(Earlier(c.names[-1], c.folder, recipe.stage(c.names[-1]).examples) for c in before)


def _check_auditors(recipe: Recipe, graders: Mapping[str, Named]) -> None:
    """Raise `RecipeError` where the auditor of a stage is one of its rewards, or within one, or has one within it.

    A model that both read with (the Chinese reader of `harm` and `refusal`) is no opinion, and allowed; gold may not even share
    that (`check_independence`).
    """
    for stage in recipe.stages:
        arc = getattr(stage, "adapt", None)
        if arc is None:
            continue
        auditor = graders[arc.auditor]
        for reward in (graders[name] for name in stage.graders() if name != arc.auditor):
            if reward.identity in auditor.traces or not reward.traces.isdisjoint({auditor.identity, auditor.weights}):
                raise RecipeError(
                    f"stage {stage.name!r}: the auditor {auditor.name!r} is also the reward {reward.name!r}, by another name or "
                    "within it; a reward cannot audit itself: choose another auditor"
                )


def address_chains(recipe: Recipe, folder: Path, base: str, graders: Mapping[str, Named]) -> list[Chain]:
    """The folder of every stage that some arm needs, addressed by all that decides its weights."""
    root = digest([base, recipe.chat_template, recipe.seed, temper.__version__])
    addresses: dict[tuple[str, ...], str] = {(): root}
    chains = []
    for names in recipe.chains():
        stage = recipe.stage(names[-1])
        judged = {n: graders[n].identity for n in stage.graders()}
        judged |= {hack.name: catalog.identity(hack.detect) for hack in bank(getattr(stage, "hacks", ()))}
        content = {k: v for k, v in asdict(stage).items() if k != "checkpoint_every"}
        addresses[names] = digest([addresses[names[:-1]], content, stage.fingerprint(), judged])
        chains.append(Chain(names, addresses[names], folder / "stages" / f"{addresses[names]}-{stage.name}"))
    return chains


def costs(recipe: Recipe, chains: Sequence[Chain], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What each arm took: its own stages in full, even where another arm shares them, and its proof."""
    by_names = {c.names: c.folder.name for c in chains}
    result = {}
    for arm, names in recipe.arms.items():
        stages = [facts["stages"][by_names[names[: i + 1]]] for i in range(len(names))]
        proved = proof_costs(facts, arm)
        peaks = [x["peak_memory_bytes"] for x in stages] + [proved["peak_memory_bytes"]]
        result[arm] = {
            "stages": list(names),
            "train_seconds": sum(s["seconds"] for s in stages),
            "train_cpu_seconds": total(s.get("cpu_seconds") for s in stages),
            "train_joules": total(s.get("joules") for s in stages),
            "train_tokens": sum(s["tokens"] for s in stages),
            "train_flops": sum(s["flops"] for s in stages),
            **proved,
            "peak_memory_bytes": max((peak for peak in peaks if peak is not None), default=None),
        }
    return result


def _so_far(folder: Path) -> dict[str, float | None]:
    """What earlier attempts at a stage took; nothing before the first."""
    path = folder / "seconds.json"
    return dict(read_json(path)) if path.is_file() else {"seconds": 0.0, "cpu_seconds": 0.0, "joules": 0.0}


def _added(before: Mapping[str, float | None], now: Mapping[str, float | None]) -> dict[str, float | None]:
    return {unit: total([before.get(unit), value]) for unit, value in now.items()}


def _arms_of(recipe: Recipe, chain: Chain) -> list[str]:
    return [arm for arm, names in recipe.arms.items() if names[: len(chain.names)] == chain.names]


def _data_facts(recipe: Recipe, suites: Sequence[Suite]) -> dict[str, Any]:
    known = {s.source: s.fingerprint() for s in recipe.stages}
    # what a stage makes on the way is written down with that stage
    trained = {source: facts for source, facts in known.items() if "fingerprint" in facts}
    return {**trained, **asked_data(suites)}


def _training_examples(recipe: Recipe) -> list[Example]:
    return [example for stage in recipe.stages for example in stage.examples()]
