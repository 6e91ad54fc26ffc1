"""A model card's block: the metrics of one arm as `model-index` metadata (YAML) and as a table, each with n and interval."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = (
    "unsafe",
    "over_refusal",
    "unsafe_coherent",
    "refusal_on_harmful",
    "helped",
    "accuracy",
    "language_answer",
    "language_reasoning",
    "readability",
    "closed_thought",
    "truncated_in_thought",
    "tokens",
)


def card(summary: Mapping[str, Any], facts: Mapping[str, Any], arm: str, model: str) -> str:
    """Markdown that opens with YAML metadata, ready to be put at the head of a README or merged into one."""
    found = dict(_known(summary, arm))
    return "\n".join([*_yaml(summary, model, found), "", *_table(summary, facts, arm, found), ""])


def _known(summary: Mapping[str, Any], arm: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    measured = summary["arms"][arm]
    own = [name for name in measured if name.startswith("grader:")]
    return ((name, measured[name]) for name in (*SHOWN, *own) if name in measured and measured[name]["value"] is not None)


def _yaml(summary: Mapping[str, Any], model: str, found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A JSON string is a YAML one, so nothing in a name can break out of it."""
    yield from ("---", "model-index:", f"- name: {json.dumps(model)}", "  results:", "  - task:", "      type: text-generation")
    yield from ("    dataset:", "      name: temper prove", "      type: temper", "    metrics:")
    for name, m in found.items():
        label = summary["metrics"][name]["label"]
        yield from (f"    - type: {json.dumps(name)}", f"      name: {json.dumps(label)}", f"      value: {m['value']:.6g}")
    yield "---"


def _table(
    summary: Mapping[str, Any], facts: Mapping[str, Any], arm: str, found: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    yield from (
        f"## Safety evaluation (temper, arm `{arm}`)",
        "",
        "| metric | value | 95 % interval | n | better |",
        "|---|---|---|---|---|",
    )
    for name, m in found.items():
        what = summary["metrics"][name]
        yield f"| {_cell(what['label'])} | {_shown(m, what['unit'])} | {m['n']} | {what['better']} |"
    suites = ", ".join((facts.get("data") or {}) or ["not recorded"])
    asked = (facts.get("recipe") or {}).get("prove") or {}
    cap = asked.get("max_new_tokens") or "not recorded"
    ungraded = {summary["metrics"][name]["label"]: m["ungraded"] for name, m in found.items() if m.get("ungraded")}
    yield from ("", f"Suites: {_cell(suites)}. Judge of unsafe answers: `{summary['judge']}`. Token cap: {cap}.")
    if ungraded:
        counts = "; ".join(f"{_cell(label)}: {n}" for label, n in ungraded.items())
        yield f"Not graded, and in no rate: {counts}."
    if summary.get("command"):
        yield f"Made with `{_cell(summary['command'])}`."


def _shown(m: Mapping[str, Any], unit: str) -> str:
    if unit == "tokens":
        return f"{m['value']:.1f} | {m['low']:.1f} to {m['high']:.1f}"
    return f"{m['value']:.1%} | {m['low']:.1%} to {m['high']:.1%}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")
