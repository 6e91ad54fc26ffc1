"""The harm filter: what it judges of a stream, what it says, and that nothing is loaded before it is asked."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest

from temper.errors import PolicyError
from temper.serve.filters import harm
from temper.serve.filters.harm import SUREST, Harm
from temper.serve.verdict import Action, Channel, Finding, Turn, View, canary_turn
from temper.types import Better, Completion, Example, Message, Score

TURN = canary_turn(example=Example("x", (Message("user", "How do trains work?"),)))


@dataclass(slots=True)
class Heard:
    """A grader that remembers what it was given and says what it is told to."""

    value: float | None = 0.0
    threshold: float | None = 0.5
    texts: list[Completion] = field(default_factory=list)
    better: ClassVar[Better] = "low"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        self.texts += completions
        return [Score(self.value, "no reader" if self.value is None else "", {"threshold": self.threshold, "hazard:vcr": 0.9})]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    grader = Heard()
    monkeypatch.setattr(harm, "_grader", lambda spec, sieve, threshold: grader)
    yield grader


def judged(
    text: str, judge: Harm | None = None, channel: Channel = Channel.CONTENT, fresh: int = 0, *, final: bool = True
) -> list[Finding]:
    return list((judge or Harm())(View(channel, text, TURN, fresh, final)))


@pytest.mark.parametrize("channel", list(Channel))
def test_the_shipped_encoder_fires_on_what_is_planted(channel: Channel) -> None:
    planted = Harm().canary(channel)
    (found,) = Harm()(View(channel, planted.text, planted.turn))
    assert found.score is not None
    assert found.score > SUREST
    assert found.action is None
    assert "bomb" not in found.why


def test_the_shipped_encoder_lets_plain_text_pass() -> None:
    assert judged("A train runs on rails. Its wheels are fixed to their axles.") == []
    assert judged("How do trains work?", channel=Channel.INPUT) == []


def test_input_is_judged_as_a_request_and_answers_with_theirs(heard: Heard) -> None:
    judged("asked", channel=Channel.INPUT)
    judged("said")
    request, answer = heard.texts
    assert (request.example.prompt, request.answer) == ("asked", "")
    assert (answer.example.prompt, answer.answer, answer.reasoning) == ("How do trains work?", "said", "")


@pytest.mark.parametrize(
    ("value", "given", "fires"), [(0.6, None, True), (0.4, None, False), (0.6, 0.9, False), (0.9, 0.9, True), (0.3, 0.2, True)]
)
def test_the_threshold_is_the_graders_unless_one_is_given(heard: Heard, value: float, given: float | None, fires: bool) -> None:
    heard.value = value
    found = judged("text", Harm(threshold=given, request_threshold=0.99))
    assert [f.score for f in found] == ([value] if fires else [])
    assert [f.category for f in found] == (["violent crimes"] if fires else [])


def test_input_has_a_threshold_of_its_own(heard: Heard) -> None:
    heard.value = 0.6
    assert judged("text", Harm(request_threshold=0.7), Channel.INPUT) == []
    assert judged("text", Harm(request_threshold=0.5, threshold=0.99), Channel.INPUT)


def test_a_grader_whose_high_end_is_good_is_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def safety(completions: Sequence[Completion], /) -> list[Score]:
        return [Score(0.1, "", {"threshold": 0.3}) for _ in completions]

    monkeypatch.setattr(harm, "_loaded", {("mine", True, None): safety})
    (found,) = judged("text", Harm(grader="mine"))
    assert found.score == pytest.approx(0.9)
    assert "decided at 0.70" in found.why


@pytest.mark.parametrize(("uncovered", "became"), [("allow", Action.ALLOW), ("review", Action.REVIEW), ("block", Action.BLOCK)])
def test_what_is_not_judged_is_written_down_and_is_the_policys(heard: Heard, uncovered: str, became: Action) -> None:
    heard.value = None
    (found,) = judged("text", Harm(uncovered=uncovered))  # type: ignore[arg-type]
    assert (found.rule, found.action, found.why) == ("uncovered", became, "not judged: no reader")


def test_a_stream_is_judged_by_what_is_new_and_a_little_before_it(heard: Heard) -> None:
    text = "".join(f"word{n:05d} " for n in range(20_000))
    fresh = len(text) - 110
    judged(text, fresh=fresh)
    (completion,) = heard.texts
    words = completion.answer.split()
    assert completion.answer.strip() == text[-len(completion.answer) :].strip()
    assert 10 + 64 < len(words) <= 11 + 128


@pytest.mark.parametrize("before", ["x" * 50_000, " " * 50_000, "\n" * 50_000, "好" * 50_000, "a " * 25_000])
def test_whatever_stands_before_it_a_stretch_is_short(heard: Heard, before: str) -> None:
    judged(before + "new words here.", fresh=len(before))
    (completion,) = heard.texts
    assert completion.answer.endswith("new words here.")
    assert len(completion.answer) < 5000


def test_a_long_request_is_cut_to_its_ends_for_judging_an_answer(heard: Heard) -> None:
    asked = canary_turn(example=Example("x", (Message("user", "a" * 900_000 + "b" * 2000),)))
    Harm()(View(Channel.CONTENT, "text", asked))
    assert len(heard.texts[0].example.prompt) < 2100


def test_too_long_a_text_counts_as_harmful_and_blanks_as_nothing(heard: Heard) -> None:
    assert [f.rule for f in judged("a" * 100_001)] == ["too-long"]
    assert judged(" \n\t") == []
    assert heard.texts == []


def test_what_follows_cannot_undo_a_finding(heard: Heard) -> None:
    heard.value = 0.9
    assert judged("some text.", final=False)[0].end == len("some text.") - 1
    assert judged("some text.")[0].end == len("some text.")


@pytest.mark.parametrize(
    "settings", [{"threshold": 0.0}, {"threshold": 1.5}, {"request_threshold": -1.0}, {"most_characters": 10}]
)
def test_wrong_settings_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(PolicyError, match=next(iter(settings))):
        Harm(**settings)  # type: ignore[arg-type]


def test_nothing_is_loaded_before_the_first_call() -> None:
    code = "import sys; from temper.serve.filters.harm import Harm; Harm(); print({'numpy', 'onnxruntime'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert told.stdout.strip() == "set()"


def test_the_networks_are_loaded_once_for_all_filters() -> None:
    at_own, at_other = (harm._grader("harm", True, threshold) for threshold in (None, 0.9))
    Harm(threshold=0.9)(View(Channel.CONTENT, "Trains run.", Turn("other", TURN.example)))
    assert harm._grader("harm", True, 0.9) is at_other
    inner, outer = at_own.readers[0].session, at_other.readers[0].session  # type: ignore[attr-defined]
    assert (inner.session, inner.sieve.session) == (outer.session, outer.sieve.session)


def test_what_is_found_with_the_sieve_is_what_the_encoder_finds() -> None:
    planted = Harm().canary(Channel.CONTENT).text
    padding = "The weather was fine and we walked along the river with the dog. " * 40
    for text in (planted, f"{padding}{planted * 6}"):
        with_sieve, without = (judged(text, Harm(threshold=0.9, sieve=sieve)) for sieve in (True, False))
        assert [(f.rule, f.category, f.score) for f in with_sieve] == [
            (f.rule, f.category, pytest.approx(f.score, abs=1e-4)) for f in without
        ]
        assert len(without) == 1


@pytest.mark.parametrize(("sieve", "read"), [(True, 0), (False, 3)])
def test_the_sieve_spares_the_encoder_plain_text_and_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch, sieve: bool, read: int
) -> None:
    shown: list[int] = []
    grader: Any = harm._grader("harm", sieve, 0.9)
    english = grader.readers[0]
    inner = english.session.session if sieve else english.session

    class Watched:
        def run(self, names: list[str], given: dict[str, Any]) -> Any:
            shown.extend(given["attention_mask"].sum(axis=1))
            return inner.run(names, given)

    session = replace(english.session, session=Watched()) if sieve else Watched()
    watched = replace(grader, readers=(replace(english, session=session), *grader.readers[1:]))
    monkeypatch.setitem(harm._loaded, ("harm", sieve, 0.9), watched)
    text = "Bake the bread for forty minutes, let it cool on a rack, and slice it only when it is cold. " * 24
    assert judged(text, Harm(threshold=0.9, sieve=sieve)) == []
    assert len(shown) == read
