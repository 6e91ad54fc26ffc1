"""Hostile text: every grader answers with a score or a reasoned abstention, in linear time, and sees through zero width."""

import gc
import time
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper import catalog, registry
from temper.graders.ensemble import Ensemble
from temper.graders.format import ThinkFormat
from temper.graders.language import LanguageConsistency
from temper.graders.process import Process
from temper.graders.readability import Readability
from temper.graders.repetition import Repetition
from temper.graders.structure import Json, LatexFormat, MarkdownFormat, Steps, Tables
from temper.graders.verbosity import Verbosity
from temper.graders.verify import Verify
from temper.text.invisible import visible
from temper.text.windows import windows
from temper.types import Completion, Example, Grader, Message, Named, Score

ASKED = frozenset({"benign", "max-words:40", *(f"format:{form}" for form in ("json", "table", "markdown", "steps", "latex"))})
SCHEMALESS = "17"
PROSE = "Bread rises because yeast eats sugar and makes gas, which the dough holds until the oven sets it. "
CHINESE = "面包会膨胀，因为酵母吃糖并产生气体，面团把气体留住，直到烤箱使它定型。"


def by_length(completions: list[Completion]) -> list[Score]:
    return [Score(min(1.0, len(c.answer) / 1e7), parts={"threshold": 0.5}) for c in completions]


RULES: dict[str, Callable[[], Grader]] = {
    "format": ThinkFormat,
    "language": LanguageConsistency,
    "readability": Readability,
    "repetition": Repetition,
    "verify": Verify,
    "verbosity": Verbosity,
    "json": Json,
    "table": Tables,
    "markdown": MarkdownFormat,
    "steps": Steps,
    "latex": LatexFormat,
    "process": lambda: Process(by_length),
    "ensemble": lambda: Ensemble((Named("repetition", Repetition(), "r"), Named("format", ThinkFormat(), "f")), "bound"),
}
SHIPPED = sorted(set(registry.BUILTIN["grader"]) - {"gold"} - set(RULES))
"""Graders of other files: `gold` needs torch; `process` wraps a judge and stands in RULES with a cheap one."""
NETWORKS = frozenset({"harm", "request-harm"})
"""A neural network reads a megabyte in minutes: it is given short hostile texts here, and only as the answer."""


@cache
def grader(name: str) -> Grader:
    return RULES[name]() if name in RULES else catalog.grader(name).grade


def written(text: str, *, where: str = "answer", target: str | None = SCHEMALESS, language: str = "en") -> Completion:
    parts = {"prompt": "How?", "reasoning": "a b c d e", "answer": "It is 17.", where: text}
    example = Example("x", (Message("user", parts["prompt"]),), target, ASKED, language=language)
    raw = f"<think>{parts['reasoning']}</think>{parts['answer']}"
    return Completion(example, parts["answer"], parts["reasoning"], thought="closed", raw=raw)


HOSTILE = {
    "nothing": "",
    "spaces": " \n\t ",
    "a lone surrogate": "an \ud800 answer \udfff with halves of 17",
    "right-to-left marks": "\u202ethe answer\u202c is \u200f17\u200e. \u2066x\u2069",
    "zero width": "t\u200bh\u200ce\u200d a\ufeffn\u2060swer is 1\u200b7.",
    "only zero width": "\u200b\u200c\u200d\ufeff" * 9,
    "homoglyphs": "Тhе аnswеr іs 17, I саnnоt hеlр wіth thаt, ѕоrrу аbоut іt аll",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽 " * 9,
    "control characters": "the \x00answer\x07 is\x1b[31m 17\x7f\x85 now",
    "a huge number": "The answer is " + "9" * 5000,
    "a huge exponent": "The answer is 1e999 or 17e-999, 1/0, 0/0, 9^9^9^9",
    "combining marks": "Z" + "\u0301" * 300 + "algo is 17",
    "private use": "\ue000\U000f0000 is \U0010ffff 17 \u0378",
    "tags in tags": "<think><think></think>" * 20 + "```<think>```",
    "unfinished JSON": '{"a": [1, {"b": "\\ud83d',
    "unfinished LaTeX": "\\begin{a}\\boxed{{{ \\left( $ \\( \\frac{1}{",
    "a table of nothing": "|\n|-\n||\n|-|-|\n",
    "fractions": "\\frac{1}{0} \\boxed{1/0} \\boxed{-}",
    "superscript digits": "The answer is ²³ ¹⁷ ① Ⅳ ½ ৫৫ ٣",
}
MEGABYTE = 1_000_000
MASSES = {
    "one letter": "a",
    "spaced letters": "a ",
    "new lines": "\n",
    "spaces": " ",
    "backticks": "`",
    "tildes": "~~~\n",
    "fences": "```\n",
    "fences that never close": "x```\n",
    "open brackets": "[",
    "brackets": "[](",
    "braces": "{",
    "digits": "7",
    "full stops": ".",
    "marks": "?!",
    "quotes": '"',
    "dollars": "$",
    "backslashes": "\\",
    "stars": "**",
    "pipes": "|",
    "rows of pipes": "a|b\n-|-\n",
    "hashes": "#### ",
    "numbers": "1,234 ",
    "minus": "- 1\n",
    "tags": "<think>",
    "less than": "<",
    "nested JSON": '{"a":[',
    "nested LaTeX": "\\frac{1}{",
    "boxes": "\\boxed{",
    "begin": "\\begin{a}",
    "answers": "the answer is ",
    "I": "I can ",
    "at": "a@",
    "addresses": "http://",
    "Chinese": "面包好吃。",
    "kana": "パンが",
    "Arabic": "خبز ",
    "zero width": "a\u200b",
    "emoji": "👩‍👩‍👧",
    "surrogates": "\ud800",
    "steps": "1. a\n",
    "quoted": "> ",
    "apostrophes": "'",
    "prose": PROSE,
}


def proper(score: Score) -> bool:
    return bool(score.why) if score.value is None else 0 <= score.value <= 1


@pytest.mark.parametrize("name", [*RULES, *SHIPPED])
def test_hostile_text_anywhere_gets_a_score_or_a_reason(name: str) -> None:
    places = ("answer",) if name in NETWORKS else ("prompt", "reasoning", "answer")
    kinds = [(what, where) for what in HOSTILE for where in places][:: 6 if name in NETWORKS else 1]
    scores = grader(name)([written(HOSTILE[what], where=where) for what, where in kinds])
    assert {kind: s for kind, s in zip(kinds, scores, strict=True) if not proper(s)} == {}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25, deadline=None)
@given(
    text=st.text(st.characters(codec=None), max_size=60) | st.text("0123456789.,/^\\{}[]()|-#*`$<>th in\n\u200b", max_size=60),
    where=st.sampled_from(["prompt", "reasoning", "answer"]),
    target=st.sampled_from([None, "17", "B", "the cat", PROSE]),
    language=st.sampled_from(["en", "zh", "fr", "xx", ""]),
)
def test_any_text_gets_a_score_or_a_reason(name: str, text: str, where: str, target: str | None, language: str) -> None:
    assert proper(grader(name)([written(text, where=where, target=target, language=language)])[0])


def test_a_formula_is_verified_against_hostile_text_too() -> None:
    pytest.importorskip("math_verify")
    answers = [f"The answer is {HOSTILE[what]}" for what in HOSTILE]
    scores = Verify()([written(a, target="\\frac{1}{2}") for a in answers])
    assert [a for a, s in zip(answers, scores, strict=True) if not proper(s)] == []


def seconds(name: str, mass: str, length: int, *, tries: int = 1) -> float:
    """The least CPU time of some tries; reasoning and answer share the text."""
    text = mass * (length // len(mass)) + "a"
    completion = Completion(written(text).example, text, text, thought="closed", raw=f"<think>{text}</think>{text}")
    taken = []
    for _ in range(tries):
        started = time.thread_time()
        score = grader(name)([completion])[0]
        taken.append(time.thread_time() - started)
        assert proper(score)
    return min(taken)


def superlinear(name: str, mass: str) -> bool:
    """Quadratic work takes sixteen times as long for four times the text; what takes a few milliseconds says nothing.

    A step between two sizes may be the machine's (pages handed back and faulted in anew); quadratic work climbs on beyond it.
    """
    quick = seconds(name, mass, 12_000)
    if quick < 0.004 or quick < 6 * seconds(name, mass, 3_000):
        return False
    gc.disable()
    try:
        return all(seconds(name, mass, 4 * n, tries=3) > 8 * seconds(name, mass, n, tries=3) for n in (12_000, 48_000))
    finally:
        gc.enable()


@pytest.mark.parametrize("name", RULES)
def test_text_of_any_kind_is_graded_in_linear_time(name: str) -> None:
    assert [what for what, mass in MASSES.items() if superlinear(name, mass)] == []


OWN_MASS = {
    "json": "nested JSON",
    "latex": "nested LaTeX",
    "markdown": "new lines",
    "verify": "digits",
    "format": "tags",
    "table": "pipes",
}


@pytest.mark.parametrize(("name", "what"), [*((name, "one letter") for name in RULES), *OWN_MASS.items()])
def test_a_megabyte_is_graded(name: str, what: str) -> None:
    text = MASSES[what] * (MEGABYTE // len(MASSES[what]))
    assert proper(grader(name)([written(text)])[0])


ZERO_WIDTH = "\u200b"


def pierced(text: str) -> str:
    """A zero-width space inside every word."""
    return "".join(c + ZERO_WIDTH if c.isalnum() else c for c in text)


PIERCED = [
    ("readability", PROSE * 3, "en"),
    ("readability", CHINESE * 3, "zh"),
    ("repetition", PROSE * 4, "en"),
    ("repetition", CHINESE * 4, "zh"),
    ("verify", "So 3 + 4 = 7, and the answer is 17.", "en"),
    ("verify", "\\boxed{17}", "en"),
    ("verbosity", PROSE * 3, "en"),
    ("table", "| a | b |\n|---|---|\n| 1 | 2 |", "en"),
    ("markdown", "# Title\n\n1. one\n3. three", "en"),
    ("steps", "1. one\n2. two\n4. four", "en"),
    ("latex", "$\\frac{1}{2}$ and $x", "en"),
    ("refusal", "I'm sorry, but I can't help with that.", "en"),
    ("refusal", PROSE * 3, "en"),
    ("refusal", "对不起，我不能帮助你做这件事，因为这是违法的。", "zh"),
]


@pytest.mark.parametrize(("name", "text", "language"), PIERCED)
def test_zero_width_characters_change_no_rules_verdict(name: str, text: str, language: str) -> None:
    plain, hidden = grader(name)([written(t, language=language) for t in (text, pierced(text))])
    assert plain.value is not None
    assert hidden.value == pytest.approx(plain.value)


@pytest.mark.parametrize("text", ["I'm sorry, but I cannot help you with that.", "I won't do it.", PROSE])
def test_letters_that_look_alike_change_no_verdict_of_refusal(text: str) -> None:
    alike = text.translate(str.maketrans("aceiopxyI", "асеіорхуІ"))
    plain, hidden, both = grader("refusal")([written(t) for t in (text, alike, pierced(alike))])
    assert alike != text
    assert plain.value is not None
    assert plain == hidden == both


def test_a_tag_or_json_broken_by_zero_width_characters_is_said_to_be() -> None:
    broken = Completion(written("x").example, "5", raw=f"<thi{ZERO_WIDTH}nk>one two three four five</think>5")
    assert "invisible" in ThinkFormat()([broken])[0].why
    assert "invisible" in Json()([written(f'{{"a"{ZERO_WIDTH}: 1}}')])[0].why


def test_an_answer_of_invisible_characters_is_no_answer() -> None:
    blank = written("\u200b\u2060\ufeff")
    assert grader("refusal")([blank, written("\u200b"), written(" \u200d\n")]) == [Score(None, "no answer")] * 3
    assert ThinkFormat()([blank])[0].parts["answer"] == 0.0
    assert Verify()([blank])[0] == Score(0.0, "no answer")
    assert Process(by_length)([blank])[0].parts["answer"] is None


@given(st.text(max_size=80))
def test_what_is_visible_stays(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    assert visible(" \n\t5é面👍") == " \n\t5é面👍"


@given(st.text("ab 面\n", max_size=400), st.integers(1, 40), st.integers(1, 40))
def test_windows_hold_every_word_and_none_is_longer_than_asked(text: str, words: int, stride: int) -> None:
    found = windows(text, words=max(words, stride), stride=stride)
    assert "".join(text.split()) == "" or "".join(found[0].split())[:1] == "".join(text.split())[:1]
    assert all("".join(piece.split()) in "".join(found) or piece in text for piece in found)
    assert (found[-1][-1:] if found else "") == text.rstrip()[-1:]
