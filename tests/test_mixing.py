"""Languages over a set of replies: what the graders wrote into rows, summed; readability by how a reply ended."""

import random
import statistics

import pytest
import scipy.stats

from temper.graders.language import LanguageConsistency
from temper.prove.evidence import Evidence
from temper.prove.mixing import mixing, passes
from temper.text.mixing import lcpr
from temper.types import Completion, Example, Message
from tests.synthetic import row

ENGLISH = "The train leaves the station at nine and arrives in the city before noon."
CHINESE = "火车九点离开车站，中午之前到达城市。"


def spoken(number: int, reasoning: str, answer: str, *, arm: str = "base", language: str = "en") -> dict:
    """A row whose language score is the real grader's."""
    prompt = "请说明一下火车的时间。" if language == "zh" else "When does the train leave?"
    asked = Example(str(number), (Message("user", prompt),), language=language)
    [score] = LanguageConsistency()([Completion(asked, answer, reasoning, thought="closed")])
    found = {"value": score.value, "why": score.why, "parts": dict(score.parts), "better": "high"}
    made = row(arm, "benign", number, answer=answer, language=found, readability=0.5)
    return {**made, "reasoning": reasoning, "language": language}


def test_a_language_that_nobody_asked_for_counts_on_the_side_where_it_stands():
    rows = [spoken(i, f"{ENGLISH} {CHINESE}" if i < 5 else ENGLISH, ENGLISH) for i in range(20)]
    found = mixing(Evidence({"base": rows}))["arms"]["base"]
    assert (found["switched_reasoning"]["value"], found["switched_answer"]["value"]) == (0.25, 0.0)
    assert found["cmi_reasoning"]["value"] > 0 == found["cmi_answer"]["value"]
    assert found["corpus_cmi_reasoning"]["value"] > 0 == found["corpus_cmi_answer"]["value"]


def test_the_pass_rates_are_the_paper_s_and_lcpr_their_harmonic_mean():
    rows = [spoken(i, ENGLISH, CHINESE if i < 4 else ENGLISH) for i in range(20)]
    found = passes(rows, "answer")
    assert (found["lpr"].value, found["wpr"].value) == (0.8, 1.0)
    assert found["lcpr"].value == pytest.approx(lcpr(0.8, 1.0))


def test_lcpr_is_not_certain_where_every_reply_passes_nor_missing_where_none_does():
    good, bad = ([spoken(i, ENGLISH, text) for i in range(10)] for text in (ENGLISH, CHINESE))
    assert (passes(good, "answer")["lcpr"].high, passes(good, "answer")["lcpr"].low < 0.8) == (1.0, True)
    assert (passes(bad, "answer")["lcpr"].value, passes(bad, "answer")["lcpr"].high > 0.3) == (0.0, True)
    assert passes([row()], "answer")["lcpr"].n == 0


def test_the_interval_of_lcpr_covers_the_truth_at_least_95_times_in_100():
    rng, lines, words, hits = random.Random(1), 0.85, 0.9, 0
    for _ in range(200):
        rows = []
        for i in range(80):
            line = rng.random() < lines
            parts = {"answer.line_pass": float(line), "answer.word_pass": float(rng.random() < words) if line else None}
            rows.append(row("base", "benign", i, language={"value": 1.0, "why": "", "parts": parts}))
        found = passes(rows, "answer")["lcpr"]
        hits += found.low <= lcpr(lines, words) <= found.high
    assert hits >= 190


def test_languages_of_prompts_are_told_apart_only_where_there_are_several():
    english, chinese = (
        [spoken(i, ENGLISH, ENGLISH) for i in range(5)],
        [spoken(10 + i, ENGLISH, CHINESE, language="zh") for i in range(5)],
    )
    assert mixing(Evidence({"base": english}))["languages"] == {}
    found = mixing(Evidence({"base": english + chinese}))["languages"]
    assert found["zh"]["base"]["switched_reasoning"]["value"] == 1.0
    assert found["en"]["base"]["switched_reasoning"]["value"] == 0.0


def test_refusals_that_read_well_do_not_make_answers_readable():
    rows = [row("base", "benign", i, readability=0.3) for i in range(10)]
    rows += [row("base", "benign", 10 + i, outcome="refused", readability=0.9) for i in range(10)]
    found = mixing(Evidence({"base": [{**r, "scores": {**r["scores"], "language": {"value": 1.0}}} for r in rows]}))["arms"][
        "base"
    ]
    assert (found["readability_answered"]["value"], found["readability_refused"]["value"]) == (
        pytest.approx(0.3),
        pytest.approx(0.9),
    )


def test_a_closed_thought_without_an_answer_has_no_summary():
    rows = [spoken(0, ENGLISH, ENGLISH), {**spoken(1, ENGLISH, ""), "outcome": "empty"}]
    assert mixing(Evidence({"base": rows}))["arms"]["base"]["summary"]["value"] == 0.5


def test_rows_whose_language_nobody_looked_at_have_no_mixing():
    assert mixing(Evidence({"base": [row()]})) is None


def test_an_index_has_student_s_interval_which_widens_where_prompts_share_a_group():
    rng = random.Random(3)
    parts = [{"answer.corpus_cmi": 100 * rng.random()} for _ in range(30)]
    rows = [row("base", "benign", i, language={"value": 1.0, "why": "", "parts": p}) for i, p in enumerate(parts)]
    values = [p["answer.corpus_cmi"] for p in parts]
    low, high = scipy.stats.t.interval(0.95, 29, statistics.fmean(values), scipy.stats.sem(values))
    found = mixing(Evidence({"base": rows}))["arms"]["base"]["corpus_cmi_answer"]
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    doubled = [{**r, "id": f"{r['id']}{k}", "group": r["id"]} for r in rows for k in range(2)]
    again = mixing(Evidence({"base": doubled}))["arms"]["base"]["corpus_cmi_answer"]
    assert (again["low"], again["high"]) == (pytest.approx(low), pytest.approx(high))
