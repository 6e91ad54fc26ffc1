"""What every filter of ours promises, whatever it looks for."""

import time

import pytest
from bounded import allowed
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.serve.filters.injection import Injection
from temper.serve.filters.invisible import Invisible
from temper.serve.filters.pii import Pii
from temper.serve.filters.prompt_leak import PromptLeak
from temper.serve.filters.repetition import Repetition
from temper.serve.filters.rules import Rule, Rules
from temper.serve.filters.secrets import Secrets
from temper.serve.guard import Guard, opinion
from temper.serve.policy import Setting, parse_policy
from temper.serve.verdict import Action, Channel, Filter, View, canary_turn

FILTERS: list[Filter] = [
    Rules((Rule("phrase", phrases=("copper lantern", "öde Straße", "禁止的词")), Rule("code", pattern=r"zx-\d{4}"))),
    Secrets(),
    Pii(),
    Injection(),
    Invisible(),
    PromptLeak(),
    Repetition(),
]
LIGHT = [f for f in FILTERS if f.name != "injection"]
CLEAN = "The committee met on Tuesday and read the report about water levels; nobody had found anything odd in 42 of 50 places. "
HOSTILE = {
    "letters": "a" * 100_000,
    "digits": "1" * 100_000,
    "headers": "-----BEGIN PRIVATE KEY-----" * 3_700,
    "prefixes": "sk-proj-" * 12_500,
    "tokens": "eyJ" * 33_000,
    "addresses": "a@a." * 25_000,
    "orders": "ignore the " * 9_000,
    "hidden": "\u200b" * 100_000,
    "joiners": "a\u200d" * 50_000,
    "spaced": "a b " * 25_000,
    "base64": "QUJD" * 25_000,
    "surrogates": "\ud800x" * 50_000,
    "braces": "((((" * 25_000,
}


def by_name(f: Filter) -> str:
    return f.name


@pytest.mark.parametrize("filter", FILTERS, ids=by_name)
@pytest.mark.parametrize("channel", Channel)
def test_a_filter_fires_on_its_canary_in_every_channel(filter, channel):
    planted = filter.canary(channel)
    assert filter(View(channel, planted.text, planted.turn))


@pytest.mark.parametrize("filter", FILTERS, ids=by_name)
@pytest.mark.parametrize("channel", Channel)
def test_a_canary_fires_in_pieces_too(filter, channel):
    planted = filter.canary(channel)
    text, fresh = f"{CLEAN}{planted.text}", 0
    found = []
    for end in (*range(60, len(text), 60), len(text)):
        view = View(channel, text[:end], planted.turn, fresh, end == len(text))
        here = filter(view)
        settled = [f for f in here if view.final or f.end < end]
        found += settled
        fresh = min([end, *(f.start for f in here if f not in settled)])  # as a release does
    assert found


@pytest.mark.parametrize("filter", FILTERS, ids=by_name)
def test_clean_text_has_no_finding(filter):
    assert not filter(View(Channel.CONTENT, CLEAN * 3, canary_turn(system="Speak of birds only, and of those in our garden.")))


@pytest.mark.parametrize("filter", FILTERS, ids=by_name)
def test_the_same_view_has_the_same_findings_and_why_never_quotes_it(filter):
    planted = filter.canary(Channel.CONTENT)
    view = View(Channel.CONTENT, planted.text, planted.turn)
    first, second = filter(view), filter(view)
    assert list(first) == list(second)
    assert all(f.why and f.why.strip() not in planted.text and planted.text[f.start : f.end] not in f.why for f in first)


@pytest.mark.parametrize("filter", FILTERS, ids=by_name)
def test_in_shadow_findings_are_written_down_and_change_nothing(filter):
    planted = filter.canary(Channel.CONTENT)
    setting = Setting(filter.name, filter.name, filter, (Channel.CONTENT,), Action.BLOCK, shadow=True)
    found, failed = opinion(setting, View(Channel.CONTENT, planted.text, planted.turn))
    assert found and not failed and all(f.shadow for f in found)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("filter", FILTERS, ids=by_name)
def test_a_hundred_thousand_hostile_characters_take_no_time(filter, text):
    system = "Never tell anybody where the garden door is, nor who has the key to it; speak of the weather instead."
    began = time.thread_time()
    filter(View(Channel.INPUT, text, canary_turn(system=system)))
    assert time.thread_time() - began < allowed(2.0)


@pytest.mark.parametrize("filter", LIGHT, ids=by_name)
def test_a_light_filter_reads_a_long_stream_in_time_linear_in_it(filter):
    turn = canary_turn(system="Speak of birds only, and of those in our garden, unless somebody asks about the weather.")
    text = (CLEAN * 900)[:100_000]
    began = time.thread_time()
    for end in range(99_000, 100_000, 100):
        filter(View(Channel.CONTENT, text[:end] + "q", turn, end - 100, False))
    assert (time.thread_time() - began) / 10 < allowed(0.01)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.integers(0, 300), st.booleans(), st.sampled_from(Channel))
def test_no_text_makes_a_filter_fail_and_places_lie_in_the_text(text, fresh, final, channel):
    fresh = min(fresh, len(text))
    for filter in FILTERS:
        for f in filter(View(channel, text, canary_turn(system="Speak of birds only, and of our garden."), fresh, final)):
            assert 0 <= f.start <= f.end <= len(text)
            assert f.end >= fresh or f.start == f.end == 0


def test_a_policy_names_them_all():
    names = [f.name for f in FILTERS]
    table = "".join(f"[filters.{n}]\n" for n in names if n != "rules") + "[[rules]]\nid = 'a'\nphrases = ['copper lantern']\n"
    policy = parse_policy(table)
    assert sorted(s.filter.name for s in policy.filters) == sorted(names)
    guard = Guard(policy)
    assert guard.reach(Channel.CONTENT) >= 100
    assert guard.scan(View(Channel.CONTENT, "a copper lantern", canary_turn())).action is Action.BLOCK
