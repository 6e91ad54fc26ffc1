"""The section "Under attack": a heat map of attack by arm, each attack beside the plain prompts, and what attacks cost.

Everything comes from summary.json (`prove.attacks`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from temper.report import charts, tables, text
from temper.report.blocks import Block, Figure, Prose, Section, Table
from temper.report.breakdown import interval
from temper.report.read import Run

PLAIN = "no attack"
Told = Mapping[str, Any]


def attacks(run: Run) -> Section | None:
    """None for a run in which nothing was attacked."""
    found: Told = run.summary.get("attacks", {})
    if not found.get("attacks"):
        return None
    return Section("attacks", "Under attack", _lead(run, found), tuple(_blocks(run, found)))


def _blocks(run: Run, found: Told) -> Iterator[Block]:
    by_attack: Mapping[str, Mapping[str, Told]] = {name: each["arms"] for name, each in found["attacks"].items()}
    if any("unsafe" in arm["under"] for arms in by_attack.values() for arm in arms.values()):
        yield _heat(run, by_attack)
        yield _changes(run, by_attack, "unsafe", "Unsafe answers to harmful prompts, under attack and without, same prompts")
        yield Prose(
            f"p is Holm's over all {found['family']} attacks and arms. Silent are replies that say nothing coherent: where they "
            "are many, a low rate shows that the model could not read the attack, not that it withstood it."
        )
    if found["any"]:
        yield from _any(run, found["any"])
    if any("over_refusal" in arm["under"] for arms in by_attack.values() for arm in arms.values()):
        yield _changes(run, by_attack, "over_refusal", "Over-refusal of harmless prompts, under attack and without")
    if found["between"]:
        yield _between(found["between"])
    yield from _costs(run, by_attack)
    yield from (Prose(sentence) for sentence in _caveats(by_attack))


def _lead(run: Run, found: Told) -> str:
    arm = run.arms[-1]
    told = {name: each["arms"][arm] for name, each in found["attacks"].items() if arm in each["arms"]}
    rates = {name: t["under"]["unsafe"] for name, t in told.items() if _known(t["under"].get("unsafe"))}
    if not rates:
        return "Harmless prompts under attack: what is refused that should not be."
    name = max(rates, key=lambda n: (rates[n]["value"], n))
    value, span = text.with_interval(rates[name])
    if rates[name]["value"] == 0:
        few = min(rates.values(), key=lambda of: of["n"])
        said = f"{arm} gives way to none of {len(rates)} attacks" if len(rates) > 1 else f"{arm} does not give way to {name}"
        return (
            f"{said}: {value} of answers unsafe, and at most {text.percent(few['high'])} by the 95 % interval (n = {few['n']})."
        )
    plain = text.with_interval(told[name]["plain"].get("unsafe"))[0]
    return (
        f"{arm} gives way most often to {name}: {value} of answers unsafe (95 % interval {span}, n = {rates[name]['n']}), "
        f"{plain} without an attack on the same prompts.{_picked(len(rates))}"
    )


def _picked(attacks: int) -> str:
    return f" The highest of {attacks} attacks was picked here, so expect a little less on new prompts." if attacks > 1 else ""


def _known(measured: Told | None) -> bool:
    return measured is not None and measured["value"] is not None


def _heat(run: Run, by_attack: Mapping[str, Mapping[str, Told]]) -> Figure:
    """Attack by arm; the first row is the plain rate on the prompts of the attack that was made on the most."""
    measured = {(name, arm): told["under"].get("unsafe") for name, arms in by_attack.items() for arm, told in arms.items()}
    for arm in run.arms:
        plain = [arms[arm]["plain"].get("unsafe") for arms in by_attack.values() if arm in arms]
        measured[PLAIN, arm] = max((p for p in plain if p), key=lambda p: p["n"], default=None)
    rows = [PLAIN, *by_attack]
    cells = {key: interval(found) for key, found in measured.items()}
    counts = {key: found["n"] for key, found in measured.items() if found}
    caption = "Unsafe answers, attack by arm, per cent with 95 % intervals"
    drawn = charts.heat(rows, run.arms, cells, title=caption)
    return Figure(caption, drawn, tables.of_heat(caption, rows, run.arms, cells, counts, what="attack"))


def _changes(run: Run, by_attack: Mapping[str, Mapping[str, Told]], metric: str, caption: str) -> Table:
    rows = tuple(
        (name, arm, *_change(arms[arm], metric))
        for name, arms in by_attack.items()
        for arm in run.arms
        if arm in arms and metric in arms[arm]["under"]
    )
    note = "" if metric == "unsafe" else "p is of each comparison by itself."
    return Table(caption, ("attack", "arm", "under attack", "plain", "change, points", "p", "silent"), rows, note)


def _change(told: Told, metric: str) -> Iterator[str]:
    yield _rate(told["under"][metric])
    yield _rate(told["plain"].get(metric))
    found = told["differences"].get(metric)
    if found is None:
        yield from ("–", "–")
    else:
        yield f"{text.points(found['difference'])} ({text.span(found['low'], found['high'], 'difference')}; n {found['n']})"
        yield text.pvalue(found["p"] if found["holm"] is None else found["holm"])
    yield text.with_interval(told["silent"])[0] if metric == "unsafe" else "–"


def _rate(measured: Told | None) -> str:
    if not measured or measured["value"] is None:
        return "–"
    value, span = text.with_interval(measured)
    if not measured.get("ungraded"):
        return f"{value} ({span}; n {measured['n']})"
    bounds = text.span(measured["best"], measured["worst"])
    return f"{value} ({span}; n {measured['n']}; {measured['ungraded']} ungraded: {bounds})"


def _any(run: Run, found: Mapping[str, Told]) -> Iterator[Block]:
    known = [(arm, found[arm]) for arm in run.arms if found.get(arm, {}).get("unsafe")]
    if not known:
        return
    rows = tuple((arm, str(a["attacks"]), _rate(a["unsafe"]), _rate(a["plain"]), _plain_best(a)) for arm, a in known)
    yield Table(
        "Prompts answered unsafely under at least one attack",
        ("arm", "attacks", "under any", "plain", "plain, any of its samples"),
        rows,
        "A best of several rises with their number even if no attack works: compare it with the plain best of as many samples.",
    )


def _plain_best(told: Told) -> str:
    best = told["plain_best"]
    return f"{_rate(best)}, {best['samples']} samples" if best else "one sample only"


def _between(found: Sequence[Told]) -> Table:
    rows = tuple(
        (
            d["attack"],
            f"{d['arm']} against {d['base']}",
            f"{text.points(d['difference'])} ({text.span(d['low'], d['high'], 'difference')}; n {d['n']})",
            text.pvalue(d["p"] if d["holm"] is None else d["holm"]),
            text.points(d["mde"]),
        )
        for d in found
    )
    head = ("attack", "arms", "change of unsafe answers, points", "p", "would have shown")
    note = f"Paired on prompts; p is Holm's over these {len(found)}; the last column is the least change seen with 80 % power."
    return Table("Arms compared under each attack", head, rows, note)


def _costs(run: Run, by_attack: Mapping[str, Mapping[str, Told]]) -> Iterator[Block]:
    searched = [
        (name, arm, arms[arm]["search"])
        for name, arms in by_attack.items()
        for arm in run.arms
        if arm in arms and arms[arm]["search"]
    ]
    if not searched:
        return
    yield _growth(searched)
    head = ("attack", "arm", "attacker", "queries", "to success", "tokens of target", "of attacker", "judge calls", "judge met")
    rows = tuple((name, arm, *_spent(found)) for name, arm, found in searched)
    note = (
        "To success: median query (quartiles) among prompts with an unsafe answer by gold. Judge met: share of replies that the "
        "steering judge held for a success and gold finds unsafe too; that judge is never gold."
    )
    yield Table("What the attacks that ask several times took", head, rows, note)


def _growth(searched: Sequence[tuple[str, str, Told]]) -> Figure:
    caption = "Unsafe answers by gold, by queries allowed"
    series = [
        charts.Line(
            f"{name}, {arm}" if len({a for _, a, _ in searched}) > 1 else name,
            [(float(b["queries"]), b["value"]) for b in found["budget"] if b["value"] is not None],
            dots=True,
            spans=[(float(b["queries"]), b["low"], b["high"]) for b in found["budget"] if b["low"] is not None],
        )
        for name, arm, found in searched
    ]
    drawn = charts.lines(series, title=caption, x_label="queries", y_label="share unsafe")
    return Figure(caption, drawn, tables.of_lines(caption, "queries", series))


def _spent(found: Told) -> Iterator[str]:
    yield ", ".join(found["attackers"])
    yield f"{text.count(found['queries'])} ({text.decimal(found['mean_queries'], 1)} a prompt)"
    took = found["to_success"]
    yield f"{took['median']:g} ({took['low_quartile']:g} to {took['high_quartile']:g}; n {took['n']})" if took else "no success"
    yield from (text.count(found[key]) for key in ("target_tokens", "attacker_tokens", "judge_calls"))
    yield _rate(found["steered"]["gold_unsafe"])


def _caveats(by_attack: Mapping[str, Mapping[str, Told]]) -> Iterator[str]:
    for name, arms in by_attack.items():
        for arm, told in arms.items():
            yield from (f"{name}, {arm}: {sentence}" for sentence in _doubts(told))


def _doubts(told: Told) -> Iterator[str]:
    if told["errors"]:
        yield f"{told['errors']} rows never came; rates are bounded by them."
    if told["turns"] and told["turns"]["short"]:
        held = told["turns"]
        mean = text.decimal(held["mean"], 1)
        yield f"{held['short']} of {held['n']} conversations ended early, at a success or an error; {mean} turns on average."
    if (told["prefill"] or {}).get("unclear"):
        yield "no canary told whether the endpoint goes on from a begun reply."
    if told["decoded"] == 0:
        yield "no answer was in the code that was asked for."
    if told["search"] and told["search"]["attacker_failures"]:
        failed, calls = told["search"]["attacker_failures"], told["search"]["attacker_calls"]
        yield f"{failed} of {calls} texts of the attacker could not be read, and were replaced by fixed frames."
