"""No grader is asked twice about one answer, and what it said is what is given again."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.errors import RunError
from temper.rewards.cache import Cache, remembering, text_digest
from temper.types import Completion, Example, Message, Named, Score

ASKED = Example("a", (Message("user", "why?"),), tags=frozenset({"benign"}))


class Counting:
    """A grader that remembers what it was asked; an answer of "none" is not graded, one of "bad" fails."""

    def __init__(self, *, slow: bool = False) -> None:
        self.asked: list[str] = []
        self.slow = slow

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        self.asked += [c.answer for c in completions]
        if any(c.answer == "bad" for c in completions):
            raise ValueError("cannot be read")
        return [Score(None, "does not apply") if c.answer == "none" else Score(len(c.answer) / 100) for c in completions]


def answers(*texts: str) -> list[Completion]:
    return [Completion(ASKED, text, raw=text) for text in texts]


def test_a_text_is_graded_once_over_batches_and_within_one() -> None:
    grader, cache = Counting(), Cache()
    known = remembering(Named("n", grader, "identity"), cache)
    first = known.grade(answers("one", "two!", "one"))
    again = known.grade(answers("two!", "three", "one"))
    assert grader.asked == ["one", "two!", "three"]
    assert [s.value for s in first] == [0.03, 0.04, 0.03]
    assert [s.value for s in again] == [0.04, 0.05, 0.03]


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=6), max_size=8), st.integers(0, 5))
def test_whatever_was_evicted_the_opinions_are_those_of_the_grader(batches: list[list[str]], most: int) -> None:
    cache = Cache(most=most)
    known = remembering(Named("n", Counting(), "identity"), cache)
    for batch in batches:
        texts = answers(*(letter * (ord(letter) - 90) for letter in batch))
        assert known.grade(texts) == Counting()(texts)
        assert len(cache) <= most


def test_what_was_used_longest_ago_goes_first() -> None:
    grader = Counting()
    known = remembering(Named("n", grader, "identity"), Cache(most=2))
    for text in ("one", "two", "one", "three", "one", "two"):
        known.grade(answers(text))
    assert grader.asked == ["one", "two", "three", "two"]


def test_two_graders_of_one_name_do_not_share_opinions_and_one_grader_under_two_names_does() -> None:
    cache, first, second = Cache(), Counting(), Counting()
    for named in (Named("n", first, "1"), Named("n", second, "2"), Named("other", first, "1")):
        remembering(named, cache).grade(answers("one"))
    assert (first.asked, second.asked) == (["one"], ["one"])


def test_an_abstention_is_an_opinion_but_not_behind_a_network() -> None:
    near, far = Counting(), Counting(slow=True)
    for grader, times in ((near, 1), (far, 2)):
        known = remembering(Named("n", grader, str(times)), Cache())
        assert [known.grade(answers("none"))[0].value for _ in range(2)] == [None, None]
        assert grader.asked == ["none"] * times


def test_an_error_is_raised_each_time_and_nothing_of_its_batch_is_kept() -> None:
    grader, cache = Counting(), Cache()
    known = remembering(Named("n", grader, "identity"), cache)
    for _ in range(2):
        with pytest.raises(RunError, match="cannot be read"):
            known.grade(answers("one", "bad"))
    assert (grader.asked, len(cache)) == (["one", "bad"] * 2, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, answer="other"),
        lambda c: replace(c, reasoning="other"),
        lambda c: replace(c, raw="other"),
        lambda c: replace(c, finish="length"),
        lambda c: replace(c, thought="closed"),
        lambda c: replace(c, example=replace(c.example, id="b")),
        lambda c: replace(c, example=replace(c.example, messages=(Message("system", "be kind"), *c.example.messages))),
        lambda c: replace(c, example=replace(c.example, tags=frozenset({"harmful"}))),
        lambda c: replace(c, example=replace(c.example, target="4")),
        lambda c: replace(c, example=replace(c.example, language="de")),
    ],
)
def test_whatever_a_grader_may_read_makes_another_text(change: Callable[[Completion], Completion]) -> None:
    [one] = answers("one")
    assert text_digest(change(one)) != text_digest(one)


def test_half_a_surrogate_pair_can_be_kept() -> None:
    assert remembering(Named("n", Counting(), "i"), Cache()).grade(answers("\ud83d"))[0].value == 0.01
