"""Server-sent events as bytes: what a stream's `data` fields carry, and the frames we write.

The parser follows the event stream of the HTML standard (https://html.spec.whatwg.org/multipage/server-sent-events.html): any of
three line ends, comments, several data lines, a byte order mark, events split at any byte. Other fields than `data` are dropped,
and so is an event that the stream's end cut. Payloads stay bytes: nothing is decoded before an event is whole.
"""

import re

from temper.errors import RunError

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Events:
    """An incremental parser. An event larger than `limit` bytes is an error, so that a stream cannot fill the memory."""

    def __init__(self, limit: int = 1_048_576) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False
        self._half = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads of the events that are whole now. Raises `RunError` where an event is too large."""
        if self._begun and not self._half and not self._rest and not self._data and chunk[-2:] == b"\n\n" and b"\r" not in chunk:
            found = chunk[:-2].split(b"\n\n")
            if all(e.startswith(b"data: ") and b"\n" not in e for e in found):
                return [e[6:] for e in found]
        return self._slowly(chunk)

    def _slowly(self, chunk: bytes) -> list[bytes]:
        if not chunk:
            return []
        if self._half:  # the rest of a line end that was cut in two
            self._half = False
            chunk = chunk.removeprefix(b"\n")
        rest = self._rest
        seen = len(rest)
        rest += chunk
        if not self._begun:
            if _BOM.startswith(rest) and len(rest) < len(_BOM):
                return []
            self._begun = True
            seen = 0
            if rest.startswith(_BOM):
                del rest[: len(_BOM)]
        found: list[bytes] = []
        at = 0
        for end, after in [m.span() for m in _LINE_END.finditer(rest, seen)]:
            self._line(bytes(rest[at:end]), found)
            at = after
        self._half = at == len(rest) > 0 and rest[-1:] == b"\r"
        del rest[:at]
        if self._size + len(rest) > self._limit:
            raise RunError(f"upstream stream: an event of more than {self._limit} bytes; wanted one piece of an answer per event")
        return found

    def _line(self, line: bytes, found: list[bytes]) -> None:
        if not line:
            if self._data:
                found.append(b"\n".join(self._data))
            self._data, self._size = [], 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1


def frame(payload: bytes) -> bytes:
    """One event. JSON as it is written here has no line ends; a payload that has some becomes several data lines."""
    if b"\n" in payload or b"\r" in payload:
        payload = _LINE_END.sub(b"\ndata: ", payload)
    return b"data: " + payload + b"\n\n"
