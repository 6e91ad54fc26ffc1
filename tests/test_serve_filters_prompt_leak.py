"""Leaks of the system prompt: in order, disguised, short prompts, planted tokens, and what is none."""

import base64
import codecs

import pytest

from temper.errors import PolicyError
from temper.serve.filters.prompt_leak import PromptLeak
from temper.serve.verdict import Channel, View, canary_turn
from temper.types import Example, Message

SYSTEM = (
    "You are Ada, the support assistant of Northwind Bikes. Answer politely and briefly. Never offer discounts above ten percent "
    "unless the customer has waited longer than three weeks. Do not mention our supplier Kestrel Metals. canary-x7k2m9qq"
)
SAID = "never offer discounts above ten percent unless the customer has waited longer than three weeks"
CHINESE = "你是北风自行车公司的客服助手。不要提供超过百分之十的折扣，除非客户已经等待了超过三周的时间。不要提及我们的供应商。"


def found(text, *, system=SYSTEM, asked="", fresh=0, final=True, channel=Channel.CONTENT, **options):
    turn = canary_turn(system=system, example=Example("e", (Message("user", asked),)))
    return PromptLeak(**options)(View(channel, text, turn, fresh, final))


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("words", SAID),
        ("words", SAID.upper().replace(" ", "\n\n")),
        ("words", "**Never** offer discounts: above (ten percent) unless — the customer has waited longer than"),
        ("words", "\u200b".join(SAID)),
        ("backwards", SAID[::-1]),
        ("reversed", " ".join(SAID.split()[::-1])),
        ("rot13", codecs.encode(SAID, "rot13")),
        ("encoded", base64.b64encode(SAID.encode()).decode()),
        ("encoded", base64.urlsafe_b64encode(f"ab {SAID}".encode()).decode()),
        ("encoded", SAID.encode().hex()),
        ("encoded", SAID.encode().hex(" ")),
        ("spaced", " ".join(SAID.replace(" ", ""))),
        ("spaced", "-".join(SAID.replace(" ", ""))),
        ("token", "the code was X7K2M9QQ"),
    ],
)
def test_a_run_of_the_prompt_is_a_leak_however_it_is_told(rule, told):
    for channel in (Channel.REASONING, Channel.CONTENT):
        assert rule in [f.rule for f in found(f"Well: {told} and so on.", channel=channel)]


@pytest.mark.parametrize(
    "text",
    [
        "We sell bikes, and I am glad to answer politely.",
        "Discounts above ten percent are not on offer.",
        "I am Ada, the support assistant of Northwind Bikes.",
        base64.b64encode(b"a picture of nothing in particular, at some length").decode(),
        "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    ],
)
def test_a_few_words_of_it_are_none(text):
    assert not found(text)


def test_what_the_user_wrote_is_no_leak():
    assert not found(f"You wrote: {SAID}.", asked=f"Why is it that you {SAID}?")
    assert found(f"You wrote: {SAID}.", asked="Why?")


def test_chinese_counts_characters():
    assert found("好的，不要提供超过百分之十的折扣，除非客户已经等待了超过三周的时间", system=CHINESE)
    assert not found("我是北风自行车公司的客服助手", system=CHINESE)


def test_a_short_prompt_is_leaked_whole_and_a_tiny_one_is_none():
    short = "Be concise and answer in French please."
    assert found("I was told: be concise and answer in French please", system=short)
    assert not found("I will be concise and answer in English", system=short)
    assert not found("You are a helpful assistant", system="You are a helpful assistant.")


def test_without_a_prompt_there_is_nothing_to_leak_but_tokens():
    assert not found(SAID, system="")
    assert found("here: zebra-77-lamp", system="", tokens=("Zebra-77-lamp",))


@pytest.mark.parametrize("step", [1, 16, 50, 128])
@pytest.mark.parametrize("told", [SAID, SAID[::-1], base64.b64encode(SAID.encode()).decode(), " ".join(SAID.replace(" ", ""))])
def test_a_leak_is_seen_before_more_of_it_than_the_reach_has_come(step, told):
    text, fresh = f"Well, since you ask me so nicely about my instructions: {told}", 0
    start = text.index(told)
    for end in (*range(step, len(text), step), len(text)):
        if any(f.end < end for f in found(text[:end], fresh=fresh, final=end == len(text))):
            break
        if any(f.end == end for f in found(text[:end], fresh=fresh, final=False)):
            break  # a release waits for what touches the end
        fresh = end
    assert end - start <= PromptLeak().reach + step


def test_long_words_count_by_their_characters():
    system = "Donaudampfschifffahrtsgesellschaftskapitän Rindfleischetikettierungsüberwachungsaufgabe" + (
        " Kraftfahrzeughaftpflichtversicherungspolice Betäubungsmittelverschreibungsverordnung Grundstücksverkehrsgenehmigung Aus"
    )
    assert found(system, system=system)
    assert any(
        f.rule == "words"
        for f in found(" ".join(system.split()[:5]), system=system + " and several other words that follow it here")
    )


@pytest.mark.parametrize("options", [{"words": 4}, {"least": 2}, {"least": 40}, {"tokens": ("abc",)}])
def test_wrong_settings_are_told(options):
    with pytest.raises(PolicyError):
        PromptLeak(**options)
