"""Whether the answer is the known right one: the rule reward of R1 (arXiv 2501.12948) for mathematics and short answers.

What was answered is read from `\\boxed{…}`, `#### …`, "the answer is …" in one of some 18 languages, or the last number (the last
line for words), in this order. Numbers are compared as numbers; formulas by math-verify, an optional dependency that is imported
only for them.
"""

import importlib
import logging
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temper.text.invisible import visible
from temper.text.markup import is_checklist, is_schema
from temper.text.repetition import words
from temper.types import Better, Completion, Score

RELATIVE_TOLERANCE = 1e-6
REFERENCE_WORDS = 12
"""A longer target without mathematics is a reference reply, not something to verify."""
FORMULA_CHARACTERS = 300
FORMULA_SECONDS = 3
LAST_LINE_WORDS = 12
LONGEST_INTEGER = 300
"""Digits up to which whole numbers are compared exactly."""

_NUMBER = re.compile(r"[-−–]?\s?(?:\d{1,3}(?:[, \u00a0\u202f]\d{3})+(?!\d)|\d+)(?:[.,]\d+)?(?:[eE][-+]?\d{1,3})?|[-−–]?\.\d+")
_FRACTION = re.compile(r"\s{0,3}/\s{0,3}(\d+(?:\.\d+)?)")
_LATEX_FRACTION = re.compile(
    r"(?:(?<![\d.])(\d{1,9})\s{0,3})?(-?)\\[dt]?frac\s{0,3}\{\s{0,3}(-?\d+(?:\.\d+)?)\s{0,3}\}\s{0,3}\{\s{0,3}(\d+(?:\.\d+)?)\s{0,3}\}"
)
_WHOLE_NUMBER = re.compile(rf"[$€£¥]?\s*({_NUMBER.pattern})(\s*/\s*\d+(?:\.\d+)?)?\s*(%|\\%)?\s*[$€£¥]?")
_MARKUP = re.compile(
    r"\\(?:text|mathrm|mathbf|mbox)\s{0,3}\{([^{}]*)\}|(?<!\\)\\[!,;: ]|\*\*|__|\\left(?![a-z])|\\right(?![a-z])"
)
_STATED = re.compile(
    r"(?:(?:answer|result|total|solution)\s{0,3}(?:is|are|:|=|would be|equals)"
    r"|(?:respuesta|resposta|risposta|resultado|total)(?: (?:final|correcta|correta|corretta))?\s{0,3}(?:es|é|è|son|:|=)"
    r"|(?:réponse|résultat|total)(?: (?:finale?|correcte))?\s{0,3}(?:est|sont|:|=)"
    r"|(?:antwort|ergebnis|lösung)\s{0,3}(?:ist|lautet|:|=)"
    r"|(?:ответ|результат|итого)\s{0,3}(?:равен|[:=—–-])"
    r"|(?:答え|解答|正解|答案|结果|答|选择|정답|답)\s{0,3}(?:应该是|应该为|应为|应是|是|为|は|은|[:：=])(?:选项|選項)?"
    r"|[选選](?:择|擇|项|項)?(?=\s{0,3}[(（]?[A-Ha-h](?![A-Za-z]))"
    r"|คำตอบ\s{0,3}(?:คือ|:)|(?:jibu|jawabu)(?: sahihi)?\s{0,3}(?:ni|:)|(?:đáp án|kết quả)\s{0,3}(?:là|:)"
    r"|উত্তর(?:টি)?\s{0,3}(?:হলো|হল|হচ্ছে|:|=)?|(?:సమాధానం|జవాబు)\s{0,3}[:=]?|उत्तर\s{0,3}(?:है|:)?|(?:الإجابة|الجواب)\s{0,3}(?:هي|هو|:))"
    r"\s{0,9}[:：]?\s{0,9}",
    re.IGNORECASE,
)
"""What an answer is announced by, in the languages of MGSM and some more."""
_LATIN_WORDS = (
    "answer result total solution respuesta resposta risposta resultado réponse résultat antwort ergebnis lösung jibu jawabu"
)
_OTHER_WORDS = "ответ результат итого 答 解答 正解 结果 选 選 정답 답 คำตอบ đáp kết উত্তর సమాధానం జవాబు उत्तर الإجابة الجواب"
ANNOUNCED = (*_LATIN_WORDS.split(), *_OTHER_WORDS.split())
"""How the alternatives of the pattern begin."""
ANNOUNCED_ASCII = tuple(word for word in ANNOUNCED if word.isascii())
TAIL_CHARACTERS = 2000
_STATEMENT_END = re.compile(r"(?<=[^\s])[.;](?:\s|$)|[。；।]|です")
_HASHES = re.compile(r"####\s*([^\n]+)")
_FORMULA = re.compile(r"[\\^_{}=]|\d\s{0,3}[,+*/]|\d[abknpqrxyz](?![A-Za-z])|\bsqrt\b|\bpi\b|[(\[]\s{0,3}-?\d")
_SYMBOLIC = re.compile(r"\\[A-Za-z]|[\^√π]|\d[abknpqrxyz](?![A-Za-z])|-\s{0,3}\(|\d\s{0,3}[+*]\s{0,3}[a-z](?![a-z])")
"""A stated formula that its first number does not stand for: 3\\sqrt{13}, 2x, 5^2, 4 + x."""
_DEGREES = re.compile(r"\s{0,3}(?:\^\s{0,3}(?:\{\s{0,3}\\circ\s{0,3}\}|\\circ)|°|\bdegrees?\b)")
_TOWER = re.compile(r"\^\s*\{?\s*-?\d{4,}|(?:\^[^\^]{0,12}){3,}|\d!{1,}")
_LETTER = re.compile(r"(?<![^\W_])([A-Ha-h])(?![^\W_]|['’])")
_HEAD_LETTER = re.compile(r"[\s(*\[]*([A-H])(?:[\s)\]*.:：、]|$)")
_IN_BASE = re.compile(r"(-?\d+)(?:_\{?(\d+)\}?)?")
_SIGNED_MONEY = re.compile(r"([-−–])\s?([$€£¥])")
_HAN = re.compile(r"[\u3400-\u9fff]")
_OTHER_THAN = re.compile(r",? (?:not|rather than|instead of) ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verify:
    """1.0 if the answer equals the target, else 0.0; abstains without a target, or with one that is a whole reply.

    Tolerates thousands separators, currency and percent signs, units, fractions, native digits and LaTeX. Whole numbers have to
    be equal, others to one part in a million. Options that the prompt lists as "- option" may be of any length; an answer that
    names two of them is wrong. An empty or cut answer is wrong. A formula without math-verify installed is compared as text, and
    abstained from where that does not settle it.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_score(visible(c.answer), c.example.target, c.example.prompt) for c in completions]


def is_reference(target: str | None) -> bool:
    """Whether a target is a reply to compare with rather than an answer to verify: many words and no mathematics."""
    if not target or is_schema(target) or is_checklist(target):
        return False
    plain = _plain(target)
    return _FORMULA.search(plain) is None and len(words(plain)) > REFERENCE_WORDS


def _score(answer: str, target: str | None, prompt: str) -> Score:
    if target is None or not target.strip():
        return Score(None, "no target")
    if is_schema(target) or is_checklist(target):
        return Score(None, f"the target is a {'JSON Schema' if is_schema(target) else 'checklist of instructions'}")
    options = _options(prompt, target)
    if not options and is_reference(target):
        return Score(None, "the target is a reference reply, not a verifiable answer")
    if not answer.strip():
        return Score(0.0, "no answer")
    wanted = _plain(target)
    number = _number(wanted)
    if number is not None:
        return _numeric(answer, number, wanted)
    return _formula(answer, wanted) if not options and _FORMULA.search(wanted) else _phrase(answer, wanted, options)


def _options(prompt: str, target: str) -> list[str]:
    """The other options of a prompt that lists the target among them, one "- option" a line."""
    if f"- {target}" not in prompt:
        return []
    listed = [line[2:].strip() for line in prompt.split("\n") if line.startswith("- ")]
    return [option for option in listed if option != target.strip()] if target.strip() in listed else []


def extract(answer: str) -> str | None:
    """What the text states as its final answer: the last `\\boxed{}`, else `####`, else after "answer is"; None if nothing."""
    boxed = _boxed(answer)
    if boxed is not None:
        return _plain(boxed)
    hashes = _HASHES.findall(answer)
    if hashes:
        return _plain(hashes[-1])
    unmarked = answer.replace("**", "").replace("__", "")
    stated = _statement(unmarked)
    if stated is None:
        return None
    line = unmarked[stated:].strip().split("\n", 1)[0]
    return _plain(_STATEMENT_END.split(line, maxsplit=1)[0])


def _statement(text: str) -> int | None:
    """Where the text after the last announcement of an answer begins; looked for from the end: a regex reads it all."""
    lowered = text.lower()
    lowered = lowered if len(lowered) == len(text) else text
    found = -1
    for word in ANNOUNCED_ASCII if lowered.isascii() else ANNOUNCED:
        at = lowered.rfind(word)
        while at > found:
            match = _STATED.match(text, at)
            if match:
                found = max(found, match.end())
                break
            at = lowered.rfind(word, 0, at)
    return found if found >= 0 else None


def _numeric(answer: str, number: float, wanted: str) -> Score:
    stated = extract(answer)
    if stated and len(stated) <= FORMULA_CHARACTERS and _SYMBOLIC.search(_DEGREES.sub("", stated.rpartition("=")[2])):
        return _formula(answer, wanted)
    found = _first_number(stated) if stated else None
    if found is None:
        tail = _tail(answer)
        found = _last_number(_plain(answer[tail:])) or (_last_number(_plain(answer)) if tail else None)
    if found is None:
        return Score(0.0, "no number in the answer")
    return Score(float(any(_equal(value, number) for value in found)), f"read {found[0]:g}")


def _equal(value: float, wanted: float) -> bool:
    if float(wanted).is_integer():
        return value == wanted or abs(value - wanted) < min(RELATIVE_TOLERANCE, abs(wanted) * RELATIVE_TOLERANCE)
    return math.isclose(value, wanted, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE**2)


def _phrase(answer: str, wanted: str, options: list[str]) -> Score:
    sought = words(wanted)
    if len(sought) == 1 and len(sought[0]) == 1 and sought[0].isascii():
        letter = chosen(answer)
        return Score(float(letter == sought[0].upper()), f"read {letter!r}" if letter else "no letter")
    stated = extract(answer)
    if stated is None:
        stated = _plain(next(line for line in reversed(answer.strip().split("\n")) if line.strip()))
    head = _OTHER_THAN.split(stated, maxsplit=1)[0] if "not" not in sought else stated
    given = words(head or stated)
    told = f"read {stated[:40]!r}"
    if len(given) > LAST_LINE_WORDS + len(sought) or (given[:1] == ["not"] and sought[:1] != ["not"]):
        return Score(0.0, told)
    if all(w.isdigit() for w in sought):
        return Score(float([w for w in given if w.isdigit()] == sought), told)
    named = [o for o in options if _names(head, words(o)) and not _within(words(o), sought)]
    return Score(float(_names(head, sought) and not named), told)


def _names(text: str, sought: list[str]) -> bool:
    """Whether a text holds these words in a row; Chinese between punctuation or spaces, since "有" is in "没有"."""
    if not any(_HAN.match(w) for w in sought):
        return _within(sought, words(text))
    pieces = [words(piece) for piece in re.split(r"[^\w]+", text)]
    joined = [[w for piece in pieces[i:k] for w in piece] for i in range(len(pieces)) for k in range(i + 1, len(pieces) + 1)]
    return sought in joined if len(pieces) <= 2 * LAST_LINE_WORDS else False


def _within(sought: list[str], given: list[str]) -> bool:
    return any(given[i : i + len(sought)] == sought for i in range(len(given) - len(sought) + 1))


def chosen(answer: str) -> str | None:
    """A multiple-choice letter, A to H: the first that stands alone in the statement, else the one the last or first line opens
    with; None if there is none."""
    if not answer.strip():
        return None
    stated = extract(answer)
    lines = [line for line in answer.strip().split("\n") if line.strip()]
    found = _LETTER.search(stated) if stated else None
    if found is None:
        found = next((m for line in (lines[-1], lines[0]) if (m := _HEAD_LETTER.match(_plain(line)))), None)
    if found is None and len(words(lines[-1])) <= LAST_LINE_WORDS:
        found = next(iter(re.finditer(r"(?<![^\W_])([A-H])(?![^\W_]|['’])", lines[-1])), None)
    return found[1].upper() if found else None


def _formula(answer: str, wanted: str) -> Score:
    stated = extract(answer)
    if stated is None:
        stated = _plain(answer.strip().split("\n")[-1])
    if _squeezed(stated) == _squeezed(wanted):
        return Score(1.0, "equal as text")
    based, given = _IN_BASE.fullmatch(wanted), _IN_BASE.fullmatch(stated)
    if based and based[2] and given:  # 4343_7 is not 4343_6, which formulas without their index would be
        return Score(float(given[1] == based[1] and given[2] in (based[2], None)), f"read {stated[:40]!r}")
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
    text = _LATEX_FRACTION.sub(_plain_fraction, text.replace("{,}", ","))
    if "\\" in text:
        text = re.sub(r"(?<!\\)\\(?:([$%])|[()\[\]])", lambda m: m[1] or "", text)
    text = _SIGNED_MONEY.sub(r"\2\1", text)
    return text.strip().strip("$").strip().rstrip(".").strip()


def _plain_fraction(match: re.Match[str]) -> str:
    """3/4 for \\frac{3}{4}; a whole number before it is added: 1\\frac{4}{5} is 9/5."""
    whole, sign, above, below = match.groups()
    if not whole or sign or not (above.isdecimal() and below.isdecimal()) or len(above + below) > LAST_LINE_WORDS:
        return f"{whole or ''}{sign}{above}/{below}"
    return f"{int(whole) * int(below) + int(above)}/{below}"


def _number(text: str) -> float | None:
    """The value if the whole text is one number, perhaps with a currency or percent sign."""
    match = _WHOLE_NUMBER.fullmatch(text)
    return None if match is None else _value(match[1], match[2])


def _first_number(text: str) -> list[float] | None:
    """The number after the last equals sign, if there is one, else the first."""
    match = _NUMBER.search(text, text.rfind("=") + 1) or _NUMBER.search(text)
    return None if match is None else _readings(text, match)


def _tail(text: str) -> int:
    """Where the last part of a long text begins, at a space."""
    return max(0, text.find(" ", len(text) - TAIL_CHARACTERS)) if len(text) > TAIL_CHARACTERS else 0


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
    if fraction is None and len(digits) <= LONGEST_INTEGER and re.fullmatch(r"-?\d+", digits):
        return int(digits)
    below = float(fraction.strip().lstrip("/").strip()) if fraction else 1.0
    return float(digits.replace(",", ".")) / below if below else math.nan


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text).casefold()
