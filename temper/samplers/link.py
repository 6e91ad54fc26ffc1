"""One POST after the other over one connection: httpcore's HTTP/1.1 on asyncio's own streams, with a bound on every reply.

Below httpx, whose client, request and response objects take more CPU than all the rest of a sample, and without anyio's streams,
which take as much as httpcore itself. Proxies, TLS and connections that a server closed are httpcore's work.
"""

import asyncio
import select
import socket
import ssl
import urllib.request
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import httpcore
import httpx

LARGEST = 64 << 20
"""Bytes of a reply, unpacked: a few of which must fit into memory, whatever a server sends."""
KEPT = 5.0
"""Seconds that an idle connection is used again: as long as most servers keep one."""
LOST = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError)
"""What a request may come to nothing by, all of which may be otherwise the next time."""
WRONG_URL = (httpcore.UnsupportedProtocol, httpx.InvalidURL)

_GZIP = 16 + zlib.MAX_WBITS


class Answered(NamedTuple):
    """Status, the server's words for it, headers as they came, and the whole body, unpacked."""

    status: int
    reason: str
    headers: Sequence[tuple[bytes, bytes]]
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def header(self, name: str) -> str:
        """The first header of this name, in lower case, "" without one."""
        return _header(self.headers, name.encode()).decode("latin-1")


class Link:
    """A connection to a server, through the proxy of the environment if there is one; opened when it is first needed.

    A pool that many requests share looks at all of them for each: with 100 under way it took four times the CPU of the rest.
    """

    def __init__(self, url: str, headers: Mapping[str, str], secure: ssl.SSLContext | None) -> None:
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=secure, proxy=_proxy(url), max_connections=1, keepalive_expiry=KEPT, network_backend=_Backend()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        await self._pool.aclose()

    async def post(self, url: str, content: bytes) -> Answered:
        """The server's reply. Raises one of `LOST` or `WRONG_URL`; there is no time limit but the caller's."""
        target, host = _target(url)
        headers = [(b"Host", host), *self._headers, (b"Content-Length", b"%d" % len(content))]
        response = await self._pool.handle_async_request(httpcore.Request("POST", target, headers=headers, content=content))
        try:
            body = await _whole(response)
        finally:
            await response.aclose()
        reason: bytes = response.extensions.get("reason_phrase", b"")
        return Answered(response.status, reason.decode("latin-1"), response.headers, body)


def secured(url: str) -> ssl.SSLContext | None:
    """What connections to this URL are checked by; made once for all of them, as it reads every certificate."""
    return httpx.create_ssl_context() if url.startswith("https:") else None


def shown(url: str) -> str:
    """A URL as an error may show it: without a password or a query."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None))
    except httpx.InvalidURL:
        return "the endpoint's URL"


@lru_cache(maxsize=64)
def _target(url: str) -> tuple[httpcore.URL, bytes]:
    """The parts of a URL as they go over the wire, and the name of its host; parsing takes as long as sending."""
    parsed = httpx.URL(url)
    return _wired(parsed), parsed.netloc


def _wired(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _proxy(url: str) -> httpcore.Proxy | None:
    """The proxy that the environment names for this URL, None without one."""
    found, parts = urllib.request.getproxies(), urlsplit(url)
    named = found.get(parts.scheme) or found.get("all")
    if not named or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxy = httpx.Proxy(named)
    return httpcore.Proxy(_wired(proxy.url), auth=proxy.raw_auth)


async def _whole(response: httpcore.Response) -> bytes:
    packed = _header(response.headers, b"content-encoding").lower() in (b"gzip", b"x-gzip")
    unzip = zlib.decompressobj(_GZIP) if packed else None
    parts, size = list[bytes](), 0
    async for part in response.aiter_stream():
        if unzip is not None and unzip.eof:
            raise httpcore.ReadError("the reply goes on after its end")
        parts.append(part if unzip is None else _unzipped(unzip, part))
        size += len(parts[-1])
        if size > LARGEST:
            raise httpcore.ReadError(f"the reply is longer than {LARGEST >> 20} MiB")
    return b"".join(parts)


def _unzipped(unzip: Any, part: bytes) -> bytes:
    try:
        return bytes(unzip.decompress(part, LARGEST + 1))
    except zlib.error as error:
        raise httpcore.ReadError(f"the reply cannot be unpacked ({error})") from None


def _header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value.strip() for known, value in headers if known.lower() == name), b"")


# --- asyncio's streams under httpcore -----------------------------------------------------------------------------------------


class _Stream(httpcore.AsyncNetworkStream):
    """A connection. Time limits of single reads and writes, which are never asked for here, are not kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _told_as(httpcore.ReadError):
            return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _told_as(httpcore.WriteError):
            self._writer.write(buffer)
            await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.transport.abort()  # nobody reads what a polite end of TLS would wait for
        await asyncio.sleep(0)  # the socket is closed in the loop's next turn, which may be its last

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            with _told_as(httpcore.ConnectError):
                await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except BaseException:
            await self.aclose()
            raise
        return self

    def get_extra_info(self, info: str) -> object:
        if info != "is_readable":
            return self._writer.get_extra_info(info)
        # of an idle connection: whether it is of no more use, as the server has closed it or said what nobody asked for, which
        # would be read as the next reply. StreamReader tells of what it holds to who waits for it alone.
        held: bytearray = self._reader._buffer  # type: ignore[attr-defined]
        return bool(held) or self._reader.at_eof() or _readable(self._writer.get_extra_info("socket"))


def _readable(connection: socket.socket) -> bool:
    """Whether there is something to read that the loop has not come to yet."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


class _Backend(httpcore.AsyncNetworkBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with _told_as(httpcore.ConnectError):
            return _Stream(*await asyncio.open_connection(host, port, happy_eyeballs_delay=0.25))


@contextmanager
def _told_as(kind: type[Exception]) -> Iterator[None]:
    """The operating system's errors, TLS's among them, as httpcore's."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # the latter of a host that no name server can be asked for
        raise kind(str(error)) from error
