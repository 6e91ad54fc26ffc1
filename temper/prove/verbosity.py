"""How long replies are, on what, and whether the length buys anything: tokens against outcome, and thinking beyond the answer.

Arms are compared on prompts that both ended alike (both answered, both refused, both solved), because a refusal is short and a
model that refuses more would otherwise pass for concise. Leaves out the price of tokens, which is the costs' business.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from temper import stats
from temper.files import Row
from temper.prove import metrics as measures
from temper.prove.evidence import Evidence
from temper.prove.metrics import Metric, Value
from temper.prove.tables import tabled
from temper.stats import NOTHING, Estimate
from temper.types import Outcome

BANDS = 4
"""Replies of all arms together are cut into so many bands of equal size by the length of their thought."""
LEAST = 20
"""Thoughts of one class below which bands say nothing."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_COMPARED = ("tokens_answered", "tokens_refused", "tokens_solved", "thought_solved", "thought_share", "after_correct")


def verbosity(evidence: Evidence) -> dict[str, Any] | None:
    """A table of lengths (`tables.tabled`), `overthinking` by arm, and `bands` by class; None where no tokens were counted.

    `apportioned` counts by arm the thoughts whose tokens nobody counted and that get their share of the reply's by characters.
    """
    rows = evidence.plain.rows
    if not any(measures.completion_tokens(row) for of in rows.values() for row in of):
        return None
    return {
        **tabled(rows, _metrics(), paired=_COMPARED, seed=evidence.seed),
        "overthinking": {arm: overthinking(of, seed=evidence.seed) for arm, of in rows.items()},
        "bands": _bands(rows, evidence.gold),
        "apportioned": {arm: sum(_apportioned(row) for row in of) for arm, of in rows.items()},
    }


def thought_tokens(row: Row) -> float | None:
    """Tokens of a closed thought: counted, or else the reply's in proportion to characters; None without either."""
    return _written(row) if row["thought"] == "closed" else None


def least_tokens(row: Row) -> float | None:
    """Tokens of a closed thought, and of a cut one as many as it has so far: a lower bound of what it would have taken."""
    return _written(row) if row["thought"] in ("closed", "open") else None


def _written(row: Row) -> float | None:
    usage = row.get("usage") or {}
    if usage.get("reasoning_tokens") is not None:
        return float(usage["reasoning_tokens"])
    written = len(row["reasoning"]) + len(row["answer"])
    return usage["completion_tokens"] * len(row["reasoning"]) / written if written and usage.get("completion_tokens") else None


def correct_from(row: Row) -> float | None:
    """Where in the thought the right number stands first, as a share of its characters; None where that cannot be told.

    That is so without a thought or a target that is one number, where the prompt already holds that number, and where the thought
    never does. A number that is right by chance counts, so the true place is no earlier than this (cf. the outcome efficiency of
    arXiv 2412.21187, which has a model cut the thought into solutions).
    """
    target = _number(str(row.get("target") or ""))
    if target is None or not row["reasoning"] or target in _numbers(row["prompt"]):
        return None
    for found in _NUMBER.finditer(row["reasoning"]):
        if _number(found[0]) == target:
            return found.end() / len(row["reasoning"])
    return None


def overthinking(rows: Sequence[Row], *, seed: int = 0) -> dict[str, Any]:
    """Thought tokens on solved and on unsolved tasks, and the difference unsolved - solved.

    `difference` compares different tasks, so difficulty is part of it; `within` compares samples of the same task, and needs
    tasks that have both. A reply cut in its thought is unsolved and counts with its tokens so far: to leave it out would drop the
    longest thoughts. So with `cut` of them above 0, what has unsolved thoughts in it is a lower bound.
    """
    by_prompt: dict[tuple[str, str], dict[bool, list[float]]] = defaultdict(lambda: {True: [], False: []})
    for row in rows:
        length, right = least_tokens(row), _solved(row)
        if length is not None and right is not None:
            by_prompt[row["suite"], row["id"]][bool(right)].append(length)
    groups = measures.groups_of(rows)
    ends = {right: {prompt: _mean(of[right]) for prompt, of in by_prompt.items() if of[right]} for right in (True, False)}
    solved, unsolved = (_estimate(ends[right], groups) for right in (True, False))
    both = ends[True].keys() & ends[False].keys()
    within = {prompt: ends[False][prompt] - ends[True][prompt] for prompt in sorted(both)}
    told = {"solved": solved, "unsolved": unsolved, "difference": stats.contrast(unsolved, solved)}
    cut = sum(row["thought"] == "open" and least_tokens(row) is not None and _solved(row) is not None for row in rows)
    found = {**told, "within": _estimate(within, groups)}
    mde = {name: stats.detectable(found[name]) for name in ("difference", "within")}
    return {name: {**of.as_dict(), **({"mde": mde[name]} if name in mde else {})} for name, of in found.items()} | {"cut": cut}


def _metrics() -> dict[str, Metric]:
    """Lengths by how a reply ended; each reads only replies that ended so, which pairs arms on the same end."""
    tokens = measures.completion_tokens
    return {
        "tokens_answered": Metric(
            "Tokens, answered",
            "tokens of replies that answer a prompt that is no task",
            _became(Outcome.ANSWERED),
            tokens,
            unit="tokens",
        ),
        "tokens_refused": Metric("Tokens, refused", "tokens of refusals", _became(Outcome.REFUSED), tokens, unit="tokens"),
        "tokens_solved": Metric("Tokens, solved", "tokens of replies that solve a task", _ended(1.0), tokens, unit="tokens"),
        "tokens_unsolved": Metric("Tokens, unsolved", "tokens of replies that do not", _ended(0.0), tokens, unit="tokens"),
        "thought_solved": Metric(
            "Thought tokens, solved",
            "tokens of the thought of replies that solve a task",
            _thought_ended(1.0),
            thought_tokens,
            unit="tokens",
        ),
        "thought_share": Metric(
            "Share of thought",
            "thought tokens over all tokens of a reply whose thought closed",
            _thinks,
            _thought_share,
            unit="score",
        ),
        "after_correct": Metric(
            "Thinking after the answer was there",
            "share of a thought after the first mention of the right number, on solved tasks whose prompt does not hold it",
            lambda row: _solved(row) == 1.0 and correct_from(row) is not None,
            _after_correct,
            unit="score",
        ),
    }


def _became(outcome: Outcome) -> Callable[[Row], bool]:
    return lambda row: row["outcome"] == outcome and row["class"] != "reasoning"


def _solved(row: Row) -> float | None:
    return measures.correct(row) if row["class"] == "reasoning" and row["outcome"] != Outcome.ERROR else None


def _ended(solved: float) -> Callable[[Row], bool]:
    return lambda row: _solved(row) == solved


def _thinks(row: Row) -> bool:
    return thought_tokens(row) is not None


def _thought_ended(solved: float) -> Callable[[Row], bool]:
    return lambda row: _solved(row) == solved and _thinks(row)


def _thought_share(row: Row) -> float | None:
    length, whole = thought_tokens(row), measures.completion_tokens(row)
    return None if length is None or not whole else min(1.0, length / whole)


def _after_correct(row: Row) -> float | None:
    place = correct_from(row)
    return None if place is None else 1 - place


def _apportioned(row: Row) -> bool:
    return (row.get("usage") or {}).get("reasoning_tokens") is None and thought_tokens(row) is not None


def _number(text: str) -> str | None:
    """One number in one form, None for anything else."""
    plain = text.strip().replace(",", "")
    if not _NUMBER.fullmatch(plain):
        return None
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _numbers(text: str) -> set[str | None]:
    return {_number(found[0]) for found in _NUMBER.finditer(text)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _estimate(values: Mapping[tuple[str, str], float], groups: Mapping[tuple[str, str], str]) -> Estimate:
    return measures.estimate(values, groups, "tokens") if values else NOTHING


# --- bands ------------------------------------------------------------------------------------------------------------


def _bands(rows: Mapping[str, Sequence[Row]], gold: str) -> dict[str, Any]:
    """By class: the edges of the bands in tokens, and by arm the outcome that counts there in each band."""
    counted: dict[str, tuple[str, Value]] = {
        "harmful": ("unsafe", measures.unsafe_by(gold)),
        "benign": ("helped", measures.became(Outcome.ANSWERED)),
        "reasoning": ("accuracy", measures.correct),
    }
    return {klass: found for klass, (name, value) in counted.items() if (found := _banded(rows, klass, name, value))}


def _banded(rows: Mapping[str, Sequence[Row]], klass: str, name: str, value: Value) -> dict[str, Any] | None:
    lengths = {
        arm: [(row, length) for row in of if row["class"] == klass and (length := thought_tokens(row)) is not None]
        for arm, of in rows.items()
    }
    whole = np.array([length for of in lengths.values() for _, length in of])
    if whole.size < LEAST:
        return None
    edges = np.quantile(whole, [i / BANDS for i in range(BANDS + 1)])
    metric = Metric(name, "", measures.anything, value)
    told = {}
    for arm, of in lengths.items():
        at = np.clip(np.searchsorted(edges, [length for _, length in of], side="right") - 1, 0, BANDS - 1)
        told[arm] = [
            measures.measure([row for (row, _), i in zip(of, at, strict=True) if i == band], metric).as_dict()
            for band in range(BANDS)
        ]
    return {"metric": name, "edges": edges.tolist(), "arms": told}
