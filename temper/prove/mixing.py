"""Languages mixed in the reasoning and in the answer, and how well each reads, given how the reply ended.

Sums what the graders `language` and `readability` wrote into each row; what a part of theirs means is docs/language.md's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temper import stats
from temper.files import Row
from temper.prove import metrics as measures
from temper.prove.evidence import Evidence
from temper.prove.metrics import Metric, Value, part_of
from temper.prove.tables import tabled
from temper.stats import NOTHING, Estimate
from temper.text.mixing import lcpr
from temper.types import Outcome

SIDES = ("reasoning", "answer")
BOTH = 0.975
"""Confidence of each of two intervals that together hold with 95 % (Bonferroni)."""
_COMPARED = ("switched_reasoning", "switched_answer", "readability_answered")


def mixing(evidence: Evidence) -> dict[str, Any] | None:
    """A table (`tables.tabled`), and `lcpr` by arm and side; `languages` repeats the rates that count by language of the prompt.

    None where nobody looked at the language of any reply.
    """
    rows = evidence.plain.rows
    if not any("language" in row["scores"] for of in rows.values() for row in of):
        return None
    spoken = sorted({row["language"] for of in rows.values() for row in of})
    return {
        **tabled(rows, {**_languages(), **_readability()}, paired=_COMPARED, seed=evidence.seed),
        "lcpr": {arm: _passes(of) for arm, of in rows.items()},
        "languages": {code: _by_language(rows, code) for code in spoken} if len(spoken) > 1 else {},
    }


def _languages() -> dict[str, Metric]:
    made = {}
    for side in SIDES:
        switches = f"{side}.unwarranted"
        made[f"switched_{side}"] = Metric(
            f"Switches language, {side}",
            f"replies whose {side} goes into a language that was neither in the prompt nor asked for",
            measures.has_part("language", switches),
            _any(switches),
        )
        made[f"unwarranted_{side}"] = _mean_of(side, "unwarranted", "Unwarranted switches", "such switches per word", "score")
        made[f"cmi_{side}"] = _mean_of(side, "cmi", "CMI", "code-mixing index, as a share", "score")
        made[f"corpus_cmi_{side}"] = _mean_of(
            side,
            "corpus_cmi",
            "CMI with switches",
            "the same with switches counted, lines as utterances (Gambäck & Das 2016)",
            "number",
        )
    return made


def _readability() -> dict[str, Metric]:
    """Readability of replies that ended alike: refusals are short and read well, so a pooled mean rewards refusing."""
    return {
        "readability_answered": Metric(
            "Readability, answered",
            "answers to what was asked",
            _ended(Outcome.ANSWERED),
            measures.graded("readability"),
            "high",
            "score",
        ),
        "readability_refused": Metric(
            "Readability, refused", "refusals", _ended(Outcome.REFUSED), measures.graded("readability"), "high", "score"
        ),
        "readability_reasoning": Metric(
            "Readability, reasoning",
            "thoughts that closed",
            lambda row: row["thought"] == "closed" and measures.has_part("readability", "reasoning")(row),
            part_of("readability", "reasoning"),
            "high",
            "score",
        ),
        "summary": Metric(
            "Answer after the thought",
            "closed thoughts that an answer follows which the cap did not cut: the summary for the reader",
            lambda row: row["thought"] == "closed",
            lambda row: float(row["outcome"] not in (*measures.INCOHERENT, Outcome.TRUNCATED_IN_ANSWER)),
            "high",
        ),
    }


def _mean_of(side: str, part: str, label: str, meaning: str, unit: measures.Unit) -> Metric:
    name = f"{side}.{part}"
    read = part_of("language", name)

    def scaled(row: Row) -> float | None:
        return None if (value := read(row)) is None else value / 100

    value = scaled if part == "cmi" else read
    return Metric(f"{label}, {side}", meaning, measures.has_part("language", name), value, unit=unit)


def _any(part: str) -> Value:
    """1 where the part is above 0; None where it was not measured."""
    read = part_of("language", part)
    return lambda row: None if (value := read(row)) is None else float(value > 0)


def _ended(outcome: Outcome) -> Callable[[Row], bool]:
    return lambda row: row["outcome"] == outcome and "readability" in row["scores"]


def _by_language(rows: Mapping[str, Sequence[Row]], code: str) -> dict[str, Any]:
    found = {}
    for arm, of in rows.items():
        own = [row for row in of if row["language"] == code]
        switched = {
            name: m.as_dict() for name, m in measures.measure_all(own, _languages()).items() if name.startswith("switched")
        }
        found[arm] = {**switched, "lcpr": _passes(own)}
    return found


# --- language confusion -----------------------------------------------------------------------------------------------


def _passes(rows: Sequence[Row]) -> dict[str, Any]:
    """Line and word pass rates and their harmonic mean, for reasoning and answer (arXiv 2406.20052)."""
    units = measures.Units.of(rows)
    return {side: {name: of.as_dict() for name, of in passes(rows, side, units).items()} for side in SIDES}


def passes(rows: Sequence[Row], side: str, units: measures.Units | None = None) -> dict[str, Estimate]:
    """`lpr`, `wpr` and `lcpr` of one side, in [0, 1]; `NOTHING` where no text had a line that is long enough to judge.

    LCPR rises with both rates, so its interval runs from its value at their lower to that at their upper 97.5 % limits, which
    together hold with at least 95 %: wider than it need be, and right also where every reply passes.
    """
    units = units or measures.Units.of(rows)
    lines, words = (_by_prompt(rows, f"{side}.{part}", units) for part in ("line_pass", "word_pass"))
    plain = {name: stats.share(*of) for name, of in (("lpr", lines), ("wpr", words))}
    return {**plain, "lcpr": _harmonic(stats.share(*lines, BOTH), stats.share(*words, BOTH))}


def _by_prompt(rows: Sequence[Row], part: str, units: measures.Units) -> tuple[stats.Floats, NDArray[np.intp]]:
    """The mean of one part over each prompt's samples, and the prompts' clusters; rows without it are left out."""
    read = np.array([part_of("language", part)(row) for row in rows], dtype=np.float64)
    known = np.flatnonzero(~np.isnan(read))
    return units.means(known, read[known])


def _harmonic(lines: Estimate, words: Estimate) -> Estimate:
    if not lines.n:
        return NOTHING
    if not words.n:  # no reply has its lines right, so none can have its words right
        return Estimate(0.0, lines.n, 0.0, lcpr(lines.high, 1.0))
    return Estimate(lcpr(lines.value, words.value), lines.n, lcpr(lines.low, words.low), lcpr(lines.high, words.high))
