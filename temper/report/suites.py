"""The section "Published suites": figures by arm, how the authors ran them, how this run differs, what was reproduced."""

from collections.abc import Iterator, Mapping
from typing import Any

from temper.report import text
from temper.report.blocks import Block, Prose, Section, Table
from temper.report.read import Run

Suite = Mapping[str, Any]
SETTINGS = {"max_tokens": "max_new_tokens", "temperature": "temperature", "top_p": "top_p", "samples": "samples"}
"""What a protocol and a run's own settings call the same thing."""
WORDS = {"max_tokens": "token cap", "temperature": "temperature", "top_p": "top-p", "samples": "samples per prompt"}


def section(run: Run) -> Section | None:
    """None where no published suite was asked."""
    found: Mapping[str, Suite] = run.summary.get("suites") or {}
    if not found:
        return None
    blocks = [block for suite in found.values() for block in _blocks(run, suite)]
    names = ", ".join(str(suite["title"]) for suite in found.values())
    lead = (
        f"{names}: by each suite's own outcome rule. No figure compares with a published one unless protocol and judge are the "
        "same; where they differ is said below each table."
    )
    return Section("suites", "Published suites", lead, (*blocks, *_reproductions(found)))


def _blocks(run: Run, suite: Suite) -> Iterator[Block]:
    yield _figures(suite)
    yield from (_parted(suite, axis, found) for axis, found in suite["by"].items() if found)
    yield _protocol(run, suite)
    yield Prose(
        f"{suite['title']}: {suite['differs']} Licence of the data: {suite['license']}. {suite['citation']}. {_seen(suite)}"
    )


def _figures(suite: Suite) -> Table:
    metrics = suite["metrics"]
    rows = tuple(
        (arm, text.count(found["prompts"]), *(_cell(found["measures"].get(name), m["unit"]) for name, m in metrics.items()))
        for arm, found in suite["arms"].items()
    )
    head = ("arm", "prompts", *(m["label"] for m in metrics.values()))
    return Table(f"{suite['title']}: {suite['outcome']}", head, rows, note=" ".join(_compared(suite)))


def _cell(measured: Mapping[str, Any] | None, unit: str) -> str:
    value, interval = text.with_interval(measured, unit)
    if not interval or measured is None:
        return value
    open_ = f", {measured['ungraded']} ungraded" if measured.get("ungraded") else ""
    return f"{value} ({interval}; n {measured['n']}{open_})"


def _parted(suite: Suite, axis: str, found: Mapping[str, Mapping[str, Any]]) -> Table:
    """The headline by language or category; few prompts each, so that the interval says more than the value."""
    headline, arms = suite["metrics"][suite["headline"]], list(suite["arms"])
    rows = tuple((name, *(_cell(of.get(arm), headline["unit"]) for arm in arms)) for name, of in found.items())
    return Table(f"{suite['title']}: {headline['label'].lower()}, by {axis}", (axis, *arms), rows)


def _seen(suite: Suite) -> str:
    return str(suite["seen"]) or "No shipped judge was trained on its rows."


def _compared(suite: Suite) -> Iterator[str]:
    for pair in suite["pairs"]:
        unit = suite["metrics"][pair["metric"]]["unit"]
        change, span = text.change(pair["difference"], unit), text.span(pair["low"], pair["high"], "difference")
        firm = "distinguishable from no change" if pair["distinguishable"] else "not distinguishable from no change"
        yield f"{pair['arm']} against {pair['base']}: {change} ({span}), {firm}{_unseen(pair, unit)}."


def _unseen(pair: Mapping[str, Any], unit: str) -> str:
    """The change that would have been seen, where none was."""
    known = not pair["distinguishable"] and pair.get("mde") is not None
    return f"; smallest detectable {text.change(pair['mde'], unit).lstrip('+')}" if known else ""


def _protocol(run: Run, suite: Suite) -> Table:
    """The published settings beside this run's; what no source we have read states is not recorded."""
    protocol = suite["protocol"]
    ours = {**(run.facts.get("recipe", {}).get("prove") or {}), "judge": run.gold}
    rows = [(WORDS[name], _plain(protocol.get(name)), _plain(ours.get(key))) for name, key in SETTINGS.items()]
    rows += [
        ("few-shot examples", _plain(protocol.get("shots")), "0"),
        ("judge", _plain(protocol.get("judge")), str(ours["judge"])),
    ]
    caption = f"{suite['title']}: the published protocol and this run"
    return Table(caption, ("setting", "published", "here"), tuple(rows), note=f"Published: {protocol['said_by']}.")


def _plain(value: object) -> str:
    return text.MISSING if value in (None, "") else f"{value:,}" if isinstance(value, int) else str(value)


def _reproductions(found: Mapping[str, Suite]) -> Iterator[Block]:
    """Published figures against this code on the same stored completions."""
    rows = tuple(
        (
            str(suite["title"]),
            str(record["model"]),
            str(record["figure"]),
            _number(record["expected"]),
            _number(record["ours"]),
            str(record["verdict"]),
            str(record["note"]),
        )
        for suite in found.values()
        for record in suite["reproductions"]
    )
    head = ("suite", "model", "figure", "published", "ours", "", "note")
    yield Table("Reproduction: the same stored completions, scored by their authors and by us", head, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
