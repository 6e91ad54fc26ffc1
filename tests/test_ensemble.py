"""Several graders as one: mean, worst case, bound, disagreement, and who abstained."""

import statistics
from collections.abc import Sequence

import pytest

from temper.errors import RecipeError, RunError, UsageError
from temper.graders.checked import opinions
from temper.graders.ensemble import Ensemble, written
from temper.types import Better, Completion, Example, Named, Score


class Says:
    def __init__(self, value: float | None, better: Better = "high", threshold: float | None = None) -> None:
        self.value, self.better = value, better
        self.parts = {} if threshold is None else {"threshold": threshold}

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        return [Score(self.value, "" if self.value is not None else "down", self.parts)] * len(completions)


def named(*opinions: float | None, better: Better = "high") -> tuple[Named, ...]:
    return tuple(Named(f"m{n}", Says(value, better), f"i{n}") for n, value in enumerate(opinions))


ROW = [Completion(Example("x", ()), "an answer")]


def one(members: tuple[Named, ...], how: str = "mean", **options: float) -> Score:
    return Ensemble(members, how, **options)(ROW)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("better", "how", "wanted"),
    [
        ("high", "mean", 0.5),
        ("high", "worst", 0.2),
        ("high", "bound", 0.5 - 2 * statistics.pstdev([0.2, 0.5, 0.8])),
        ("low", "mean", 0.5),
        ("low", "worst", 0.8),
        ("low", "bound", 0.5 + 2 * statistics.pstdev([0.2, 0.5, 0.8])),
        ("low", "disagreement", statistics.pstdev([0.2, 0.5, 0.8])),
    ],
)
def test_the_pessimist_moves_towards_the_bad_end(better: Better, how: str, wanted: float) -> None:
    score = one(named(0.2, 0.5, 0.8, better=better), how, kappa=2.0)
    assert score.value == pytest.approx(min(1, max(0, wanted)))
    assert score.why == ""


def test_members_of_both_directions_are_turned_the_same_way() -> None:
    members = (Named("helpful", Says(0.9), "a"), Named("harm", Says(0.7, "low"), "b"))
    mean, worst = one(members), one(members, "worst")
    assert Ensemble(members).better == "high"
    assert mean.value == pytest.approx((0.9 + 0.3) / 2)
    assert worst.value == pytest.approx(0.3)
    assert (mean.parts["helpful"], mean.parts["harm"]) == (0.9, 0.7)


def test_agreement_is_the_good_end_of_disagreement() -> None:
    grade = Ensemble(named(0.4, 0.4), "disagreement")
    assert grade.better == "low"
    assert grade(ROW)[0].value == pytest.approx(0.0)
    assert one(named(0.0, 1.0), "disagreement").value == 0.5


def test_those_who_abstain_are_left_out_and_counted() -> None:
    score = one(named(0.2, None, 0.6))
    assert score.value == pytest.approx(0.4)
    assert score.parts["graded"] == 2.0
    assert score.parts["m1"] is None
    assert score.why == "2 of 3 members graded; m1: down"


def test_when_all_abstain_nobody_graded() -> None:
    score = one(named(None, None))
    assert score.value is None
    assert "0 of 2" in score.why


def test_fewer_opinions_than_the_quorum_are_no_verdict() -> None:
    assert one(named(0.2, None, 0.6), quorum=3).value is None
    assert one(named(0.2, None, 0.6), quorum=2).value == pytest.approx(0.4)


@pytest.mark.parametrize("how", ["worst", "bound"])
def test_the_pessimist_does_not_take_a_member_that_is_down_for_a_kind_one(how: str) -> None:
    for better, kind in (("low", 0.1), ("high", 0.9)):
        score = one(named(kind, None, kind, better=better), how)
        assert (score.value, score.parts["graded"]) == (None, 2.0)
        assert score.why == "2 of 3 members graded; m1: down"
    assert one(named(0.1, None, 0.3, better="low"), "worst", quorum=2).value == 0.3
    assert one(named(0.1, None, 0.1, better="low"), "bound", quorum=2).value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("value", "better", "threshold", "stands"),
    [
        (0.5, "low", None, True),
        (0.49, "low", None, False),
        (0.3, "low", 0.3, True),
        (0.6, "low", 0.7, False),
        (0.49, "high", None, True),
        (0.5, "high", None, False),
        (0.6, "high", 0.7, True),
    ],
)
def test_the_worst_stands_without_the_others_only_where_it_is_bad_by_its_own_threshold(
    value: float, better: Better, threshold: float | None, stands: bool
) -> None:
    members = (Named("strict", Says(value, better, threshold), "a"), Named("gone", Says(None, better), "b"))
    assert one(members, "worst").value == (value if stands else None)
    assert one(members, "worst", quorum=2).value is None


def test_a_verdict_stands_by_the_member_that_gave_it_on_its_own_scale() -> None:
    gone, harm = Named("gone", Says(None), "c"), Named("harm", Says(0.6, "low", 0.7), "b")
    assert one((Named("help", Says(0.2), "a"), harm, gone), "worst").value == 0.2
    assert one((Named("help", Says(0.45, "high", 0.4), "a"), harm, gone), "worst").value is None


def test_how_many_opinions_are_wanted_is_left_to_the_kind_unless_written() -> None:
    assert (written("worst(a, b)").quorum, written("worst(a, b, quorum=1)").quorum) == (None, 1)
    assert one(named(0.2, None)).value == 0.2
    assert one(named(0.2, None, 0.4), "disagreement").value == pytest.approx(0.1)


@pytest.mark.parametrize("how", ["mean", "worst", "bound", "disagreement"])
@pytest.mark.parametrize("wrong", [float("nan"), 7.0, -0.1, float("inf"), "0.5"])
def test_a_member_whose_value_is_no_opinion_stops_the_ensemble_and_is_named(how: str, wrong: float) -> None:
    for members in (named(wrong, 0.9, better="low"), named(0.9, wrong, better="low")):
        with pytest.raises(RunError, match=r"grader 'm[01]' gave .* for 'x'; wanted \[0, 1\]"):
            one(members, how)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "0 scores for 1 completions"),
        ([Score(0.1), Score(0.1)], "2 scores for 1"),
        ([0.5], r"returned 0\.5 for 'x'; wanted a Score"),
        ([Score(0.1, parts={"threshold": float("nan")})], "threshold nan"),
    ],
)
def test_a_grader_that_breaks_its_contract_is_named(given: list[Score], told: str) -> None:
    def careless(completions: Sequence[Completion]) -> list[Score]:
        return given

    with pytest.raises(RunError, match=f"grader 'careless' .*{told}"):
        opinions(careless, ROW)
    assert opinions(careless, []) == []


@pytest.mark.parametrize("how", ["bound", "disagreement"])
def test_one_opinion_does_not_agree_with_itself(how: str) -> None:
    for members in (named(0.9, None), named(0.9)):
        score = one(members, how)
        assert score.value is None
        assert "1 of" in score.why


def test_an_ensemble_can_be_a_member() -> None:
    inner = Named("inner", Ensemble(named(0.2, 0.4, better="low"), "worst"), "i")
    assert one((inner, *named(0.8, better="low"))).value == pytest.approx(0.6)
    assert inner.better == "low"


def test_an_empty_batch_is_an_empty_answer() -> None:
    assert Ensemble(named(0.1, 0.2))([]) == []


@pytest.mark.parametrize(
    ("members", "options", "told"),
    [
        ((), {}, "wanted members"),
        (named(0.1) * 2, {}, "m0"),
        ((Named("sd", Says(0.1), "x"),), {}, "sd"),
        (named(0.1), {"how": "median"}, "median"),
        (named(0.1), {"kappa": -1.0}, "kappa"),
        (named(0.1), {"kappa": float("nan")}, "kappa"),
        (named(0.1), {"quorum": 2}, "quorum"),
        (named(0.1), {"quorum": 0}, "quorum"),
        ((Named("threshold", Says(0.1), "x"),), {}, "threshold"),
    ],
)
def test_an_impossible_ensemble_is_refused_with_the_reason(
    members: tuple[Named, ...], options: dict[str, object], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        Ensemble(members, **options)  # type: ignore[arg-type]


def test_an_ensemble_is_written_as_a_name_and_may_hold_another():
    from temper.catalog import grader, short

    spec = "bound(repetition, worst(format, examples/my_grader.py:shouting), kappa=2, quorum=2)"
    made = grader(spec)
    assert made.name == short(spec) == "bound(repetition, worst(format, shouting))"
    assert (made.grade.kappa, made.grade.quorum, len(made.grade.members)) == (2.0, 2, 2)
    assert grader("repetition").identity in made.inside


@pytest.mark.parametrize("spec", ["worst(format", "worst()", "mean(format, kappa=x)", "mean(format, quorum=1.5)", "bound(a, b"])
def test_a_wrongly_written_ensemble_says_what_was_wanted(spec):
    from temper.catalog import grader

    with pytest.raises(UsageError, match="wanted"):
        grader(spec)
