"""Rule graders of form, length and truth: JSON, tables, Markdown, steps, LaTeX, verbosity, readability, loops, answers."""

import importlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from temper.errors import DataError, RecipeError
from temper.graders import structure
from temper.graders.readability import Readability
from temper.graders.repetition import Repetition
from temper.graders.structure import Json, LatexFormat, MarkdownFormat, Steps, Tables
from temper.graders.verbosity import Verbosity
from temper.graders.verify import Verify
from temper.text.invisible import visible
from temper.text.markup import fenced
from temper.text.readability import FUNCTION_WORDS, hanzi, reading
from temper.text.repetition import _WORD, LOOP_GRAM, loops, words
from temper.types import Completion, Example, Grader, Message, Score

SCHEMA = json.dumps(
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["count"],
        "properties": {"count": {"type": "integer", "minimum": 0}},
    }
)
PROSE = "Bread rises because yeast eats sugar and makes gas, which the dough holds until the oven sets it. "
CHINESE = "面包会膨胀，因为酵母吃糖并产生气体，面团把气体留住，直到烤箱使它定型。"


def done(
    answer: str, *tags: str, target: str | None = None, reasoning: str = "", language: str = "en", prompt: str = "q"
) -> Completion:
    example = Example("x", (Message("user", prompt),), target, frozenset(tags), language=language)
    return Completion(example, answer, reasoning, thought="closed" if reasoning else "none")


def one(grade: Grader, completion: Completion) -> Score:
    return grade([completion])[0]


@pytest.mark.parametrize("make", [Json, Tables, MarkdownFormat, Steps, LatexFormat, Verbosity])
def test_what_an_example_does_not_ask_for_is_not_graded(make: Callable[[], Grader]) -> None:
    score = one(make(), done("1. one\n2. two"))
    assert score.value is None
    assert "format:" in score.why or "budget" in score.why


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"a": [1, 2.5, null]}', 1.0),
        ('```json\n{"a": 1}\n```', 1.0),
        ("[]", 1.0),
        ("9" * 6000, 1.0),
        ('Here it is: {"a": 1}', 0.5),
        ('```json\n{"a": 1}\n```\nEnjoy!', 0.5),
        ('Here: ```json\n{"a": 1}\n``` done', 0.5),
        ('  ```JSON \r\n{"a": 1}\r\n  ```  ', 1.0),
        ('```json\n{"a": 1}\n```\n```\n{"a": 2}\n```', 0.5),
        ('```python\nx = {}\n```\nso\n```json\n{"a": 1}\n```', 0.5),
        ('```json\n{"a": 1}', 0.5),
        ("```json\n```", 0.0),
        ('{"a": 1', 0.0),
        ("{'a': 1}", 0.0),
        ('{"a": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ("no", 0.0),
        ("", 0.0),
    ],
)
def test_json_parses_and_stands_alone(answer: str, value: float) -> None:
    score = one(Json(), done(answer, "format:json"))
    assert score.value == value
    assert bool(score.why) == (value < 1)


def test_the_end_of_a_fence_with_another_label_opens_none() -> None:
    text = "```python\nx = 1\n```\nso\n```json\n{}\n```\n```\n\n1\n```\nleft ```json\nopen"
    assert fenced(text, {"", "json"}) == ["{}", "\n1"]
    assert fenced("a ```json ```b\n1\n```", {"json"}) == []


@pytest.mark.parametrize(
    ("answer", "valid", "told"),
    [
        ('{"count": 3}', 1.0, ""),
        ('{"count": -3}', 0.0, "count"),
        ('{"count": "3"}', 0.0, "integer"),
        ("{}", 0.0, "required"),
        ('{"count": "\\ud800"}', 0.0, "surrogate"),
        ('{"count": ' + "9" * 6000 + "}", 0.0, "count"),
    ],
)
def test_json_is_checked_against_the_examples_schema(answer: str, valid: float, told: str) -> None:
    pytest.importorskip("jsonschema_rs")
    score = one(Json(), done(answer, "format:json", target=SCHEMA))
    assert score.parts["valid"] == valid
    assert told in score.why


def test_a_schema_given_to_the_grader_is_asked_of_every_example() -> None:
    pytest.importorskip("jsonschema_rs")
    assert one(Json(SCHEMA), done("{}")).parts["valid"] == 0.0


@pytest.mark.parametrize("wrong", ['{"$schema": 3, "type": "banana"}', '{"$schema": "x" '])
def test_a_schema_that_is_none_is_an_error_that_names_the_example(wrong: str) -> None:
    pytest.importorskip("jsonschema_rs")
    with pytest.raises(DataError, match="example 'x'"):
        one(Json(), done("{}", "format:json", target=wrong))


def test_a_schema_is_never_fetched() -> None:
    pytest.importorskip("jsonschema_rs")
    remote = json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "http://127.0.0.1:9/x.json"})
    with pytest.raises(DataError):
        one(Json(), done("{}", "format:json", target=remote))


def test_a_pattern_that_backtracks_without_end_does_not_hang_the_grader() -> None:
    pytest.importorskip("jsonschema_rs")
    schema = json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", "pattern": "^(a+)+$"})
    assert one(Json(), done(f'"{"a" * 5000}b"', "format:json", target=schema)).parts["valid"] == 0.0


def test_a_schema_without_its_package_is_an_abstention(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(structure.importlib, "import_module", missing)
    structure._validator.cache_clear()
    score = one(Json(), done("{}", "format:json", target=SCHEMA))
    structure._validator.cache_clear()
    assert score.value is None
    assert "jsonschema-rs" in score.why


def test_a_schema_is_no_answer_to_verify_and_no_reference_to_be_as_short_as() -> None:
    assert one(Verify(), done("{}", target=SCHEMA)).value is None
    assert one(Verbosity(), done("{}", target=SCHEMA)).value is None


# --- tables, Markdown, steps, LaTeX -----------------------------------------------------------------------------------

TABLE = "| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 | 4 |"


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (TABLE, 1.0),
        (f"Here:\n\n{TABLE}\n\nThat is all.", 1.0),
        ("a|b\n-|-\n1|2", 1.0),
        ("| a \\| x | b |\n|---|---|\n| 1 | 2 |", 1.0),
        (f"{TABLE}\n| 5 |", pytest.approx((1 + 1 + 2 / 3) / 3)),
        ("| a | b |\n|---|\n| 1 | 2 |", pytest.approx(2 / 3)),
        ("| a | b |\n|---|---|", pytest.approx(1 / 3)),
        (f"```\n{TABLE}\n```", 0.0),
        ("a, b\n1, 2", 0.0),
    ],
)
def test_a_table_has_a_delimiter_rows_and_as_many_cells_in_each(answer: str, value: float) -> None:
    assert one(Tables(), done(answer, "format:table")).value == value


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ("# A\n\n## B\n\n- x\n- y\n\n**b** and `c`, see [d](http://e)", ""),
        ("1. a\n2. b\n   1. c\n   2. d\n3. e\n\nAgain:\n\n1. f\n2. g", ""),
        ("```python\n# no heading\n### none\n**\n```", ""),
        ("# A\n### B", "headings"),
        ("##A\n- x", "headings"),
        ("- x\n```\ncode", "fences"),
        ("1. a\n3. b", "lists"),
        ("- **a", "emphasis"),
        ("- `a", "emphasis"),
        ("- see [d](http://e", "links"),
        ("plain text.", "no Markdown structure"),
    ],
)
def test_markdown_says_which_part_is_broken(answer: str, failed: str) -> None:
    score = one(MarkdownFormat(), done(answer, "format:markdown"))
    assert score.why == failed
    assert (score.value == 1.0) == (not failed)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1. a\n2. b\n3. c", 1.0),
        ("Step 1: a\n1. x\n2. y\n\nStep 2: b", 1.0),
        ("### Step 1\n**Step 2:** b", 1.0),
        ("1. a\n   1. x\n   2. y\n2. b", 1.0),
        ("第一步：打开\n第二步：关上", 1.0),
        ("1、打开\n2、关上", 1.0),
        ("步骤十：打开\n步骤十一：关上", 0.5),
        ("1. a\n3. c", 0.5),
        ("2. a\n3. b", 0.5),
        ("1. a\n2. b\n2. c\n3. d", 0.75),
        ("```\n1. a\n2. b\n```", 0.0),
        ("1. a", 0.0),
        ("3.5 apples\n4.5 pears", 0.0),
    ],
)
def test_steps_count_up_from_one_without_gaps(answer: str, value: float) -> None:
    assert one(Steps(), done(answer, "format:steps")).value == value


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (r"So $\frac{1}{2}$ and \( x \) and \[ y \].", ""),
        (r"\begin{pmatrix} 1 \\[2pt] 2 \end{pmatrix} costs \$5", ""),
        (r"$\left\{ x \right.$", ""),
        (r"$\frac{1}{2$", "braces"),
        (r"$\begin{a}\begin{b}\end{a}\end{b}$", "environments"),
        (r"$x$ and $y", "delimiters"),
        (r"\( x \]", "delimiters"),
        (r"$\left( x$", "fences"),
        ("one half", "no LaTeX"),
    ],
)
def test_latex_says_what_is_not_closed(answer: str, failed: str) -> None:
    assert one(LatexFormat(), done(answer, "format:latex")).why == failed


# --- verbosity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "value"), [(0, 0.0), (80, 0.0), (85, 0.25), (90, 0.5), (100, 1.0), (5000, 1.0)])
def test_the_last_fifth_of_a_budget_is_punished_in_a_straight_line(length: int, value: float) -> None:
    half = length // 2
    score = one(Verbosity(budget=100), done("w " * half, reasoning="w " * (length - half)))
    assert score.value == pytest.approx(value)


def test_the_limit_is_the_examples_else_the_budget_else_a_reference_reply() -> None:
    long, reference = "word " * 60, "word " * 20
    assert one(Verbosity(budget=1000), done(long, "max-words:50")).value == 1.0
    assert one(Verbosity(), done(long, target=reference)).value == 1.0
    assert one(Verbosity(), done(reference, target=reference)).value == 0.0
    assert one(Verbosity(), done(long, target="17")).value is None


def test_a_thought_counts_against_a_budget_but_not_against_a_reference() -> None:
    completion = done("word " * 20, target="word " * 20, reasoning="word " * 900)
    assert one(Verbosity(), completion).value == 0.0
    assert one(Verbosity(budget=500), completion).value == 1.0
    assert one(Verbosity(), completion).parts["ratio"] == 45.0


def test_chinese_counts_by_character() -> None:
    assert one(Verbosity(budget=10), done("面" * 10)).value == 1.0


@pytest.mark.parametrize("options", [{"budget": 0}, {"soft": 1.5}, {"times": 0.0}])
def test_an_impossible_limit_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="verbosity"):
        Verbosity(**options)  # type: ignore[arg-type]


def test_a_tag_that_holds_no_number_asks_for_nothing() -> None:
    assert one(Verbosity(), done("a b", "max-words:many", "max-words:²", "max-words:")).value is None


# --- readability ------------------------------------------------------------------------------------------------------


def test_the_grade_is_flesch_and_kincaids_formula() -> None:
    found = reading("The cat sat on the mat. It was very happy.")
    assert found is not None
    assert found.grade == pytest.approx(0.39 * 5 + 11.8 * 1.2 - 15.59)


def test_chinese_is_graded_by_common_characters_in_sentences_that_are_not_long() -> None:
    plain, rare, long = Readability()(
        [done(text, language="zh") for text in (CHINESE, "魑魅魍魉" * 3 + "。" + CHINESE, "我们今天去买面包" * 8 + "。")]
    )
    assert plain.value == 1.0
    assert rare.parts["common"] == pytest.approx(1 - 12 / (12 + 31))
    assert rare.value == pytest.approx(31 / 43)
    assert (long.value, long.parts["common"]) == (0.0, 1.0)


def test_common_characters_are_those_of_the_two_standards() -> None:
    every = "".join(map(chr, range(0x4E00, 0xA000)))
    simplified, traditional = hanzi(every), hanzi(every, language="zh-Hant")
    assert simplified is not None
    assert traditional is not None
    assert (simplified.common, traditional.common) == (3755, 5401)
    assert one(Readability(), done("麵包為什麼會膨脹？因為酵母吃糖。", language="zh-TW")).value == 1.0


@pytest.mark.parametrize(("text", "language"), [(PROSE, "zh"), (CHINESE, "en"), (CHINESE[:9], "zh"), (PROSE, "fr"), ("", "zh")])
def test_readability_of_another_language_or_of_too_little_is_not_graded(text: str, language: str) -> None:
    score = one(Readability(), done(text, language=language))
    assert score.value is None
    assert score.why


def test_the_thoughts_readability_is_told_beside_the_answers() -> None:
    score = one(Readability(), done(PROSE, reasoning="The cat sat on the mat. It was glad."))
    assert score.parts["reasoning"] == 1.0
    assert score.value is not None
    assert score.value < 1.0


def test_a_foreign_stretch_with_a_few_english_words_is_looked_at_properly() -> None:
    french = "Le pain lève parce que la levure mange le sucre et produit un gaz que la pâte retient dans le four chaud. " * 4
    assert reading(PROSE * 3 + french) is None
    assert not FUNCTION_WORDS & set(words(french))


def test_a_full_stop_ends_a_sentence_unless_it_is_an_abbreviations() -> None:
    found = reading('Prof. Lee and Mr. Ito said e.g. "yes." Then they left for home.... And so on')
    assert found is not None
    assert found.sentences == 3


# --- repetition -------------------------------------------------------------------------------------------------------


def test_words_by_the_short_way_are_the_words_of_the_pattern() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice("ab'’ .\n1_-é面“\u200b\x00") for _ in range(rng.randrange(14)))
        shown = visible(text).replace("’", "'")
        assert words(text) == _WORD.findall(shown.casefold()), repr(text)


@pytest.mark.parametrize("period", [1, 2, 7, 49, 50, 51, 80, 120])
def test_a_loop_of_any_period_is_found_and_two_rounds_are_none(period: int) -> None:
    loop = [f"w{n % period}" for n in range(2 * period + LOOP_GRAM)]
    before, after = ([f"{side}{n}" for n in range(150)] for side in "ba")
    assert loops(" ".join([*before, *loop, *after]))
    assert not loops(" ".join([*before, *loop[:-1], *after]))


def test_repetition_tells_the_same_of_the_thought() -> None:
    score = one(Repetition(), done(PROSE, reasoning=PROSE * 9))
    assert (score.parts["loop"], score.parts["reasoning_loop"]) == (0.0, 1.0)
    assert (score.parts["reasoning_zlib"] or 1) < 0.2 < (score.parts["zlib"] or 0)
    assert one(Repetition(), done(PROSE)).parts["reasoning_loop"] is None


# --- verify -----------------------------------------------------------------------------------------------------------

RIGHT = [
    ("Sumamos. La respuesta es 42. Revisado en 2 pasos.", "42"),
    ("La réponse est **42**.", "42"),
    ("Die Antwort ist 42.", "42"),
    ("Ответ: 42. Проверено 2 раза.", "42"),
    ("答えは42です。2回確かめました。", "42"),
    ("答案：**42**个。共3步", "42"),
    ("คำตอบคือ 42 ตรวจแล้ว 2 ครั้ง", "42"),
    ("Jibu ni 42. Tumekagua mara 2.", "42"),
    ("উত্তর হল ৪২। ২ বার দেখেছি।", "42"),
    ("సమాధానం ౪౨. 2 సార్లు", "42"),
    ("The answer is 1{,}234.", "1234"),
    ("The answer is 1\\frac{4}{5}.", "\\frac{9}{5}"),
    ("\\boxed{90^\\circ}", "90"),
    ("The answer is -\\$36", "-36"),
    ("4343_{6}", "4343_6"),
    ("故选B", "B"),
    ("答案是选项(B)。", "B"),
    ("B. It is the only one left.\nThat is why.", "B"),
    ("I think A is wrong.\nSo B", "B"),
    ("The answer is the cat, not the dog", "the cat"),
    ("12345678901234567890", "12345678901234567890"),
    ("\\begin{pmatrix}-2\\\\-14\\end{pmatrix}", "\\begin{pmatrix} -2 \\\\ -14 \\end{pmatrix}"),
]
WRONG = [
    ("La respuesta es 41. Antes pensamos en 42.", "42"),
    ("\\boxed{2\\sqrt{3}}", "2"),
    ("\\boxed{2x}", "2"),
    ("\\boxed{2 + x}", "2"),
    ("The answer is 22090602.", "22090603"),
    ("12345678901234567891", "12345678901234567890"),
    ("The answer is 14/5.", "1\\frac{4}{5}"),
    ("\\boxed{-2k}", "2k"),
    ("\\boxed{-\\$36}", "\\$36"),
    ("\\boxed{4343_7}", "4343_6"),
    ("The answer is not the cat", "the cat"),
    ("没有冒犯。", "冒犯"),
    ("1、2、3、4", "1、2、3"),
    ("The answer is A", "B"),
    ("[3,4]", "(3,4]"),
    ("\\begin{pmatrix} -2 \\\\ -15 \\end{pmatrix}", "\\begin{pmatrix} -2 \\\\ -14 \\end{pmatrix}"),
]


@pytest.mark.parametrize(("answer", "target", "value"), [*((a, t, 1.0) for a, t in RIGHT), *((a, t, 0.0) for a, t in WRONG)])
def test_an_answer_is_right_if_and_only_if_it_says_the_target(answer: str, target: str, value: float) -> None:
    if "pmatrix" in target or "sqrt" in answer or "x" in answer:
        pytest.importorskip("math_verify")
    assert one(Verify(), done(answer, target=target)).value == value


def test_an_option_of_any_length_is_verified_and_naming_two_is_wrong() -> None:
    options = ["the man who came to the house on the hill early in the grey morning", "the woman", "nobody"]
    prompt = "Who was it?" + "".join(f"\n- {o}" for o in options)
    right, both, other = Verify()(
        [
            done(f"The answer is {a}.", target=options[0], prompt=prompt)
            for a in (options[0], f"{options[1]} or {options[0]}", "nobody")
        ]
    )
    assert (right.value, both.value, other.value) == (1.0, 0.0, 0.0)
    assert one(Verify(), done(options[0], target=options[0])).value is None


def test_the_verifier_is_right_about_every_generated_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    measure, rng = importlib.import_module("measure_verify"), random.Random(1)
    sets = [("gsm8k", "en"), *(("mgsm", language) for language in measure.NATIVE)]
    rows = [{"answer": str(rng.randrange(-50, 5000)), "source": s, "language": of} for s, of in sets for _ in range(12)]
    jobs = [(r["answer"], *c) for r in rows for c in measure.cases(r, rng) if "sqrt" not in c[1] and "x}" not in c[1]]
    jobs += [(t, *c) for t in "ABCDE" for c in measure.letter(t, rng)]
    assert len(jobs) > 900
    assert [j for j in jobs if Verify()([Completion(Example("x", (), j[0]), j[2])])[0].value != float(j[3])] == []
