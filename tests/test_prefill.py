"""A reply that is begun for the model: what it is shown, what counts as its own words, and servers that ignore it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from temper.errors import ProofError
from temper.prove.prefill import CANARIES, check, prefilling
from temper.samplers.remote import Remote
from temper.samplers.scripted import Scripted
from temper.text.split import left_open
from temper.types import Completion, Example, Message
from tests.test_samplers import Stub, said, stub

__all__ = ["stub"]

PLAIN = Example("a", (Message("user", "Why?"),))
ANSWER = Example("b", (Message("user", "Why?"), Message("assistant", "Because")))
THOUGHT = Example("c", (Message("user", "Why?"), Message("assistant", "<think>\nI think")))


@pytest.mark.parametrize(
    ("prefill", "opened", "inside"),
    [
        ("", False, False),
        ("", True, True),
        ("Sure", True, False),
        ("<think>\nso", False, True),
        ("<think>\n\n</think>\n\nSure", True, False),
    ],
)
def test_a_prefill_decides_whether_a_model_goes_on_inside_a_thought(prefill: str, opened: bool, inside: bool) -> None:
    assert left_open(prefill, opened=opened) is inside


# --- local -------------------------------------------------------------------------------------------------------------


def rendered(folder: Path, example: Example, ends: str = "") -> str:
    from temper.models.load import load_tokenizer, render

    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template += "{% if add_generation_prompt %}" + ends + "{% endif %}"
    return str(tokenizer.decode(render(tokenizer, [example])[0]))


@pytest.mark.train
def test_a_prefill_stands_behind_the_prompt_of_the_reply_and_no_turn_ends_after_it(tiny_model: Path) -> None:
    plain = rendered(tiny_model, PLAIN)
    assert rendered(tiny_model, ANSWER) == f"{plain}Because"
    assert rendered(tiny_model, THOUGHT) == f"{plain}<think>\nI think"


@pytest.mark.train
def test_a_template_that_opens_the_thought_is_not_opened_twice_and_a_begun_answer_closes_it(tiny_model: Path) -> None:
    plain = rendered(tiny_model, PLAIN, "<think>\n")
    assert rendered(tiny_model, THOUGHT, "<think>\n") == f"{plain}I think"
    assert rendered(tiny_model, ANSWER, "<think>\n") == f"{plain}\n</think>\n\nBecause"


@pytest.mark.train
def test_an_answer_by_a_local_model_holds_only_what_it_wrote_itself(tiny_model: Path) -> None:
    from temper.models.load import load
    from temper.models.local import Local
    from temper.types import Checkpoint

    sampler = Local(load(Checkpoint(tiny_model)), max_new_tokens=4, seed=1)
    [[found], [thought]] = sampler([ANSWER, THOUGHT])
    assert "Because" not in found.answer and found.thought == "none" and thought.thought == "open"
    assert prefilling(sampler, [ANSWER]) is sampler


# --- remote ------------------------------------------------------------------------------------------------------------


def test_a_server_is_asked_to_go_on_only_where_a_reply_is_begun(stub: Stub) -> None:
    stub.sampler()([PLAIN, ANSWER])
    by_length = sorted(stub.requests, key=lambda body: len(body["messages"]))
    assert "continue_final_message" not in by_length[0]
    assert by_length[1]["continue_final_message"] is True and by_length[1]["add_generation_prompt"] is False
    assert by_length[1]["messages"][-1] == {"role": "assistant", "content": "Because"}


def test_a_thought_that_was_begun_is_split_from_the_answer_and_a_begun_answer_is_no_thought(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("so it is.</think>It is so."))
    [[found]] = stub.sampler()([THOUGHT])
    assert (found.reasoning, found.answer, found.thought) == ("so it is.", "It is so.", "closed")
    stub.script = lambda body, count: (200, {}, said(" it is."))
    [[begun]] = stub.sampler(opened=True)([ANSWER])
    assert (begun.answer, begun.thought) == ("it is.", "none")


def test_a_beginning_that_a_server_repeats_is_not_the_model_s(stub: Stub) -> None:
    stub.script = lambda body, count: (200, {}, said("Because it is."))
    [[found]] = stub.sampler()([ANSWER])
    assert found.answer == "it is." and "Because" not in found.raw


# --- canaries ----------------------------------------------------------------------------------------------------------

GOES_ON = {c.begun: text for c, text in zip(CANARIES, (" 6, 7, 8", " G H I", " Thursday, Friday", " 5, 4"), strict=True)}


def continues(example: Example) -> str:
    return GOES_ON.get(example.prefill, "and so on.")


def restarts(example: Example) -> str:
    return f"Sure! {example.prefill} and the rest."


def test_a_sampler_that_goes_on_is_told_from_one_that_begins_anew() -> None:
    assert check(Scripted(continues)) == "continued"
    with pytest.raises(ProofError, match=r"4 of 4 canaries began anew.*continue_final_message"):
        check(Scripted(restarts))


def test_a_model_that_cannot_count_is_unclear_and_kept_with_that_on_its_rows() -> None:
    sampler = prefilling(Scripted(lambda e: "mumble"), [ANSWER])
    [[found]] = sampler([ANSWER])
    assert found.facts["prefill"] == "unclear"


def test_canaries_are_asked_once_and_only_where_a_reply_is_begun() -> None:
    asked: list[Sequence[Example]] = []

    def sampler(examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        asked.append(examples)
        return Scripted(continues)(examples, n)

    assert prefilling(sampler, [PLAIN]) is sampler
    checked = prefilling(sampler, [PLAIN, ANSWER])
    checked([PLAIN])
    checked([ANSWER])
    [[found]] = checked([THOUGHT])
    assert [len(batch) for batch in asked] == [1, 4, 1, 1] and found.facts["prefill"] == "continued"


def test_a_server_that_ignores_the_fields_is_noticed_before_anything_rests_on_it(stub: Stub) -> None:
    def ignoring(body: dict, count: int) -> tuple[int, dict[str, str], object]:
        return 200, {}, said(f"Of course: {body['messages'][-1]['content']} …")

    stub.script = ignoring
    remote: Remote = stub.sampler()
    with pytest.raises(ProofError, match="began anew"):
        prefilling(remote, [ANSWER])([ANSWER])
