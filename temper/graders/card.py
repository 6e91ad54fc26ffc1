"""A grader beside labels: its figures by source and by language with intervals, and the card that holds them.

Leaves out where labels come from and which grader it is. A card is `card.json` and the same as a page; what no row can tell (what
a grader was trained on, what it cannot do) is kept from the card that was there.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temper import judge_error, stats
from temper.stats import Estimate
from temper.types import Better, Score

Floats = NDArray[np.float64]
Cell = list[float | None] | None  # value, low, high; None where a class is missing

THRESHOLD = 0.5  # of a grader that does not state its own in parts["threshold"], as in prove.metrics
DRAWS = 500
BINS = 10
READS = (
    "Value, then its 95 % interval over groups: Wilson on the effective size for sensitivity and specificity, bootstrap for "
    "the others. Empty: a class is missing. Coverage is the share that was graded; the other figures are of that share."
)
COLUMNS = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ece": "ECE",
    "brier": "Brier",
    "length_auc": "length-only AUC",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """One labelled row and what a grader said of it.

    `value` points to the label's yes whatever end of the grader is the good one, None where it abstained (`why`); `flagged` says
    on which side of the grader's own threshold it lay. `words` is the length of what was graded.
    """

    value: float | None
    flagged: bool
    positive: bool
    group: str
    words: int = 0
    source: str = ""
    language: str = ""
    arm: str = ""
    weight: float = 1.0
    why: str = ""


def rises(better: Better, bad: bool | None) -> bool:
    """Whether a grader's value grows with the label's yes: its bad end is the yes of a bad thing.

    `bad` None is a label that is neither good nor bad (a refusal): there the value is taken as it is.
    """
    return True if bad is None else (better == "low") == bad


def toward(score: Score, *, rising: bool) -> tuple[float | None, bool]:
    """A score as a value that points to the label's yes, and whether it is on that side of its threshold."""
    if score.value is None:
        return None, False
    limit = score.parts.get("threshold")
    reached = score.value >= (THRESHOLD if limit is None else limit)
    return (score.value, reached) if rising else (1 - score.value, not reached)


def measure(rows: Sequence[Judged]) -> dict[str, Any]:
    """All figures of some rows. Those that were not graded are in `abstained` by reason and in `coverage`, and nowhere else."""
    graded = [r for r in rows if r.value is not None]
    groups = [r.group for r in graded]
    value, label = _floats(r.value for r in graded), _floats(r.positive for r in graded)
    words = _floats(r.words for r in graded)
    judge = judge_error.errors([r.flagged for r in graded], label, clusters=groups)

    def cell(statistic: Callable[[Floats, Floats], float], x: Floats) -> Cell:
        point = statistic(x, label) if len(x) else math.nan
        if math.isnan(point):
            return None
        low, high = stats.bootstrap_interval(lambda i: statistic(x[i], label[i]), groups, len(x), draws=DRAWS)
        return _rounded(Estimate(point, len(x), low, high))

    return {
        "n": len(rows),
        "positive": sum(r.positive for r in rows),
        "groups": len({r.group for r in rows}),
        "coverage": round(len(graded) / len(rows), 3) if rows else None,
        "abstained": dict(Counter(r.why or "no reason given" for r in rows if r.value is None)),
        "auc": cell(stats.auc, value),
        "length_auc": cell(stats.auc, words),
        "sensitivity": _rounded(judge.sensitivity.estimate()),
        "specificity": _rounded(judge.specificity.estimate()),
        "brier": cell(brier, value),
        "ece": cell(ece, value),
    }


def brier(p: Floats, label: Floats) -> float:
    """Mean squared distance of a probability from what was so."""
    return float(((p - label) ** 2).mean())


def ece(p: Floats, label: Floats) -> float:
    """Expected calibration error over ten bins of equal mass."""
    parts = np.array_split(np.argsort(p, kind="stable"), min(BINS, len(p)))
    return float(sum(len(i) / len(p) * abs(p[i].mean() - label[i].mean()) for i in parts if len(i)))


def make(rows: Sequence[Judged], facts: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A card. `facts` say what was measured and how; what else the `known` card tells is kept."""
    before = dict(known or {})
    seen = before.get("sources", {})
    trained = set(re.findall(r"[\w-]+", str(before.get("facts", {}).get("trained on", ""))))

    def source(name: str) -> dict[str, Any]:
        told = seen[name]["trained_on"] if name in seen else name in trained if before and name else None
        return {"trained_on": told, **measure([r for r in rows if r.source == name])}

    return {
        **before,
        **facts,
        "all": measure(rows),
        "sources": {name: source(name) for name in dict.fromkeys(r.source for r in rows)},
        "languages": {k: measure([r for r in rows if r.language == k]) for k in sorted({r.language for r in rows})},
    }


def page(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [f"# {card['name']}", "", *([card["what"], ""] if card.get("what") else [])]
    lines += [f"- **{name}**: {value}" for name, value in card.get("facts", {}).items()]
    lines += ["", f"## {card['measured']}", "", card["reads"], "", *table(_named(card)), ""]
    lines += [READS, ""]
    if reasons := card["all"]["abstained"]:
        lines += ["Not graded: " + ", ".join(f"{n} × {why}" for why, n in reasons.items()) + ".", ""]
    if limits := card.get("limits"):
        lines += ["## Limits", "", *(f"- {limit}" for limit in limits), ""]
    return "\n".join(lines)


def _named(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    languages = card["languages"] if len(card["languages"]) > 1 else {}
    return {"**all**": card["all"], **card["sources"], **{f"language {name}": row for name, row in languages.items()}}


def table(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Figures of `measure` by name as lines of Markdown; `trained_on`, where it is there, says what was seen in training."""
    heads = ["rows", "seen in training", "n", "positive", "groups", "coverage", *COLUMNS.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in measured.items():
        cells = [name or "(no source)", _seen(row), row["n"], row["positive"], row["groups"], f"{row['coverage']:.2f}"]
        lines.append("| " + " | ".join(map(str, [*cells, *(shown(row[c]) for c in COLUMNS)])) + " |")
    return lines


def _seen(row: Mapping[str, Any]) -> str:
    told = row.get("trained_on")
    return "" if "trained_on" not in row else "not known" if told is None else "train split" if told else "never"


def shown(value: Cell) -> str:
    """A figure and its interval, to two digits; "" where there is none."""
    if value is None:
        return ""
    point, low, high = value
    return f"{point:.2f}" if low is None or high is None else f"{point:.2f} [{low:.2f}, {high:.2f}]"


def _rounded(found: Estimate) -> Cell:
    plain = found.as_dict()
    if plain["value"] is None:
        return None
    return [None if x is None else round(x, 3) for x in (plain["value"], plain["low"], plain["high"])]


def _floats(values: Iterable[float | bool | None]) -> Floats:
    return np.array([float(v) for v in values if v is not None], dtype=np.float64)
