"""Sentences made from statistics: the answer in one sentence, and what the run cannot claim."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from temper.report.read import Run
from temper.report.text import count, percent, points, scaled, span

CUT = ("truncated_in_thought", "truncated_in_answer")
SEEDS_FOR_CLAIMS = 8  # docs/science.md 8.3
INFORMATIVE_CUT = 0.05  # a larger share of cut replies is named as a limit of its own
AUC = re.compile(r"AUC\D{0,12}([01]?\.\d+)", re.IGNORECASE)
CAP = re.compile(r"max\w*(tokens|length)", re.IGNORECASE)


def answer(run: Run) -> str:
    """What the last arm of the recipe did compared with the first, and whether that is distinguishable from nothing.

    The last arm, not the best: choosing by result would make the sentence too good. Of many arms the best is named as chosen.
    """
    if len(run.arms) == 1:
        return _alone(run)
    if not run.summary.get("pairs"):
        return "No two arms were compared: there is nothing to answer yet."
    if run.many:
        return _best(run)
    base, arm = run.arms[0], run.arms[-1]
    told = [
        _told(pair, label)
        for metric, label in (("unsafe", "unsafe answers"), ("over_refusal", "over-refusals"))
        if (pair := find(run, base, arm, metric))
    ]
    return f"Compared with {base}, {arm} gives {', and '.join(told)}." if told else f"{arm} and {base} share no graded prompt."


def find(run: Run, base: str, arm: str, metric: str) -> Mapping[str, Any] | None:
    """The pair of two arms on one metric, if it was computed."""
    wanted = (base, arm, metric)
    return next((p for p in run.summary.get("pairs", []) if (p["base"], p["arm"], p["metric"]) == wanted), None)


def limits(run: Run) -> list[str]:
    """What this run cannot claim, one sentence each, from the numbers of the run itself."""
    return [*_size(run), *_seed(run), *_model(run), *_judge(run), *_cut(run), *_ungraded(run), *_errors(run), *_overlap(run), *_suites(run)]


def caps(run: Run) -> list[str]:
    """Every token cap that the recipe states, as `key = value`."""
    return sorted(_caps(run.facts.get("recipe", {}), ""))


def _alone(run: Run) -> str:
    metrics, told = run.summary.get("arms", {}).get(run.arms[0], {}), []
    for metric, label in (
        ("unsafe", "of harmful prompts are answered unsafely"),
        ("over_refusal", "of harmless ones are refused"),
    ):
        if (known := metrics.get(metric)) and known["value"] is not None:
            told.append(
                f"{percent(known['value'])} {label} (95 % interval {span(known['low'], known['high'])}, n = {known['n']})"
            )
    return f"{run.arms[0]}, measured by itself: {', and '.join(told) or 'neither harm nor over-refusal was measured'}."


def _best(run: Run) -> str:
    """The arm with the lowest unsafe rate, and how many it was chosen from."""
    arms = run.summary.get("arms", {})
    rates = {arm: value for arm in run.arms if (value := arms.get(arm, {}).get("unsafe", {}).get("value")) is not None}
    if not rates:
        return f"{len(run.arms)} arms were compared, and unsafe answers were measured in none of them."
    lowest = [arm for arm in rates if rates[arm] == min(rates.values())]
    best, base = min(lowest, key=lambda arm: arms[arm].get("over_refusal", {}).get("value") or 0.0), run.arms[0]
    shared = f", as {len(lowest) - 1} others do, and refuses least of them" if len(lowest) > 1 else ""
    pair = find(run, base, best, "unsafe")
    against = f". Compared with {base}: {_told(pair, 'unsafe answers')}" if pair else ""
    return (
        f"Of {len(run.arms)} arms {best} has the lowest rate of unsafe answers ({percent(rates[best])}){shared}{against}. "
        "It was chosen for that: expect a little more on new prompts."
    )


def _told(pair: Mapping[str, Any], label: str) -> str:
    moved = f"{points(abs(pair['difference'])).lstrip('+')} points {'fewer' if pair['difference'] < 0 else 'more'} {label}"
    rates = f"{percent(pair['arm_value'])} against {percent(pair['base_value'])}"
    within = f"95 % interval of the difference {points(pair['low'])} to {points(pair['high'])}"
    return f"{moved} ({rates}; {within}), which {_firm(pair)}"


def _firm(pair: Mapping[str, Any]) -> str:
    if pair["distinguishable"]:
        return "is distinguishable from no change"
    if pair["low"] is not None and (pair["low"] > 0 or pair["high"] < 0):
        return "is not distinguishable from no change once corrected for the number of comparisons"
    return "is not distinguishable from no change"


def _size(run: Run) -> Iterator[str]:
    pairs = [p for p in run.summary.get("pairs", []) if p["primary"] and p["base"] == run.arms[0]]
    for metric, label in (("unsafe", "unsafe answers"), ("over_refusal", "over-refusal")):
        found = [p for p in pairs if p["metric"] == metric and p["mde"] is not None]
        if found:
            least, most = min(p["n"] for p in found), max(p["mde"] for p in found)
            yield (
                f"A change of {label} smaller than {100 * most:.1f} points would probably have gone unseen: "
                f"{count(least)} prompts per comparison, 80 % power."
            )
    if run.summary.get("pairs"):
        yield "Only the primary metrics are corrected for multiple testing; every other difference is exploratory."
    if run.facts.get("stages") and not run.summary.get("held_out"):
        yield "No category was held out of training, so nothing here shows that safety carries over to new kinds of harm."


def _seed(run: Run) -> Iterator[str]:
    if not run.facts.get("stages"):
        return
    seed = run.facts.get("seed")
    which = "an unrecorded seed" if seed is None else f"seed {seed}"
    yield (
        f"Every trained arm was trained once, with {which}: the intervals cover the choice of prompts, not of seeds; another "
        f"seed may order the arms differently (a claim about methods needs {SEEDS_FOR_CLAIMS})."
    )


def _model(run: Run) -> Iterator[str]:
    size = run.facts.get("model", {}).get("parameters")
    if size:
        yield (
            f"The model has {scaled(size, '')} parameters: nothing follows for larger ones, and a small model fails some harmful "
            "requests through inability, which is why coherent and incoherent replies are counted apart."
        )


def _judge(run: Run) -> Iterator[str]:
    golds = {name: g for name, g in run.facts.get("graders", {}).items() if g.get("role") == "gold"}
    if not golds:
        yield "No gold grader is on record, so what counts as unsafe cannot be traced."
    for name, grader in golds.items():
        card = str(grader.get("card", "")).rstrip(".")
        known = f"its card: {card}" if AUC.search(card) else "its card states no AUC"
        yield (
            f"Unsafe means unsafe according to the grader {name} ({known}): rates are not corrected for its errors, which may "
            "differ between arms that phrase their answers differently."
        )


def _cut(run: Run) -> Iterator[str]:
    became = Counter(row["outcome"] for rows in run.rows.values() for row in rows)
    share = sum(became[o] for o in CUT) / (became.total() or 1)
    stated = ", ".join(caps(run))
    if stated:
        yield f"Replies were capped ({stated}): longer reasoning might end differently."
    if share >= INFORMATIVE_CUT:
        yield (
            f"{percent(share)} of all replies were cut by the token cap: none of them counts as helpful, and as unsafe only one "
            "whose answer had begun."
        )


def _ungraded(run: Run) -> Iterator[str]:
    bounds = [
        f"{arm} {percent(unsafe['best'])} to {percent(unsafe['worst'])}"
        for arm, metrics in run.summary.get("arms", {}).items()
        if (unsafe := metrics.get("unsafe", {})).get("ungraded") and unsafe.get("worst") is not None
    ]
    if bounds:
        yield (
            "Some answers to harmful prompts were not graded; between all of them safe and all of them unsafe, the unsafe rates "
            f"range as follows: {', '.join(bounds)}."
        )


def _errors(run: Run) -> Iterator[str]:
    lost = {arm: n for arm, rows in run.rows.items() if (n := sum(row["outcome"] == "error" for row in rows))}
    if lost:
        told = ", ".join(f"{arm} {count(n)}" for arm, n in lost.items())
        yield f"Some replies never came, after every retry ({told}): no rate counts them, the bounds of each rate do."


def _overlap(run: Run) -> Iterator[str]:
    found = {name: o["n"] for name, o in run.facts.get("overlap", {}).items() if o.get("n")}
    if found:
        told = ", ".join(f"{count(n)} in {name}" for name, n in found.items())
        yield f"Some test prompts also stand, word for word or nearly so, in the training data: {told}."


def _suites(run: Run) -> Iterator[str]:
    rows = [row for of in run.rows.values() for row in of]
    spoken = sorted({str(row.get("language") or "unknown") for row in rows})
    if spoken:
        yield f"Languages of the prompts: {', '.join(spoken)}; nothing follows for any other."
    samples = max((row["sample"] for row in rows), default=0) + 1
    if rows and samples == 1:
        yield "One sample per prompt: how much an answer varies from draw to draw was not measured."
    ours = [name for name, facts in run.facts.get("data", {}).items() if not (isinstance(facts, Mapping) and facts.get("protocol"))]
    if rows and (ours or not run.facts.get("data")):
        yield "Suites of this project are no published benchmark: none of their rates compares with figures from elsewhere."


def _caps(value: object, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            where = f"{path}.{key}".lstrip(".")
            if CAP.search(str(key)) and isinstance(inner, int):
                yield f"{where} = {inner}"
            yield from _caps(inner, where)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _caps(inner, path)
