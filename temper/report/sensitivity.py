"""The section "Does it depend on how it is asked?": rates under every rewrite, what each level changes, few-shot examples.

Everything comes from summary.json (`prove.sensitivity`); what each column is stands in docs/prompting.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from temper.report import charts, text
from temper.report.blocks import Block, Figure, Prose, Section, Table
from temper.report.read import Run

Told = Mapping[str, Any]

PLAIN = "plain"
FEW = "Examples before the request"
SUMMARY = ("arm", "prompts", PLAIN, "lowest", "highest", "spread", "by chance", "flips", "ProSA", "kappa", "Cochran p")
SHARES = {
    "condition": "how it is asked",
    "prompt": "what is asked",
    "both": "both together",
    "chance": "chance",
    "rest": "both together, and chance",
}
ASSOCIATED = 0.3  # Cramér's V from which two factors of the grid are too entangled to be told apart well


def section(run: Run) -> Section | None:
    """None where no suite was rewritten."""
    found: Told | None = run.summary.get("sensitivity")
    if not found:
        return None
    return Section("sensitivity", "Does it depend on how it is asked?", _lead(found), tuple(_blocks(found)))


def few_shot(arm: str, told: Told, labels: Mapping[str, str]) -> str:
    """The measured sentence on examples before the request: how each rate changes, and whether that degrades the arm."""
    changes = "; ".join(f"{labels[name].lower()} {_change(each)}, n = {each['n']}" for name, each in told["measures"].items())
    verdict = {"yes": "they degrade it", "no": "they do not degrade it", "cannot tell": "whether they degrade it is not shown"}
    return f"{FEW} change {arm}: {changes} points. So {verdict[told['degrades']]}{_seen(told)}."


def _seen(told: Told) -> str:
    """What this many prompts would have shown, where nothing was."""
    found = [each["mde"] for each in told["measures"].values()]
    if told["degrades"] != "cannot tell" or not found or None in found:  # a rate that never changed: its error is unknown, not 0
        return ""
    return f"; a change of {100 * max(found):.1f} points in each of these rates would have been seen four times in five"


def _lead(found: Told) -> str:
    """The worst prompt of the worst arm: by unsafe answers where they were judged, else by whichever rate spreads most."""
    asked = f"Asked in {len(found['conditions'])} ways"
    told = [(arm, name, each) for arm, of in found["arms"].items() for name, each in of["measures"].items()]
    chosen = [each for each in told if each[1] == "unsafe"] or told
    if not chosen:
        return f"{asked}, but too few prompts were graded under all of them to compare."
    arm, name, each = max(chosen, key=lambda of: of[2]["worst"]["value"] if of[1] == "unsafe" else of[2]["spread"]["value"])
    value, interval = text.with_interval(each["worst"])
    label = found["measures"][name]["label"].lower()
    return (
        f"{asked}, {arm} is at its worst under {_asked(each['worst']['condition'])}: {label} {value} ({interval}, corrected for "
        f"having been chosen). From best to worst way of asking it is {_with(each['spread'])}; chance alone would make that "
        f"{text.percent(each['spread']['by_chance'])}."
    )


def _blocks(found: Told) -> Iterator[Block]:
    labels = {name: metric["label"] for name, metric in found["measures"].items()}
    for arm, told in found["arms"].items():
        if told["few_shot"]:
            yield Prose(few_shot(arm, told["few_shot"], labels))
    for name, metric in found["measures"].items():
        arms = {arm: told["measures"][name] for arm, told in found["arms"].items() if name in told["measures"]}
        if arms:
            yield _figure(metric, arms)
            if any(each["pss"]["value"] for each in arms.values()):
                yield _effects(metric, arms)
                yield _shares(metric, arms)
                yield _conditions(metric, arms, found["conditions"])
    if found["pairs"]:
        yield _pairs(found["pairs"], labels)
    if found["posix"]:
        yield _posix(found["posix"])
    if found["association"] > ASSOCIATED:
        yield Prose(
            f"Two factors of this design go together (Cramér's V {text.decimal(found['association'])}): effects of levels are "
            "partly those of others. A grid of 16 cells or more keeps them apart."
        )


def _figure(metric: Told, arms: Mapping[str, Told]) -> Figure:
    drawn = [
        (arm, _interval(each["by_condition"][PLAIN]), [v for c in each["by_condition"].values() if (v := c["value"]) is not None])
        for arm, each in arms.items()
        if each["by_condition"].get(PLAIN, {}).get("value") is not None
    ]
    title = f"{metric['label']}: as published with its interval, and under every other way of asking"
    svg = charts.ranges(drawn, title=title, x_label="hollow: one way of asking each")
    return Figure(title, svg, Table(title, SUMMARY, tuple(_summary(arm, each) for arm, each in arms.items()), _left_out(arms)))


def _summary(arm: str, each: Told) -> tuple[str, ...]:
    rates = [c["value"] for c in each["by_condition"].values() if c["value"] is not None]
    return (
        arm,
        text.count(each["n"]),
        _with(each["by_condition"].get(PLAIN)),
        text.percent(min(rates)),
        text.percent(max(rates)),
        _with(each["spread"]),
        text.percent(each["spread"]["by_chance"]),
        _with(each["flip_rate"]),
        _with(each["pss"], "score"),
        _with(each["kappa"], "score"),
        text.pvalue(each["cochran"]["p"]),
    )


def _left_out(arms: Mapping[str, Told]) -> str:
    missing = [f"{arm} {each['left_out']}" for arm, each in arms.items() if each["left_out"]]
    said = "Only prompts graded under every condition count, except in the columns of rates"
    return f"{said}; left out: {', '.join(missing)}." if missing else f"{said}; none was left out."


def _effects(metric: Told, arms: Mapping[str, Told]) -> Table:
    levels = list(dict.fromkeys(level for each in arms.values() for level in each["effects"]))
    rows = tuple((level, *(_effect(each["effects"].get(level)) for each in arms.values())) for level in levels)
    note = "In points. A star: p < 0.05 after Holm over all measures and levels of the arm."
    if any(not effect["adjusted"] for each in arms.values() for effect in each["effects"].values()):
        note += " A dagger: too few cells to tell the level from others."
    return Table(f"{metric['label']}: what each level changes, the others held fixed", ("level", *arms), rows, note)


def _effect(effect: Told | None) -> str:
    if effect is None:
        return "–"
    value, interval = text.with_interval(effect, "difference")
    return f"{value}{'*' if effect['holm'] < 0.05 else ''}{'' if effect['adjusted'] else '†'} ({interval})"


def _shares(metric: Told, arms: Mapping[str, Told]) -> Table:
    names = [name for name in SHARES if any(name in each["variance"] for each in arms.values())]
    rows = tuple((arm, *(_with(each["variance"].get(name)) for name in names)) for arm, each in arms.items())
    note = "A dash: no answer differed from another. With one sample a prompt, chance cannot be told from the two together."
    return Table(f"{metric['label']}: what the variance of answers is due to", ("arm", *(SHARES[n] for n in names)), rows, note)


def _conditions(metric: Told, arms: Mapping[str, Told], conditions: Sequence[str]) -> Table:
    rows = tuple((_asked(name), *(_rate(each["by_condition"].get(name)) for each in arms.values())) for name in conditions)
    note = "Rate, prompts and interval; ungraded answers with the rate if all of them were good, and if all were bad."
    return Table(f"{metric['label']} under each way of asking", ("asked", *arms), rows, note)


def _rate(measured: Told | None) -> str:
    if not measured or measured["value"] is None:
        return "–"
    value, interval = text.with_interval(measured)
    bounds = sorted((measured["best"], measured["worst"]))
    missing = f"; {measured['ungraded']} ungraded: {text.span(*bounds)}" if measured["ungraded"] else ""
    return f"{value}, n = {measured['n']} ({interval}{missing})"


def _asked(spec: str) -> str:
    """A way of asking with room to break its line."""
    return spec.replace(",", ", ")


def _pairs(pairs: Sequence[Told], labels: Mapping[str, str]) -> Table:
    rows = tuple(
        (f"{p['arm']} against {p['base']}", labels[p["measure"]], text.count(p["n"]), f"{_change(p)}{text.unseen(p)}")
        for p in pairs
    )
    return Table(
        "Is an arm more sensitive than the first? Difference of ProSA's score", ("arms", "measure", "prompts", "points"), rows
    )


def _posix(by_arm: Mapping[str, Told]) -> Table:
    classes = list(dict.fromkeys(of for told in by_arm.values() for of in told))
    rows = tuple((arm, *(_with(told.get(of), "score") for of in classes)) for arm, told in by_arm.items())
    note = "Mean change of log P(answer) a token when the same request is asked in another way, in nats."
    return Table("POSIX", ("arm", *classes), rows, note)


def _with(estimate: Told | None, unit: str = "share") -> str:
    value, interval = text.with_interval(estimate, unit)
    return f"{value} ({interval})" if interval else value


def _change(estimate: Told) -> str:
    return _with(estimate, "difference")


def _interval(estimate: Told) -> charts.Interval:
    return estimate["value"], estimate["low"], estimate["high"]
