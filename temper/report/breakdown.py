"""The sections "By suite", "By category" and "By language", and gold against the proxy: where the headline comes from.

Everything comes from summary.json (`prove.breakdown`, arms); a run that was summarised before these were told has no such section.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from temper.report import charts, tables, text
from temper.report.blocks import Block, Figure, Folded, Prose, Section, Table
from temper.report.read import Run

NAMES = {
    "unsafe": "Unsafe answers to harmful prompts",
    "over_refusal": "Over-refusal of harmless prompts",
    "accuracy": "Reasoning tasks solved",
    "language_answer": "Consistency of the answer's language",
}
SHORT = {"unsafe": "unsafe", "over_refusal": "over-refusal", "accuracy": "solved"}
ORIGIN = ("of", "license", "licence", "revision", "source", "origin", "protocol", "fingerprint")
ByArm = Mapping[str, Mapping[str, Any]]


def suites(run: Run) -> Section | None:
    """Every suite on its own, with what was done to it and how it differs by arm."""
    found: Sequence[Mapping[str, Any]] = run.summary.get("breakdown", {}).get("suites", [])
    if not found:
        return None
    plain = [s for s in found if not s["how"]]
    changed = len(found) - len(plain)
    lead = f"{len(plain)} suites as they are" + (f", and {changed} that were rewritten or attacked." if changed else ".")
    first = Table(
        "What matters of each suite, by arm, with 95 % intervals",
        ("suite", "rate", *run.arms),
        tuple((s["name"], SHORT[metric], *_cells(run, s, metric)) for s in plain for metric in SHORT if _measures(s, metric)),
    )
    return Section("suites-alone", "By suite", lead, (first, *(_one(run, s, found) for s in plain)))


def categories(run: Run) -> Section | None:
    """A heat map of each rate, category by arm."""
    found: Mapping[str, Mapping[str, ByArm]] = run.summary.get("breakdown", {}).get("categories", {})
    figures = tuple(_heat(run, metric, found[metric]) for metric in SHORT if metric in found)
    if not figures:
        return None
    worst = _worst(found.get("unsafe", {}), run.arms[-1])
    return Section("categories", "By category", worst or "Each rate by category of the prompt.", figures)


def languages(run: Run) -> Section | None:
    """A table of each rate, language of the prompt by arm."""
    found: Mapping[str, Mapping[str, ByArm]] = run.summary.get("breakdown", {}).get("languages", {})
    told = tuple(_by_language(run, metric, found[metric]) for metric in NAMES if metric in found)
    lead = "Each rate by language of the prompt. Prompts of two languages are the same only where a suite has parallel rows."
    return Section("languages", "By language", lead, told) if told else None


def proxy(run: Run) -> Section | None:
    """What gold finds against what the proxy, which training may optimise, finds of the same answers."""
    arms, name = run.summary.get("arms", {}), run.summary.get("proxy", "the proxy")
    points = [
        charts.Point(arm, x, y)
        for arm in run.arms
        if (x := interval(arms.get(arm, {}).get("unsafe_proxy"))) and (y := interval(arms.get(arm, {}).get("unsafe")))
    ]
    if not points:
        return None
    labels = f"unsafe by {name}", f"unsafe by {run.gold}"
    caption = "Gold against proxy on the same answers; above the dashed line gold finds more harm than the proxy does"
    drawn = charts.frontier(points, title=caption, x_label=labels[0], y_label=labels[1], diagonal=True)
    lead = f"{run.gold}, which never rewarded, beside {name}, which training may optimise: an arm far above the line pleases it."
    return Section("proxy", "Gold against proxy", lead, (Figure(caption, drawn, tables.of_points(caption, *labels, points)),))


def interval(measured: Mapping[str, Any] | None) -> charts.Interval | None:
    """Value, low and high of something measured; None where one of them is unknown."""
    three = [(measured or {}).get(key) for key in ("value", "low", "high")]
    return None if any(v is None for v in three) else (float(three[0]), float(three[1]), float(three[2]))  # type: ignore[arg-type]


def _one(run: Run, suite: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> Folded:
    metrics = list(dict.fromkeys(m for of in suite["arms"].values() for m in of))
    known = run.summary.get("metrics", {})
    rows = tuple((known.get(m, {}).get("label", m), *_cells(run, suite, m)) for m in metrics)
    blocks: list[Block] = [*_origin(run, suite["name"]), Table(f"{suite['name']}, by arm", ("metric", *run.arms), rows)]
    blocks += _changed(run, suite["name"], every)
    return Folded(f"{suite['name']}: {_asked(suite)}", tuple(blocks), rows=f"suite={suite['name']}")


def _asked(suite: Mapping[str, Any]) -> str:
    counts = sorted(set(suite["rows"].values()))
    each = text.count(counts[0]) if len(counts) == 1 else f"{text.count(counts[0])} to {text.count(counts[-1])}"
    return f"{each} rows an arm"


def _origin(run: Run, name: str) -> Iterator[Prose]:
    facts = run.facts.get("data", {}).get(name)
    told = [f"{key}: {facts[key]}" for key in ORIGIN if facts.get(key)] if isinstance(facts, Mapping) else []
    if told:
        yield Prose("; ".join(told) + ".")


def _changed(run: Run, name: str, every: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    variants = [s for s in every if s["how"] and s["of"] == name]
    rows = tuple((", ".join(s["how"]), SHORT[m], *_cells(run, s, m)) for s in variants for m in SHORT if _measures(s, m))
    if rows:
        yield Table(f"{name}, rewritten or attacked", ("how", "rate", *run.arms), rows)


def _measures(suite: Mapping[str, Any], metric: str) -> bool:
    return any(metric in of for of in suite["arms"].values())


def _cells(run: Run, suite: Mapping[str, Any], metric: str) -> list[str]:
    unit = run.summary.get("metrics", {}).get(metric, {}).get("unit", "share")
    return [_cell(suite["arms"].get(arm, {}).get(metric), unit) for arm in run.arms]


def _cell(measured: Mapping[str, Any] | None, unit: str = "share") -> str:
    if not measured or measured["value"] is None:
        return "–"
    value, span = text.with_interval(measured, unit)
    left = f"; {text.count(measured['ungraded'])} ungraded" if measured.get("ungraded") else ""
    return f"{value} ({span}; n {text.count(measured['n'])}{left})"


def _heat(run: Run, metric: str, found: Mapping[str, ByArm]) -> Figure:
    rows = sorted(found, key=lambda name: -max((m["value"] or 0.0 for m in found[name].values()), default=0.0))
    cells = {(row, arm): interval(found[row].get(arm)) for row in rows for arm in run.arms}
    counts = {(row, arm): m["n"] for row in rows for arm, m in found[row].items()}
    caption = f"{NAMES[metric]}, category by arm, per cent with 95 % intervals"
    drawn = charts.heat(rows, run.arms, cells, title=caption)
    return Figure(caption, drawn, tables.of_heat(caption, rows, run.arms, cells, counts, what="category"))


def _worst(found: Mapping[str, ByArm], arm: str) -> str:
    """The category with the highest unsafe rate in one arm, as a sentence."""
    rates = {name: of[arm] for name, of in found.items() if of.get(arm, {}).get("value") is not None}
    if not rates:
        return ""
    name = max(rates, key=lambda n: (rates[n]["value"], n))
    value, span = text.with_interval(rates[name])
    return (
        f"{arm} is least safe on {name}: {value} of answers unsafe (95 % interval {span}, n = {rates[name]['n']}). The highest of "
        f"{len(rates)} categories was picked here, so expect a little less on new prompts."
    )


def _by_language(run: Run, metric: str, found: Mapping[str, ByArm]) -> Table:
    unit = "score" if metric == "language_answer" else "share"
    rows = tuple((name, *(_cell(of.get(arm), unit) for arm in run.arms)) for name, of in found.items())
    return Table(f"{NAMES[metric]}, by language, with 95 % intervals", ("language", *run.arms), rows)
