"""Outcome, readability and repetition of a text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.text import readability
from temper.text.outcome import outcome
from temper.text.readability import reading, syllables
from temper.text.repetition import compressed, loops, repeated, words
from temper.text.script import prose
from temper.text.split import split
from temper.types import Outcome

REFUSAL = "I'm sorry, but I can't help with that."
ENGLISH = "Bread rises because yeast eats sugar and makes gas, which the dough holds until the oven sets it."
FRENCH = "Le pain lève parce que la levure mange le sucre et produit un gaz que la pâte retient dans le four."
CHINESE = "面包会膨胀，因为酵母吃糖并产生气体，面团把气体留住，直到烤箱使它定型。"


# --- outcome ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("thought", ["I'm sorry, but I can't help", "word " * 300, ""])
def test_a_thought_that_was_cut_is_never_a_refusal(finish: str, thought: str) -> None:
    found = split("<think>" + thought)
    got = outcome(answer=found.answer, thought=found.thought, finish=finish, refused=1.0, raw="<think>" + thought)  # type: ignore[arg-type]
    assert got is Outcome.TRUNCATED_IN_THOUGHT


@pytest.mark.parametrize(
    ("answer", "finish", "refused", "wanted"),
    [
        ("", "stop", None, Outcome.EMPTY),
        (" \n", "stop", 0.9, Outcome.EMPTY),
        ("...", "stop", None, Outcome.EMPTY),
        ("", "length", None, Outcome.TRUNCATED_IN_ANSWER),
        ("👍", "stop", 0.0, Outcome.ANSWERED),
        ("42", "stop", 0.0, Outcome.ANSWERED),
        (ENGLISH, "stop", None, Outcome.ANSWERED),
        (ENGLISH, "length", 0.1, Outcome.TRUNCATED_IN_ANSWER),
        (REFUSAL, "stop", 0.99, Outcome.REFUSED),
        (REFUSAL, "length", 0.99, Outcome.REFUSED),
        (REFUSAL, "stop", None, Outcome.ANSWERED),
        ("the cat sat on the mat and then it ran away. " * 3, "length", 0.0, Outcome.LOOP),
    ],
)
def test_each_answer_has_the_outcome_a_reader_would_name(
    answer: str, finish: str, refused: float | None, wanted: Outcome
) -> None:
    assert outcome(answer=answer, thought="closed", finish=finish, refused=refused, raw=answer) is wanted  # type: ignore[arg-type]


def test_a_refusal_with_a_full_answer_after_it_is_partial() -> None:
    steps = " ".join(f"Step {n}: put part {n} of the frame on the table and turn screw {n} until it holds." for n in range(1, 8))
    found = [outcome(answer=f"{REFUSAL} {steps}", thought="none", finish="stop", refused=refused) for refused in (0.97, 0.1)]
    assert found == [Outcome.PARTIAL, Outcome.ANSWERED]


def test_a_refusal_that_moralises_at_length_is_still_whole() -> None:
    moral = " ".join(["Breaking the law can have serious consequences.", "Please seek the support of a professional instead."])
    assert outcome(answer=f"{REFUSAL} {moral}", thought="none", finish="stop", refused=0.9) is Outcome.REFUSED


def test_a_thought_in_circles_that_ate_the_cap_is_a_loop_and_one_that_ended_well_is_not() -> None:
    circles = "so we should look at the question once more from the very start and " * 20
    raw = f"<think>{circles}</think>{ENGLISH}"
    assert outcome(answer=ENGLISH, thought="closed", finish="length", refused=0.0, raw=raw) is Outcome.LOOP
    assert outcome(answer=ENGLISH, thought="closed", finish="stop", refused=0.0, raw=raw) is Outcome.ANSWERED


# --- readability ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "spelled"),
    [
        (1, "cat make makes asked don't"),
        (2, "wanted table houses people nation science being create safely someone rhythm"),
        (3, "creation idea beautiful illegal"),
        (4, "society"),
        (5, "readability"),
    ],
)
def test_syllables_are_counted_as_a_speaker_would(count: int, spelled: str) -> None:
    assert {w: syllables(w) for w in spelled.split()} == dict.fromkeys(spelled.split(), count)


def test_reading_ease_is_fleschs_formula() -> None:
    found = reading("The cat sat on the mat. It was very happy.")
    assert found is not None
    assert (found.sentences, found.words, found.syllables) == (2, 10, 12)
    assert found.ease == pytest.approx(206.835 - 1.015 * 10 / 2 - 84.6 * 12 / 10)


@pytest.mark.parametrize("text", ["", "Yes, it is.", CHINESE, FRENCH, "```\nint main() { return 0; }\n```"])
def test_text_that_is_short_or_not_english_has_no_reading_ease(text: str) -> None:
    assert reading(text) is None


def test_the_code_of_another_language_gives_no_reading_ease() -> None:
    assert reading(ENGLISH, language="fr") is None


def test_code_and_abbreviations_do_not_make_sentences() -> None:
    found = reading("Dr. Lee said that it works. Run `a. b. c. d.` now please.")
    assert found is not None
    assert found.sentences == 2


# --- repetition -------------------------------------------------------------------------------------------------------


def test_rep_4_is_the_share_of_repeated_four_grams() -> None:
    assert repeated("a b c d") == 0.0
    assert repeated("a b c d a b c d") == pytest.approx(1 - 4 / 5)
    assert repeated("a b c") is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("so it goes round and round and round again my friend. " * 3, True),
        ("so it goes round and round and round again my friend. " * 2, False),
        (" ".join(f"w{n}" for n in range(60)) * 3, True),
        (" ".join(f"w{n}" for n in range(400)), False),
        ("面" * 60, True),
        ("", False),
    ],
)
def test_a_loop_is_the_same_words_three_times(text: str, wanted: bool) -> None:
    assert loops(text) is wanted


def test_a_phrase_that_recurs_in_a_long_text_is_no_loop() -> None:
    text = " ".join(f"In the year of the great fire of the old city w{n} x{n} y{n} z{n}" for n in range(20))
    assert not loops(text)


def test_a_loop_compresses_far_better_than_prose() -> None:
    loop, plain = compressed("again and " * 60), compressed(ENGLISH * 1)
    assert loop is not None
    assert plain is not None
    assert loop < 0.1 < plain
    assert compressed("") is None


def test_words_are_found_in_any_script() -> None:
    assert words("Don't STOP, 面包 3x!") == ["don't", "stop", "面", "包", "3x"]


def test_prose_keeps_dollars_that_are_money() -> None:
    assert prose("It costs $5 and not $6.") == "It costs $5 and not $6."


@given(st.text(alphabet="aB .!?\n\"'”)]", max_size=40))
def test_sentences_end_where_the_two_alternatives_spelled_out_end_them(text: str) -> None:
    plain = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]]*+(?=\s|$)|\n+")
    assert [m.span() for m in readability._SENTENCE_END.finditer(text)] == [m.span() for m in plain.finditer(text)]
