"""How reasoning is told from answer, in every shape a reasoning model really emits."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speed import grows_within

from temper.text.split import Split, render, split

TAG = re.compile(r"<\s{0,2}/?\s{0,2}think(?:ing)?\s{0,2}>", re.IGNORECASE)


@pytest.mark.parametrize(
    ("raw", "opened", "wanted"),
    [
        ("<think>T</think>A", False, Split("T", "A", "closed")),
        ("T</think>A", True, Split("T", "A", "closed")),
        ("T</think>A", False, Split("T", "A", "closed", ("missing-opener",))),
        ("<think>T and then", False, Split("T and then", "", "open")),
        ("T and then", True, Split("T and then", "", "open")),
        ("", True, Split("", "", "open")),
        ("<think></think>A", False, Split("", "A", "closed")),
        ("</think>A", True, Split("", "A", "closed")),
        ("A", False, Split("", "A", "none")),
        ("", False, Split("", "", "none")),
        ("<think>T</think>", False, Split("T", "", "closed")),
        ("\n <think>\n T \n</think>\n\n A \n", False, Split("T", "A", "closed")),
    ],
)
def test_each_regular_shape_is_split_where_the_thought_ends(raw: str, opened: bool, wanted: Split) -> None:
    assert split(raw, opened=opened) == wanted


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("<THINK>T</Think>A", Split("T", "A", "closed", ("variant-tag",))),
        ("<thinking>T</thinking>A", Split("T", "A", "closed", ("variant-tag",))),
        ("<think >T</ think>A", Split("T", "A", "closed", ("variant-tag",))),
        ("<thinker>T</thinker>A", Split("", "<thinker>T</thinker>A", "none")),
        ("<b>T</b> 1 < 2 > 0", Split("", "<b>T</b> 1 < 2 > 0", "none")),
    ],
)
def test_other_spellings_are_tags_and_unknown_tags_are_text(raw: str, wanted: Split) -> None:
    assert split(raw) == wanted


@pytest.mark.parametrize(
    ("raw", "reasoning", "answer", "problem"),
    [
        ("<think>a<think>b</think>c</think>A", "a\nb\nc", "A", "nested"),
        ("<think>a<think>b</think>A", "a\nb", "A", "nested"),
        ("<think>a</think></think>A", "a", "A", "stray-closer"),
        ("<think>a</think>b</think>A", "a", "b\nA", "stray-closer"),
        ("<think>a</think>A<think>b</think>B", "a\nb", "A\nB", "several-blocks"),
        ("Sure.<think>a</think>A", "a", "Sure.\nA", "text-before-thought"),
        ("<think>a</think>A<think>B", "a", "A\nB", "stray-opener"),
    ],
)
def test_irregular_tags_are_split_and_named(raw: str, reasoning: str, answer: str, problem: str) -> None:
    found = split(raw)
    assert (found.reasoning, found.answer, found.thought) == (reasoning, answer, "closed")
    assert problem in found.problems


def test_a_model_that_repeats_the_opener_of_the_prompt_is_split_at_its_closer() -> None:
    assert split("\n<think>T</think>A", opened=True) == Split("T", "A", "closed", ("repeated-opener",))


def test_a_second_block_after_an_opened_prompt_is_a_second_block() -> None:
    found = split("a</think>A<think>b</think>B", opened=True)
    assert (found.reasoning, found.answer, found.problems) == ("a\nb", "A\nB", ("several-blocks",))


def test_a_greeting_before_a_cut_thought_does_not_make_the_thought_an_answer() -> None:
    assert split("Sure!\n<think>\nhow would one") == Split("Sure!\nhow would one", "", "open", ("text-before-thought",))


def test_a_trailing_opener_cannot_hide_an_answer_from_its_graders() -> None:
    found = split("word " * 40 + "\n<think>")
    assert found.thought == "none"
    assert found.answer.count("word") == 40


def test_a_mention_of_the_tag_in_a_sentence_opens_no_thought() -> None:
    assert split("R1 writes <think> before it answers.").thought == "none"


@pytest.mark.parametrize(
    "code",
    [
        "`</think>`",
        "``</think>``",
        "```\n</think>\n```",
        "```xml\n<think>x</think>\n```",
        "~~~\n</think>\n~~~",
        "````\n```\n</think>\n````",
    ],
)
def test_a_tag_quoted_as_code_is_text_in_thought_and_answer(code: str) -> None:
    assert split(f"<think>see\n{code}\nok</think>A") == Split(f"see\n{code}\nok", "A", "closed")
    assert split(f"<think>T</think>see\n{code}\nok") == Split("T", f"see\n{code}\nok", "closed")
    assert split(f"see\n{code}\nok") == Split("", f"see\n{code}\nok", "none")
    assert split(f"see\n{code}\nstill", opened=True).thought == "open"


def test_a_quoted_closer_does_not_end_a_cut_thought() -> None:
    assert split("<think>it ends with `</think>` and then").thought == "open"
    assert split("```\n</think>\n``` still thinking", opened=True).thought == "open"


@pytest.mark.parametrize("answer", ["A", "A\n```py\nx\n```", "A `x` b"])
def test_a_thought_that_forgot_to_close_its_fence_still_ends(answer: str) -> None:
    assert split(f"<think>\n```py\nx = 1\n</think>\n{answer}") == Split("```py\nx = 1", answer, "closed")


def test_a_lone_backtick_hides_no_tag() -> None:
    assert split("<think>a ` b</think>\nc ` d") == Split("a ` b", "c ` d", "closed")


def test_other_tags_can_be_asked_for() -> None:
    assert split("<r>T</r><think>A", open_tag="<r>", close_tag="</r>") == Split("T", "<think>A", "closed")


@pytest.mark.parametrize(
    ("raw", "reasoning", "opened", "wanted"),
    [
        ("A", "T", False, Split("T", "A", "closed")),
        ("", "T", False, Split("T", "", "open")),
        ("", "T", True, Split("T", "", "open")),
        ("A", "", True, Split("", "A", "closed")),
        ("A", "", False, Split("", "A", "none")),
        ("", "", False, Split("", "", "none")),
        ("<think>U</think>A", "T", False, Split("T\nU", "A", "closed", ("several-blocks",))),
        ("<think>U", "T", False, Split("T\nU", "", "open", ("several-blocks",))),
    ],
)
def test_a_thought_that_the_server_split_off_is_kept(raw: str, reasoning: str, opened: bool, wanted: Split) -> None:
    assert split(raw, opened=opened, reasoning_content=reasoning) == wanted


pieces = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<THINKING>", "</thinking>", "`", "```", "~~~", "\n", " ", "a", "b c", "<x>", "é", "> "]
    )
    | st.text(max_size=5),
    max_size=40,
).map("".join)


def bare(text: str) -> str:
    return "".join(sorted("".join(TAG.sub("\n", text).split())))


@settings(max_examples=200, deadline=None)
@given(pieces, st.booleans())
def test_only_tags_and_whitespace_are_ever_lost(raw: str, opened: bool) -> None:
    found = split(raw, opened=opened)
    assert bare(found.reasoning + "\n" + found.answer) == bare(raw)


@settings(max_examples=200, deadline=None)
@given(pieces, st.booleans())
def test_the_three_states_of_a_thought_hold_for_any_text(raw: str, opened: bool) -> None:
    found = split(raw, opened=opened)
    assert found.thought != "open" or found.answer == ""
    assert found.thought != "none" or found.reasoning == ""
    assert (found.reasoning, found.answer) == (found.reasoning.strip(), found.answer.strip())
    assert not opened or found.thought != "none"


plain = st.text(st.characters(exclude_characters="<>`~"), min_size=0, max_size=60).map(str.strip)


@settings(max_examples=150, deadline=None)
@given(plain, plain)
def test_what_is_rendered_is_split_into_the_same_parts(reasoning: str, answer: str) -> None:
    raw = render(reasoning, answer)
    assert split(raw) == Split(reasoning, answer, "closed")
    assert split(raw.removeprefix("<think>"), opened=True) == Split(reasoning, answer, "closed")


@settings(max_examples=150, deadline=None)
@given(plain, plain, st.integers(0, 200))
def test_a_thought_cut_anywhere_is_never_an_answer(reasoning: str, answer: str, cut: int) -> None:
    raw = render(reasoning, answer)[: len("<think>\n") + min(cut, len(reasoning))]
    assert split(raw).answer == ""
    assert split(raw).thought == "open"


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<think></think>", "`", "``` ", "```\n", "<think>`</think>\n", "< ", "~~~\n```\n", "`a``"]
)
def test_time_grows_in_proportion_to_length(unit: str) -> None:
    texts = {n: unit * (n // len(unit)) + "<think>" for n in (10_000, 80_000)}
    assert grows_within(32, lambda n: split(texts[n]), 10_000, 80_000)  # quadratic work takes 64 times as long
