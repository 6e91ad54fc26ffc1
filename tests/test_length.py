"""Length against outcome: arms are compared where they ended alike, and overthinking is what follows the right number."""

import random

import pytest

from temper.prove.evidence import Evidence
from temper.prove.verbosity import correct_from, overthinking, thought_tokens, verbosity
from tests.synthetic import row


def task(
    number: int = 0, sample: int = 0, *, arm: str = "base", solved: bool = True, tokens: int = 100, thought: str = ""
) -> dict:
    made = row(arm, "reasoning", number, sample, answer="It is 42.", verify=float(solved))
    usage = {"prompt_tokens": 5, "completion_tokens": 2 * tokens, "reasoning_tokens": tokens, "seconds": 0.1}
    return {**made, "usage": usage, "prompt": "How many?", "reasoning": thought or "so 42 it is"}


def reply(number: int, *, arm: str, outcome: str, tokens: int) -> dict:
    made = row(arm, "benign", number, outcome=outcome)
    return {**made, "usage": {"completion_tokens": tokens}}


def test_an_arm_that_only_refuses_more_is_not_called_shorter():
    base = [reply(i, arm="base", outcome="answered", tokens=200) for i in range(40)]
    arm = [reply(i, arm="sft", outcome="refused" if i % 2 else "answered", tokens=20 if i % 2 else 200) for i in range(40)]
    [pair] = [p for p in verbosity(Evidence({"base": base, "sft": arm}))["pairs"] if p["metric"] == "tokens_answered"]
    assert (pair["difference"], pair["n"]) == (0.0, 20)


def test_growth_of_replies_that_ended_alike_is_found_with_its_interval():
    rng = random.Random(0)
    base = [reply(i, arm="base", outcome="answered", tokens=rng.randint(90, 110)) for i in range(60)]
    arm = [
        reply(i, arm="rl", outcome="answered", tokens=r["usage"]["completion_tokens"] + 45 + 10 * (i % 2))
        for i, r in enumerate(base)
    ]
    [pair] = [p for p in verbosity(Evidence({"base": base, "rl": arm}))["pairs"] if p["metric"] == "tokens_answered"]
    assert pair["difference"] == pytest.approx(50) and pair["low"] > 48 and pair["distinguishable"]


def test_counted_thought_tokens_are_taken_and_others_are_apportioned_by_characters_and_counted():
    counted, guessed = task(tokens=70), {**task(thought="x" * 30), "answer": "y" * 10, "usage": {"completion_tokens": 80}}
    assert (thought_tokens(counted), thought_tokens(guessed)) == (70.0, 60.0)
    assert thought_tokens({**counted, "thought": "open"}) is None
    assert verbosity(Evidence({"base": [counted, {**guessed, "id": "other"}]}))["apportioned"] == {"base": 1}


@pytest.mark.parametrize(
    ("thought", "target", "prompt", "place"),
    [
        ("ab 42 and so on", "42", "How many?", 5 / 15),
        ("ab 1,200 cd", "1200", "How many?", 8 / 11),
        ("first 420, then 42", "42", "How many?", 1.0),
        ("it is 42.0 I think", "42", "How many?", 10 / 18),
        ("it is 41", "42", "How many?", None),
        ("it is 42", "42", "Is it 42?", None),
        ("it is blue", "blue", "Which?", None),
        ("", "42", "How many?", None),
    ],
)
def test_the_right_number_is_found_where_it_first_stands_and_only_where_the_prompt_does_not_tell_it(
    thought, target, prompt, place
):
    found = correct_from({**task(), "reasoning": thought, "target": target, "prompt": prompt})
    assert found == (None if place is None else pytest.approx(place))


def test_thinking_after_the_answer_is_measured_on_solved_tasks_only():
    rows = [task(i, thought="42 " + "x" * 7, solved=i < 3) for i in range(5)]
    found = verbosity(Evidence({"base": rows}))["arms"]["base"]["after_correct"]
    assert (found["value"], found["n"]) == (pytest.approx(0.8), 3)


def test_hard_tasks_make_unsolved_thoughts_longer_between_tasks_and_not_within_one():
    rows = [
        task(i, k, solved=(k == 0) if i % 2 else True, tokens=(300 if i % 2 else 100) + i) for i in range(40) for k in range(2)
    ]
    found = overthinking(rows)
    assert found["difference"]["low"] > 0
    assert (found["within"]["value"], found["within"]["n"], found["within"]["low"]) == (
        0.0,
        20,
        None,
    )


def test_a_reply_cut_in_its_thought_is_unsolved_with_its_tokens_so_far_and_is_counted_as_cut():
    cut = [{**task(10 + i, solved=False, tokens=400), "thought": "open", "outcome": "truncated_in_thought"} for i in range(8)]
    found = overthinking([*(task(i) for i in range(10)), *cut])
    assert (found["unsolved"]["value"], found["unsolved"]["n"], found["cut"]) == (400.0, 8, 8)
    assert (found["difference"]["value"], found["solved"]["n"]) == (300.0, 10)


def test_bands_hold_a_quarter_of_the_thoughts_each_and_show_where_length_stops_paying():
    rows = [task(i, solved=i < 60, tokens=10 + i) for i in range(80)]
    bands = verbosity(Evidence({"base": rows}))["bands"]["reasoning"]
    assert [b["n"] for b in bands["arms"]["base"]] == [20, 20, 20, 20]
    assert [b["value"] for b in bands["arms"]["base"]] == [1.0, 1.0, 1.0, 0.0]


def test_rows_without_any_count_of_tokens_have_no_verbosity():
    assert verbosity(Evidence({"base": [{**row(), "usage": {}}]})) is None
