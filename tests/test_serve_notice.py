"""Disclosure: what a response carries, for whom, and when."""

import pytest

from temper.errors import PolicyError
from temper.serve.notice import DISCLAIMER, HEADER, notice
from temper.serve.policy import Disclosure
from temper.serve.verdict import Action, Caller, Finding
from temper.types import Message

PLAIN = Disclosure(text="An AI wrote this.", first_message="Hello, I am an AI.")
HELLO = (Message("user", "hello"),)


def test_a_response_says_that_a_machine_wrote_it() -> None:
    made = notice(PLAIN, HELLO, model="m", policy="abc")
    assert made.headers == {HEADER: 'ai-generated;text="An AI wrote this."'}
    assert made.body == {"ai_generated": True, "text": "An AI wrote this.", "notices": [], "model": "m", "policy": "abc"}
    assert made.first == "Hello, I am an AI.\n\n"


def test_the_first_message_stands_before_the_first_answer_only() -> None:
    assert notice(PLAIN, (*HELLO, Message("assistant", "hi"), *HELLO)).first == ""


def test_each_part_can_be_switched_off() -> None:
    made = notice(Disclosure(header=False, object=False), HELLO)
    assert (made.headers, made.body, made.first) == ({}, None, "")


@pytest.mark.parametrize("text", ['a "quoted" \\ text', "Künstlich", "two\r\nlines: x", "tab\there"])
def test_a_header_cannot_be_broken_out_of(text: str) -> None:
    value = notice(Disclosure(text=text)).headers[HEADER]
    assert value.isascii()
    assert value.isprintable()
    assert value in ("ai-generated", 'ai-generated;text="a \\"quoted\\" \\\\ text"')


def test_a_key_may_say_it_in_its_own_way() -> None:
    caller = Caller("key_1", disclosure={"text": "Von einer KI.", "header": False})
    made = notice(PLAIN, HELLO, caller=caller)
    assert made.headers == {}
    assert made.body is not None
    assert made.body["text"] == "Von einer KI."
    assert made.first == "Hello, I am an AI.\n\n"


def test_a_wrong_key_of_a_key_is_named() -> None:
    with pytest.raises(PolicyError, match="key key_1: disclosure: unknown key 'txt'; did you mean 'text'"):
        notice(PLAIN, HELLO, caller=Caller("key_1", disclosure={"txt": "x"}))


def test_the_notice_of_a_domain_is_given_once_and_each_time() -> None:
    told = Finding("risk", DISCLAIMER, "law", Action.ALLOW, replacement="No legal advice.")
    hidden = Finding("risk", DISCLAIMER, "law", Action.ALLOW, replacement="In shadow.", shadow=True)
    made = notice(Disclosure(), (*HELLO, Message("assistant", "hi")), [told, told, hidden, Finding("harm", replacement="x")])
    assert made.first == "No legal advice.\n\n"
    assert made.body is not None
    assert made.body["notices"] == ["No legal advice."]
