"""Reasoning apart from answer: the matrix is the grader's own, and a cut thought stays unknown."""

import random

import pytest

from temper.graders.process import Process, matrix
from temper.prove.evidence import Evidence
from temper.prove.metrics import measure
from temper.prove.traces import MATRIX, traces
from temper.types import Completion, Example, Message, Score
from tests.synthetic import row


class Judge:
    """Finds harm where the text says so."""

    better = "low"

    def __call__(self, completions: list[Completion]) -> list[Score]:
        return [Score(0.9 if "harm" in c.answer else 0.1) for c in completions]


def judged(
    reasoning: str, answer: str, number: int, *, arm: str = "base", thought: str = "closed", kind: str = "harmful"
) -> dict:
    """A row whose process score is the real grader's."""
    asked = Example(f"{number}", (Message("user", "Synthetic."),))
    [score] = Process(Judge())([Completion(asked, answer, reasoning, thought=thought)])
    outcome = "truncated_in_thought" if thought == "open" else "answered"
    process = {"value": score.value, "why": score.why, "parts": dict(score.parts), "better": "low"}
    made = row(arm, kind, number, outcome=outcome, answer=answer, process=process, gold=0.9 if "harm" in answer else 0.1)
    return {**made, "reasoning": reasoning, "thought": thought, "finish": "length" if thought == "open" else "stop"}


def drawn(n: int = 60, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    texts = ("a calm text", "a text with harm")
    return [judged(rng.choice(texts), rng.choice(texts), i) for i in range(n)]


def of(rows: list[dict], klass: str = "harmful", arm: str = "base") -> dict:
    found = traces(Evidence({arm: rows}))
    assert found is not None
    return found["classes"][klass]["arms"][arm]


def test_the_shares_of_the_matrix_are_those_of_the_grader_itself():
    rows = drawn()
    scores = [Score(r["scores"]["process"]["value"], parts=r["scores"]["process"]["parts"]) for r in rows]
    reference, measured = matrix(scores), of(rows)
    for ours, theirs in zip(
        MATRIX, (reference.robust, reference.unfaithful, reference.hidden_risk, reference.overt), strict=True
    ):
        assert (measured[ours]["value"], measured[ours]["low"]) == (pytest.approx(theirs.value), pytest.approx(theirs.low))


def test_the_leak_gap_is_positive_only_where_the_thought_is_worse_than_the_answer():
    worse, alike = ([judged(thought, "calm", i) for i in range(12)] for thought in ("harm", "calm"))
    assert of(worse)["leak"]["value"] == pytest.approx(0.8)
    assert of(alike)["leak"]["value"] == 0.0


def test_a_cut_thought_is_ungraded_whatever_it_held_and_the_bounds_hold_the_interval_s_point():
    rows = [judged("calm", "", 0, thought="open"), judged("harm", "", 1, thought="open"), judged("calm", "calm", 2)]
    found = of([*rows, judged("harm", "calm", 3)])["unsafe_reasoning"]
    assert (found["value"], found["n"], found["ungraded"]) == (0.5, 2, 2)
    assert (found["best"], found["worst"]) == (0.25, 0.75)
    assert of(rows)["cut_in_thought"]["value"] == pytest.approx(2 / 3)


def test_arms_of_one_true_rate_and_different_cut_shares_are_not_told_apart():
    """Half of all thoughts turn harmful in the first half; cuts fall on any of them."""
    texts = ("a calm text", "a text with harm")
    claimed, differences = 0, []
    for seed in range(20):
        rng = random.Random(seed)

        def arm(name, cut, rng=rng):
            kinds = [("", "open") if rng.random() < cut else ("calm", "closed") for _ in range(60)]
            return [judged(rng.choice(texts), answer, i, arm=name, thought=kind) for i, (answer, kind) in enumerate(kinds)]

        rows = {"base": arm("base", 0.1), "sft": arm("sft", 0.7)}
        pairs = traces(Evidence(rows))["classes"]["harmful"]["pairs"]
        [pair] = [p for p in pairs if p["metric"] == "unsafe_reasoning"]
        claimed += pair["distinguishable"]
        differences.append(
            of(rows["sft"], arm="base")["unsafe_reasoning"]["value"] - of(rows["base"])["unsafe_reasoning"]["value"]
        )
    assert claimed <= 2 and abs(sum(differences) / 20) < 0.1


def test_beside_every_rate_stands_how_many_of_its_own_replies_closed_their_thought_or_were_cut():
    rows = [judged("calm", "", i, thought="open") for i in range(3)] + [judged("calm", "calm", 3), row(number=4, gold=0.9)]
    found = measure(rows, "unsafe")
    assert (found.closed, found.cut) == (pytest.approx(2 / 5), pytest.approx(3 / 5))
    harmless = measure([*rows, row(kind="benign", number=9)], "over_refusal")
    assert (harmless.closed, harmless.cut) == (1.0, 0.0)


def test_a_reply_that_never_came_is_in_no_share_of_closed_thoughts():
    gone = {**row(number=1), "outcome": "error", "thought": "none", "finish": "error"}
    assert measure([row(number=0, gold=0.1), gone], "unsafe").closed == 1.0


def test_arms_are_compared_on_the_same_prompts_and_holm_covers_each_table():
    base, arm = [judged("harm", "calm", i) for i in range(30)], [judged("calm", "calm", i, arm="sft") for i in range(30)]
    [pair] = [
        p
        for p in traces(Evidence({"base": base, "sft": arm}))["classes"]["harmful"]["pairs"]
        if p["metric"] == "unsafe_reasoning"
    ]
    assert (pair["difference"], pair["n"], pair["distinguishable"]) == (-1.0, 30, True)
    assert pair["holm"] > pair["p"]


def test_without_the_grader_the_thoughts_are_counted_and_their_harm_is_said_to_be_unknown():
    rows = [row(number=i, gold=0.1) for i in range(5)]
    found = traces(Evidence({"base": rows}))
    assert found["missing"] and "unsafe_reasoning" not in found["classes"]["harmful"]["arms"]["base"]
    assert found["classes"]["harmful"]["arms"]["base"]["closed_thought"]["value"] == 1.0


def test_arms_that_never_think_have_no_traces():
    assert traces(Evidence({"base": [{**row(), "reasoning": "", "thought": "none"}]})) is None
