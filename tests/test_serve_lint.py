"""Prompt linting: what is remarked, and that a rewriting keeps every word."""

import time
from collections import Counter

import pytest
from bounded import allowed
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import DataError
from temper.serve.lint import body, header, lint, mode, rewritten
from temper.serve.policy import Lint
from temper.types import Message

CLEAR = "Explain in English how a heat pump works, in three short paragraphs."
SHOTS = "Q: capital of France?\nA: Paris\nQ: capital of Peru?\nA: Lima\nQ: capital of Chad?\nA:"


def checks(text: str, settings: Lint | None = None, **given: object) -> list[str]:
    return [r.check for r in lint((Message("user", text),), settings or Lint(), **given)]  # type: ignore[arg-type]


def test_a_clear_request_gets_no_remark() -> None:
    assert checks(CLEAR, temperature=0.6) == []


@pytest.mark.parametrize(
    "text", ["help", "Fix it.", "explain this", "please help me!", "what about that?", "继续", "", "??", "go on"]
)
def test_what_says_nothing_is_ambiguous(text: str) -> None:
    assert "ambiguous" in checks(text)


@pytest.mark.parametrize(
    "text", ["What is a heat pump?", "Fix the leak in my tap", "解释热泵的工作原理", "Explain this poem: roses are red"]
)
def test_what_names_a_thing_is_not(text: str) -> None:
    assert "ambiguous" not in checks(text)


def test_an_answer_to_a_question_may_be_short() -> None:
    messages = (Message("user", CLEAR), Message("assistant", "With pictures?"), Message("user", "yes"))
    assert [r.check for r in lint(messages, Lint())] == []


@pytest.mark.parametrize(
    "text",
    [
        SHOTS,
        "Input: a\nOutput: b\nInput: c\nOutput: d\nInput: e\nOutput:",
        "Example 1\nUser: x\nAnswer: y\nExample 2\nUser: z\nAnswer: w\nNow you.",
        "cat -> chat\ndog -> chien\nbird -> oiseau\nhorse ->",
        "问题：一加一？\n答案：二\n问题：二加二？\n答案：四\n问题：三加三？",
    ],
)
def test_worked_examples_are_few_shot_for_a_reasoning_model_only(text: str) -> None:
    assert "few-shot" in checks(text)
    assert "few-shot" not in checks(text, Lint(reasoning_model=False))


def test_one_question_is_no_example() -> None:
    assert "few-shot" not in checks("Question: what is 2 -> 3?\nGive only the result.")


def test_language_and_format_may_be_set_in_another_way() -> None:
    assert {"no-language", "no-format"} <= set(checks("Why is the sky blue?"))
    assert checks("Why is the sky blue?", language="en", formatted=True) == []
    assert "no-language" not in checks("Explique pourquoi le ciel est bleu et réponds en français.")


def test_a_system_prompt_and_a_hot_or_cold_model_are_remarked_for_r1() -> None:
    messages = (Message("system", "Be kind."), Message("user", CLEAR))
    assert [r.check for r in lint(messages, Lint(), temperature=1.0)] == ["system-prompt", "temperature"]
    assert [r.check for r in lint(messages, Lint(), temperature=0.5)] == ["system-prompt"]
    assert lint(messages, Lint(reasoning_model=False), temperature=1.0) == ()


def test_only_wanted_checks_are_made() -> None:
    assert checks("help", Lint(checks=("no-format",))) == ["no-format"]


def test_remarks_say_why_and_how_and_never_quote() -> None:
    (remark,) = lint((Message("user", "hunter2"),), Lint(checks=("ambiguous",), reasoning_model=False))
    assert remark.why
    assert remark.fix
    assert "hunter2" not in repr(remark)
    assert header([remark]) == "ambiguous"
    assert body([remark], "warn")["remarks"][0]["check"] == "ambiguous"


def test_a_request_becomes_task_context_language_and_format() -> None:
    messages = (Message("system", "Be kind."), Message("user", "I have two cats.\n\nWhat do they eat?\n\nOne is old."))
    (made,) = rewritten(messages, Lint(), language="en", output="Three bullet points.")
    assert made == Message(
        "user",
        "# Instructions\nBe kind.\n\n# Task\nWhat do they eat?\n\n# Context\nI have two cats.\n\nOne is old.\n\n"
        "# Language\nAnswer in English.\n\n# Output format\nThree bullet points.",
    )


def test_other_turns_and_other_models_keep_their_system_prompt() -> None:
    messages = (Message("system", "S"), Message("user", "a b c"), Message("assistant", "d"), Message("user", "e f g"))
    made = rewritten(messages, Lint(reasoning_model=False))
    assert made[:3] == messages[:3]
    assert made[3].content == "# Task\ne f g"


def test_code_is_not_cut() -> None:
    text = "Fix:\n\n```\na = 1\n\nb = 2\n```\n\nWhy?"
    assert rewritten((Message("user", text),), Lint())[0].content == f"# Task\n{text}"


def test_nothing_is_rewritten_twice_or_without_a_user() -> None:
    once = rewritten((Message("user", "a?\n\nb"),), Lint(), output="List.")
    assert rewritten(once, Lint(), output="List.") == once
    assert rewritten((Message("assistant", "a"),), Lint()) == (Message("assistant", "a"),)


@given(st.lists(st.text(alphabet=" ab?#`\n\t中é-", max_size=40), max_size=4), st.text(max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_rewriting_keeps_every_word(parts: list[str], system: str) -> None:
    messages = (Message("system", system), *(Message("user", p) for p in parts))
    before = Counter(" ".join(m.content for m in messages).split())
    after = Counter(" ".join(m.content for m in rewritten(messages, Lint(), language="en")).split())
    assert not before - after


@pytest.mark.parametrize(
    ("policy", "asked", "done"),
    [
        ("off", "rewrite", "off"),
        ("off", None, "off"),
        ("warn", None, "warn"),
        ("warn", "rewrite", "rewrite"),
        ("warn", "off", "off"),
        ("rewrite", None, "rewrite"),
        ("rewrite", "warn", "warn"),
        ("refuse", None, "refuse"),
        ("refuse", "off", "refuse"),
        ("refuse", "warn", "refuse"),
        ("refuse", "rewrite", "rewrite"),
    ],
)
def test_a_request_escapes_a_refusal_by_a_rewriting_only(policy: str, asked: str | None, done: str) -> None:
    assert mode(Lint(mode=policy), asked) == done  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", ["refuse", 3, ["rewrite"], "REWRITE"])
def test_a_wrong_wish_is_named(asked: object) -> None:
    with pytest.raises(DataError, match=r"temper\.lint"):
        mode(Lint(), asked)


def test_a_megabyte_is_read_in_time() -> None:
    begun = time.thread_time()
    for text in ("Q: " * 300_000, "\n" * 1_000_000, "a -> " * 200_000, "x" * 1_000_000, "请" * 300_000):
        lint((Message("user", text),), Lint())
        rewritten((Message("user", text),), Lint())
    assert time.thread_time() - begun < allowed(4)
