"""The HTML page: what each section shows, laid out by page.html.j2.

Model output is hostile input: it reaches the page only through the template's escaping, with hidden characters spelled out, under
a content policy that allows no script, style, image or request but the page's own script and style.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files as resources
from typing import Any

from markupsafe import Markup

from temper.report import charts, gaming, sections, tables, text, wording
from temper.report.blocks import Figure, Section, Table, halves
from temper.report.breakdown import interval
from temper.report.examples import Example, choose, class_order
from temper.report.read import Run
from temper.text import invisible

LONGEST = 1_500  # characters of one shown text; the rest stays in rows.jsonl
OUTCOMES = ("answered", "refused", "partial", "truncated_in_thought", "truncated_in_answer", "loop", "empty", "error")
PRIMARY = ("unsafe", "over_refusal")
HACKS = ("hacked", "hack:")  # metrics of the hack bank begin so
SAFETY = (
    *("unsafe", "unsafe_coherent", "no_answer_on_harmful", "refusal_on_harmful", "held_out_unsafe", "seen_unsafe"),
    *("unsafe_proxy", "fooled", "gap", "over_refusal", "helped", "accuracy"),
)
READING = ("language_answer", "language_reasoning", "readability", "repetition", "format", "closed_thought")
LENGTH = ("truncated_in_thought", "truncated_in_answer", "loop", "empty", "tokens")
Cell = dict[str, Any]


def page(run: Run, chunks: Sequence[str] = (), *, beside: bool = False) -> str:
    """The whole page as one string, `chunks` of `explorer.packed` within it, or `beside` it as rows-0.js and so on."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("temper.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=spelled_out,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["halves"] = halves
    style, script = _asset("page.css"), _asset("page.js")
    return environment.get_template("page.html.j2").render(
        **view(run),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script, beside=beside),
        chunks=len(chunks),
        embedded=[] if beside else [Markup(chunk) for chunk in chunks],
    )


def _policy(style: str, script: str, *, beside: bool) -> str:
    """Nothing but the page's own style and script; with rows `beside` it also scripts of the folder that it stands in."""
    own = f"{_hash(script)} 'self' file:" if beside else _hash(script)
    return f"default-src 'none'; style-src {_hash(style)}; script-src {own}; base-uri 'none'; form-action 'none'"


def view(run: Run) -> dict[str, Any]:
    """Everything the template prints, as strings, numbers and finished figures."""
    opening, told, gamed = told_by(run, sections.OPENING), told_by(run, sections.SECTIONS), gaming.view(run)
    return {
        "name": run.name,
        "answer": wording.answer(run),
        "facts": _facts(run),
        "arms": run.arms,
        "contents": _contents(run, opening, told, gamed=gamed is not None),
        "opening": opening,
        "sections": told,
        "headline": headline(run),
        "frontier": _frontier(run),
        "verdicts": verdicts(run),
        "pairs": [pair_row(run, p) for p in run.pairs if p["primary"]],
        "others": _other_pairs(run),
        "holm": holm_covers(run),
        "many": run.many,
        "limits": wording.limits(run),
        "gaming": gamed,
        "stages": list(_stages(run)),
        "safety": metric_table(run, [*SAFETY, *(m for m in run.summary.get("metrics", {}) if m.startswith(("grader:", *HACKS)))]),
        "reading": metric_table(run, READING),
        "length": metric_table(run, LENGTH),
        "outcomes": _outcomes(run),
        "costs": cost_table(run),
        "stage_costs": _stage_costs(run),
        "examples": _examples(run),
        "provenance": provenance(run),
        "recipe": run.recipe,
    }


def told_by(run: Run, makers: Sequence[Callable[[Run], Section | None]]) -> list[Section]:
    """The sections that have something to tell of a run."""
    return [made for make in makers if (made := make(run)) is not None]


def _contents(run: Run, opening: Sequence[Section], told: Sequence[Section], *, gamed: bool) -> list[tuple[str, str]]:
    """Every section's address and title, in the order of the page."""
    return [
        *((s.anchor, s.title) for s in opening),
        *(("harm", "Harm and over-refusal"), ("limits", "Limits"), ("differences", "Differences")),
        *((s.anchor, s.title) for s in told),
        ("safety", "All safety metrics"),
        *([("gaming", "Was the reward gamed?")] if gamed else []),
        *(("training", "Training"), ("reading", "Language and format"), ("outcomes", "Outcomes"), ("cost", "Cost")),
        ("examples", "Examples"),
        *([("rows", "Every reply")] if run.rows else []),
        ("provenance", "Provenance"),
    ]


def headline(run: Run) -> list[dict[str, Any]]:
    """One line per arm: the metrics that decide, and the verdict."""
    verdicts = {v["arm"]: v["verdict"] for v in run.summary.get("verdicts", [])}
    return [
        {
            "arm": arm,
            "cells": [cell(run, arm, name) for name in ("unsafe", "over_refusal", "helped", "unsafe_coherent")],
            "verdict": verdicts.get(arm, "reference" if verdicts and arm == run.arms[0] else "–"),
        }
        for arm in run.arms
    ]


def verdicts(run: Run) -> list[dict[str, str]]:
    """Each arm's verdict and its reasons as one paragraph."""
    known = run.summary.get("metrics", {})
    told = []
    for found in run.summary.get("verdicts", []):
        needed = [
            f"about {n:,} prompts would decide {known.get(metric, {}).get('label', metric).lower()}"
            for metric, n in found["needed"].items()
        ]
        why = "; ".join([*found["why"], *found["missing"], *needed])
        told.append({"arm": found["arm"], "verdict": found["verdict"], "why": f"{why[:1].upper()}{why[1:]}."})
    return told


def cell(run: Run, arm: str, metric: str) -> Cell:
    measured = run.summary.get("arms", {}).get(arm, {}).get(metric)
    unit = run.summary.get("metrics", {}).get(metric, {}).get("unit", "share")
    value, span = text.with_interval(measured, unit)
    found = measured or {}
    return {"value": value, "interval": span, "n": found.get("n"), "ungraded": found.get("ungraded", 0)}


def metric_table(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """One line per metric that was measured, one cell per arm."""
    known = run.summary.get("metrics", {})
    measured = {name for of in run.summary.get("arms", {}).values() for name in of}
    return [
        {**known[name], "cells": [cell(run, arm, name) for arm in run.arms]}
        for name in names
        if name in known and name in measured
    ]


def pair_row(run: Run, pair: Mapping[str, Any]) -> dict[str, Any]:
    """One comparison as strings; the smallest detectable change is given where the difference is not distinguishable."""
    what = run.summary.get("metrics", {}).get(pair["metric"], {"label": pair["metric"], "unit": "share"})
    bounded = pair["low"] is not None and pair["high"] is not None

    def show(x: float | None) -> str:
        return text.change(x, what["unit"])

    return {
        "versus": f"{pair['arm']} {text.MINUS} {pair['base']}",
        "metric": what["label"],
        "n": text.count(pair["n"]),
        "difference": show(pair["difference"]),
        "interval": f"{show(pair['low'])} to {show(pair['high'])}" if bounded else "–",
        "p": text.pvalue(pair["p"]),
        "test": pair["test"],
        "holm": text.pvalue(pair["holm"]),
        "firm": pair["distinguishable"],
        "mde": "" if pair["distinguishable"] or pair["mde"] is None else show(pair["mde"]).lstrip("+"),
        "figure": charts.interval(pair["difference"], pair["low"], pair["high"], _limit(run), firm=pair["distinguishable"])
        if what["unit"] in ("share", "difference") and bounded
        else "",
    }


def holm_covers(run: Run) -> str:
    """What the adjusted p-values stand for, and where the lines are that a page of many arms leaves out."""
    if not run.many:
        return "Holm covers all lines of this table."
    every = sum(bool(p["primary"]) for p in run.summary.get("pairs", []))
    return (
        f"Of the {every:,} comparisons of {len(run.arms)} arms only those with {run.arms[0]} are shown; the others are in "
        f"summary.json, under pairs, and Holm covers all of them."
    )


def _key(run: Run) -> str:
    return "numbers name the arms." if run.many else f"arrows lead from {next(iter(run.arms), '')} to each other arm."


def cost_table(run: Run) -> list[dict[str, str]]:
    """What each arm would cost alone, and the total, in which stages shared by arms count once."""
    stages, evals = run.facts.get("stages", {}), run.facts.get("evals", {})
    lines = [
        _cost(
            arm,
            [s for s in stages.values() if arm in s.get("arms", [])],
            [e for k, e in evals.items() if k.rpartition("@")[2] == arm],
        )
        for arm in run.arms
    ]
    return [*lines, _cost("this run", list(stages.values()), list(evals.values()))] if stages or evals else []


def provenance(run: Run) -> list[tuple[str, str]]:
    """What one needs to run this again, and to know that it is the same."""
    facts = run.facts
    model, machine = facts.get("model", {}), facts.get("machine", {})
    graders = [(f"grader {name}", _grader(g)) for name, g in facts.get("graders", {}).items()]
    data = [(f"data {name}", _data(d)) for name, d in facts.get("data", {}).items()]
    return [
        ("command", facts.get("command") or text.MISSING),
        ("commit", facts.get("commit") or text.MISSING),
        ("seed", str(facts.get("seed", text.MISSING))),
        ("started", text.moment(facts.get("started"))),
        ("finished", text.moment(facts.get("finished"))),
        ("resumed", text.times(facts.get("resumed"))),
        ("model", f"{model.get('name', text.MISSING)} · sha256 {model.get('sha256') or text.MISSING}"),
        ("token caps", ", ".join(wording.caps(run)) or text.MISSING),
        ("machine", ", ".join(f"{k} {v}" for k, v in machine.items()) or text.MISSING),
        ("versions", ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()) or text.MISSING),
        *data,
        *graders,
    ]


def _grader(facts: Mapping[str, Any]) -> str:
    return " · ".join(str(facts[key]) for key in ("role", "identity", "weights", "card") if facts.get(key))


def _data(facts: object) -> str:
    """A fingerprint, alone or with the number of rows it covers."""
    if not isinstance(facts, Mapping):
        return str(facts)
    return f"{facts.get('fingerprint', text.MISSING)} · {text.count(facts.get('n'))} rows"


def _facts(run: Run) -> list[tuple[str, str]]:
    rows = run.summary.get("rows", {})
    model = run.facts.get("model", {})
    size = model.get("parameters")
    return [
        ("model", f"{model.get('name', text.MISSING)}" + (f", {text.scaled(size, '')} parameters" if size else "")),
        ("replies per arm", text.count(max(rows.values())) if rows else text.MISSING),
        ("seed", str(run.facts.get("seed", text.MISSING))),
        ("finished", text.moment(run.facts.get("finished"))),
        ("commit", str(run.facts.get("commit") or text.MISSING)[:12]),
    ]


def _frontier(run: Run) -> Figure | None:
    arms = run.summary.get("arms", {})
    points = [
        charts.Point(arm, x, y)
        for arm in run.arms
        if (x := interval(arms.get(arm, {}).get("over_refusal"))) and (y := interval(arms.get(arm, {}).get("unsafe")))
    ]
    if not points:
        return None
    title = "Share of unsafe answers to harmful prompts against over-refusal, by arm, with 95 % intervals"
    labels = "over-refusal of harmless prompts", "unsafe answers to harmful prompts"
    drawn = charts.frontier(points, title=title, x_label=labels[0], y_label=labels[1])
    caption = f"Lower left is better. Bars are 95 % intervals; {_key(run)}"
    return Figure(caption, drawn, tables.of_points(title, *labels, points))


def _limit(run: Run) -> float:
    """The reach of the small interval figures: the largest bound of any primary difference."""
    return max(
        (abs(p[side]) for p in run.pairs if p["primary"] for side in ("low", "high") if p[side] is not None),
        default=1.0,
    )


def _other_pairs(run: Run) -> list[dict[str, Any]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for pair in run.pairs:
        if not pair["primary"]:
            row = pair_row(run, pair)
            grouped.setdefault(row["versus"], []).append(row)
    return [{"versus": versus, "rows": rows} for versus, rows in grouped.items()]


def _stages(run: Run) -> Iterator[dict[str, Any]]:
    for folder, steps in run.steps.items():
        if not steps:
            continue
        known = run.facts.get("stages", {}).get(folder, {})
        kind = known.get("kind") or folder.rpartition("-")[2]
        arms = ", ".join(known.get("arms", [])) or "arms not recorded"
        yield {
            "folder": folder,
            "title": f"{kind} ({arms})",
            "steps": len(steps),
            "figures": list(_curves(steps, f"{kind}, {arms}", weighed=folder in run.summary.get("gaming", {}))),
        }


def _curves(steps: Sequence[Mapping[str, Any]], where: str, *, weighed: bool) -> Iterator[Figure]:
    """The figures that a stage has data for: proxy and audited gold, weights, graders' columns; for SFT its loss.

    Weights are left out where the section on gaming shows them with what moved them (`weighed`).
    """
    if any("proxy" in step for step in steps):
        pairs = [
            charts.Line("proxy", _series(steps, "proxy")),
            charts.Line("gold, audited", _series(steps, "gold"), dots=True),
        ]
        audited = sum(step.get("gold_n") or 0 for step in steps)
        yield _figure(
            f"Reward against gold; {text.count(audited)} rollouts audited by gold", pairs, f"Proxy and gold per step: {where}"
        )
    known = [("weights", "Weights of the reward"), ("columns", "Mean of each grader on the rollouts")]
    for key, title in known[weighed:]:
        names = list(dict.fromkeys(name for step in steps for name in step.get(key) or {}))
        found = [charts.Line(name, _series(steps, key, name)) for name in names]
        if any(line.points for line in found):
            yield _figure(title, found, f"{title}: {where}")
    if not any("proxy" in step for step in steps):
        yield _figure("Loss", [charts.Line("loss", _series(steps, "loss"))], f"Loss per step: {where}")


def _figure(caption: str, found: Sequence[charts.Line], title: str) -> Figure:
    drawn = charts.lines(found, title=title, x_label="optimiser step", y_label="")
    return Figure(caption, drawn, tables.of_lines(title, "optimiser step", found))


def _series(steps: Sequence[Mapping[str, Any]], key: str, name: str = "") -> list[tuple[float, float]]:
    values = ((step["step"], (step.get(key) or {}).get(name) if name else step.get(key)) for step in steps)
    return [(float(at), float(value)) for at, value in values if value is not None]


def _outcomes(run: Run) -> list[Figure]:
    """A stacked bar per arm for each class."""
    counts = run.summary.get("outcomes") or {arm: _counted(rows) for arm, rows in run.rows.items()}
    kinds = sorted({kind for of in counts.values() for kind in of}, key=class_order)
    return [_became(run, kind, {arm: of[kind] for arm, of in counts.items() if kind in of}) for kind in kinds]


def _became(run: Run, kind: str, counts: Mapping[str, Mapping[str, int]]) -> Figure:
    names = [o.replace("_", " ").replace("truncated", "cut") for o in OUTCOMES]
    bars = [(arm, {n: counts[arm].get(o, 0) for n, o in zip(names, OUTCOMES, strict=True)}) for arm in run.arms if arm in counts]
    title = f"What became of the replies to {kind} prompts, in per cent"
    rows = tuple((arm, *(text.count(of[n]) for n in names)) for arm, of in bars)
    table = Table(f"{kind} prompts, replies", ("arm", *names), rows)
    return Figure(f"{kind} prompts, per cent of replies", charts.stacked(bars, names, title=title), table)


def _counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row["class"], Counter())[row["outcome"]] += 1
    return {kind: dict(of) for kind, of in counts.items()}


def _stage_costs(run: Run) -> list[dict[str, str]]:
    return [
        {"arm": f"{s.get('kind', folder)} for {', '.join(s.get('arms', [])) or '?'}", "folder": folder, **_training([s])}
        for folder, s in run.facts.get("stages", {}).items()
    ]


def _cost(arm: str, stages: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    proof = {
        "replies": text.scaled(_total(evals, "completion_tokens"), ""),
        "proof_flops": text.scaled(_total(evals, "flops"), "FLOP"),
        "proof_seconds": text.duration(_total(evals, "seconds")),
    }
    peaks = [c["peak_memory_bytes"] for c in (*stages, *evals) if c.get("peak_memory_bytes") is not None]
    return {"arm": arm, **_training(stages), **proof, "peak": text.scaled(max(peaks), "B") if peaks else text.MISSING}


def _training(stages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    peaks = [c["peak_memory_bytes"] for c in stages if c.get("peak_memory_bytes") is not None]
    if not stages:
        return {"tokens": "none", "flops": "none", "seconds": "none", "peak": "none"}
    return {
        "tokens": text.scaled(_total(stages, "tokens"), ""),
        "flops": text.scaled(_total(stages, "flops"), "FLOP"),
        "seconds": text.duration(_total(stages, "seconds")),
        "peak": text.scaled(max(peaks), "B") if peaks else text.MISSING,
    }


def _total(costs: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The sum, or None as soon as one part was not recorded: a partial sum would pass for the whole."""
    values = [cost.get(key) for cost in costs]
    return None if not values or any(v is None for v in values) else float(sum(v for v in values if v is not None))


def _examples(run: Run) -> list[dict[str, Any]]:
    chosen = choose(run.rows, run.arms, gold=run.gold)
    return [_shown(number, example) for number, example in enumerate(chosen, 1)]


def _shown(number: int, example: Example) -> dict[str, Any]:
    replies = [
        {
            "arm": row["arm"],
            "outcome": row["outcome"],
            "answer": _cut(row["answer"]),
            "reasoning": _cut(row["reasoning"]),
            "scores": [
                (name, score["value"]) for name, score in sorted(row["scores"].items()) if (score or {}).get("value") is not None
            ],
            "tokens": (row.get("usage") or {}).get("completion_tokens"),
        }
        for row in example.rows
    ]
    return {
        "number": number,
        "kind": example.kind,
        "category": example.category,
        "drawn": example.drawn,
        "prompt": _cut(example.prompt),
        "veiled": example.kind == "harmful",
        "replies": replies,
    }


def _cut(words: str) -> str:
    left = len(words) - LONGEST
    return words if left <= 0 else f"{words[:LONGEST]} […] ({left:,} more characters in rows.jsonl)"


def spelled_out(value: Any) -> Any:
    """Applied to every value the template prints: strings lose their hidden characters, our own markup stays as it is."""
    if isinstance(value, Markup):
        return value
    return invisible.spelled_out(value) if isinstance(value, str) else value


def _asset(name: str) -> str:
    return resources("temper.report").joinpath(name).read_text(encoding="utf-8")


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
