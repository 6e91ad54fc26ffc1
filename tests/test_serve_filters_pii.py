"""Personal data: what counts as it, what only looks like it, and its placeholders."""

from dataclasses import replace

import pytest

from temper.errors import PolicyError
from temper.serve.filters import pii
from temper.serve.filters.pii import EXAMPLES, KINDS, Pii
from temper.serve.guard import redacted
from temper.serve.verdict import Action, Channel, View, canary_turn

EVERY = Pii(kinds=tuple(EXAMPLES))
ORDINARY = [
    "s3://my-bucket/2024/01/15/report.csv on the EKS cluster arn:aws:eks:us-east-1:123456789012:cluster/prod",
    "order number 4539 1488 0343 6467 and order 1234567890123456",
    "invoice 4539148803436467",
    "tracking: 415-555-2671",
    "icon@2x.png, lodash@4.17.21, user@host, git@github.com:a/b.git and noreply@github.com",
    "2024-01-15 10:30:00, 15.01.2024, 10.12.2024 11:30",
    "4155552671 and 1700000000 and 3.14159265358979",
    "550e8400-e29b-41d4-a716-446655440000",
    "pi = 3.1415926535 8979323846 2643383279 5028841971",
    "GB82 WEST 1234 5698 7654 33",
    "4539 1488 0343 6468",
    "0000 0000 0000 0000",
    "536-00-4399 and 000-12-3456",
    "54362315K",
    "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "localhost 127.0.0.1, 192.168.0.1 and 10.0.0.255",
]


def found(text, filter=EVERY, *, turn=None, fresh=0, final=True):
    return filter(View(Channel.CONTENT, text, turn or canary_turn(), fresh, final))


def tags(text, filter=EVERY, **changes):
    return [f.replacement for f in found(text, filter, turn=replace(canary_turn(), **changes))]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_value_of_every_kind_is_found_as_that_kind(kind):
    text = f"The file says {EXAMPLES[kind]}, as before."
    assert [f.rule for f in found(text)] == [kind]
    assert redacted(text, [replace(f, action=Action.REDACT) for f in found(text)]).startswith("The file says ")


def test_every_kind_has_an_example():
    assert {k.id for k in KINDS} == set(EXAMPLES)


@pytest.mark.parametrize("text", ORDINARY)
def test_what_only_looks_like_a_number_stays(text):
    assert not found(text)


@pytest.mark.parametrize(
    "text", ["Jane.Roe@Mail.org", "jane\u200b.roe@mail.org", "ｊａｎｅ.roe@mail.org", "我的邮箱是jane.roe@mail.org电话"]
)
def test_an_address_is_found_however_it_is_written(text):
    assert [f.rule for f in found(text)] == ["email"]


def test_chinese_around_an_address_is_no_part_of_it():
    text = "邮箱jane@qq.com电话"
    assert [text[f.start : f.end] for f in found(text)] == ["jane@qq.com"]


def test_numbers_without_a_country_code_are_read_as_of_the_regions():
    london = "ring 020 7946 0958 today"
    assert not found(london)
    assert found(london, Pii(regions=("US", "GB")))
    assert found("ring (415) 555-2671 today") and found("ring 415-555-2671 today")
    assert not found("ring (415) 555-2671 today", Pii(regions=()))


def test_equal_values_have_equal_placeholders_in_one_request_only():
    text = "Jane.Roe@mail.org, jane.roe@mail.org, bob@mail.org, 4539148803436467, 4539 1488 0343 6467"
    first, second, third, card, spaced = tags(text, id="a")
    assert first == second != third
    assert card == spaced
    assert tags(text, id="a") == [first, second, third, card, spaced]
    assert tags(text, id="b")[0] != first


def test_equal_values_have_equal_placeholders_in_all_requests_of_a_key_if_wanted():
    same = Pii(same="key")
    assert tags("bob@mail.org", same, id="a", key="k") == tags("bob@mail.org", same, id="b", key="k")
    assert tags("bob@mail.org", same, id="a", key="k") != tags("bob@mail.org", same, id="a", key="l")


def test_placeholders_come_from_the_gateways_secret(monkeypatch):
    before = tags("bob@mail.org")
    monkeypatch.setenv(pii.SECRET, "another secret")
    pii._key.cache_clear()
    after = tags("bob@mail.org")
    monkeypatch.undo()
    pii._key.cache_clear()
    assert before != after


def test_the_finding_holds_nothing_of_the_value():
    finding = found("bob@mail.org")[0]
    assert "bob" not in f"{finding}"


def test_a_number_is_read_again_while_it_grows():
    text = "ring +44 20 7946 0958 today"
    assert not [f for f in found(text[:12], final=False) if f.end < 12]
    assert [(f.start, f.end) for f in found(text, fresh=12)] == [(5, 21)]


def test_an_iban_ends_where_its_country_says():
    text = "GB82 WEST 1234 5698 7654 32 and 20 more"
    assert [text[f.start : f.end] for f in found(text)] == [EXAMPLES["iban"]]


@pytest.mark.parametrize("options", [{"kinds": ("emial",)}, {"kinds": ()}, {"regions": ("Britain",)}])
def test_wrong_settings_are_told(options):
    with pytest.raises(PolicyError):
        Pii(**options)


@pytest.mark.parametrize(
    "text",
    [
        "4539 1488 0343 6467 123",
        "2027 4539 1488 0343 6467",
        "27 4539 1488 0343 6467 12/27",
        "12 34 56 4539-1488-0343-6467",
        "4539 1488 0343 6467 4539 1488 0343 6467",
    ],
)
def test_digits_beside_a_card_do_not_hide_it(text):
    found = Pii()(View(Channel.CONTENT, text, canary_turn()))
    assert {text[f.start : f.end].replace("-", " ") for f in found} == {"4539 1488 0343 6467"}
    assert len(found) == text.count("6467")


def test_digits_after_a_phone_number_do_not_hide_it():
    text = "+44 20 7946 0958 12"
    assert [text[f.start : f.end] for f in Pii()(View(Channel.CONTENT, text, canary_turn()))] == ["+44 20 7946 0958"]


def test_the_self_test_plants_every_kind():
    made = Pii()
    for kind, text in made.canary(Channel.CONTENT).others:
        assert kind in {f.rule for f in made(View(Channel.CONTENT, text, canary_turn()))}
    assert {kind for kind, _ in made.canary(Channel.CONTENT).others} == set(made.kinds)
