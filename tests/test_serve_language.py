"""The language filter: which spans it reports, and which it leaves alone."""

import pytest

from temper.errors import PolicyError
from temper.serve.filters.language import Language
from temper.serve.verdict import Action, Channel, Finding, Turn, View, canary_turn
from temper.types import Example, Message

GERMAN = "Der Zug nach Hamburg fährt heute leider erst eine Stunde später, weil ein Signal gestört ist."
ENGLISH = "The train to the coast leaves an hour late today because one of the signals is broken."
CHINESE = "今天开往海边的火车因为信号故障晚点一个小时。"


def turn(prompt: str = "When does the train leave today, and why?", language: str = "") -> Turn:
    return canary_turn(example=Example("x", (Message("user", prompt),)), language=language)


def judged(
    text: str, asked: Turn | None = None, fresh: int = 0, *, final: bool = True, judge: Language | None = None
) -> list[Finding]:
    return list((judge or Language())(View(Channel.CONTENT, text, asked or turn(), fresh, final)))


def test_it_fires_on_what_is_planted() -> None:
    planted = Language().canary(Channel.REASONING)
    assert Language()(View(Channel.REASONING, planted.text, planted.turn))


@pytest.mark.parametrize(("text", "code"), [(GERMAN, "de"), (CHINESE, "zh")])
def test_a_span_in_another_language_is_reported_where_it_stands(text: str, code: str) -> None:
    (found,) = judged(f"{ENGLISH}\n{text}\n{ENGLISH}")
    assert found.rule == code
    assert found.start >= len(ENGLISH)
    assert found.end <= len(ENGLISH) + len(text) + 2
    assert found.why.endswith("write everything in English")
    assert (found.action, Language.default_action) == (None, Action.ALLOW)


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        f"{ENGLISH} Bis später, sagte er.",
        f"Run this:\n```\n{GERMAN}\n```\n{ENGLISH}",
        f"Run `{GERMAN}` and wait.",
        "Please ask Johannes von der Heide about it when he is back at the office in Hamburg on Monday.",
        r"So $\sum_{i} x_i = \frac{a}{b}$, and \(y^2\) follows.",
        "1 2 3 4 5 6 7 8 9 10 11 12",
        "",
    ],
)
def test_the_right_language_short_words_code_names_and_formulas_pass(text: str) -> None:
    assert judged(text) == []


def test_what_the_user_wrote_may_be_quoted() -> None:
    asked = turn(f'What does this mean, word for word, and is it polite: "{GERMAN}"? Tell me more about it.')
    assert judged(f'It says "{GERMAN}", which is an announcement.', asked) == []


def test_a_language_that_is_asked_for_is_the_target_too() -> None:
    asked = turn("Translate into German: the train to Hamburg is late.")
    assert judged(GERMAN, asked) == []
    assert judged(GERMAN, asked, judge=Language(asked=False))


def test_a_target_that_is_set_counts_before_the_prompts_language() -> None:
    assert judged(GERMAN, turn(language="de-AT")) == []
    assert judged(ENGLISH, turn(language="de"))


def test_a_request_in_no_language_has_no_target() -> None:
    assert judged(GERMAN, turn("1 + 1 = ?")) == []
    assert judged(GERMAN, turn(language="xx")) == []


def test_many_short_spans_are_one_finding_at_the_end() -> None:
    text = "\n".join(["Das ist gut so.", "Er kommt noch heute.", "Sie weiß das nicht.", "Wir gehen jetzt heim."])
    assert [f.rule for f in judged(text)] == ["mixed"]
    assert judged(text, final=False) == []


def test_a_stream_reports_a_span_once_it_is_new_and_not_again() -> None:
    text = f"{ENGLISH}\n{GERMAN}\n{ENGLISH}"
    end = len(ENGLISH) + 1 + len(GERMAN)
    assert judged(text[: len(ENGLISH)], final=False) == []
    assert [f.rule for f in judged(text[:end], fresh=len(ENGLISH), final=False)] == ["de"]
    assert judged(text, fresh=end + 1, final=False) == []


def test_a_stream_inside_code_stays_inside_code() -> None:
    code = f"{ENGLISH}\n```\n{GERMAN}\n{GERMAN}\n"
    assert judged(code, fresh=len(code) - 20, final=False) == []


def test_fewer_words_than_one_are_refused() -> None:
    with pytest.raises(PolicyError, match="words = 0"):
        Language(words=0)
