"""Loops and length: what is stopped, when, and what merely repeats a word."""

import random

import pytest

from temper.errors import PolicyError
from temper.serve.filters.repetition import Repetition
from temper.serve.verdict import Channel, View, canary_turn

WORDS = "the river was low that year and boats lay in mud while people walked over stones to markets on islands".split()  # noqa: SIM905  a list of words reads better
CHANCE = random.Random(3)
PROSE = " ".join(CHANCE.choice(WORDS) + ("." if i % 11 == 0 else "") for i in range(400))
PASSAGE = (
    "the model goes on about one thing that is said again in the very same words and with the very same end and nothing "
    "new comes of it since all has been said before and before that too and so it goes on and on for as long as it may. "
)


def found(text, *, fresh=0, final=True, **options):
    return [f.rule for f in Repetition(**options)(View(Channel.CONTENT, text, canary_turn(), fresh, final))]


@pytest.mark.parametrize("unit", ["a", "ab", "no. ", "I will do it now. ", "-" * 24 + "x" + "-" * 24 + "y", PASSAGE])
def test_the_same_over_and_over_is_a_loop_whatever_its_period(unit):
    looped = PROSE + unit * (max(6400, 9 * len(unit)) // len(unit))
    assert found(looped)
    assert not found(PROSE + unit * 2)


def test_passages_with_a_counter_between_them_are_a_loop():
    assert found("".join(f"{i} {PASSAGE}" for i in range(20))) == ["loop"]


def test_a_loop_is_seen_in_a_stream_soon_and_before_its_end():
    text = PROSE + "and again " * 900
    for end in range(128, len(text), 128):
        if found(text[:end], fresh=end - 128, final=False):
            break
    assert end - len(PROSE) <= 3200 + 2 * 128


def test_a_finding_never_touches_the_end_of_a_view_that_goes_on():
    text = PROSE + "again " * 900
    for f in Repetition()(View(Channel.CONTENT, text, canary_turn(), 0, False)):
        assert f.end < len(text)


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "\n".join(f"| row {i} | {i * i} | {i % 7} |" for i in range(200)),
        "-" * 200 + "\n" + PROSE[:300],
        "\n".join(f"def test_{i}():\n    assert f({i}) == {i * 31 % 97}" for i in range(60)),
        "ha " * 60,
        "| Date | Task | Done |\n|---|---|---|\n" + "|      |      |      |\n" * 60,
        "[[" + "], [".join(["0, " * 19 + "0"] * 20) + "]]",
        "[" + ",\n".join(['{"name": "item", "active": true, "value": null}'] * 40) + "]",
        "\n\n".join(["Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily.\nLife is but a dream."] * 8),
        "The quick brown fox jumps over the lazy dog. " * 40,
    ],
    ids=["prose", "table", "rule", "code", "laughter", "form", "matrix", "json", "song", "sentence"],
)
def test_tables_code_and_lines_are_none(text):
    assert not found(text)


def test_a_channel_holds_so_many_characters():
    assert found("x y " * 10, max_chars=39) == ["length"]
    assert not found("x y " * 10, max_chars=40)


@pytest.mark.parametrize("options", [{"chars": 10}, {"times": 1}, {"max_chars": 0}])
def test_wrong_settings_are_told(options):
    with pytest.raises(PolicyError):
        Repetition(**options)
