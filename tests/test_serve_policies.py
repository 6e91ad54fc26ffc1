"""The shipped profiles and packs: each loads, explains itself, and every filter in it fires on what is planted."""

import pytest

from temper.serve.guard import Guard, opinion
from temper.serve.policy import Policy, read_policy, shipped
from temper.serve.verdict import OUTPUT, Action, Channel, View

PROFILES = ("rules-only", "chat", "education", "coding", "high-risk")
PACKS = ("law", "medicine", "finance")
ALL = PROFILES + PACKS


def setting_actions(policy: Policy) -> dict[str, Action]:
    return {s.name: s.action for s in policy.filters}


def test_these_are_shipped() -> None:
    assert set(shipped()) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_each_is_called_by_its_name_and_differs_from_the_others(name: str) -> None:
    assert read_policy(name).name == name
    assert len({read_policy(other).version for other in ALL}) == len(ALL)


@pytest.mark.parametrize("name", ALL)
def test_each_says_at_its_head_what_it_is(name: str) -> None:
    assert shipped()[name].read_text(encoding="utf-8").startswith(f"# {name}: ")


@pytest.mark.parametrize("name", ALL)
def test_every_filter_fires_on_every_channel_it_reads(name: str) -> None:
    for setting in read_policy(name).filters:
        for channel in setting.channels:
            planted = setting.filter.canary(channel)
            found, failed = opinion(setting, View(channel, planted.text, planted.turn))
            assert found, f"{setting.name} on {channel}"
            assert not failed


@pytest.mark.parametrize("name", ALL)
def test_no_filter_fails_open_and_none_is_in_shadow(name: str) -> None:
    for setting in read_policy(name).filters:
        assert setting.on_error is not Action.ALLOW
        assert not setting.shadow


def test_rules_only_needs_no_network() -> None:
    assert {s.kind for s in read_policy("rules-only").filters}.isdisjoint({"harm", "language"})


@pytest.mark.parametrize("name", [n for n in ALL if n != "rules-only"])
def test_every_other_judges_harm_on_input_thoughts_and_answers(name: str) -> None:
    read = {c for s in read_policy(name).filters if s.kind == "harm" for c in s.channels}
    assert {Channel.INPUT, Channel.REASONING, Channel.CONTENT} <= read


@pytest.mark.parametrize("name", ALL)
def test_every_output_channel_is_read_by_a_filter_that_counts(name: str) -> None:
    guard = Guard(read_policy(name))
    for channel in OUTPUT:
        assert guard.of[channel]


@pytest.mark.parametrize("name", ["high-risk", *PACKS])
def test_high_risk_releases_nothing_before_its_end_and_shows_no_thoughts(name: str) -> None:
    policy = read_policy(name)
    assert {policy.channels[c].mode for c in OUTPUT} == {"strict"}
    assert policy.channels[Channel.REASONING].policy == "hide"
    assert setting_actions(policy)["language"] is Action.REWRITE
    assert policy.agentic.action == "review"


@pytest.mark.parametrize(("name", "domain"), [("law", "law"), ("medicine", "medicine"), ("finance", "finance")])
def test_a_pack_holds_the_decisions_of_its_domain(name: str, domain: str) -> None:
    (risk,) = (s.filter for s in read_policy(name).filters if s.kind == "risk")
    assert getattr(risk, domain) == "review"
    assert "rules" in setting_actions(read_policy(name))
    assert read_policy(name).disclosure.first_message.startswith("I am an AI")


def test_code_keeps_what_looks_like_personal_data() -> None:
    assert {"pii", "language", "risk"}.isdisjoint(setting_actions(read_policy("coding")))
