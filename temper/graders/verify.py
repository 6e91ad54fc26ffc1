"""Whether the answer is the known right one: the rule reward of R1 (arXiv 2501.12948) for mathematics and short answers.

What was answered is read from `\\boxed{…}`, `#### …`, "the answer is …", or the last number (the last line for words), in this
order. Numbers are compared as numbers; formulas by math-verify, an optional dependency that is imported only for them.
"""

import importlib
import logging
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.text.repetition import words
from temper.types import Better, Completion, Score

RELATIVE_TOLERANCE = 1e-6
REFERENCE_WORDS = 12
"""A longer target without mathematics is a reference reply, not something to verify."""
FORMULA_CHARACTERS = 300
FORMULA_SECONDS = 3
LAST_LINE_WORDS = 12

_NUMBER = re.compile(r"[-−–]?\s?(?:\d{1,3}(?:[, \u00a0\u202f]\d{3})+(?!\d)|\d+)(?:[.,]\d+)?(?:[eE][-+]?\d{1,3})?|[-−–]?\.\d+")
_FRACTION = re.compile(r"\s*/\s*(\d+(?:\.\d+)?)")
_LATEX_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{\s*(-?\d+(?:\.\d+)?)\s*\}\s*\{\s*(\d+(?:\.\d+)?)\s*\}")
_WHOLE_NUMBER = re.compile(rf"[$€£¥]?\s*({_NUMBER.pattern})(\s*/\s*\d+(?:\.\d+)?)?\s*(%|\\%)?\s*[$€£¥]?")
_MARKUP = re.compile(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}|\\[!,;: ]|\*\*|__|\\left|\\right")
_STATED = re.compile(r"(?:answer|result|total)\s*(?:is|are|:|=|would be|equals)+\s*:?\s*", re.IGNORECASE)
_HASHES = re.compile(r"####\s*([^\n]+)")
_FORMULA = re.compile(r"[\\^_{}=]|\d\s*[,+*/]|\bsqrt\b|\bpi\b|[(\[]\s*-?\d")
_TOWER = re.compile(r"\^\s*\{?\s*-?\d{4,}|(?:\^[^\^]{0,12}){3,}|\d!{1,}")


@dataclass(frozen=True, slots=True)
class Verify:
    """1.0 if the answer equals the target, else 0.0; abstains without a target, or with one that is a whole reply.

    Tolerates thousands separators, currency and percent signs, units, fractions and LaTeX. An empty or cut answer is wrong.
    A formula without math-verify installed is compared as text, and abstained from where that does not settle it.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_score(c.answer, c.example.target) for c in completions]


def _score(answer: str, target: str | None) -> Score:
    if target is None or not target.strip():
        return Score(None, "no target")
    wanted = _plain(target)
    is_formula = _FORMULA.search(wanted) is not None
    if not is_formula and len(words(wanted)) > REFERENCE_WORDS:
        return Score(None, "the target is a reference reply, not a verifiable answer")
    if not answer.strip():
        return Score(0.0, "no answer")
    number = _number(wanted)
    if number is not None:
        return _numeric(answer, number)
    return _formula(answer, wanted) if is_formula else _phrase(answer, wanted)


def extract(answer: str) -> str | None:
    """What the text states as its final answer: the last `\\boxed{}`, else `####`, else after "answer is"; None if nothing."""
    boxed = _boxed(answer)
    if boxed is not None:
        return _plain(boxed)
    hashes = _HASHES.findall(answer)
    if hashes:
        return _plain(hashes[-1])
    stated = [m.end() for m in _STATED.finditer(answer)]
    if not stated:
        return None
    line = answer[stated[-1] :].strip().split("\n")[0]
    return _plain(re.split(r"(?<=[^\d\s])[.;](?:\s|$)|(?<=\d)[.;](?:\s|$)", line)[0])


def _numeric(answer: str, wanted: float) -> Score:
    stated = extract(answer)
    found = _first_number(stated) if stated else None
    if found is None:
        found = _last_number(_plain(answer))
    if found is None:
        return Score(0.0, "no number in the answer")
    right = any(math.isclose(v, wanted, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE) for v in found)
    return Score(float(right), f"read {found[0]:g}")


def _phrase(answer: str, wanted: str) -> Score:
    stated = extract(answer)
    if stated is None:
        lines = [line for line in answer.strip().split("\n") if line.strip()]
        stated = _plain(lines[-1])
    given, sought = words(stated), words(wanted)
    if len(sought) == 1 and len(sought[0]) == 1:
        return Score(float(given[:1] == sought), f"read {stated[:40]!r}")
    within = len(given) <= LAST_LINE_WORDS + len(sought) and any(
        given[i : i + len(sought)] == sought for i in range(len(given) - len(sought) + 1)
    )
    return Score(float(within), f"read {stated[:40]!r}")


def _formula(answer: str, wanted: str) -> Score:
    stated = extract(answer)
    if stated is None:
        stated = _plain(answer.strip().split("\n")[-1])
    if _squeezed(stated) == _squeezed(wanted):
        return Score(1.0, "equal as text")
    if max(len(stated), len(wanted)) > FORMULA_CHARACTERS or _TOWER.search(stated):
        return Score(0.0, "the answer is no short formula")
    return _same_formula(stated, wanted)


def _same_formula(stated: str, wanted: str) -> Score:
    try:
        checker = importlib.import_module("math_verify")
    except ImportError:
        return Score(None, "formulas need math-verify: pip install 'temper-llm[verify]'")
    # its time limit uses a signal, which only the main thread may set; elsewhere the length limit has to do
    seconds = FORMULA_SECONDS if threading.current_thread() is threading.main_thread() else None
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold = checker.parse(f"${wanted}$", parsing_timeout=seconds)
    if not gold:
        return Score(None, f"the target {wanted[:40]!r} cannot be parsed")
    given = checker.parse(f"${stated}$", parsing_timeout=seconds)
    right = bool(given) and bool(checker.verify(gold, given, timeout_seconds=seconds))
    return Score(float(right), f"read {stated[:40]!r}")


# --- reading ----------------------------------------------------------------------------------------------------------


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{…}, braces balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for i in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i]
    return None


def _plain(text: str) -> str:
    text = _MARKUP.sub(lambda m: m[1] or "", text)
    text = _LATEX_FRACTION.sub(lambda m: f"{m[1]}{m[2]}/{m[3]}", text)
    text = text.replace("\\$", "$").replace("\\(", "").replace("\\)", "").replace("\\[", "").replace("\\]", "")
    return text.strip().strip("$").strip().rstrip(".").strip()


def _number(text: str) -> float | None:
    """The value if the whole text is one number, perhaps with a currency or percent sign."""
    match = _WHOLE_NUMBER.fullmatch(text)
    return None if match is None else _value(match[1], match[2])


def _first_number(text: str) -> list[float] | None:
    """The number after the last equals sign, if there is one, else the first."""
    match = _NUMBER.search(text, text.rfind("=") + 1) or _NUMBER.search(text)
    return None if match is None else _readings(text, match)


def _last_number(text: str) -> list[float] | None:
    last = None
    end = 0
    for match in _NUMBER.finditer(text):
        if match.start() >= end:
            last, fraction = match, _FRACTION.match(text, match.end())
            end = fraction.end() if fraction else match.end()
    return None if last is None else _readings(text, last)


def _readings(text: str, match: re.Match[str]) -> list[float]:
    """A percentage may mean either value; a minus sign between two numbers is a dash."""
    raw = match[0]
    if raw[0] in "-−–" and match.start() > 0 and (text[match.start() - 1].isalnum() or text[match.start() - 1] == ")"):
        raw = raw[1:]
    fraction = _FRACTION.match(text, match.end())
    value = _value(raw, fraction[0] if fraction else None)
    percent = text[fraction.end() if fraction else match.end() :].lstrip(" \\")[:1] == "%"
    return [value, value / 100] if percent else [value]


def _value(number: str, fraction: str | None) -> float:
    digits = re.sub(r"\s", "", number.replace("−", "-").replace("–", "-"))
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:[eE].*)?", digits):
        digits = digits.replace(",", "")
    below = float(fraction.strip().lstrip("/").strip()) if fraction else 1.0
    return float(digits.replace(",", ".")) / below if below else math.nan


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text).casefold()
