"""One HTTP/1.1 exchange over a raw socket: what a gateway really sends, byte for byte, at little CPU."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

SAYS = re.compile(rb'"(?:content|reasoning|reasoning_content|arguments|text)": ?"[^"]')
"""An event that delivers something, unlike the first one, which names the role."""


@dataclass(frozen=True)
class Answer:
    """`first` is when the first delta with text came (perf_counter), `cut` that the connection ended before the last chunk."""

    status: int
    head: bytes
    body: bytes
    first: float | None
    cut: bool
    closes: bool


def request(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    place = urlsplit(url)
    more = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    top = f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n{more}"
    return f"{top}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(url)
    return await asyncio.open_connection(place.hostname, place.port, limit=1 << 22)


async def read(reader: asyncio.StreamReader) -> Answer:
    """Raises `asyncio.IncompleteReadError` where the connection ends before a whole head came."""
    head = await reader.readuntil(b"\r\n\r\n")
    low = head.lower()
    status, closes = int(head.split(b" ", 2)[1]), b"connection: close" in low
    if b"transfer-encoding: chunked" in low:
        return await _chunks(reader, status, head, closes)
    length = re.search(rb"content-length: *(\d+)", low)
    body = await reader.readexactly(int(length[1])) if length else b""
    return Answer(status, head, body, time.perf_counter(), False, closes)


async def _chunks(reader: asyncio.StreamReader, status: int, head: bytes, closes: bool) -> Answer:
    parts: list[bytes] = []
    first = None
    while True:
        line = (await reader.readline()).strip()
        if not line:
            return Answer(status, head, b"".join(parts), first, True, True)
        size = int(line, 16)
        data = await reader.readexactly(size + 2)
        if size == 0:
            return Answer(status, head, b"".join(parts), first, False, closes)
        if first is None and SAYS.search(data):
            first = time.perf_counter()
        parts.append(data[:-2])
