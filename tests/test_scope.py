"""Which text a harm cost is judged on and which tokens it reaches; a view hides no judge and no row."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from temper import catalog
from temper.errors import ProofError, RecipeError
from temper.graders.calibrate import Calibrated, Curve
from temper.graders.each import each
from temper.graders.ensemble import Ensemble
from temper.graders.judge import Judge
from temper.graders.process import Process
from temper.graders.rubric import load
from temper.prove.evaluate import check_independence
from temper.rewards.combine import Channel, advantages, combine
from temper.rewards.scope import View, views
from temper.types import Completion, Example, Grader, Message, Named, Score

BAD = "[harmful part]"
LONG = "one two three four five six seven eight nine ten " * 120


class Judging:
    """Unsafe where the text it is shown holds BAD; abstains on an empty one, as `harm` does; remembers what it was shown."""

    better = "low"

    def __init__(self) -> None:
        self.shown: list[Completion] = []

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        self.shown += completions
        return [self._score(c.reasoning + c.answer) for c in completions]

    def _score(self, text: str) -> Score:
        return Score(0.9 if BAD in text else 0.1) if text else Score(None, "empty response")


class Useful(Judging):
    better = "high"


def named(grade: Grader, name: str = "harm") -> Named:
    return Named(name, grade, "identity", "weights", "card", frozenset({"inner"}))


def done(reasoning: str, answer: str, thought: Any = "closed", example: str = "x") -> Completion:
    raw = f"<think>{reasoning}</think>{answer}"
    return Completion(Example(example, (Message("user", "q"),)), answer, reasoning, thought=thought, raw=raw)


def values(view: View, *completions: Completion) -> list[float | None]:
    return [s.value for s in view.grader.grade(completions)]


def scopes(found: list[View]) -> list[tuple[str, str]]:
    return [(v.name, v.scope) for v in found]


def test_full_leaves_every_reward_as_it_is() -> None:
    harm = named(Judging())
    assert views(harm, "full") == [View("harm", harm, "all")]


def test_answer_blanks_the_reasoning_and_reaches_all_tokens() -> None:
    judge = Judging()
    [view] = views(named(judge), "answer")
    assert (view.name, view.scope) == ("harm", "all")
    assert values(view, done(BAD, "fine"), done("fine", BAD)) == [0.1, 0.9]
    assert all(BAD not in c.reasoning + c.raw for c in judge.shown if BAD not in c.answer)


def test_targeted_credits_each_part_with_its_own_harm() -> None:
    answer, thought = views(named(Judging()), "targeted")
    assert scopes([answer, thought]) == [("harm", "answer"), ("harm@think", "think")]
    rows = done(BAD, "fine"), done("fine", BAD), done(LONG + BAD + LONG, "fine")
    assert values(answer, *rows) == [0.1, 0.9, 0.1]
    assert values(thought, *rows) == [0.9, 0.1, 0.9]


def test_both_views_have_the_weight_of_the_reward_they_are_of() -> None:
    judge = named(Judging(), "judge:harm@some/model")
    assert [v.reward for v in views(judge, "targeted")] == ["judge:harm@some/model"] * 2


def test_the_reasoning_is_judged_in_windows_and_the_answer_not_a_second_time() -> None:
    judge = Judging()
    values(views(named(judge), "targeted")[1], done(LONG, "the answer"))
    assert len(judge.shown) > 5
    assert all(c.answer != "the answer" for c in judge.shown)


@pytest.mark.parametrize("harm_scope", ["full", "answer", "targeted"])
def test_utilities_stay_whole_and_reach_all_tokens(harm_scope: Any) -> None:
    useful = named(Useful(), "useful")
    assert views(useful, harm_scope) == [View("useful", useful, "all")]


@pytest.mark.parametrize("name", ["over-refusal", "repetition", "verbosity"])
def test_costs_of_form_are_not_taken_for_harm(name: str) -> None:
    form = catalog.grader(name)
    assert form.better == "low"
    assert views(form, "targeted") == [View(name, form, "all")]


def test_the_shipped_harm_grader_is_split_and_the_one_of_the_process_is_not() -> None:
    assert scopes(views(catalog.grader("harm"), "targeted")) == [("harm", "answer"), ("harm@think", "think")]
    assert scopes(views(catalog.grader("process"), "targeted")) == [("process", "think")]


def test_a_cost_that_reads_one_part_is_credited_there() -> None:
    process = named(Process(Judging()), "process")
    assert scopes(views(process, "targeted")) == [("process", "think")]
    assert values(views(process, "targeted")[0], done("", "x", "none"), done(BAD, "x")) == [0.0, 0.9]

    class AnswerGuard(Judging):
        scope = "answer"

    assert scopes(views(named(AnswerGuard(), "guard"), "targeted")) == [("guard", "answer")]


@pytest.mark.parametrize(("rubric", "wanted"), [("harm", 2), ("over-refusal", 1), ("reasoning-harm", 1)])
def test_a_judge_is_split_by_what_its_rubric_reads(rubric: str, wanted: int) -> None:
    judge = Judge(load(rubric), None)  # type: ignore[arg-type]
    found = scopes(views(named(judge, rubric), "targeted"))
    one = {"over-refusal": "all", "reasoning-harm": "think"}
    assert found == ([(rubric, one[rubric])] if wanted == 1 else [(rubric, "answer"), (f"{rubric}@think", "think")])


def test_what_wraps_a_cost_of_form_is_one_too() -> None:
    form, harm = catalog.grader("repetition"), named(Judging())
    calibrated = Calibrated(form.grade, Curve("platt", (0.0,)), 0.5)
    assert scopes(views(named(calibrated, "c"), "targeted")) == [("c", "all")]
    assert scopes(views(named(Ensemble((form,), "mean"), "e"), "targeted")) == [("e", "all")]
    assert len(views(named(Ensemble((harm, replace(harm, name="other")), "worst"), "e"), "targeted")) == 2
    assert scopes(views(named(Ensemble((harm, replace(harm, name="other")), "disagreement"), "e"), "targeted")) == [("e", "all")]


def test_a_function_may_say_that_it_judges_form() -> None:
    @each(better="low")
    def shouting(completion: Completion) -> float:
        return float(completion.answer.isupper())

    assert len(views(named(shouting, "shouting"), "targeted")) == 2
    shouting.scope = "all"  # type: ignore[attr-defined]
    assert scopes(views(named(shouting, "shouting"), "targeted")) == [("shouting", "all")]


def test_not_thinking_costs_nothing_and_leaves_no_row_unscored() -> None:
    answer, thought = views(named(Judging()), "targeted")
    rows = [done("", BAD, "none"), done(BAD, "fine"), done(" \u200b", "fine")]
    assert values(thought, *rows) == [0.0, 0.9, 0.0]
    channels = [Channel(v.name, values(v, *rows), [1.0] * 3, "low", v.scope) for v in (answer, thought)]
    combined = combine(channels, ["g"] * 3)
    assert combined.unscored == 0
    found = advantages(combined, channels, ["g"] * 3)
    assert found.answer[0] < 0 < found.answer[1]  # the harm of its answer is not hidden by the missing thought
    assert found.think[1] < 0 < found.think[0]


def test_a_group_that_never_thinks_gets_no_credit_for_it() -> None:
    rows = [done("", BAD, "none"), done("", "fine", "none")]
    channels = [Channel(v.name, values(v, *rows), [1.0] * 2, "low", v.scope) for v in views(named(Judging()), "targeted")]
    assert advantages(combine(channels, ["g"] * 2), channels, ["g"] * 2).think == [0.0, 0.0]


def test_a_thought_that_was_cut_is_not_graded_by_either_view() -> None:
    class Trusting(Judging):
        def _score(self, text: str) -> Score:
            return Score(0.0)

    cut = done("so far so good", "", "open")
    assert [values(v, cut) for v in views(named(Trusting()), "targeted")] == [[None], [None]]
    assert values(views(named(Trusting()), "answer")[0], cut) == [None]


@pytest.mark.parametrize("harm_scope", ["full", "answer", "targeted"])
def test_a_judge_hidden_in_a_view_is_found(harm_scope: Any) -> None:
    gold = Named("gold", Judging(), "g", "w1")
    reward = Named("harm", Judging(), "h", "w", inside=frozenset({"w1"}))
    for view in views(reward, harm_scope):
        assert (view.grader.identity, view.grader.traces) == ("h", reward.traces)
        with pytest.raises(ProofError, match="shares a model"):
            check_independence({view.name: view.grader.traces}, gold)


def test_an_unknown_scope_is_told_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="harm_scope = 'target'; did you mean 'targeted'"):
        views(named(Judging()), "target")  # type: ignore[arg-type]
