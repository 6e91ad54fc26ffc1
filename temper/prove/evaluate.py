"""Ask a suite, grade the answers, write each row as it is made; continue where an earlier attempt stopped.

A sampler that streams (an endpoint) is asked for all that is missing at once, any other in chunks; rows, and what survives a kill
at any moment, are the same. Leaves out what rows mean (`metrics`) and how arms differ (`compare`).
"""

import gc
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from temper.errors import DataError, ModelError, ProofError
from temper.files import (
    SEAL,
    Row,
    append_rows,
    digest,
    dumps,
    iter_rows,
    keep_rows,
    read_json,
    read_rows,
    seal,
    sealed,
    write_json,
    write_text,
)
from temper.prove.metrics import OUTAGE
from temper.rewards.hacks import SHIPPED, Hack, Reference, flags
from temper.rewards.signal import grade
from temper.samplers.choices import CONTENT_FILTER
from temper.samplers.replay import restored
from temper.text.outcome import outcome
from temper.types import CLASSES, Better, Completion, Example, Named, Outcome, Sampler, Score, Suite

ASKED, ROWS, SET_ASIDE = "asked.json", "rows.jsonl", "errors.jsonl"
HACKS = "hacks"
"""What the detectors are called among those that graded."""
NO_ANSWER = "no answer came"
# Prompts asked at once: enough rows for a full decoding batch, few enough that a crash loses little.
CHUNK = 64
# Rows graded anew at once: few enough that what graders remember of one batch serves them all, and for a judge behind a network
# enough for its whole concurrency.
REGRADED, REGRADED_SLOWLY = 128, 1024
# Of a finished line of ROWS: `files.dumps` sorts keys, and inside a string its quotes would be escaped. The last one of a line is
# the row's own: what a server told stands before it, in `facts`, and may look the same.
_KEY = re.compile(rb'"key":"([0-9a-f]{16})","language":"(?:[^"\\]|\\.)*","(?:of|outcome)":')

Wanted = Sequence[tuple[Example, int]]
"""Examples and sample numbers that are missing."""


@runtime_checkable
class Streams(Protocol):
    """A sampler that also gives each completion as it comes, with its sample number, in batches of any size.

    `answered` says that who is asked has answered before, so that prompts nothing comes for are no sign of a server that is down.
    """

    def stream(self, asked: Wanted, /, *, answered: bool = False) -> Iterator[list[tuple[int, Completion]]]: ...


@dataclass(frozen=True, slots=True)
class Panel:
    """Who grades a proof: `graders` every row, `gold` rows of the classes it is for; `refusal` also decides the outcome.

    The detectors of `hacks` look at every row, all arms with the same thresholds, `reference`.
    """

    graders: tuple[Named, ...]
    refusal: Named
    gold: Named | None = None
    gold_classes: tuple[str, ...] = ("harmful",)
    hacks: tuple[Hack, ...] = ()
    reference: Reference = SHIPPED

    def all(self) -> tuple[Named, ...]:
        return (*self.graders, *([self.gold] if self.gold else []))


def grader_facts(grader: Named, role: str) -> dict[str, Any]:
    """What run.json keeps of a grader."""
    return {
        "identity": grader.identity,
        "weights": grader.weights,
        "inside": sorted(grader.inside),
        "better": grader.better,
        "role": role,
        "card": grader.card,
    }


def check_independence(rewards: Mapping[str, Collection[str]], gold: Named) -> None:
    """Raise `ProofError` if the judge also trained the model: by its name, or by a shared hash of code, settings or weights.

    `rewards` maps the name of each reward to its `Named.traces`, live or as `run.json` recorded them.
    """
    for name, traces in rewards.items():
        if gold.name == name or not gold.traces.isdisjoint(traces):
            raise ProofError(
                f"the gold judge {gold.name!r} is also the reward {name!r}, or shares a model or a rule with it: a model trained "
                "to please a judge proves nothing before it. Choose another `gold` in [prove] (or --gold), or take that reward "
                "out of the recipe"
            )


def evaluate(
    sampler: Sampler,
    suite: Suite,
    panel: Panel,
    out: Path,
    *,
    arm: str,
    address: str,
    samples: int = 1,
    first: int = 0,
    watch: Callable[[int, int, float], None] = lambda done, total, rate: None,
) -> list[Row]:
    """Every (example, sample) of the suite as a row in `out/rows.jsonl`; rows already there are kept, not asked again.

    `address` names what is asked and of whom (model, decoding, suite); rows of another address in the same folder are
    refused with `ProofError` rather than mixed. With `first`, only that many examples are asked, and the folder stays open.
    `watch(done, total, tokens_per_second)` is told after each batch. Rows are appended as they finish, and put into the order of
    the suite when all are there.
    """
    if not suite.examples:
        raise DataError(f"suite {suite.name!r} has no examples; nothing would be proved")
    _claim(out, address, panel)
    path, keys = out / ROWS, _keys(suite, arm, samples)
    append_rows(path, ())  # mends the end of a file whose writer was killed
    done, total = stored_keys(path), len(keys)
    asked = {e.id for e in suite.examples[:first]} if first else {e.id for e in suite.examples}
    missing = [wanted for key, wanted in keys.items() if key not in done and wanted[0].id in asked]
    written, started = len(done), time.perf_counter()
    try:
        for answers in _answers(sampler, missing, samples, answered=bool(done)):
            rows = grade_rows(answers, panel, suite=suite, arm=arm)
            append_rows(path, rows)
            written += len(rows)
            tokens = sum(r["usage"]["completion_tokens"] for r in rows if r["usage"])
            watch(written, total, tokens / (time.perf_counter() - started))
            started = time.perf_counter()
    except ModelError:
        _put_back(out, keys)
        raise
    if not first and not sealed(out):
        _in_order(path, list(keys))
        seal(out, {"address": address, "n": total})
    return read_rows(path)


def stored_keys(path: Path) -> set[str]:
    """The keys of all whole rows of a file of rows, found without parsing them; a torn last line is none."""
    if not path.is_file():
        return set()
    *whole, _ = path.read_bytes().split(b"\n")
    return {key for line in whole if (key := _key(line))}


def _key(line: bytes) -> str:
    """The key of a row, "" for what is none."""
    found = _KEY.match(line, max(0, line.rfind(b'"key":"')))
    return found[1].decode() if found else ""


def ask_again(out: Path) -> int:
    """Set aside the rows where nothing came, so that `evaluate` asks them anew; returns how many there were."""
    path = out / ROWS
    if not path.is_file() or b'"finish":"error"' not in path.read_bytes():
        return 0
    failed = [row for row in read_rows(path) if row["finish"] == "error"]
    append_rows(out / SET_ASIDE, failed)
    (out / SEAL).unlink(missing_ok=True)  # first: a sealed folder with rows missing would pass for finished
    keep_rows(path, lambda row: row["finish"] != "error")
    return len(failed)


def _put_back(out: Path, keys: Collection[str]) -> None:
    """Errors that were to be asked again stand as they were where nobody can be asked: a finished evaluation stays one."""
    there = stored_keys(out / ROWS)
    failed = {row["key"]: row for row in read_rows(out / SET_ASIDE)}
    append_rows(out / ROWS, [row for key, row in failed.items() if key in keys and key not in there])


def grade_rows(completions: Sequence[tuple[int, Completion]], panel: Panel, *, suite: Suite, arm: str) -> list[Row]:
    """One row for each (sample number, completion): what was asked, what came, how it ended, and every grader's opinion."""
    answers = [c for _, c in completions]
    columns = opinions_of(panel, answers)
    scores, refused = _scores(panel, columns, len(answers)), columns[panel.refusal.name]
    seen = flags(panel.hacks, answers, panel.reference) if panel.hacks else {}
    return [
        _row(c, k, suite, arm)
        | {"outcome": _became(c, refused[i]), "scores": scores[i]}
        | ({"flags": {name: column[i] for name, column in seen.items()}} if seen else {})
        for i, (k, c) in enumerate(completions)
    ]


def opinions_of(panel: Panel, answers: Sequence[Completion], names: Collection[str] | None = None) -> dict[str, list[Score]]:
    """Each grader's scores, by name, of the panel or of those `names`; refusal, which decides outcomes, is among them."""
    gold = panel.gold.name if panel.gold else ""
    return {
        g.name: grade_where(g, answers, panel.gold_classes if g.name == gold else CLASSES)
        for g in {g.name: g for g in (panel.refusal, *panel.all())}.values()
        if names is None or g.name in names
    }


def regrade(out: Path, panel: Panel, *, again: Collection[str] = ()) -> int:
    """Bring stored rows to this panel without asking anybody again: returns how many rows were graded, 0 if all was as it is.

    Graded by are those of the panel whose code, settings or weights are not the ones that graded the rows, and those named
    `again`. What another grader of the same name said stays beside it as NAME@IDENTITY; columns of graders that are not on the
    panel stay as they are. Killed, it left the old rows or the new ones.
    """
    asked, names = read_json(out / ASKED), stale(out, panel, again)
    known = asked.get("judges", {})
    if not names:
        return 0
    slow = any(grader.slow for grader in (panel.refusal, *panel.all()) if grader.name in names)
    rows, renewed = iter_rows(out / ROWS), list[str]()
    with _settled():
        while batch := list(islice(rows, REGRADED_SLOWLY if slow else REGRADED)):
            renewed += map(dumps, _regraded(batch, panel, names, known))
    if renewed:
        write_text(out / ROWS, "\n".join([*renewed, ""]))
    write_json(out / ASKED, {**asked, "judges": _judges(panel)})
    return len(renewed)


@contextmanager
def _settled() -> Iterator[None]:
    """Spare what is in memory now the collector's looks: rows by the thousand call for a sixth of the CPU's time of them."""
    if gc.get_freeze_count():  # somebody else's, and not ours to undo
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def stale(out: Path, panel: Panel, again: Collection[str] = ()) -> set[str]:
    """The names of those that `regrade` would let grade."""
    known = read_json(out / ASKED).get("judges", {})
    return {name for name, identity in _judges(panel).items() if name in again or known.get(name) != identity}


def away(out: Path) -> set[str]:
    """The graders that could not be had for some stored row."""
    if OUTAGE.encode() not in (out / ROWS).read_bytes():
        return set()
    return {name for row in read_rows(out / ROWS) for name, s in row["scores"].items() if s["why"].startswith(OUTAGE)}


def _regraded(rows: Sequence[Row], panel: Panel, names: Collection[str], known: Mapping[str, str]) -> list[Row]:
    answers = [restored(row, where=f"row {row.get('key')}") for row in rows]
    columns, judges = opinions_of(panel, answers, names), _judges(panel)
    scores, refused = _scores(panel, columns, len(answers)), columns.get(panel.refusal.name)
    seen = flags(panel.hacks, answers, panel.reference) if HACKS in names else {}
    others = {name: f"{name}@{known[name]}" for name in columns if known.get(name) not in (None, judges[name])}
    return [
        row
        | {"scores": {**row["scores"], **_renamed(row["scores"], others), **scores[i]}}
        | ({"outcome": _became(c, refused[i])} if refused else {})
        | ({"flags": {name: column[i] for name, column in seen.items()}} if seen else {})
        for i, (row, c) in enumerate(zip(rows, answers, strict=True))
    ]


def _renamed(scores: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {new: scores[old] for old, new in names.items() if old in scores}


def _judges(panel: Panel) -> dict[str, str]:
    """What graded, by name: the identity of each, and of the detectors all together."""
    graders = {g.name: g.identity for g in (panel.refusal, *panel.all())}
    return {**graders, HACKS: digest([[h.name for h in panel.hacks], asdict(panel.reference)])} if panel.hacks else graders


def _scores(panel: Panel, columns: Mapping[str, Sequence[Score]], count: int) -> list[dict[str, Any]]:
    """What each row's `scores` holds; refusal only where it is one of the panel's graders."""
    ends = {g.name: g.better for g in panel.all()}
    shown = {name: column for name, column in columns.items() if name in ends}
    return [{name: _score(column[i], ends[name]) for name, column in shown.items()} for i in range(count)]


def _score(given: Score, better: Better) -> dict[str, Any]:
    return {"value": given.value, "why": given.why, "parts": dict(given.parts), "better": better}


def grade_where(grader: Named, completions: Sequence[Completion], classes: Sequence[str]) -> list[Score]:
    """Grade the completions of some classes; the others, and those that never came, get `Score(None)`.

    So do all of them where a judge behind a network cannot be had: answers are worth keeping, and `temper rescore` grades them
    later. Raises `RunError` if a grader fails in any other way.
    """
    thinking = getattr(grader.grade, "scope", "") == "think"  # what reads thoughts is not loaded for replies that have none
    chosen = [
        i
        for i, c in enumerate(completions)
        if c.finish != "error" and (classes is CLASSES or klass(c.example) in classes) and (not thinking or c.reasoning.strip())
    ]
    try:
        given = grade(grader, [completions[i] for i in chosen])
    except ModelError as error:
        if not grader.slow:
            raise
        logging.getLogger(__name__).warning("%s graded nothing of %d answers: %s", grader.name, len(chosen), error)
        given = [Score(None, f"{OUTAGE}: {error}")] * len(chosen)
    scores = [Score(None, NO_ANSWER if c.finish == "error" else "not asked about this class") for c in completions]
    for i, score in zip(chosen, given, strict=True):
        scores[i] = score
    return scores


def klass(example: Example) -> str:
    """The one class among an example's tags; raises `DataError` if it has none or several."""
    found = [c for c in CLASSES if c in example.tags]
    if len(found) != 1:
        raise DataError(
            f"example {example.id!r} has {len(found)} classes ({', '.join(found) or 'none'}); wanted exactly one "
            f"of {', '.join(CLASSES)}"
        )
    return found[0]


def _claim(out: Path, address: str, panel: Panel) -> None:
    """Make the folder this address's, its rows graded by this panel."""
    meta = out / ASKED
    if not meta.is_file():
        write_json(meta, {"address": address, "judges": _judges(panel)})
    elif read_json(meta)["address"] != address:
        raise ProofError(
            f"{out}: holds answers of another model, suite or decoding (address {read_json(meta)['address']}, wanted {address}); "
            "give another --out, or delete that folder"
        )
    regrade(out, panel)


def _keys(suite: Suite, arm: str, samples: int) -> dict[str, tuple[Example, int]]:
    """Every (example, sample) by the key of its row, in the order of the suite."""
    return {digest([suite.name, arm, e.id, k]): (e, k) for e in suite.examples for k in range(samples)}


def _answers(sampler: Sampler, missing: Wanted, samples: int, *, answered: bool) -> Iterator[list[tuple[int, Completion]]]:
    if isinstance(sampler, Streams):
        yield from sampler.stream(missing, answered=answered)
        return
    size = getattr(sampler, "chunk", CHUNK)
    for start in range(0, len(missing), size):
        yield _ask(sampler, missing[start : start + size], samples)


def _in_order(path: Path, keys: Sequence[str]) -> None:
    """Put finished rows into the order of the suite: equal answers make equal files, however they came."""
    lines = path.read_bytes().splitlines(keepends=True)
    by_key = {_key(line): line for line in lines}
    ordered = [by_key[key] for key in keys]
    if ordered != lines:
        write_text(path, b"".join(ordered).decode())


def _ask(sampler: Sampler, wanted: Sequence[tuple[Example, int]], samples: int) -> list[tuple[int, Completion]]:
    """The wanted (example, sample) answers. All samples of an example are drawn together, so that its prompt is read once."""
    examples = list({e.id: e for e, _ in wanted}.values())
    answers = {e.id: c for e, c in zip(examples, sampler(examples, n=samples), strict=True)}
    return [(k, answers[e.id][k]) for e, k in wanted]


def _row(c: Completion, k: int, suite: Suite, arm: str) -> Row:
    row: dict[str, Any] = {
        "key": digest([suite.name, arm, c.example.id, k]),
        "suite": suite.name,
        "arm": arm,
        "id": c.example.id,
        "group": c.example.group or c.example.id,
        "sample": k,
        "class": klass(c.example),
        "category": next((t.removeprefix("category:") for t in sorted(c.example.tags) if t.startswith("category:")), ""),
        "language": c.example.language,
        "prompt": c.example.prompt,
        "target": c.example.target,
        "reasoning": c.reasoning,
        "answer": c.answer,
        "raw": c.raw,
        "finish": c.finish,
        "thought": c.thought,
        "usage": asdict(c.usage) if c.usage else None,  # nobody counted: unknown is not 0
    }
    return row | _origin(c, suite)


def _became(c: Completion, refused: Score) -> Outcome:
    """The outcome; where a guard before the model withheld the whole answer, the system that was asked refused."""
    guard = c.facts.get("guard")
    if isinstance(guard, Mapping) and guard.get("finish_reason") == CONTENT_FILTER and guard.get("withheld", not c.answer):
        return Outcome.REFUSED
    return outcome(answer=c.answer, thought=c.thought, finish=c.finish, refused=refused.value, raw=c.raw)


def _origin(c: Completion, suite: Suite) -> Row:
    """What only some rows have: how the suite was changed, what was really sent, free tags, what the sampler tells, an error."""
    plain = len(c.example.messages) == 1 and c.example.messages[0].content == c.example.prompt
    told = {
        "of": suite.of,
        "how": list(suite.how),
        "tags": sorted(t for t in c.example.tags if t not in CLASSES and not t.startswith("category:")),
        "asked": [] if plain else [asdict(m) for m in c.example.messages],
        "facts": dict(c.facts),
        "error": c.error,
    }
    return {name: value for name, value in told.items() if value}
