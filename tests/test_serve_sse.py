"""The parser of event streams follows the standard, at whatever byte a stream is cut."""

import time
from itertools import pairwise

import pytest
from bounded import allowed
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import RunError
from temper.serve.sse import DONE, KEEP_ALIVE, Events, frame


def parsed(*chunks: bytes) -> list[bytes]:
    events = Events()
    return [payload for chunk in chunks for payload in events.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b'data: {"a": 1}\n\ndata: [DONE]\n\n', [b'{"a": 1}', b"[DONE]"]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": comment\n\ndata: a\n: more\n\n", [b"a"]),
        (b"event: x\nid: 7\nretry: 1\ndata: a\n\n", [b"a"]),
        (b"data: a\ndata: b\ndata:\ndata:  c\n\n", [b"a\nb\n\n c"]),
        (b"data\n\ndata:a\n\n", [b"", b"a"]),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
        (b"\n\n\n", []),
        (b"database: x\ndata : y\n\n", []),
        ("data: höhe 😀\n\n".encode(), ["höhe 😀".encode()]),
    ],
)
def test_streams_are_read_as_the_standard_says(stream: bytes, payloads: list[bytes]) -> None:
    assert parsed(stream) == payloads
    assert parsed(*(stream[i : i + 1] for i in range(len(stream)))) == payloads


PIECES = st.lists(
    st.sampled_from(
        [b"data: ", b"data:", b"x", b"\n", b"\r", b"\r\n", b"\n\n", b": c", b"\xef\xbb\xbf", b"event: e", "é😀".encode()]
    ),
    max_size=30,
).map(b"".join)


@given(PIECES, st.lists(st.integers(0, 120), max_size=8))
@settings(max_examples=500, deadline=None)
def test_where_a_stream_is_cut_changes_nothing(stream: bytes, places: list[int]) -> None:
    cuts = sorted({0, len(stream), *(p for p in places if p < len(stream))})
    assert parsed(*(stream[a:b] for a, b in pairwise(cuts))) == parsed(stream) == _reference(stream)


def _reference(stream: bytes) -> list[bytes]:
    """The standard's algorithm, line by line on the whole stream."""
    found, data = [], b""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for line in lines[:-1]:
        if not line and data:
            found.append(data[:-1])
            data = b""
        name, _, value = line.partition(b":")
        if name == b"data":
            data += value.removeprefix(b" ") + b"\n"
    return found


@given(st.lists(st.binary(max_size=60), max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_frame_is_one_event(payloads: list[bytes]) -> None:
    stream = KEEP_ALIVE.join(frame(p) for p in payloads) + DONE
    wanted = [p.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for p in payloads]
    assert parsed(stream) == [*wanted, b"[DONE]"]


@pytest.mark.parametrize("size", [1, 1000])
def test_an_endless_event_is_an_error(size: int) -> None:
    for unit in (b"data: x\n", b"x"):
        events = Events(limit=5000)
        stream = b"data: " + unit * 20_000
        with pytest.raises(RunError, match="5000 bytes"):
            for i in range(0, len(stream), size):
                events.feed(stream[i : i + size])


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    begun = time.thread_time()
    assert len(parsed(b"data: ", *([b"x" * 10] * 90_000), b"\n\n")[0]) == 900_000
    assert time.thread_time() - begun < allowed(5)
