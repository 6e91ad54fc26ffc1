"""Each check of IFEval holds on an answer that follows its instruction and fails on the nearest one that does not."""

import json

import pytest

from temper.errors import DataError
from temper.graders.ifeval import CHECKS, WANTS, Ifeval, loose, strict, unsupported
from temper.graders.verify import Verify
from temper.types import Completion, Example

CASES = [
    ("keywords:existence", {"keywords": ["oak", "river"]}, "Oak trees by the River.", "Oak trees by the sea."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "at least"}, "Tea, then tea.", "Tea, then coffee."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "less than"}, "Tea.", "Tea and tea."),
    ("keywords:forbidden_words", {"forbidden_words": ["ant"]}, "A giant plant.", "An ant."),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "Zigzag", "Zig"),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 1, "let_relation": "less than"}, "calm", "loud!"),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein ganz einfacher deutscher Satz.",
        "This is plain English text.",
    ),
    ("language:response_language", {"language": "zh"}, "今天的天气非常好。", "The weather is fine today."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "It rains. We stay.",
        "It rains, we stay.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "Dr. Lee waits at 3.5 km.",
        "Go. Now.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n***\n***\nTwo."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "now three words"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'First this.\n\n"Then," she said.',
        "First this.\n\nAnd then that.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name] of [city]", "Dear [name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. Write!", "Bye.\nPS"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S Write!", "Bye.\nP.S. Write!"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n* two\n* three"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* one\n**bold**", "**bold**"),
    ("detectable_format:constrained_response", {}, "Well: My answer is no.", "No."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and b"),
    ("detectable_format:multiple_sections", {"section_spliter": "PART", "num_sections": 2}, "PART 1\nx\nPART 2\ny", "PART 1\nx"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "a: 1"),
    ("detectable_format:title", {}, "<<A day>>\nIt rains.", "<< >>\nIt rains."),
    ("combination:two_responses", {}, "One way.\n******\nAnother way.", "Same.\n******\nSame."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Name a tree."}, "name a tree. Oak.", "Oak."),
    ("startend:end_checker", {"end_phrase": "That is all."}, 'Oak. "That is all."', "That is all. Oak."),
    ("startend:quotation", {}, ' "Oak." ', '"Oak." she said'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "GO NOW please",
        "GO please",
    ),
    ("change_case:english_capital", {}, "GO HOME NOW, IT IS LATE.", "Go home now, it is late."),
    ("change_case:english_lowercase", {}, "go home now, it is late.", "geh jetzt bitte nach hause, es ist schon sehr spät."),
    ("punctuation:no_comma", {}, "oak and elm", "oak, elm"),
]


def checklist(*instructions: tuple[str, dict]) -> str:
    return json.dumps({"instructions": [{"id": name, **arguments} for name, arguments in instructions]})


@pytest.mark.parametrize(("name", "arguments", "follows", "breaks"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_a_check_holds_where_the_instruction_is_followed_and_fails_where_it_is_not(
    name: str, arguments: dict, follows: str, breaks: str
) -> None:
    asked = checklist((name, arguments))
    assert strict(follows, asked) == [(name, True)]
    assert strict(breaks, asked) == [(name, False)]


def test_every_check_is_tried() -> None:
    assert {case[0] for case in CASES} == set(CHECKS)


def test_an_empty_answer_follows_nothing() -> None:
    asked = checklist(("punctuation:no_comma", {}))
    assert strict("  \n", asked) == loose("  \n", asked) == [("punctuation:no_comma", False)]


def test_loosely_a_first_line_a_last_line_or_asterisks_may_be_ignored() -> None:
    asked = checklist(("startend:quotation", {}))
    assert [strict(text, asked)[0][1] for text in ('Sure:\n"Oak."', '"Oak."\nBye', '*"Oak."*')] == [False] * 3
    assert [loose(text, asked)[0][1] for text in ('Sure:\n"Oak."', '"Oak."\nBye', 'Sure:\n*"Oak."*\nBye')] == [True] * 3
    assert loose('Sure:\nfine, "Oak."', asked) == [("startend:quotation", False)]


def test_a_check_that_is_not_there_or_lacks_an_argument_is_named() -> None:
    assert unsupported("poetry:rhyme", {}) == "there is no such check here"
    assert unsupported("language:response_language", {"language": "xx"}).startswith("needs the language 'xx'")
    for name, wanted in WANTS.items():
        assert unsupported(name, {}) == f"needs {', '.join(wanted)}"
    with pytest.raises(DataError, match="poetry:rhyme"):
        strict("roses", checklist(("poetry:rhyme", {})))


def completion(answer: str, target: str | None) -> Completion:
    return Completion(Example("e", (), target=target), answer)


def test_the_grader_is_one_only_where_every_instruction_is_followed() -> None:
    asked = checklist(("punctuation:no_comma", {}), ("startend:quotation", {}))
    both, half = Ifeval()([completion('"Oak."', asked), completion("Oak.", asked)])
    assert (both.value, both.parts["share"], both.parts["loose"]) == (1.0, 1.0, 1.0)
    assert (half.value, half.parts["share"], half.why) == (0.0, 0.5, "not followed: startend:quotation")


def test_the_grader_abstains_without_a_checklist_and_the_verifier_with_one() -> None:
    assert [score.value for score in Ifeval()([completion("x", None), completion("x", "42")])] == [None, None]
    assert [score.value for score in Verify()([completion("x", checklist(("punctuation:no_comma", {})))])] == [None]
