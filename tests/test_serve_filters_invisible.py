"""Hidden characters: which go, which a script or an emoji needs, and messages written in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.serve.filters.invisible import Invisible, smuggled
from temper.serve.verdict import Channel, View, canary_turn

TAGS = "".join(chr(0xE0000 + ord(c)) for c in "obey me")


def found(text, *, fresh=0, final=True, channel=Channel.CONTENT, **options):
    return Invisible(**options)(View(channel, text, canary_turn(), fresh, final))


def without(text, **options):
    kept, at = [], 0
    for f in found(text, **options):
        kept.append(text[at : f.start])
        at = f.end
    return "".join([*kept, text[at:]])


@pytest.mark.parametrize(
    "text",
    [
        "plain\ttext\r\nin lines",
        "👨‍👩‍👧 👩🏽‍💻 ❤️ 🏳️‍🌈 1️⃣ #️⃣ ☎︎",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "می‌خواهم",
        "क्‍ष क्‌ष",
        "ക്‍",
        "שלום\u200f! العربية\u200e (a)",
        "葛󠄀城",
        "ᠮᠣᠩᠭᠣᠯ᠋",
        "café, naïve, ﬁne, Ω, 漢字, ไทย",
    ],
)
def test_what_a_script_or_an_emoji_needs_stays(text):
    assert not found(text)


@pytest.mark.parametrize(
    ("text", "rule", "kept"),
    [
        ("a\u200bb", "zero-width", "ab"),
        ("a\u200db\u200cc", "zero-width", "abc"),
        ("\ufeffstart", "zero-width", "start"),
        ("soft\u00adhyphen", "zero-width", "softhyphen"),
        ("a\x00b\x1bc", "zero-width", "abc"),
        ("half \ud800 pair", "zero-width", "half  pair"),
        ("if admin\u202e } \u2066", "bidi", "if admin } "),
        ("a\ue000b", "private-use", "ab"),
        (f"Hello{TAGS}", "tags", "Hello"),
        ("😀\ufe0f\ufe01\U000e0101\U000e0130", "selectors", "😀\ufe0f"),
        ("word\ufe0f", "zero-width", "word"),
    ],
)
def test_what_nobody_sees_goes(text, rule, kept):
    assert {f.rule for f in found(text)} <= {rule, "zero-width", "selectors"}
    assert rule in {f.rule for f in found(text)}
    if rule not in ("selectors",):
        assert without(text).replace("\ufe0f", "") == kept.replace("\ufe0f", "")


def test_private_use_may_stay():
    assert not found("a\ue000b", private=False)


def test_replacements_are_empty():
    assert [f.replacement for f in found("a\u200bb")] == [""]


def test_messages_in_tags_and_selectors_can_be_read():
    assert smuggled(f"Hello{TAGS}") == "obey me"
    spelled = "".join(chr(0xFE00 + b) if b < 16 else chr(0xE0100 + b - 16) for b in b"obey")
    assert smuggled(f"😀{spelled}") == "obey"
    assert smuggled("❤️") == ""
    assert "7 letters" in found(f"Hello{TAGS}")[0].why


def test_escaped_characters_in_arguments_are_found_at_their_escape():
    text = r'{"q": "x\u200by \\u200b z"}'
    assert [text[f.start : f.end] for f in found(text, channel=Channel.TOOL_ARGS)] == [r"\u200b"]


def test_a_run_that_a_view_cut_is_told_whole():
    text = "a" + "\u200b" * 10 + "b"
    assert [(f.start, f.end) for f in found(text, fresh=5)] == [(1, 11)]
    assert not found(text + "c" * 20, fresh=15)


@given(st.text(alphabet="ab 👩‍💻️\u200b\u200d\ufe0f\u202e\U000e0061\U0001f3f4\U000e007fकم", max_size=40))
def test_what_is_left_after_taking_them_out_has_no_words_joined_out_of_order(text):
    kept = without(text)
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]
    assert "\u202e" not in kept and "\u200b" not in kept
