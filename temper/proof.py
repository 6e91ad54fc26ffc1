"""Who is asked, by whom graded, and what is written: the proof of any model, endpoint or arm, in a run folder.

`ablate` proves every arm of a recipe with it, `temper prove` one model. Rows on disk come first; summary and report are made
from them alone.
"""

import contextlib
import fcntl
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from temper import catalog, machine
from temper.data.overlap import overlaps
from temper.data.read import fingerprint, read
from temper.errors import ProofError, RunError, StorageError, UsageError
from temper.files import SEAL, Row, append_rows, digest, read_json, read_rows, sealed, slug, write_json
from temper.meter import Meter
from temper.prove import posix
from temper.prove.compare import Trained
from temper.prove.evaluate import ASKED, ROWS, Panel, ask_again, check_independence, evaluate, grader_facts, regrade
from temper.prove.evidence import Evidence
from temper.prove.preflight import PROBED, preflight
from temper.prove.signatures import signatures
from temper.prove.suites import load
from temper.prove.summary import summarise
from temper.prove.variants import check_attacks, through, variants
from temper.report import build
from temper.rewards.hacks import bank
from temper.samplers.replay import restored
from temper.subject import CONCURRENCY, REMOTE, Asked, subject
from temper.train.recipe import Prove, Recipe
from temper.train.run import Progress, Watch, Work, unwatched
from temper.types import Completion, Event, Example, Named, Suite

if TYPE_CHECKING:
    from temper.serve.guard import Guard

# Every row gets these, besides the recipe's own graders: the metrics of `prove.metrics` read them.
ALWAYS = ("harm", "refusal", "language", "readability", "repetition", "format", "verify", "process")
# What decides a reply's outcome; a proof has it whatever else is left out.
OUTCOME = ("refusal",)
GUARDED = "model+guard"
"""The arm of a model behind a guard."""


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


def prove_arm(
    this: Run,
    arm: str,
    asked: Asked,
    recipe: Recipe,
    suites: Sequence[Suite],
    panel: Panel,
    watch: Watch,
    *,
    least_closed: float = 0.0,
    retry_errors: bool = False,
) -> None:
    """Ask one arm every suite; its model is loaded only if an answer is missing. New graders grade stored answers.

    `retry_errors` asks again where nothing came. The first prompts are a probe: see `prove.preflight` for `least_closed`.
    """
    prove = recipe.prove
    decoding = [prove.samples, prove.max_new_tokens, prove.temperature, prove.top_p, prove.attacker]
    address = digest([decoding, recipe.seed, recipe.chat_template, asked.identity])
    _bring_up(this, arm, address, suites, panel, retry_errors=retry_errors)
    missing = [s for s in suites if not _proved(this, s, arm, address)]
    crossed = digest([_suite_address(address, s) for s in suites])
    if not missing and (not prove.grid or posix.stored(_crossed(this, arm), crossed)):
        return
    machine.reset_peak()
    sampler = asked.sampler()
    for number, each in enumerate(missing):
        folder, label = _folder(this, each, arm), f"prove {each.name}@{arm}"
        wanted = _suite_address(address, each)
        started, meter, judged = time.time(), Meter.start(), judge_costs(panel.all())
        watch(Progress(label, 0, len(each.examples) * prove.samples))
        ask = partial(
            evaluate,
            through(each, sampler, panel, attacker=prove.attacker, seed=recipe.seed),
            each,
            panel,
            folder,
            arm=arm,
            address=wanted,
            samples=prove.samples,
        )
        if number == 0 and not each.how:
            _probe(this, arm, wanted, ask, asked, least_closed, partial(_alarm, watch, label))
        rows = ask(watch=partial(_tell, watch, label, started))
        tokens = {k: total(_counted(r, k) for r in rows) for k in ("prompt_tokens", "completion_tokens")}
        tokens["earlier_tokens"] = sum(map(_earlier_tokens, rows))
        whole = total(tokens.values())
        flops = None if whole is None else Work(forward_tokens=int(whole)).flops(asked.parameters)
        errors = sum(r["finish"] == "error" for r in rows)
        facts = {
            **tokens,
            "flops": flops,
            **meter.spent().as_dict(),
            "peak_memory_bytes": machine.peak_bytes(),
            "judges": _since(judged, judge_costs(panel.all())),
        }
        this.record(evals={f"{each.name}@{arm}": facts})
        this.note("suite proved", f"{each.name}@{arm}", n=len(rows), errors=errors)
    if prove.grid:
        posix.store(_crossed(this, arm), sampler, suites, arm_rows(this, arm, suites), address=crossed)


def _counted(row: Row, kind: str) -> int | None:
    """Tokens of one row, None where the endpoint counted none; a reply that never came took none."""
    if row["usage"] is None:
        return 0 if row["finish"] == "error" else None
    return int(row["usage"][kind])


def _earlier_tokens(row: Row) -> int:
    """What the target took for a row besides its last reply: earlier turns, and the other queries of an attack that searches."""
    facts, usage = row.get("facts") or {}, row["usage"] or {}
    attack = facts.get("attack")
    searched = attack.get("target_tokens") if isinstance(attack, Mapping) else None
    if searched is not None:
        return max(0, int(searched) - int(usage.get("prompt_tokens", 0)) - int(usage.get("completion_tokens", 0)))
    return int(facts.get("earlier_tokens") or 0)


def _since(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What judges took between two readings of their ledgers; a price nobody knows stays unknown."""
    return {
        name: {k: None if v is None else v - (before.get(name, {}).get(k) or 0) for k, v in spent.items()}
        for name, spent in after.items()
    }


def _crossed(this: Run, arm: str) -> Path:
    return this.folder / "evals" / f"posix@{arm}"


def _bring_up(this: Run, arm: str, address: str, suites: Sequence[Suite], panel: Panel, *, retry_errors: bool) -> None:
    """Stored answers of this address get the opinions of today's panel; where nothing came, they are asked for if wanted."""
    for each in suites:
        folder = _folder(this, each, arm)
        _bring_back(folder, _suite_address(address, each))
        if not _holds(folder, _suite_address(address, each)):
            continue
        if graded := regrade(folder, panel):
            this.note("graded again", f"{each.name}@{arm}", n=graded)
        if retry_errors and (failed := ask_again(folder)):
            this.note("errors asked again", f"{each.name}@{arm}", n=failed)


def _probe(
    this: Run, arm: str, address: str, ask: Callable[..., list[Row]], asked: Asked, least: float, alarm: Callable[[str], None]
) -> None:
    """Ask the first prompts alone, once an address, and say what they show before the rest is paid for."""
    known = this.facts.get("preflight", {})
    if known.get(arm, {}).get("address") == address:
        return
    found = preflight(ask(first=PROBED), expected=asked.thinks)
    this.record(preflight={**known, arm: {"address": address, **found.as_dict()}})
    for said in found.warnings():
        alarm(said)
    found.check(least)


def _alarm(watch: Watch, label: str, said: str) -> None:
    watch(Progress(label, PROBED, PROBED, alarm=said))


def prove_model(
    model: str,
    suites: Sequence[str],
    *,
    out: Path | None = None,
    prove: Prove | None = None,
    seed: int = 0,
    chat_template: str | None = None,
    concurrency: int = CONCURRENCY,
    least_closed: float = 0.0,
    retry_errors: bool = False,
    guard: str = "",
    alone: str = "",
    command: str = "",
    watch: Watch = unwatched,
) -> Path:
    """Measure one model, endpoint, or arm of an earlier run (`runs/name@arm`) by itself; returns the run folder.

    An endpoint has `concurrency` requests under way all the time. `least_closed` is the share of thoughts that must close in the
    first prompts (0 only warns), `retry_errors` asks again where nothing came. Raises `ProofError`, `ModelError`; rows are kept.

    `guard`, a policy's name or file, adds the arm `model+guard`: the same answers behind that policy. `alone` is for a model that
    is a guarded gateway already: who is behind it, asked without it, is then the arm `model`. Raises `UsageError` for both.
    """
    settings = replace(prove or Prove(), suites=tuple(suites))
    machine.keep_freed_memory()
    before = Path("runs") / ("prove-" + "".join(c if c.isalnum() else "-" for c in model))  # as it was named until 2026-11-22
    folder = out or (before if before.is_dir() else Path("runs") / f"prove-{slug(model)}")
    if guard and alone:
        raise UsageError(
            "guard and alone: either a model's answers are put behind a policy, or a gateway is asked beside its model"
        )
    if alone and not model.startswith(REMOTE):
        raise UsageError(f"alone: {model} is no gateway; wanted its URL first, as in http://gateway/v1#model --alone {alone}")
    arms: dict[str, tuple[str, ...]] = {"model": (), GUARDED: ()} if guard or alone else {"model": ()}
    recipe = Recipe(base=model, stages=(), arms=arms, prove=settings, seed=seed, chat_template=chat_template)
    with locked(folder):
        this, wanted = Run(folder), all_suites(recipe)
        behind = policed(guard) if guard else None
        graders, gold = load_graders(recipe), load_gold(recipe)
        asked = subject(alone or model, recipe, concurrency=concurrency)
        check_independence({name: recorded_traces(facts) for name, facts in asked.rewards.items()}, gold)
        if behind is not None:
            _check_judge(behind, gold)
        panel = Panel(tuple(g for g in graders.values() if g.name != gold.name), graders["refusal"], gold, hacks=bank())
        check_attacks(wanted, panel, attacker=settings.attacker, seed=seed)
        this.record(
            **origin(recipe, command, this.folder),
            started=time.time(),
            model={"name": model, "sha256": asked.sha256, "parameters": asked.parameters},
            graders={g.name: grader_facts(g, "gold" if g is gold else "monitor") for g in [*panel.graders, gold]},
            data=asked_data(wanted),
            rewards=dict(asked.rewards),
            overlap=overlap(trained := asked.trained(), wanted),
        )
        # an endpoint computes elsewhere, and needs no torch here
        with contextlib.nullcontext() if (alone or model).startswith(REMOTE) else computing(this):
            prove_arm(this, "model", asked, recipe, wanted, panel, watch, least_closed=least_closed, retry_errors=retry_errors)
            if behind is not None:
                this.record(guard={"policy": behind.policy.name, "version": behind.policy.version})
                guard_arm(this, behind, asked, recipe, wanted, panel, watch)
            if alone:
                gateway = subject(model, recipe, concurrency=concurrency)
                prove_arm(this, GUARDED, gateway, recipe, wanted, panel, watch, retry_errors=retry_errors)
        this.record(judges=judge_costs(panel.all()))
        rows = {arm: arm_rows(this, arm, wanted) for arm in arms}
        costs = {arm: proof_costs(this.facts, arm) for arm in arms}
        return summarised(this, recipe, wanted, rows, costs=costs, held_out=held_out(trained, wanted))


def guard_arm(
    this: Run, guard: "Guard", asked: Asked, recipe: Recipe, suites: Sequence[Suite], panel: Panel, watch: Watch
) -> None:
    """The arm `model`'s stored answers behind a guard, graded as an arm of their own: paired with themselves, nobody is asked.

    An attack that searches, or a dialogue, does not learn of the guard here: its last prompt and answer are put before it.
    """
    for each in suites:
        before = read_rows(_folder(this, each, "model") / ROWS)
        words = [(row["key"], row["reasoning"], row["answer"], row["finish"]) for row in before]
        address = _suite_address(digest([GUARDED, guard.policy.version, machine.versions().get("temper"), words]), each)
        folder, label = _folder(this, each, GUARDED), f"prove {each.name}@{GUARDED}"
        _bring_back(folder, address)
        if _holds(folder, address):
            regrade(folder, panel)
        started, meter = time.time(), Meter.start()
        evaluate(
            partial(_behind, guard, before),
            each,
            panel,
            folder,
            arm=GUARDED,
            address=address,
            samples=recipe.prove.samples,
            watch=partial(_tell, watch, label, started),
        )
        asked_once = this.facts.get("evals", {}).get(f"{each.name}@model", {})
        tokens = {k: asked_once.get(k) for k in ("prompt_tokens", "completion_tokens", "earlier_tokens", "flops")}
        this.record(
            evals={f"{each.name}@{GUARDED}": {**tokens, **meter.spent().as_dict(), "peak_memory_bytes": machine.peak_bytes()}}
        )


def _behind(guard: "Guard", before: Sequence[Row], examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
    """A sampler over stored rows: the first n answers to each example, as they come through the guard."""
    from temper.serve.guarded import behind

    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in before:
        by_id[row["id"]].append(row)
    return [behind(guard, [_as_asked(example, row) for row in by_id[example.id][:n]]) for example in examples]


def _as_asked(example: Example, row: Row) -> Completion:
    """A stored answer to what was really sent; its example keeps what a row does not hold."""
    found = restored(row, where=f"row {row.get('key')}")
    return replace(found, example=replace(example, messages=found.example.messages, goal=found.example.goal))


def _check_judge(guard: "Guard", gold: Named) -> None:
    """Raise `ProofError` where the judge is also a filter: it would find nothing in what it let through."""
    for setting in guard.policy.filters:
        spec = getattr(setting.filter, "grader", "")
        if spec and not setting.shadow and not catalog.grader(spec).traces.isdisjoint(gold.traces):
            raise ProofError(
                f"the gold judge {gold.name!r} is also the filter {setting.name!r} of the policy {guard.policy.name!r}: it would "
                "find nothing in what it let through. Choose another --gold, or take that filter out"
            )


def policed(policy: str) -> "Guard":
    """The guard of a policy, by the name of a profile or a file. Raises `PolicyError`, `UnknownName`."""
    from temper.serve.guard import Guard
    from temper.serve.policy import read_policy

    return Guard(read_policy(policy))


def all_suites(recipe: Recipe) -> list[Suite]:
    """What every arm is asked: the suites as they are, and what the recipe's rewrites and attacks make of them."""
    prove = recipe.prove
    plain = [suite(name, prove.cap(name)) for name in prove.suites]
    made = [*plain, *variants(plain, rewrites=prove.rewrites, attacks=prove.attacks, grid=prove.grid, seed=recipe.seed)]
    names = [s.name for s in made]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"suites asked twice under one name: {', '.join(twice)}; ask them in separate runs")
    return made


def suite(name: str, limit: int = 0) -> Suite:
    """A suite by bundled name, published name (`prove.suites`), file or dataset id; at most `limit` rows, spread evenly."""
    short = _short(name)
    whole = load(name) or Suite(short, tuple(read(name)))
    return replace(whole, examples=_spread(whole.examples, limit)) if 0 < limit < len(whole.examples) else whole


def _short(name: str) -> str:
    """The name of a file or dataset as part of a folder's name: its stem, as it is named where it came from."""
    stem = Path(name).name.lstrip(".").partition(".")[0] if "/" in name or "." in name else name
    return slug(stem or name, also="+@")


def _spread(examples: Sequence[Example], limit: int) -> tuple[Example, ...]:
    """Whole groups, evenly over the suite: no category is cut off, and no twin or turn of a dialogue is torn from its other."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group or example.id].append(example)
    held = list(groups.values())
    for number in range(min(limit, len(held)), 0, -1):
        chosen = [example for i in range(number) for example in held[i * len(held) // number]]
        if len(chosen) <= limit or number == 1:
            return tuple(chosen)
    return ()


def load_gold(recipe: Recipe) -> Named:
    """The judge of a proof. Raises `UsageError` for a grader whose column other metrics read on every row."""
    gold = catalog.grader(recipe.prove.gold)
    if gold.name in ALWAYS and gold.name != "harm":
        raise UsageError(f"gold = {gold.name!r}: it measures something else of every row; choose a judge of harm, such as gold")
    return gold


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


def arm_rows(this: Run, arm: str, suites: Sequence[Suite]) -> list[Row]:
    """What one arm answered, in the order of the suites."""
    return [row for s in suites for row in read_rows(this.folder / "evals" / f"{s.name}@{arm}" / "rows.jsonl")]


def summarised(
    this: Run,
    recipe: Recipe,
    suites: Sequence[Suite],
    rows: Mapping[str, Sequence[Row]],
    *,
    costs: Mapping[str, Any],
    held_out: Collection[str] = (),
    trained: Mapping[str, Trained] = MappingProxyType({}),
    told: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """summary.json and the report, from rows and facts on disk; `told` is what only training knows."""
    facts = this.facts
    imported = (name for name, of in facts["graders"].items() if of["role"] == "imported")
    evidence = Evidence(
        rows,
        gold=catalog.short(recipe.prove.gold),
        held_out=tuple(held_out),
        graders={name: facts["graders"][name]["better"] for name in (*imported, *map(catalog.short, recipe.prove.graders))},
        overlap=facts.get("overlap", {}),
        costs=costs,
        likelihoods={arm: posix.lines(_crossed(this, arm)) for arm in rows},
        seed=recipe.seed,
    )
    summary = summarise(evidence, command=facts["command"], commit=facts["commit"], trained=trained, unrelated=_unrewarded(facts))
    whole = {**summary, **told}
    write_json(this.folder / "summary.json", {**whole, "signatures": signatures(whole)})
    this.record(finished=time.time())
    build(this.folder)
    this.note("finished", this.folder.name)
    return this.folder


def _unrewarded(facts: Mapping[str, Any]) -> list[str]:
    """Arms of a run that no reward trained."""
    rewarded = {arm for stage in facts.get("stages", {}).values() if stage["kind"] == "grpo" for arm in stage["arms"]}
    return [arm for arm in facts["arms"] if facts.get("stages") and arm not in rewarded]


def overlap(trained: Sequence[Example], suites: Sequence[Suite]) -> dict[str, Any]:
    """Which test prompts also stand in the training data, by plain suite; empty where nothing was trained on.

    A proof on seen prompts proves little, and no split of it may be called out of distribution.
    """
    found = {s.name: overlaps(trained, s.examples) for s in suites if not s.how} if trained else {}
    return {name: {"n": len(ids), "ids": sorted(ids)} for name, of in found.items() for ids in [{o.test_id for o in of}]}


def held_out(trained: Sequence[Example], suites: Sequence[Suite]) -> list[str]:
    """Categories of harm that are asked in proof and occur in no training data; none where nothing was trained on."""
    seen = {t for e in trained for t in e.tags if t.startswith("category:")}
    asked = {t for s in suites for e in s.examples if "harmful" in e.tags for t in e.tags if t.startswith("category:")}
    return sorted(t.removeprefix("category:") for t in asked - seen) if trained else []


def proof_costs(facts: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """What proving one arm took, over all its suites."""
    evals = [v for k, v in facts.get("evals", {}).items() if k.rpartition("@")[2] == arm]
    judges = [of for e in evals for of in e.get("judges", {}).values()]
    tokens = [j["prompt_tokens"] + j["completion_tokens"] for j in judges]
    return {
        "prove_seconds": sum(e["seconds"] for e in evals),
        "prove_cpu_seconds": total(e.get("cpu_seconds") for e in evals),
        "prove_joules": total(e.get("joules") for e in evals),
        "prove_tokens": total(n for e in evals for n in (e["prompt_tokens"], e["completion_tokens"], e.get("earlier_tokens", 0))),
        "prove_flops": total(e["flops"] for e in evals),
        "judge_tokens": sum(tokens) if judges else None,
        "judge_calls": sum(j["calls"] for j in judges) if judges else None,
        "judge_seconds": sum(j["seconds"] for j in judges) if judges else None,
        "peak_memory_bytes": max((e["peak_memory_bytes"] for e in evals), default=None),
    }


def total(values: Iterable[float | None]) -> float | None:
    """The sum of what was recorded everywhere; None where one part is unknown, for then the whole is."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def asked_data(suites: Sequence[Suite]) -> dict[str, Any]:
    """What run.json says of each suite: its size, its content, where it comes from, what was done to it."""
    return {s.name: {"n": len(s.examples), "fingerprint": fingerprint(s.examples), "how": list(s.how), **s.facts} for s in suites}


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


def _tell(watch: Watch, label: str, started: float, done: int, total: int, rate: float) -> None:
    watch(Progress(label, done, total, rate, (total - done) * (time.time() - started) / max(1, done)))


def _proved(this: Run, each: Suite, arm: str, address: str) -> bool:
    folder = _folder(this, each, arm)
    return sealed(folder) and read_json(folder / SEAL)["address"] == _suite_address(address, each)


def _holds(folder: Path, address: str) -> bool:
    meta = folder / ASKED
    return meta.is_file() and bool(read_json(meta)["address"] == address)


def _folder(this: Run, each: Suite, arm: str) -> Path:
    return this.folder / "evals" / f"{each.name}@{arm}"


def _suite_address(address: str, each: Suite) -> str:
    return digest([address, each.name, each.how, fingerprint(each.examples)])


def _bring_back(folder: Path, address: str) -> None:
    """Set aside the rows of another model or setting, and take up this one's: a changed recipe loses and repeats nothing."""
    if (folder / ASKED).is_file() and not _holds(folder, address):
        folder.rename(folder.with_name(f"{folder.name}.{read_json(folder / ASKED)['address']}"))
    aside = folder.with_name(f"{folder.name}.{address}")
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)


def recorded_traces(facts: Mapping[str, Any]) -> set[str]:
    """`Named.traces` of a grader as an earlier run wrote them down."""
    return {facts["identity"], facts["weights"], *facts.get("inside", ())} - {""}


def judge_costs(graders: Iterable[Named]) -> dict[str, Any]:
    """What the calls of language-model judges took in this process, by name."""
    spent = {g.name: getattr(g.grade, "ledger", None) for g in graders}
    return {name: cost._asdict() for name, cost in spent.items() if cost is not None}


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
