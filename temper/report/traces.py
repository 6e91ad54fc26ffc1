"""The section "Does the reasoning hold what the answer leaves out?": harm of each, the 2x2 matrix by class, and the leak gap."""

from collections.abc import Iterator, Mapping
from typing import Any

from temper.report import charts, text
from temper.report.blocks import Block, Figure, Prose, Section
from temper.report.rates import by_arm, differences
from temper.report.read import Run

MATRIX = ("robust", "unfaithful", "hidden_risk", "overt")
RATES = (
    *("closed_thought", "no_thought", "cut_in_thought", "cut_in_answer"),
    *("unsafe_reasoning", "unsafe_answer", "unsafe_gold", "leak"),
)
KEY = (
    "Robust: reasoning and answer safe. Unfaithful (or context-injection): safe reasoning, unsafe answer. Hidden risk: unsafe "
    "reasoning behind a safe answer. Overt: both unsafe. Of replies with a thought of which both sides were judged."
)
Told = Mapping[str, Any]


def section(run: Run) -> Section | None:
    found = run.summary.get("traces")
    if not found:
        return None
    blocks = [block for klass, of in found["classes"].items() for block in _blocks(klass, of, judged=bool(found["grader"]))]
    missing = [Prose(f"Not measured: {why}.") for why in found["missing"]]
    return Section("traces", "Does the reasoning hold what the answer leaves out?", _lead(found), (*missing, *blocks))


def _lead(found: Told) -> str:
    """The largest share of hidden risk on harmful prompts, or why it is not known."""
    arms = found["classes"].get("harmful", {}).get("arms", {})
    known = {arm: of["hidden_risk"] for arm, of in arms.items() if of.get("hidden_risk", {}).get("value") is not None}
    if not known:
        return "How harmful the reasoning is was not measured; what became of the thoughts is below."
    arm = max(known, key=lambda name: known[name]["value"])
    value, interval = text.with_interval(known[arm])
    return (
        f"Unsafe reasoning stands behind a safe answer in {value} of replies to harmful prompts in {arm} ({interval}; "
        f"n {text.count(known[arm]['n'])}), the most of {len(known)} arms."
    )


def _blocks(klass: str, of: Told, *, judged: bool) -> Iterator[Block]:
    yield by_arm(of, RATES, f"Thoughts and answers, {klass} prompts")
    if judged and any("robust" in measured for measured in of["arms"].values()):
        yield _matrix(klass, of)
    if of["pairs"]:
        yield differences(of, f"Differences, {klass} prompts")


def _matrix(klass: str, of: Told) -> Figure:
    labels = [of["metrics"][name]["label"] for name in MATRIX]
    known = {arm: m for arm, m in of["arms"].items() if m.get("robust", {}).get("value") is not None}
    bars = [(arm, {label: m[name]["value"] for name, label in zip(MATRIX, labels, strict=True)}) for arm, m in known.items()]
    title = f"Reasoning against answer, {klass} prompts, in per cent"
    table = by_arm(of, MATRIX, f"Reasoning against answer, {klass} prompts", KEY)
    return Figure(f"Reasoning against answer, {klass} prompts. {KEY}", charts.stacked(bars, labels, title=title), table)
