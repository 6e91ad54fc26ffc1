"""The parsers that read what an upstream sends, under anything at all: the event stream and the think splitter."""

import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from temper.errors import RunError
from temper.serve.sse import Events, frame
from temper.serve.think import Thoughts

Text = TypeVar("Text", str, bytes)

EVENT_PARTS = [
    b"data: ",
    b"data:",
    b"data",
    b"\n",
    b"\n\n",
    b"\r",
    b"\r\n",
    b": note",
    b"event: x",
    b"id: 1",
    b"{",
    b'{"a":1}',
    b"[DONE]",
]
EVENT_PARTS += [b"\xef\xbb\xbf", b"\xff", b"\x00", b"\xe2\x80\xa8", b" ", b"retry: 5", b"datax: 1", b":"]
STREAMS = st.lists(st.one_of(st.sampled_from(EVENT_PARTS), st.binary(max_size=6)), max_size=30).map(b"".join)

THINK_PARTS = [
    "<think>",
    "</think>",
    "<thinking>",
    "</thinking>",
    "< / think >",
    "<THINK>",
    "<",
    ">",
    "</",
    "<thi",
    "nk>",
    "`",
    "``",
    "```",
]
THINK_PARTS += ["```py\n", "~~~", "\n", " ", "\n\n", "> ", "a", "word ", "é", "\u200b", "思", "\U0001f600", "</think", "\t"]
THOUGHTS = st.lists(st.one_of(st.sampled_from(THINK_PARTS), st.text(max_size=4)), max_size=30).map("".join)
CUTS = st.lists(st.integers(0, 200), max_size=12)


def cut(text: Text, places: Sequence[int]) -> list[Text]:
    """The text in pieces, some of them empty."""
    at = [0, *sorted(min(p, len(text)) for p in places), len(text)]
    return [text[a:b] for a, b in pairwise(at)]


def by_the_standard(stream: bytes) -> list[bytes]:
    """The data of every event that is whole, read line by line as the HTML standard says; nothing incremental."""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))[:-1]
    found, data = [], list[bytes]()
    for line in lines:
        if not line:
            found += [b"\n".join(data)] if data else []
            data = []
        elif line.partition(b":")[0] == b"data":
            data.append(line.partition(b":")[2].removeprefix(b" "))
    return found


@settings(max_examples=1500, deadline=None)
@given(STREAMS, CUTS)
@example(b"data\r\n", [5, 5])
def test_events_are_the_standard_s_however_the_stream_is_cut(stream: bytes, places: list[int]) -> None:
    events = Events()
    wanted = by_the_standard(stream)
    assert [e for piece in cut(stream, places) for e in events.feed(piece)] == wanted


@settings(max_examples=500, deadline=None)
@given(STREAMS, CUTS, st.integers(1, 40))
def test_a_stream_ends_in_events_or_in_its_own_error_and_nothing_else(stream: bytes, places: list[int], limit: int) -> None:
    events = Events(limit)
    try:
        found = [e for piece in cut(stream, places) for e in events.feed(piece)]
    except RunError as error:
        assert "upstream stream" in str(error)
    else:
        assert all(isinstance(e, bytes) for e in found)


@pytest.mark.parametrize("piece", [b"x" * 997, b"data: " + b"x" * 997, b"data: x\n", b"data\n", b"data:\n", b"data: " + b"\r\n"])
def test_an_event_that_never_ends_is_an_error_before_it_fills_the_memory(piece: bytes) -> None:
    events, fed = Events(10_000), 0
    with pytest.raises(RunError):
        while fed < 2_000_000:
            events.feed(piece)
            fed += len(piece)
    assert fed < 200_000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), CUTS)
def test_a_frame_that_we_write_is_read_back_as_it_was(payload: bytes, places: list[int]) -> None:
    events = Events()
    wanted = re.sub(rb"\r\n|\n|\r", b"\n", payload)
    assert [e for piece in cut(frame(payload), places) for e in events.feed(piece)] == [wanted]


def told(thoughts: Thoughts, pieces: Sequence[str]) -> list[tuple[str, str]]:
    """Channels with all their neighbouring text put together, so that only what is told counts, not in how many pieces."""
    given = [*(told for piece in pieces for told in thoughts.feed(piece)), *thoughts.end()]
    joined = [(str(channel), "".join(text for _, text in group)) for channel, group in groupby(given, key=lambda pair: pair[0])]
    return [(channel, text) for channel, text in joined if text]


@settings(max_examples=2000, deadline=None)
@given(THOUGHTS, CUTS, st.sampled_from([None, True, False]), st.booleans())
def test_thoughts_and_answers_are_told_apart_alike_however_the_stream_is_cut(
    text: str, places: list[int], thinks: bool | None, withhold: bool
) -> None:
    whole = told(Thoughts(thinks, withhold=withhold), [text])
    if withhold or thinks is not None:
        assert told(Thoughts(thinks, withhold=withhold), cut(text, places)) == whole


@settings(max_examples=1000, deadline=None)
@given(THOUGHTS, CUTS, st.sampled_from([None, True, False]))
def test_no_text_is_invented_and_nothing_but_tags_and_white_space_is_lost(
    text: str, places: list[int], thinks: bool | None
) -> None:
    found = solid("".join(piece for _, piece in told(Thoughts(thinks), cut(text, places))))
    rest = iter(text)
    assert all(c in rest for c in found)
    tags = sum(len(solid(m[0])) for m in re.finditer(r"<\s{0,2}/?\s{0,2}think(?:ing)?\s{0,2}>", text, re.IGNORECASE))
    assert len(solid(text)) - tags <= len(found)


def solid(text: str) -> str:
    return re.sub(r"\s", "", text)


@settings(max_examples=500, deadline=None)
@given(THOUGHTS, CUTS, st.sampled_from([None, True, False]))
def test_what_waits_is_never_more_than_what_came(text: str, places: list[int], thinks: bool | None) -> None:
    thoughts, fed, out = Thoughts(thinks), 0, 0
    for piece in cut(text, places):
        out += sum(len(t) for _, t in thoughts.feed(piece))
        fed += len(piece)
        assert thoughts.withheld + out <= fed
    thoughts.end()
    assert thoughts.withheld == 0


def test_a_long_plain_answer_is_not_kept_back() -> None:
    thoughts = Thoughts(False)
    for _ in range(1000):
        thoughts.feed("word " * 20)
        assert thoughts.withheld < 100
