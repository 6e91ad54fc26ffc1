"""Where answers come from: a model server that speaks OpenAI's protocol, by HTTP. Nothing of its errors is shown to clients."""

import asyncio
import math
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson

from temper.errors import RunError, UsageError
from temper.serve.protocol import ApiError, overloaded
from temper.serve.sse import Events

ANSWER_BYTES = 32 * 2**20
"""The largest plain answer that is read."""
EVENT_BYTES = 2**20
"""The largest event of a stream that is read."""
CONNECTIONS = 1024
_REST_S = 1.0
"""How long the empty rest of an answer is awaited, so that its connection can be used again."""
_RESTS: set["asyncio.Task[None]"] = set()


class Stream(Protocol):
    """An answer under way. `read` gives the events that have come, waiting for the first, and None after the last; a cancelled
    `read` loses nothing. Raises `ApiError` for what is no event.
    """

    async def read(self) -> Sequence[Mapping[str, Any]] | None: ...
    async def close(self) -> None: ...


class Upstream(Protocol):
    """A model server. `path` is chat/completions or completions. Raises `ApiError`."""

    async def models(self) -> Sequence[Mapping[str, Any]]: ...
    async def plain(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]: ...
    async def stream(self, path: str, body: Mapping[str, Any]) -> Stream: ...
    async def close(self) -> None: ...


def endpoint(url: str) -> str:
    """The URL that paths are appended to; `/v1` is added where a URL names only the host. Raises `UsageError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"upstream {url!r}: wanted http://host:port/v1 of a server that speaks OpenAI's protocol")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise UsageError("upstream: wanted a URL without query and without credentials; the key is given by --upstream-key-env")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}/"


def trusted(ca: str) -> ssl.SSLContext:
    """Who may sign an https model server's certificate: the system's authorities, or those of a PEM file in their place.

    Raises `UsageError` for a file that cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "no certificates in PEM form"
        raise UsageError(f"--upstream-ca {ca}: {why}") from None


@dataclass(slots=True)
class Remote:
    """A model server behind a URL, over a pool of kept connections. Redirects are not followed: a key goes to one host only.

    `ca` is a PEM file of the authorities that are trusted in place of the system's.
    """

    url: str
    key: str = field(default="", repr=False)
    connect_s: float = 10.0
    ca: str = ""
    _session: aiohttp.ClientSession | None = None

    def __post_init__(self) -> None:
        self.url = endpoint(self.url)

    async def models(self) -> Sequence[Mapping[str, Any]]:
        async with asyncio.timeout(self.connect_s), self._asked("GET", "models", None) as reply:
            given = await _whole(reply)
        rows = given.get("data")
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    async def plain(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async with self._asked("POST", path, body) as reply:
                return await _whole(reply)
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from None

    async def stream(self, path: str, body: Mapping[str, Any]) -> Stream:
        try:
            reply = await self._asked("POST", path, body)
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from None
        if reply.status != 200:
            reply.close()
            raise _refused(reply)
        if not reply.content_type.startswith("text/event-stream"):
            reply.close()
            raise broken("it answered a streamed request without a stream")
        return _Events(reply)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, ttl_dns_cache=60, ssl=trusted(self.ca)),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})},
                read_bufsize=2**18,
            )
        data = None if body is None else orjson.dumps(body)
        return self._session.request(method, self.url + path, data=data, allow_redirects=False)


class _Events:
    """The events of a reply, parsed; whatever is no JSON object ends the answer as broken."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply
        self._events = Events(EVENT_BYTES)
        self._done = False

    async def read(self) -> Sequence[Mapping[str, Any]] | None:
        while not self._done:
            try:
                data = await self._reply.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise _unreachable(error) from None
            if not data:
                self._done = True
                return None
            try:
                events = [e for e in map(self._parsed, self._events.feed(data)) if e is not None]
            except RunError:
                raise broken("one of its events is too large") from None
            if events:
                return events
        return None

    def _parsed(self, data: bytes) -> Mapping[str, Any] | None:
        if self._done:
            return None
        if data == b"[DONE]":
            self._done = True
            return None
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise broken("one of its events is not JSON") from None
        if not isinstance(event, dict):
            raise broken("one of its events is not an object")
        if event.get("error"):
            raise broken("it reported an error in the middle of its answer")
        return event

    async def close(self) -> None:
        """Keeps the connection where the answer was read to its end, else breaks it off, which stops the model server."""
        if self._done and not self._reply.content.at_eof():
            rest = asyncio.create_task(self._rest())
            _RESTS.add(rest)
            rest.add_done_callback(_RESTS.discard)
        elif not self._done:
            self._reply.close()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(_REST_S):
                await self._reply.read()
        except (TimeoutError, aiohttp.ClientError, OSError):
            self._reply.close()


async def _whole(reply: aiohttp.ClientResponse) -> Mapping[str, Any]:
    if reply.status != 200:
        raise _refused(reply)
    if (reply.content_length or 0) > ANSWER_BYTES:
        raise broken("its answer is too large")
    parts, size = [], 0
    async for data in reply.content.iter_any():
        parts.append(data)
        size += len(data)
        if size > ANSWER_BYTES:
            raise broken("its answer is too large")
    try:
        given = orjson.loads(b"".join(parts))
    except orjson.JSONDecodeError:
        raise broken("its answer is not JSON") from None
    if not isinstance(given, dict):
        raise broken("its answer is not an object")
    return given


def broken(why: str) -> ApiError:
    """The upstream answered, and it is no answer."""
    return ApiError(502, f"the model server's answer cannot be used: {why}", kind="server_error", code="upstream_error")


def late(what: str) -> ApiError:
    """A deadline passed."""
    return ApiError(504, f"the model server did not {what} in time", kind="server_error", code="upstream_timeout")


def _unreachable(error: Exception) -> ApiError:
    if isinstance(error, TimeoutError):
        return late("accept the connection")
    if isinstance(error, aiohttp.ClientSSLError):
        said = "the model server's certificate is not trusted, so nothing was sent to it"
        return ApiError(502, said, kind="server_error", code="upstream_untrusted")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | ConnectionResetError):
        return ApiError(502, "the model server broke off its answer", kind="server_error", code="upstream_disconnected")
    return ApiError(502, "the model server cannot be reached", kind="server_error", code="upstream_unreachable")


def _refused(reply: aiohttp.ClientResponse) -> ApiError:
    """What a client is told of an upstream's error: its status, never its words, which may repeat the prompt."""
    status = reply.status
    if status in (429, 503):
        wait = _seconds(reply.headers.get("Retry-After"))
        return overloaded(f"the model server has no room (it said {status})", wait, status=status, code="upstream_overloaded")
    if status in (400, 413, 422):
        said = f"the model server refused the request (it said {status}); perhaps it is too long for the model"
        return ApiError(400, said, code="upstream_rejected")
    if status == 404:
        return ApiError(404, "the model server does not have this model", param="model", code="model_not_found")
    return ApiError(502, f"the model server failed (it said {status})", kind="server_error", code="upstream_error")


def _seconds(given: str | None) -> float:
    try:
        wait = float(given or 1)
    except ValueError:
        return 1.0
    return min(max(wait, 0.0), 3600.0) if math.isfinite(wait) else 1.0
