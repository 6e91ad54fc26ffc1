"""Ask a suite, grade the answers, write each row as it is made; continue where an earlier attempt stopped.

Leaves out what rows mean (`metrics`) and how arms differ (`compare`). Nothing here knows what kind of sampler answers.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from temper.errors import DataError, ProofError
from temper.files import Row, append_rows, digest, read_json, read_rows, seal, sealed, write_json
from temper.rewards.hacks import SHIPPED, Hack, Reference, flags
from temper.rewards.signal import grade
from temper.text.outcome import outcome
from temper.types import CLASSES, Better, Completion, Example, Named, Sampler, Score, Suite, Usage

# Prompts asked at once: enough rows for a full decoding batch, few enough that a crash loses little.
CHUNK = 64


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
    watch: Callable[[int, int, float], None] = lambda done, total, rate: None,
) -> list[Row]:
    """Every (example, sample) of the suite as a row in `out/rows.jsonl`; rows already there are kept, not asked again.

    `address` names what is asked and of whom (model, decoding, suite); rows of another address in the same folder are
    refused with `ProofError` rather than mixed. `watch(done, total, tokens_per_second)` is told after each chunk.
    """
    if not suite.examples:
        raise DataError(f"suite {suite.name!r} has no examples; nothing would be proved")
    _claim(out, address)
    path = out / "rows.jsonl"
    done = {(r["id"], r["sample"]) for r in read_rows(path)}
    missing = [(e, k) for e in suite.examples for k in range(samples) if (e.id, k) not in done]
    total = len(suite.examples) * samples
    while missing:
        chunk, missing = _take(missing)
        started = time.perf_counter()
        completions = _ask(sampler, chunk, samples)
        seconds = time.perf_counter() - started
        rows = grade_rows(completions, panel, suite=suite, arm=arm)
        append_rows(path, rows)
        tokens = sum(r["usage"]["completion_tokens"] for r in rows)
        watch(total - len(missing), total, tokens / seconds)
    if not sealed(out):
        seal(out, {"address": address, "n": total})
    return read_rows(path)


def grade_rows(completions: Sequence[tuple[int, Completion]], panel: Panel, *, suite: Suite, arm: str) -> list[Row]:
    """One row for each (sample number, completion): what was asked, what came, how it ended, and every grader's opinion."""
    answers = [c for _, c in completions]
    columns = {g.name: grade_where(g, answers, CLASSES) for g in panel.graders}
    refused = columns.get(panel.refusal.name) or grade_where(panel.refusal, answers, CLASSES)
    if panel.gold is not None:
        columns[panel.gold.name] = grade_where(panel.gold, answers, panel.gold_classes)
    ends = {g.name: g.better for g in panel.all()}
    seen = flags(panel.hacks, answers, panel.reference) if panel.hacks else {}
    return [
        _row(c, k, suite, arm, refused[i], {n: (s[i], ends[n]) for n, s in columns.items()})
        | ({"flags": {name: column[i] for name, column in seen.items()}} if seen else {})
        for i, (k, c) in enumerate(completions)
    ]


def grade_where(grader: Named, completions: Sequence[Completion], classes: Sequence[str]) -> list[Score]:
    """Grade the completions of some classes; the others, and those that never came, get `Score(None)`.

    Raises `RunError` if a grader fails."""
    chosen = [i for i, c in enumerate(completions) if c.finish != "error" and klass(c.example) in classes]
    given = grade(grader, [completions[i] for i in chosen])
    scores = [Score(None, "not asked about this class")] * len(completions)
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


def _claim(out: Path, address: str) -> None:
    meta = out / "asked.json"
    if not meta.is_file():
        write_json(meta, {"address": address})
    elif read_json(meta)["address"] != address:
        raise ProofError(
            f"{out}: holds answers of another model, suite or decoding (address {read_json(meta)['address']}, wanted {address}); "
            "give another --out, or delete that folder"
        )


def _take(missing: list[tuple[Example, int]]) -> tuple[list[tuple[Example, int]], list[tuple[Example, int]]]:
    return missing[:CHUNK], missing[CHUNK:]


def _ask(sampler: Sampler, wanted: Sequence[tuple[Example, int]], samples: int) -> list[tuple[int, Completion]]:
    """The wanted (example, sample) answers. All samples of an example are drawn together, so that its prompt is read once."""
    examples = list({e.id: e for e, _ in wanted}.values())
    answers = {e.id: c for e, c in zip(examples, sampler(examples, n=samples), strict=True)}
    return [(k, answers[e.id][k]) for e, k in wanted]


def _row(c: Completion, k: int, suite: Suite, arm: str, refused: Score, scores: dict[str, tuple[Score, Better]]) -> Row:
    usage = asdict(c.usage) if c.usage else asdict(Usage())
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
        "outcome": outcome(answer=c.answer, thought=c.thought, finish=c.finish, refused=refused.value, raw=c.raw),
        "usage": usage,
        "scores": {
            name: {"value": s.value, "why": s.why, "parts": dict(s.parts), "better": better}
            for name, (s, better) in scores.items()
        },
    }
    return row | _origin(c, suite)


def _origin(c: Completion, suite: Suite) -> Row:
    """What only some rows have: how the suite was changed, what was really sent, free tags, what the sampler tells, an error."""
    plain = len(c.example.messages) == 1 and c.example.messages[0].content == c.example.prompt
    told = {
        "of": suite.of,
        "how": list(suite.how),
        "asked": [] if plain else [asdict(m) for m in c.example.messages],
        "facts": dict(c.facts),
        "tags": sorted(t for t in c.example.tags if t not in CLASSES and not t.startswith("category:")),
        "error": c.error,
    }
    return {name: value for name, value in told.items() if value}
