"""Rules: what is matched, what is refused when they are read, and what a stream needs of them."""

import time

import pytest
from bounded import allowed
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import GuardError, PolicyError
from temper.serve.filters import patterns
from temper.serve.filters.patterns import Patterns, folded_pattern, width
from temper.serve.filters.rules import Rule, Rules
from temper.serve.policy import parse_policy
from temper.serve.verdict import Action, Channel, View, canary_turn


def matched(filter, text, *, fresh=0, final=True, channel=Channel.CONTENT):
    return [(f.rule, text[f.start : f.end]) for f in filter(View(channel, text, canary_turn(), fresh, final))]


def phrases(*given, **options):
    return Rules((Rule("r", phrases=given, **options),))


@pytest.mark.parametrize(
    "text",
    [
        "Copper Lantern",
        "copper \n\t lantern",
        "cop\u200bper lan\u00adtern",
        "ｃｏｐｐｅｒ lantern",
        "COPPER LANTERN!",
        "(copper lantern)",
    ],
)
def test_a_phrase_is_found_however_it_is_dressed(text):
    assert matched(phrases("copper lantern"), f"a {text} b")


def test_a_phrase_is_found_in_escaped_arguments():
    assert matched(phrases("copper lantern"), r'{"q": "\u0063opper lantern"}', channel=Channel.TOOL_ARGS)


@pytest.mark.parametrize("text", ["copperlantern", "a copper lanterns", "xcopper lantern", "copper lanterné"])
def test_a_phrase_is_whole_words_unless_told_otherwise(text):
    assert not matched(phrases("copper lantern"), text)
    assert bool(matched(phrases("copper lantern", words=False), text)) == (text != "copperlantern")


def test_a_phrase_in_a_script_without_spaces_needs_none():
    assert matched(phrases("禁止的词"), "这是禁止的词吗") == [("r", "禁止的词")]
    assert matched(phrases("copper lantern", "금지어"), "Copper Lantern을 금지어를") == [("r", "Copper Lantern"), ("r", "금지어")]


def test_exact_rules_count_case_and_see_through_hidden_characters():
    rule = Rules((Rule("key", pattern=r"\bAKIA[A-Z0-9]{8}\b", exact=True),))
    assert matched(rule, "x AKIA\u200b12345678 y")
    assert not matched(rule, "x akia12345678 y")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?<=a)b", "look-behind"),
        ("a(?=b)", "look-ahead"),
        ("(?<!a)b", "negative look-behind"),
        (r"(a)\1", "back-reference"),
        ("(?P<x>a)(?P=x)", "back-reference"),
        ("a*", "empty"),
        ("(?:a|)", "empty"),
        (r"\b", "empty"),
        ("a.*b", "no greatest length"),
        (r"\p{Han}+", "no greatest length"),
        ("x.{900}y.{900}z.{900}.{900}.{900}", "held back"),
        ("(", "not an RE2 pattern"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused_with_the_reason(pattern, said):
    with pytest.raises(PolicyError, match=said) as refused:
        Rules((Rule("bad", pattern=pattern),))
    assert "bad" in str(refused.value)


def test_a_look_around_inside_a_class_or_escaped_is_text():
    assert matched(Rules((Rule("r", pattern=r"\(\?=[(?=]"),)), "see (?=( there")


def test_input_alone_needs_no_greatest_length_and_reach_stands_for_one():
    assert Rules((Rule("r", pattern="ab.*cd", channels=(Channel.INPUT,)),)).reach == 0
    assert Rules((Rule("r", pattern="ab.*cd", reach=90),)).reach == 90


@pytest.mark.parametrize(
    "rules", [(), (Rule("a", phrases=("x",)), Rule("a", phrases=("y",))), (Rule("a"),), (Rule("a", phrases=("\u200b",)),)]
)
def test_rules_that_say_nothing_are_refused(rules):
    with pytest.raises(PolicyError):
        Rules(rules)


def test_shadow_rules_fire_in_shadow_and_hold_nothing_back():
    rule = Rules((Rule("long", pattern="a.{300}b", shadow=True), Rule("short", phrases=("copper",))))
    assert rule.reach == 6
    found = rule(View(Channel.CONTENT, "a" + "x" * 300 + "b", canary_turn(), 250, False))
    assert [f.shadow for f in found] == [True]


def test_a_rule_has_its_own_action_channels_category_and_replacement():
    policy = parse_policy(
        "[[rules]]\nid='r'\nphrases=['copper']\naction='redact'\ncategory='metal'\nreplacement='[metal]'\nchannels=['content']"
    )
    rules = policy.filters[0].filter
    found = rules(View(Channel.CONTENT, "copper", canary_turn()))[0]
    assert (found.action, found.category, found.replacement) == (Action.REDACT, "metal", "[metal]")
    assert not rules(View(Channel.REASONING, "copper", canary_turn()))
    assert policy.filters[0].channels == (Channel.CONTENT,)
    with pytest.raises(PolicyError, match="reasoning"):
        rules.canary(Channel.REASONING)


@pytest.mark.parametrize(
    "pattern", [r"ab{3,5}(c|d)[x-z]\d\s\bq", r"[^a-z]{3}", r"(?:foo|bar) \w{2}", r"a.c", r"zx-\d{4}", r"on .{0,9} off"]
)
def test_the_self_test_of_a_pattern_is_a_text_it_matches(pattern):
    rule = Rules((Rule("r", pattern=pattern),))
    assert matched(rule, rule.canary(Channel.CONTENT).text)


def test_a_pattern_whose_text_cannot_be_told_wants_an_example():
    with pytest.raises(PolicyError, match="example"):
        Rules((Rule("r", pattern=r"\p{Han}{3}"),)).canary(Channel.CONTENT)
    assert Rules((Rule("r", pattern=r"\p{Han}{3}", example="你好吗"),)).canary(Channel.CONTENT).text == "你好吗"


def test_white_space_and_other_scripts_are_written_as_they_are_folded():
    assert folded_pattern(r"a\s+b\s*c +d") == r"a\sb\s?c\sd"
    assert folded_pattern(r"\\s+") == r"\\s+"
    assert folded_pattern("Straße") == "Strasse"
    assert width(folded_pattern(r"foo\s+bar")) == (7, 7)
    assert matched(Rules((Rule("r", pattern=r"öde\s+Straße"),)), "ÖDE   STRASSE")


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 400),
    st.lists(st.integers(1, 90), min_size=1, max_size=8),
    st.sampled_from([" ", "\n", "é", "词", "\u200b", "\\"]),
)
def test_a_phrase_is_found_wherever_a_stream_is_cut(offset, sizes, filler):
    filter = Rules((Rule("p", phrases=("copper lantern",)), Rule("c", pattern=r"\bzx-\d{4}\b")))
    text = filler * offset + " copper lantern, zx-1234. the end"
    seen, fresh, end = set(), 0, 0
    while end < len(text):
        end = min(end + sizes[fresh % len(sizes)], len(text))
        found = filter(View(Channel.TOOL_ARGS, text[:end], canary_turn(), fresh, end == len(text)))
        seen |= {f.rule for f in found if f.end < end or end == len(text)}
        fresh = end
    assert seen == {"p", "c"}


def test_ten_thousand_rules_are_read_in_two_seconds_and_cost_no_more_than_ten():
    many = Rules(tuple(Rule(f"r{i}", phrases=(f"forbidden{i} phrase{7 * i}",)) for i in range(10_000)))
    text = "an answer about forbidden things and phrases of no concern " * 20
    began = time.thread_time()
    for _ in range(50):
        assert not many(View(Channel.CONTENT, text, canary_turn()))
    assert (time.thread_time() - began) / 50 < allowed(0.002)
    assert matched(many, f"{text} forbidden7123 phrase49861") == [("r7123", "forbidden7123 phrase49861")]


def test_a_set_too_large_for_its_memory_is_refused(monkeypatch):
    monkeypatch.setattr(patterns, "MEMORY", 20_000)
    with pytest.raises(PolicyError, match="split"):
        Patterns([f"forbidden{i}.{{0,20}}thing" for i in range(20)])


def test_a_set_that_gives_up_over_a_text_is_an_error_and_not_a_text_without_findings():
    class GivesUp:
        def Match(self, text):  # noqa: N802  as RE2 spells it
            return None  # what RE2's set says when it runs out of memory

    small = Patterns(["a"])
    small._set = GivesUp()
    with pytest.raises(GuardError, match="memory"):
        small.occurring("b")


@pytest.mark.parametrize(
    ("given", "text", "found"),
    [
        (("art", "artful dodger"), "an artful dodger", "artful dodger"),
        (("art", "art deco"), "art decorum", "art"),
        (("big art", "art deco"), "xbig art deco", "art deco"),
        (("foo foo",), "xfoo foo foo", "foo foo"),
    ],
)
def test_a_phrase_that_is_part_of_a_longer_word_hides_no_other(given, text, found):
    assert ("r", found) in matched(phrases(*given), text)


@pytest.mark.parametrize(
    "text", ["Copper\nLantern", "Copper   Lantern", "Ｃopper Lantern", "copper Copper Lantern", "Copper Lantern"]
)
def test_exact_phrases_are_found_across_lines_and_in_other_forms(text):
    assert matched(phrases("Copper Lantern", exact=True), f"a {text} b")
    assert not matched(phrases("Copper Lantern", exact=True), f"a {text} b".lower())


def test_exact_phrases_are_folded_as_the_text_is():
    assert matched(phrases("Straße", "ﬁne Copper", exact=True), "die Straße") == [("r", "Straße")]
    assert matched(phrases("ﬁne Copper", exact=True), "a fine Copper lamp") == [("r", "fine Copper")]


def test_what_an_exact_rule_finds_in_the_wrong_case_hides_nothing():
    rule = Rules((Rule("key", pattern=r"a.{0,8}?KEY", exact=True),))
    assert matched(rule, "a key KEY") == [("key", "a key KEY")]
    inner = Rules((Rule("key", pattern=r"\BKEY", exact=True),))
    assert matched(inner, "monKEY") == [("key", "KEY")]
    assert matched(inner, r'{"a": "line\nmon\u004bEY"}', channel=Channel.TOOL_ARGS) == [("key", r"\u004bEY")]


def test_the_self_test_has_a_text_for_every_phrase_and_pattern_of_the_channel():
    made = Rules(
        (
            Rule("a", phrases=("copper lantern", "tin drum")),
            Rule("b", pattern=r"zx-\d{4}"),
            Rule("c", phrases=("only in thoughts",), channels=(Channel.REASONING,)),
        )
    )
    assert [rule for rule, _ in made.canary(Channel.CONTENT).others] == ["a", "a", "b"]
    for rule, text in made.canary(Channel.REASONING).others:
        assert (rule, text) in matched(made, text, channel=Channel.REASONING)


def test_a_rule_that_cannot_be_tested_is_refused_when_it_is_read():
    with pytest.raises(PolicyError, match=r"'second'.*example"):
        Rules((Rule("first", phrases=("copper lantern",)), Rule("second", pattern=r"pass:\n\d{4}")))
