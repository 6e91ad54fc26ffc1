"""Conversations are really held turn by turn, and what length does to them is measured within the same request."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.data.overlap import overlaps
from temper.data.read import read
from temper.prove import metrics as measures
from temper.prove.attack.apply import attacked
from temper.prove.conversation import Conversing, conversing, steps
from temper.prove.evidence import Evidence
from temper.prove.turns import cluster, slope, turns
from temper.report.blocks import Figure, Table
from temper.report.read import Run
from temper.report.turns import turns as report
from temper.samplers.scripted import Scripted
from temper.types import Completion, Example, Message, Suite
from tests.synthetic import row


def talk(name: str, *asked: str, group: str = "") -> Example:
    return Example(name, tuple(Message("user", text) for text in asked), tags=frozenset({"benign"}), group=group)


class Echo:
    """Answers with the number of messages it was shown, and remembers the examples."""

    def __init__(self) -> None:
        self.asked: list[Example] = []

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        self.asked += examples
        return [[Completion(e, f"after {len(e.messages)}", "a thought") for _ in range(n)] for e in examples]


def test_only_two_user_turns_in_a_row_make_a_conversation() -> None:
    shots = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert len(steps(shots)) == 1 and conversing(echo := Echo(), [Example("x", shots)]) is echo
    assert isinstance(conversing(echo, [talk("x", "a"), talk("y", "a", "b")]), Conversing)


def test_a_system_prompt_goes_with_the_first_turn_and_a_prefill_with_the_last() -> None:
    messages = (Message("system", "s"), Message("user", "a"), Message("user", "b"), Message("assistant", "Well"))
    assert [[m.content for m in said] for said in steps(messages)] == [["s", "a"], ["b", "Well"]]


def test_the_model_s_own_replies_stand_between_the_turns_without_their_thoughts() -> None:
    sampler = Echo()
    [[found]] = Conversing(sampler)([talk("x", "one", "two", "three")])
    assert [m.content for m in found.example.messages] == ["one", "after 1", "two", "after 3", "three"]
    assert found.answer == "after 5" and found.facts == {"turns": 3, "declared_turns": 3}
    assert found.example.id == "x" and found.example.prompt == "three"


def test_rows_of_one_dialogue_share_their_beginning_and_ask_no_turn_twice() -> None:
    sampler = Echo()
    held = Conversing(sampler)
    rows = [talk(f"x{t}", *["one", "two", "three"][:t], group="x") for t in (1, 2, 3)]
    made = held(rows)
    assert len(sampler.asked) == 3 and [m[0].facts["turns"] for m in made] == [1, 2, 3]
    held([talk("x4", "one", "two", "three", "four", group="x")])
    assert len(sampler.asked) == 4


def test_tokens_of_turns_that_no_row_holds_are_told_once() -> None:
    held = Conversing(Scripted(lambda e: "three words here"))
    [[first], [third]] = held([talk("x1", "one", group="x"), talk("x3", "one", "two", "three", group="x")])
    assert "earlier_tokens" not in first.facts and first.usage is not None
    # the first turn is the first row's own; the second one was shown "one", a reply of three words and "two"
    assert third.facts["earlier_tokens"] == 5 + 3
    [[again]] = held([talk("x4", "one", "two", "three", "four", group="x")])
    assert "earlier_tokens" not in again.facts


def test_samples_of_a_conversation_are_held_apart() -> None:
    sampler = Echo()
    made = Conversing(sampler)([talk("x", "one", "two")], n=3)
    assert len(made[0]) == 3 and len({e.id for e in sampler.asked}) == 6


def test_what_a_turn_is_asked_as_does_not_depend_on_its_batch() -> None:
    together, alone = Echo(), Echo()
    pair = [talk("x", "one", "two", group="g"), talk("y", "uno", "due")]
    Conversing(together)(pair)
    Conversing(alone)(pair[1:])
    assert {e.id for e in alone.asked} <= {e.id for e in together.asked}


def test_a_turn_without_a_reply_ends_the_conversation_as_an_error() -> None:
    def sampler(examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        return [
            [Completion(e, "", finish="error", error="HTTP 500") if len(e.messages) == 3 else Completion(e, "Yes.")]
            for e in examples
        ]

    [[found], [whole]] = Conversing(sampler)([talk("x", "one", "two", "three"), talk("y", "one")])
    assert found.finish == "error" and found.facts == {"turns": 2, "declared_turns": 3}
    assert whole.finish == "stop" and whole.facts["turns"] == 1


def test_a_split_request_is_really_sent_in_turns() -> None:
    suite = Suite("own", (Example("x", (Message("user", "one two three four"),), tags=frozenset({"harmful"})),))
    made = attacked(suite, "split,turns=2")
    assert made is not None
    [[found]] = conversing(Scripted(lambda e: "OK"), made.examples)(made.examples)
    assert found.facts["turns"] == 2 and [m.role for m in found.example.messages] == ["user", "assistant", "user"]
    assert found.example.prompt == "one two three four"


# --- the bundled suite -------------------------------------------------------------------------------------------------


def test_the_bundled_suite_asks_the_same_at_three_depths_and_escalates_in_four_turns() -> None:
    by_group: dict[str, list[Example]] = {}
    for example in read("multi-turn"):
        by_group.setdefault(example.group, []).append(example)
    for group, rows in by_group.items():
        assert [len(steps(e.messages)) for e in rows] == ([1, 2, 3, 4] if group.startswith("mt-e") else [1, 3, 5]), group
        if not group.startswith("mt-e"):
            assert len({e.prompt for e in rows}) == 1 and len({e.klass for e in rows}) == 1
        for shorter, longer in itertools.pairwise(rows):
            asked = len(shorter.messages) - (0 if group.startswith("mt-e") else 1)
            assert shorter.messages[:asked] == longer.messages[:asked]  # so that replies are shared


def test_the_bundled_suite_shares_no_request_with_training_sets_or_other_suites() -> None:
    for name in ("cold-start", "red-team", "harm", "over-refusal", "benign"):
        assert overlaps(read(name), read("multi-turn")) == [], name


# --- the curve ---------------------------------------------------------------------------------------------------------


def held(
    number: int, turn: int, unsafe: float | None, *, kind: str = "harmful", prompt: str = "the same", **more: object
) -> dict:
    made = row("base", kind, number, gold=unsafe, **more)
    return {
        **made,
        "id": f"{number}-{turn}",
        "group": f"g{number}",
        "prompt": f"{prompt} {number}",
        "facts": {"turns": turn, "declared_turns": turn},
    }


def test_there_is_no_curve_without_a_conversation() -> None:
    assert turns(Evidence({"base": [row()]})) is None
    assert turns(Evidence({"base": [held(1, 1, 0.0)]})) is None


def test_rates_are_told_by_realised_turn_with_what_went_ungraded() -> None:
    rows = [held(n, t, None if n == 3 and t == 3 else float(n < t)) for n in range(4) for t in (1, 3)]
    told = turns(Evidence({"base": rows}))
    assert told is not None
    curve = told["arms"]["base"]["unsafe"]["by_turn"]
    assert [(c["turn"], c["n"], c["value"], c["ungraded"]) for c in curve] == [(1, 4, 0.25, 0), (3, 3, 1.0, 1)]
    assert told["realised"]["base"] == {"turn 1": 4, "turn 3": 4, "short": 0}


def test_the_slope_is_that_of_a_regression_with_an_intercept_for_every_request() -> None:
    rng = random.Random(5)
    rows = [
        held(n, t, float(rng.random() < 0.1 * n / 3 + 0.1 * t)) for n in range(12) for t in (1, 2, 3, 5) if rng.random() < 0.8
    ]
    found = slope(rows, measures.METRICS["unsafe"], lambda r: (r["group"], r["prompt"]))
    groups = sorted({r["group"] for r in rows})
    design = np.array([[r["facts"]["turns"], *(r["group"] == g for g in groups)] for r in rows], dtype=float)
    y = np.array([r["scores"]["gold"]["value"] for r in rows])
    assert found is not None
    assert found.value == pytest.approx(np.linalg.lstsq(design, y, rcond=None)[0][0])


def test_the_slope_s_error_is_the_cluster_robust_one_of_statsmodels() -> None:
    sm = pytest.importorskip("statsmodels.api")
    rng = random.Random(6)
    rows = [held(n, t, float(rng.random() < 0.2 * t)) for n in range(20) for t in (1, 3, 5)]
    found = slope(rows, measures.METRICS["unsafe"], lambda r: r["group"])
    x = np.array([float(r["facts"]["turns"]) for r in rows]) - 3.0
    y = np.array([r["scores"]["gold"]["value"] for r in rows])
    groups = np.array([int(r["group"][1:]) for r in rows])
    y = y - np.array([y[groups == g].mean() for g in groups])
    fit = sm.OLS(y, x).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    from temper import stats

    assert found is not None
    error = (found.high - found.low) / 2 / stats.student(19)
    assert error == pytest.approx(float(fit.bse[0]) * (20 / 19) ** 0.5)


def test_under_the_null_the_slope_s_interval_leaves_zero_out_in_about_five_of_a_hundred() -> None:
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(400):
        ease = rng.random(25)
        rows = [held(n, t, float(rng.random() < ease[n])) for n in range(25) for t in (1, 3, 5)]
        found = slope(rows, measures.METRICS["unsafe"], lambda r: r["group"])
        assert found is not None
        missed += found.low > 0 or found.high < 0
    assert 0.02 <= missed / 400 <= 0.09


@pytest.mark.parametrize(("rise", "least", "most"), [(0.05, 0.45, 0.75), (0.08, 0.85, 1.0)])
def test_the_docs_say_how_small_a_rise_twenty_requests_can_show(rise: float, least: float, most: float) -> None:
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(100):
        ease = rng.random(20)
        rows = [held(n, t, float(ease[n] < 0.2 + rise * (t - 1))) for n in range(20) for t in (1, 3, 5)]
        found = slope(rows, measures.METRICS["unsafe"], lambda r: r["group"])
        assert found is not None
        seen += found.low > 0
    assert least <= seen / 100 <= most


def test_the_same_request_is_preferred_to_a_conversation_as_the_slope_s_basis() -> None:
    same = [held(n, t, 0.0) for n in range(3) for t in (1, 3)]
    other = [{**r, "prompt": f"{r['prompt']} {r['facts']['turns']}"} for r in same]
    bases = []
    for rows in (same, other):
        told = turns(Evidence({"base": rows}))
        assert told is not None
        bases.append(told["arms"]["base"]["unsafe"]["basis"])
    assert bases[0].startswith("the same request") and "different things" in bases[1]


def test_a_slope_where_nothing_varied_is_not_known_to_be_zero() -> None:
    found = slope([held(n, t, 0.0) for n in range(10) for t in (1, 5)], measures.METRICS["unsafe"], lambda r: r["group"])
    assert found is not None and found.value == 0.0 and found.low == -found.high
    assert found.high == pytest.approx((1 - 0.025**0.1) / 4)


def test_attacked_conversations_are_not_in_the_curve() -> None:
    rows = [held(n, t, 0.0) | {"how": ["attack:split"], "of": "own"} for n in range(3) for t in (1, 3)]
    assert turns(Evidence({"base": rows})) is None


def test_the_report_tells_the_slope_and_draws_each_rate_by_turn_with_its_table() -> None:
    rows = [held(n, t, float(t == 5)) for n in range(20) for t in (1, 3, 5)]
    evidence = Evidence({"base": rows})
    summary = {"turns": turns(evidence), "metrics": {"unsafe": {"label": "Unsafe answers", "unit": "share"}}}
    section = report(Run(Path("x"), {"arms": {"base": []}}, summary, "", {}, {}, {}))
    assert section is not None and section.lead.startswith("The unsafe rate of base rises with the turn: +25.0 points a turn")
    curve, *_, change = section.blocks
    assert isinstance(curve, Figure) and [r[0] for r in curve.table.rows] == ["1", "3", "5"]
    assert isinstance(change, Table) and change.rows[0][0] == "Unsafe answers" and change.rows[0][3] == "20"


def test_examples_are_not_changed() -> None:
    example = talk("x", "one", "two")
    before = replace(example)
    Conversing(Echo())([example])
    assert example == before


def test_conversations_without_a_group_are_clusters_of_their_own() -> None:
    talks = [held(n, t, float((n + t) % 3 == 0)) | {"id": f"c{n}"} for n in range(12) for t in (1, 5)]
    named = slope([{**r, "group": r["id"]} for r in talks], measures.METRICS["unsafe"], cluster)
    bare = slope([{k: v for k, v in r.items() if k != "group"} for r in talks], measures.METRICS["unsafe"], cluster)
    assert bare == named == slope([{**r, "group": ""} for r in talks], measures.METRICS["unsafe"], cluster)
    assert bare is not None and bare.n == 12
