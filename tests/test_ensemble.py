"""Several graders as one: mean, worst case, bound, disagreement, and who abstained."""

import statistics
from collections.abc import Sequence

import pytest

from temper.errors import RecipeError, UsageError
from temper.graders.ensemble import Ensemble
from temper.types import Better, Completion, Example, Named, Score


class Says:
    def __init__(self, value: float | None, better: Better = "high") -> None:
        self.value, self.better = value, better

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        return [Score(self.value, "" if self.value is not None else "down")] * len(completions)


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
