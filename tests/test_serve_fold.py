"""Folded text: what a reader takes for the same is the same, and every match is found again in the raw text."""

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from temper.serve.fold import back, boundary, fold

RUSSIAN = (
    "Съешь же ещё этих мягких французских булок, да выпей чаю. USB-кабель, рост и нос; ООО «Рога», IP-адрес. Сорока ехала в село."
)
GREEK = "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ο ΟΔΥΣΣΕΥΣ, η γάτα και το ρόδο: α-ακτινοβολία, kΩ, μm, Δx."


@pytest.mark.parametrize(
    ("raw", "folded"),
    [
        ("Pipe Bomb", "pipe bomb"),
        ("p\u200bi\u00adp\u2060e\ufeff \x00bomb", "pipe bomb"),
        ("ｐｉｐｅ　ｂｏｍｂ", "pipe bomb"),
        ("pipe \n\t\u00a0\u2800 bomb", "pipe bomb"),
        ("p\u0336i\u0336p\u0336e\u0336 bomb", "pipe bomb"),
        ("рipе bоmb", "pipe bomb"),
        ("𝐩𝐢𝐩𝐞 𝓫𝓸𝓶𝓫", "pipe bomb"),
        ("ﬁx the ﬃ", "fix the ffi"),
        ("cafe\u0301 CAFÉ", "café café"),
        ("İstanbul Straße", "istanbul strasse"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
        ("", ""),
        ("\u200b", ""),
    ],
)
def test_what_reads_the_same_folds_the_same(raw: str, folded: str) -> None:
    assert fold(raw).text == folded


@pytest.mark.parametrize("text", [RUSSIAN, GREEK, "naïve Übung, garçon, Ærø", "東京タワー 한국어 ไทย"])
def test_other_scripts_stay_what_they_are(text: str) -> None:
    assert fold(text).text == text.casefold().replace("μ", "μ")


def test_only_runs_that_all_look_latin_are_read_as_latin() -> None:
    assert fold("bаnаnа").text == "banana"
    assert fold("okкнопка").text == "okкнопка"


@pytest.mark.parametrize(
    ("raw", "folded"),
    [
        (r"\u0070ipe\u0020b\u006Fmb", "pipe bomb"),
        (r"a\n\n\tb\"c\\u0070 \/", 'a b"c\\u0070 /'),
        (r"\uD83D\uDE00!", "\U0001f600!"),
        (r"half \u00", r"half \u00"),
        (r"p\u200bi\u00ADpe", "pipe"),
    ],
)
def test_escapes_of_json_are_read(raw: str, folded: str) -> None:
    assert fold(raw, escapes=True).text == folded
    assert fold(raw, escapes=False).text == fold(raw).text


SHAPES = st.text(st.sampled_from('abB \n\x00\u200béﬁ\ufdfa\u0301о\\"u0070nDd83E/😀한\u1100\u1161'), max_size=24)


@given(SHAPES, st.booleans())
@settings(max_examples=300, deadline=None)
@example("\\ud83d\\ude00", True)
def test_every_folded_character_knows_its_place(raw: str, escapes: bool) -> None:
    folded = fold(raw, escapes=escapes)
    size = len(folded.text)
    places = [folded.raw(i) for i in range(size + 1)]
    assert places == sorted(places) and places[-1] == len(raw)
    assert all(folded.at(p) == next(i for i in range(size + 1) if places[i] >= p) for p in range(len(raw) + 1))
    for start in range(size):
        for end in range(start + 1, size + 1):
            first, last = folded.span(start, end)
            assert first == places[start] and last > first and last >= places[end]


@given(SHAPES, SHAPES, st.integers(0, 24), st.booleans())
@settings(max_examples=300, deadline=None)
@example("b\u043e", "0" * 12, 13, False)
@example("B\u0301\u043e", "", 0, False)
@example("B\u200b\u043e", "", 0, False)
@example("B\\u0301\u043e", "", 0, True)
@example("B\\u200b\\u043e", "", 0, True)
def test_text_folds_the_same_from_a_place_far_enough_back(head: str, tail: str, reach: int, escapes: bool) -> None:
    text = head + tail
    start = back(text, len(head), reach, escapes=escapes)
    assert 0 <= start <= len(head)
    whole, part = fold(text, escapes=escapes).text, fold(text[start:], escapes=escapes).text
    assert whole.lstrip().endswith(part.lstrip(" \u0301"))
    if start > 0:
        assert len(fold(text[start : boundary(text, len(head), escapes=escapes)], escapes=escapes).text) >= reach


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_no_place_is_inside_an_escape(text: str) -> None:
    raw = json.dumps(text)[1:-1]
    for place in range(len(raw) + 1):
        at = boundary(raw, place, escapes=True)
        assert json.loads(f'"{raw[:at]}"') + json.loads(f'"{raw[at:]}"') == text


def test_a_mark_is_not_parted_from_its_letter() -> None:
    assert boundary("e\u0301x", 1) == 0 and boundary("e\u0301x", 2) == 2
    assert boundary("a" + "\u0301" * 500, 400) == 370  # more marks than any language has


@pytest.mark.parametrize("unit", ["a  b\n\n", "e\u0301", "\u200b", "\\u0070", "\\", "ﬃ о", " "])
def test_folding_is_linear(unit: str) -> None:
    def seconds(count: int) -> float:
        text = unit * count
        begun = time.thread_time()
        fold.__wrapped__(text, escapes=True)
        back(text, len(text), 100, escapes=True)
        return time.thread_time() - begun

    small = min(seconds(2_000) for _ in range(3))
    assert seconds(40_000) < 100 * small + 0.05
