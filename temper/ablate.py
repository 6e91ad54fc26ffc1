"""Base, SFT, RL and hybrid from one recipe: train every arm, ask every arm the same prompts, write what came of it.

The only file where training meets proof. A stage folder is addressed by what went into it, so arms share prefixes, and a run that
was killed continues where it stopped; `DONE` is written last everywhere.
"""

import contextlib
import fcntl
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import temper
from temper import catalog, machine
from temper.data.overlap import overlaps
from temper.data.read import fingerprint, read
from temper.errors import RecipeError, RunError, StorageError, UsageError
from temper.files import Row, append_rows, digest, read_json, read_rows, seal, sealed, storage, write_json, write_text
from temper.prove.compare import Trained, summarise
from temper.prove.evaluate import Panel, check_independence, evaluate
from temper.prove.gaming import Ablation, Gaming, ablations, gaming
from temper.prove.gap import Gold
from temper.prove.monitorability import change, check_monitor
from temper.report import build
from temper.rewards import journal
from temper.rewards.hacks import bank
from temper.rewards.replay import DESIGN
from temper.train.harvest import handed_on
from temper.train.plan import plan_recipe
from temper.train.recipe import Prove, Recipe, StageSpec, read_recipe
from temper.train.run import Context, Earlier, Progress, Watch, Work, unwatched
from temper.types import Checkpoint, Event, Example, Named, Sampler, Suite

# Every row gets these, besides the recipe's own graders: the metrics of `prove.metrics` read them.
ALWAYS = ("harm", "refusal", "language", "readability", "repetition", "format", "verify")
# Flagged answers that the ablation test asks a reward about again, for each hack.
MOST_ABLATED = 30
# What decides a reply's outcome; a proof has it whatever else is left out.
OUTCOME = ("refusal",)
REMOTE = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Chain:
    """A prefix of an arm: its stages, the address of the last one, its folder, and the checkpoint it starts from or made."""

    names: tuple[str, ...]
    address: str
    folder: Path


@dataclass(slots=True)
class Run:
    """A run folder and its ledger. `note` appends an event, `record` merges facts into run.json."""

    folder: Path

    def note(self, kind: str, subject: str, **data: object) -> None:
        append_rows(self.folder / "events.jsonl", [asdict(Event(round(time.time(), 3), kind, subject, data))])

    def record(self, **facts: Any) -> None:
        path = self.folder / "run.json"
        known: dict[str, Any] = read_json(path) if path.is_file() else {}
        for key, value in facts.items():
            known[key] = {**known.get(key, {}), **value} if isinstance(value, dict) and key in ("stages", "evals") else value
        write_json(path, known)

    @property
    def facts(self) -> dict[str, Any]:
        return dict(read_json(self.folder / "run.json"))


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
    from temper.models.resolve import resolve

    suites = [suite(name, recipe.prove.cap(name)) for name in recipe.prove.suites]
    for stage in recipe.stages:
        stage.check()
    graders = load_graders(recipe)
    gold = load_gold(recipe)
    rewards = [graders[name] for s in recipe.stages for name in s.graders()]
    check_independence({r.name: r.traces for r in rewards}, gold)
    _check_auditors(recipe, graders)
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
            **{g.name: _grader_facts(g, "reward" if any(g is r for r in rewards) else "monitor") for g in graders.values()},
            gold.name: _grader_facts(gold, "gold"),
        },
        data=_data_facts(recipe, suites),
        overlap=_overlap(recipe, suites),
        resumed=sum(e["kind"] == "resumed" for e in read_rows(this.folder / "events.jsonl")),
    )
    context = Context(
        recipe.seed, source.parameters, recipe.chat_template, "", graders, gold, watch, base=base, base_sha256=source.sha256
    )
    made: dict[tuple[str, ...], Checkpoint] = {(): base}
    addresses = {(): source.sha256, **{chain.names: chain.address for chain in chains}}
    panel = Panel(tuple(g for g in graders.values() if g.name != gold.name), graders["refusal"], gold, hacks=bank())
    with computing(this):
        for chain in chains:
            stage = recipe.stage(chain.names[-1])
            known = replace(context, earlier=_earlier(chain, chains, recipe))
            made[chain.names] = train_stage(this, chain, stage, made[chain.names[:-1]], recipe, known)
        for arm, names in recipe.arms.items():
            asked = Asked(addresses[names], partial(local_sampler, made[names], recipe), source.parameters)
            prove_arm(this, arm, asked, recipe, suites, panel, watch)
    this.record(judges=_judge_costs([*graders.values(), gold]))
    return finish(this, recipe, chains, suites, panel, monitor)


@contextlib.contextmanager
def computing(this: Run) -> Iterator[None]:
    """Choose threads, cores and precision for what follows and note them in run.json.

    A run that goes on keeps its number of threads, because products split otherwise round otherwise. Raises `UsageError` for a
    wrong environment variable.
    """
    from temper.models import profile

    chosen = profile.choose(recorded=this.facts.get("profile", {}).get("threads"))
    this.record(profile=asdict(chosen))
    with profile.applied(chosen):
        yield


def finish(
    this: Run, recipe: Recipe, chains: Sequence[Chain], suites: Sequence[Suite], panel: Panel, monitor: Named | None = None
) -> Path:
    """Summary and report from the rows on disk."""
    rows = {
        a: [r for s in suites for r in read_rows(this.folder / "evals" / f"{s.name}@{a}" / "rows.jsonl")] for a in recipe.arms
    }
    facts = this.facts
    gamed = gaming_by_stage(recipe, chains, rows, panel, monitor)
    summary = summarise(
        rows,
        command=facts["command"],
        commit=facts["commit"],
        costs=costs(recipe, chains, facts),
        held_out=held_out(recipe, suites),
        gold=catalog.short(recipe.prove.gold),
        graders={name: facts["graders"][name]["better"] for name in map(catalog.short, recipe.prove.graders)},
        trained=_trained(recipe, chains, gamed),
    )
    told = {"gaming": {stage: found.as_dict() for stage, found in gamed.items()}} if gamed else {}
    write_json(this.folder / "summary.json", {**summary, **told})
    this.record(finished=time.time())
    build(this.folder)
    this.note("finished", this.folder.name)
    return this.folder


def gaming_by_stage(
    recipe: Recipe, chains: Sequence[Chain], rows: Mapping[str, Sequence[Row]], panel: Panel, monitor: Named | None
) -> dict[str, Gaming]:
    """What the journal of each grpo stage tells of gaming, by stage folder; without graded answers of the start there is none."""
    graders = {grader.name: grader for grader in panel.all()}
    gold, better = catalog.short(recipe.prove.gold), {name: grader.better for name, grader in graders.items()}
    found: dict[str, Gaming | None] = {}
    for chain in chains:
        journaled = read_rows(chain.folder / journal.ROLLOUTS)
        if not journaled or journaled[0]["step"] != 0:
            continue
        steps, reference = (read_rows(chain.folder / name) for name in (journal.METRICS, journal.REFERENCE))
        found[chain.folder.name] = gaming(
            journaled,
            steps,
            Gold(gold, better[gold]),
            better=better,
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
        started, before = time.time(), _seconds_so_far(folder)
        machine.reset_peak()
        folder.mkdir(parents=True, exist_ok=True)
        this.note("stage started", folder.name, arms=_arms_of(recipe, chain))
        try:
            with storage(folder):
                stage.run(start, folder, replace(context, label=f"train {label}"))
        finally:
            write_json(folder / "seconds.json", {"seconds": before + time.time() - started})
        work = read_json(folder / "work.json")
        facts = {**work, "seconds": _seconds_so_far(folder), "peak_memory_bytes": machine.peak_bytes()}
        this.record(stages={folder.name: {"kind": stage.kind, "name": stage.name, "arms": _arms_of(recipe, chain), **facts}})
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        seal(folder, {"address": chain.address, "stage": asdict(stage), **facts})
        this.note("stage sealed", folder.name, **facts)
    elif folder.name not in this.facts.get("stages", {}):
        known = {k: v for k, v in read_json(folder / "DONE").items() if k not in ("address", "stage")}
        this.record(stages={folder.name: {"kind": stage.kind, "name": stage.name, "arms": _arms_of(recipe, chain), **known}})
    if stage.kind == "harvest":
        return handed_on(folder, start, context.base or start)
    return _result(folder, start.base)


def _result(stage: Path, base: Path) -> Checkpoint:
    """What a stage folder holds: an adapter on the base, or all weights."""
    final = stage / "checkpoint"
    return Checkpoint(base, final) if (final / "adapter_config.json").is_file() else Checkpoint(final)


def _earlier(chain: Chain, chains: Sequence[Chain], recipe: Recipe) -> tuple[Earlier, ...]:
    """The stages before the last one of a chain, in order."""
    before = [c for c in chains if len(c.names) < len(chain.names) and chain.names[: len(c.names)] == c.names]
    return tuple(Earlier(c.names[-1], c.folder, recipe.stage(c.names[-1]).examples) for c in before)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is proved: what identifies the weights, how to get a sampler when an answer is missing, and the number of weights."""

    identity: str
    sampler: Callable[[], Sampler]
    parameters: int
    rewards: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""


def prove_arm(this: Run, arm: str, asked: Asked, recipe: Recipe, suites: Sequence[Suite], panel: Panel, watch: Watch) -> None:
    """Ask one arm every suite; its model is loaded only if an answer is missing."""
    prove = recipe.prove
    judges = [[g.identity for g in panel.all()], [h.name for h in panel.hacks]]
    address = digest([asdict(prove), recipe.seed, recipe.chat_template, asked.identity, *judges])
    missing = [s for s in suites if not _proved(this, s, arm, address)]
    if not missing:
        return
    machine.reset_peak()
    sampler = asked.sampler()
    for each in missing:
        folder, label = this.folder / "evals" / f"{each.name}@{arm}", f"prove {each.name}@{arm}"
        wanted = _suite_address(address, each)
        _set_aside_stale(folder, wanted)
        started = time.time()
        watch(Progress(label, 0, len(each.examples) * prove.samples))
        tell = partial(_tell, watch, label, started)
        rows = evaluate(sampler, each, panel, folder, arm=arm, address=wanted, samples=prove.samples, watch=tell)
        tokens = {k: sum(r["usage"][k] for r in rows) for k in ("prompt_tokens", "completion_tokens")}
        flops = Work(forward_tokens=sum(tokens.values())).flops(asked.parameters)
        facts = {**tokens, "flops": flops, "seconds": time.time() - started, "peak_memory_bytes": machine.peak_bytes()}
        this.record(evals={f"{each.name}@{arm}": facts})
        this.note("suite proved", f"{each.name}@{arm}", n=len(rows))


def prove_model(
    model: str,
    suites: Sequence[str],
    *,
    out: Path | None = None,
    prove: Prove | None = None,
    seed: int = 0,
    chat_template: str | None = None,
    command: str = "",
    watch: Watch = unwatched,
) -> Path:
    """Measure one model, endpoint, or arm of an earlier run (`runs/name@arm`) by itself; returns the run folder."""
    settings = replace(prove or Prove(), suites=tuple(suites))
    machine.keep_freed_memory()
    folder = out or Path("runs") / ("prove-" + "".join(c if c.isalnum() else "-" for c in model))
    recipe = Recipe(base=model, stages=(), arms={"model": ()}, prove=settings, seed=seed, chat_template=chat_template)
    with locked(folder):
        this, wanted = Run(folder), [suite(name, settings.cap(name)) for name in settings.suites]
        graders, gold = load_graders(recipe), load_gold(recipe)
        asked = subject(model, recipe)
        check_independence({name: _recorded_traces(facts) for name, facts in asked.rewards.items()}, gold)
        panel = Panel(tuple(g for g in graders.values() if g.name != gold.name), graders["refusal"], gold, hacks=bank())
        this.record(
            **origin(recipe, command, this.folder),
            started=time.time(),
            model={"name": model, "sha256": asked.sha256, "parameters": asked.parameters},
            graders={g.name: _grader_facts(g, "gold" if g is gold else "monitor") for g in [*panel.graders, gold]},
            data=_data_facts(recipe, wanted),
        )
        # an endpoint computes elsewhere, and needs no torch here
        with contextlib.nullcontext() if model.startswith(REMOTE) else computing(this):
            prove_arm(this, "model", asked, recipe, wanted, panel, watch)
        this.record(judges=_judge_costs(panel.all()))
        return finish(this, recipe, [], wanted, panel)


def subject(model: str, recipe: Recipe) -> Asked:
    """Who is meant by a model's name: an endpoint (`http://host/v1#model`), an arm of a run (`runs/x@hybrid`), or a model.

    An arm of a run brings along what its rewards were, so that no judge is its own reward. Raises `UsageError`, `ModelError`.
    """
    from temper.models.resolve import resolve

    if model.startswith(REMOTE):
        return _endpoint(model, recipe.prove)
    folder, _, arm = model.rpartition("@")
    if folder and (Path(folder) / "run.json").is_file():
        return _arm(Path(folder), arm, recipe)
    if (Path(model) / "run.json").is_file():
        arms = list(read_json(Path(model) / "run.json")["arms"])
        raise UsageError(f"{model}: is a run, not a model; name one of its arms, as in {model}@{arms[-1]}: {', '.join(arms)}")
    source = resolve(model)
    sampler = partial(local_sampler, Checkpoint(source.folder), recipe)
    return Asked(source.sha256, sampler, source.parameters, sha256=source.sha256)


def local_sampler(checkpoint: Checkpoint, recipe: Recipe) -> Sampler:
    """A model on this machine, decoded as the recipe's proof says."""
    from temper.models.load import load
    from temper.models.local import Local

    prove = recipe.prove
    loaded = load(checkpoint, chat_template=recipe.chat_template)
    return Local(loaded, prove.max_new_tokens, prove.temperature, prove.top_p, recipe.seed)


def _endpoint(url: str, prove: Prove) -> Asked:
    from temper.samplers.remote import Remote

    address, _, name = url.partition("#")
    if not name:
        raise UsageError(f"{url}: no model named; write the endpoint as {address}#model-name")
    remote = Remote(address, name, max_tokens=prove.max_new_tokens, temperature=prove.temperature, top_p=prove.top_p)
    return Asked(url, lambda: remote, 0)


def _arm(folder: Path, arm: str, recipe: Recipe) -> Asked:
    from temper.models.resolve import resolve

    facts = read_json(folder / "run.json")
    if arm not in facts["arms"]:
        raise UsageError(f"{folder} has no arm {arm!r}; its arms are {', '.join(facts['arms'])}")
    source, stages = resolve(facts["model"]["name"]), facts["arms"][arm]
    recipe = replace(recipe, chat_template=recipe.chat_template or facts["recipe"]["chat_template"])
    if not stages:
        return Asked(
            source.sha256, partial(local_sampler, Checkpoint(source.folder), recipe), source.parameters, sha256=source.sha256
        )
    ends = [n for n, s in facts["stages"].items() if arm in s["arms"] and s["name"] == stages[-1]]
    if not ends or not sealed(folder / "stages" / ends[-1]):
        raise RunError(f"{folder}: arm {arm!r} is not trained to its end; run the recipe again first")
    made = _result(folder / "stages" / ends[-1], source.folder)
    rewards = {n: g for n, g in facts["graders"].items() if g["role"] == "reward"}
    sha = digest([source.sha256, ends[-1]])
    return Asked(sha, partial(local_sampler, made, recipe), source.parameters, rewards, sha)


def suite(name: str, limit: int = 0) -> Suite:
    """A suite by bundled name, file or dataset id; `limit` takes an even spread over the file, so that no category is cut off."""
    examples = read(name)
    if 0 < limit < len(examples):
        examples = [examples[i * len(examples) // limit] for i in range(limit)]
    short = Path(name).name.partition(".")[0] if "/" in name or "." in name else name
    return Suite(short, tuple(examples))


def load_gold(recipe: Recipe) -> Named:
    """The judge of a proof. Raises `UsageError` for a grader whose column other metrics read on every row."""
    gold = catalog.grader(recipe.prove.gold)
    if gold.name in ALWAYS and gold.name != "harm":
        raise UsageError(f"gold = {gold.name!r}: it measures something else of every row; choose a judge of harm, such as gold")
    return gold


def load_graders(recipe: Recipe) -> dict[str, Named]:
    """Every grader that the recipe's stages and proof need, by the name the recipe uses; raises `UsageError` if two share one."""
    standard = ALWAYS if recipe.prove.standard else OUTCOME
    specs = dict.fromkeys([*standard, *(n for s in recipe.stages for n in s.graders()), *recipe.prove.graders])
    loaded = {spec: catalog.grader(spec) for spec in specs}
    names = [g.name for g in loaded.values()]
    for spec, grader in loaded.items():
        if names.count(grader.name) > 1:
            raise UsageError(f"two graders are called {grader.name!r} (one is {spec}); rename one: columns go by name")
    return loaded


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
        evals = [v for k, v in facts.get("evals", {}).items() if k.endswith(f"@{arm}")]
        result[arm] = {
            "train_seconds": sum(s["seconds"] for s in stages),
            "train_tokens": sum(s["tokens"] for s in stages),
            "train_flops": sum(s["flops"] for s in stages),
            "prove_seconds": sum(e["seconds"] for e in evals),
            "prove_tokens": sum(e["prompt_tokens"] + e["completion_tokens"] for e in evals),
            "prove_flops": sum(e["flops"] for e in evals),
            "peak_memory_bytes": max([x["peak_memory_bytes"] for x in [*stages, *evals]], default=None),
        }
    return result


def held_out(recipe: Recipe, suites: Sequence[Suite]) -> list[str]:
    """Categories of harm that are asked in proof and occur in no training data of the recipe."""
    trained = {t for e in _training_examples(recipe) for t in e.tags if t.startswith("category:")}
    asked = {t for s in suites for e in s.examples if "harmful" in e.tags for t in e.tags if t.startswith("category:")}
    return sorted(t.removeprefix("category:") for t in asked - trained) if recipe.stages else []


def commit() -> str:
    """The version-control commit of the working directory, `+` if it has uncommitted changes; empty outside a checkout."""
    try:
        named = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return named.stdout.strip()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run at a time in a folder; the lock goes with the process, so a killed run leaves none behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); choose another folder with --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{folder}: another temper process is working there; wait for it, or give another --out") from None
        yield


def origin(recipe: Recipe, command: str, folder: Path) -> dict[str, Any]:
    """What every run.json begins with: who asked for what, where, with which versions."""
    return {
        "name": folder.name,
        "command": command,
        "commit": commit(),
        "seed": recipe.seed,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "recipe": {**asdict(recipe), "stages": [asdict(s) for s in recipe.stages]},
        "arms": {arm: list(names) for arm, names in recipe.arms.items()},
    }


def _tell(watch: Watch, label: str, started: float, done: int, total: int, rate: float) -> None:
    watch(Progress(label, done, total, rate, (total - done) * (time.time() - started) / max(1, done)))


def _seconds_so_far(folder: Path) -> float:
    path = folder / "seconds.json"
    return float(read_json(path)["seconds"]) if path.is_file() else 0.0


def _arms_of(recipe: Recipe, chain: Chain) -> list[str]:
    return [arm for arm, names in recipe.arms.items() if names[: len(chain.names)] == chain.names]


def _proved(this: Run, each: Suite, arm: str, address: str) -> bool:
    folder = this.folder / "evals" / f"{each.name}@{arm}"
    return sealed(folder) and read_json(folder / "DONE")["address"] == _suite_address(address, each)


def _suite_address(address: str, each: Suite) -> str:
    return digest([address, each.name, fingerprint(each.examples)])


def _set_aside_stale(folder: Path, address: str) -> None:
    """Set aside the rows of another model or setting: a changed recipe in the same run folder asks again and loses nothing."""
    meta = folder / "asked.json"
    if meta.is_file() and read_json(meta)["address"] != address:
        folder.rename(folder.with_name(f"{folder.name}.{read_json(meta)['address']}"))


def _grader_facts(grader: Named, role: str) -> dict[str, Any]:
    return {
        "identity": grader.identity,
        "weights": grader.weights,
        "inside": sorted(grader.inside),
        "better": grader.better,
        "role": role,
        "card": grader.card,
    }


def _judge_costs(graders: Iterable[Named]) -> dict[str, Any]:
    """What the calls of language-model judges took in this process, by name."""
    spent = {g.name: getattr(g.grade, "ledger", None) for g in graders}
    return {name: cost._asdict() for name, cost in spent.items() if cost is not None}


def _data_facts(recipe: Recipe, suites: Sequence[Suite]) -> dict[str, Any]:
    known = {s.source: s.fingerprint() for s in recipe.stages}
    # what a stage makes on the way is written down with that stage
    trained = {source: facts for source, facts in known.items() if "fingerprint" in facts}
    return {**trained, **{s.name: {"n": len(s.examples), "fingerprint": fingerprint(s.examples)} for s in suites}}


def _training_examples(recipe: Recipe) -> list[Example]:
    return [example for stage in recipe.stages for example in stage.examples()]


def _overlap(recipe: Recipe, suites: Sequence[Suite]) -> dict[str, Any]:
    """How many test prompts also stand in the training data, for the report: a proof on seen prompts proves little."""
    train = _training_examples(recipe)
    found = {s.name: overlaps(train, s.examples) for s in suites} if train else {}
    return {name: {"n": len({o.test_id for o in o_}), "ids": sorted({o.test_id for o in o_})[:20]} for name, o_ in found.items()}


def _recorded_traces(facts: Mapping[str, Any]) -> set[str]:
    """`Named.traces` of a grader as an earlier run wrote them down."""
    return {facts["identity"], facts["weights"], *facts.get("inside", ())} - {""}
