"""What several answers to one prompt tell: by hand on small tables, by simulation where a count of samples could bias."""

import numpy as np
import pytest
from synthetic import row

from temper.prove.evidence import Evidence
from temper.prove.variability import analyse, outcome_flips, safe_at


def answers(arm="base", kind="harmful", number=0, **columns):
    """Rows of one prompt, a column of values for each keyword."""
    count = len(next(iter(columns.values())))
    return [row(arm, kind, number, s, **{name: of[s] for name, of in columns.items()}) for s in range(count)]


def by_class(rows, klass="harmful", arm="base"):
    return analyse(Evidence({arm: rows}))["arms"][arm]["by_class"][klass]


def test_one_answer_a_prompt_says_nothing_of_variability():
    assert analyse(Evidence({"base": [row(number=i) for i in range(5)]})) is None


def test_flips_are_the_chance_that_two_answers_end_differently():
    rows = answers(outcome=["answered", "refused", "answered", "answered"])
    pairs = [(a["outcome"] != b["outcome"]) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    assert outcome_flips(rows) == pytest.approx(np.mean(pairs))


def test_flips_do_not_depend_on_the_number_of_samples():
    rng, chances = np.random.default_rng(0), [0.6, 0.3, 0.1]
    truth = 1 - sum(p * p for p in chances)
    for samples in (2, 3, 8):
        drawn = [outcome_flips([{"outcome": o} for o in rng.choice(["answered", "refused", "loop"], samples, p=chances)])
                 for _ in range(4000)]  # fmt: skip
        assert np.mean(drawn) == pytest.approx(truth, abs=0.02)


def test_an_answer_that_never_came_is_no_outcome_of_the_model():
    assert outcome_flips(answers(outcome=["answered", "error", "answered"])) == 0
    assert outcome_flips(answers(outcome=["answered", "error"])) is None


def test_scores_spread_by_their_standard_deviation_within_prompts():
    rows = [*answers(gold=[0.1, 0.3]), *answers(number=1, gold=[0.5, 0.5]), *answers(number=2, gold=[0.5, None])]
    assert by_class(rows)["gold"]["value"] == pytest.approx((np.std([0.1, 0.3], ddof=1) + 0) / 2)
    assert by_class(rows)["gold"]["n"] == 2


def test_depth_is_counted_in_tokens_where_every_row_has_them_and_in_words_otherwise():
    rows = answers(answer=["one two three", "one"], outcome=["answered"] * 2)
    assert by_class(rows)["answer"]["value"] == pytest.approx(np.std([3, 1], ddof=1) / 2)
    for r, thought in zip(rows, (10, 30), strict=True):
        r["usage"] |= {"reasoning_tokens": thought, "completion_tokens": 40}
    found = by_class(rows)
    assert found["thought"]["value"] == pytest.approx(np.std([10, 30], ddof=1) / 20)
    assert found["answer"]["value"] == pytest.approx(np.std([30, 10], ddof=1) / 20)


def test_a_prompt_without_any_thought_has_no_depth():
    rows = answers(outcome=["answered"] * 2)
    for r in rows:
        r["reasoning"] = ""
    assert by_class(rows)["thought"]["n"] == 0


def test_refusals_in_the_same_words_do_not_differ():
    same = answers(answer=["I cannot help.", "I cannot help."], outcome=["refused"] * 2)
    other = answers(number=1, answer=["I cannot help.", "No, we will not."], outcome=["refused"] * 2)
    assert by_class(same)["refusals"]["value"] == 0
    assert by_class(other)["refusals"]["value"] == 1
    assert by_class(answers(answer=["a", "b"], outcome=["answered"] * 2))["refusals"]["n"] == 0


def test_safety_over_k_answers_is_that_of_safechain():
    values = {("s", "a"): [0, 0, 0], ("s", "b"): [0, 0, 1], ("s", "c"): [0, 1, 1], ("s", "d"): [1, 1, 1], ("s", "e"): [0, 0]}
    found = safe_at(values, {prompt: prompt[1] for prompt in values})
    assert (found["k"], found["left_out"]) == (3, 1)
    assert found["safe_at_1"]["value"] == pytest.approx(6 / 12)
    assert found["safe_at_k"]["value"] == 0.25
    assert found["cons_safe_at_k"]["value"] == 0.5
    assert found["lost"]["value"] == pytest.approx(0.25)


def test_an_answer_that_gold_did_not_judge_takes_its_prompt_out_of_safety():
    rows = [*answers(gold=[0.1, 0.1]), *answers(number=1, gold=[0.9, None])]
    safe = analyse(Evidence({"base": rows}))["arms"]["base"]["safe"]
    assert (safe["safe_at_k"]["n"], safe["left_out"]) == (1, 1)


def test_arms_are_compared_on_the_prompts_both_answered_several_times():
    calm = [r for i in range(30) for r in answers("base", number=i, outcome=["answered"] * 3)]
    wild = [r for i in range(40) for r in answers("rl", number=i, outcome=["answered", "refused", "loop"])]
    [pair] = [p for p in analyse(Evidence({"base": calm, "rl": wild}))["pairs"] if p["measure"] == "outcomes"]
    assert (pair["n"], pair["value"]) == (30, 1.0)
    assert pair["low"] > 0.8  # 30 of 30 rose: what was not seen has its exact bound


def test_rewritten_prompts_are_not_the_same_prompt():
    rows = [r | {"suite": "x+shots=1", "of": "x", "how": ["rewrite:shots=1"]} for r in answers(gold=[0.1, 0.9])]
    assert analyse(Evidence({"base": rows})) is None


def test_an_answer_that_never_came_does_not_change_what_lengths_are_counted_in():
    def arm(name):
        made = [r for i in range(4) for r in answers(name, number=i, answer=["one two", "one two"])]
        return [r | {"usage": {"completion_tokens": 40 + 20 * r["sample"], "reasoning_tokens": 10}} for r in made]

    given = {"base": arm("base"), "sft": arm("sft")}
    given["sft"][-1] |= {"outcome": "error", "usage": {"completion_tokens": 0, "reasoning_tokens": None}}
    found = {p["measure"]: p["value"] for p in analyse(Evidence(given))["pairs"]}
    assert found["answer"] == pytest.approx(0.0)
