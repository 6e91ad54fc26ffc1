"""The connection under every request to a model server: kept, opened anew, through proxies, under TLS, with bounded replies."""

import asyncio
import gzip
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpcore
import pytest

from temper.samplers.link import LARGEST, WRONG_URL, Answered, Link, secured, shown

OK = json.dumps({"answer": "Yes." * 50}).encode()


class Server(ThreadingHTTPServer):
    """HTTP/1.1 with connections that are kept; `reply(n)` is headers and body of the n-th request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []
        self.came: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.callers: list[object] = []
        self.tunnels: list[str] = []
        self.reply: Callable[[int], tuple[dict[str, str], bytes]] = lambda n: ({}, OK)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        server = self.server
        server.paths.append(self.path)
        server.came.append({name.lower(): value for name, value in self.headers.items()})
        server.callers.append(self.client_address)
        server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        headers, body = server.reply(len(server.paths))
        self.send_response(200)
        length = {} if "Transfer-Encoding" in headers else {"Content-Length": str(len(body))}
        for name, value in (length | headers).items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):  # the caller may have read enough
            self.wfile.write(body)
        self.close_connection = "x-close" in headers  # without a word of it

    def do_CONNECT(self) -> None:
        self.server.tunnels.append(self.path)
        host, port = self.path.split(":")
        with closing(socket.create_connection((host, int(port)))) as other:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pipe, args=(other, self.connection), daemon=True)
            back.start()
            _pipe(self.connection, other)
            back.join(5)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def served() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with served() as server:
        yield server


def post(url: str, *contents: bytes, pause: float = 0.0) -> list[Answered]:
    """The answers to these bodies, one after the other over one link."""

    async def all_of_them() -> list[Answered]:
        answers = []
        async with asyncio.timeout(20), Link(url, {"Accept-Encoding": "gzip"}, secured(url)) as link:
            for content in contents:
                answers.append(await link.post(f"{url}/chat", content))
                await asyncio.sleep(pause)
        return answers

    return asyncio.run(all_of_them())


def test_requests_follow_each_other_over_one_connection_and_arrive_whole(server: Server) -> None:
    contents = [b"a" * 10, b"b" * 300_000, b""]
    assert [answer.content for answer in post(server.url, *contents)] == [OK] * 3
    assert server.bodies == contents
    assert server.paths == ["/v1/chat"] * 3
    assert server.came[0]["host"] == f"127.0.0.1:{server.server_port}"
    assert len(set(server.callers)) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew_without_a_failure(server: Server) -> None:
    server.reply = lambda n: ({"x-close": "1"}, OK)
    assert len(post(server.url, b"1", b"2", b"3", pause=0.05)) == 3
    assert len(set(server.callers)) == 3


def test_what_a_server_says_unasked_is_nobodys_reply() -> None:
    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(
                    int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                )
                body = await reader.readexactly(size)
                for _ in range(2):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                    await writer.drain()
                    await asyncio.sleep(0.02)

    async def main() -> list[bytes]:
        server = await asyncio.start_server(twice, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        got = []
        async with server, asyncio.timeout(20), Link(url, {}, None) as link:
            for content in (b"1", b"2", b"3"):
                got.append((await link.post(url, content)).content)
                await asyncio.sleep(0.1)
            server.close()
        return got

    assert asyncio.run(main()) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("url", ["http://a..b/v1", f"http://{'a' * 64}.example/v1"])
def test_a_host_that_no_name_server_knows_by_rule_is_a_lost_connection(url: str) -> None:
    with pytest.raises((httpcore.ConnectError, *WRONG_URL)):
        post(url, b"1")


def test_a_reply_in_chunks_or_packed_is_read_whole(server: Server) -> None:
    chunks = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    replies = [({"Transfer-Encoding": "chunked"}, chunks), ({"Content-Encoding": "gzip"}, gzip.compress(OK))]
    server.reply = lambda n: replies[n - 1]
    assert [answer.content for answer in post(server.url, b"1", b"2")] == [b"abcde", OK]


def test_a_small_reply_that_unpacks_to_a_huge_one_is_read_only_so_far(server: Server) -> None:
    bomb = gzip.compress(b"0" * (LARGEST + 2))
    assert len(bomb) < LARGEST // 500
    server.reply = lambda n: ({"Content-Encoding": "gzip"}, bomb)
    with pytest.raises(httpcore.ReadError, match="longer than 64 MiB"):
        post(server.url, b"1")


def test_what_cannot_be_unpacked_is_a_lost_reply(server: Server) -> None:
    server.reply = lambda n: ({"Content-Encoding": "gzip"}, b"no such thing")
    with pytest.raises(httpcore.ReadError, match="cannot be unpacked"):
        post(server.url, b"1")


def test_a_proxy_of_the_environment_is_asked_with_its_key_and_the_whole_address(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{server.server_port}")
    assert post("http://nowhere.invalid/v1", b"1")[0].content == OK
    assert server.paths == ["http://nowhere.invalid/v1/chat"]
    assert server.came[0]["proxy-authorization"] == "Basic bWU6cEBzcw=="
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    post(server.url, b"1")
    assert server.paths[-1] == "/v1/chat"


def certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + made.public_bytes(serialization.Encoding.PEM)
    (folder / "both.pem").write_bytes(pem)
    return folder / "both.pem"


def test_tls_is_checked_and_goes_through_a_proxy(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    with pytest.raises(httpcore.ConnectError, match="certificate verify failed"):
        post(url, b"1")
    monkeypatch.setenv("SSL_CERT_FILE", str(both))
    answers = post(url, b"c" * 200_000, b"2")
    assert [answer.content for answer in answers] == [OK, OK]
    assert len(set(server.callers)) == 1
    with served() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
        assert post(url, b"3", b"4")[1].content == OK
        assert proxy.tunnels == [f"127.0.0.1:{server.server_port}"]
    assert server.bodies[-2:] == [b"3", b"4"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://host:port/v1"])
def test_a_url_that_nobody_can_be_asked_by_is_told_apart_from_a_server_that_is_away(url: str) -> None:
    with pytest.raises(WRONG_URL):
        post(url, b"1")


def test_a_server_that_is_away_and_one_that_hangs_up_are_lost_requests(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(httpcore.ConnectError):
            post(f"http://127.0.0.1:{free.getsockname()[1]}/v1", b"1")
    server.reply = lambda n: ({"Content-Length": "500", "x-close": "1"}, b"half")
    with pytest.raises(httpcore.RemoteProtocolError, match="without sending complete message body"):
        post(server.url, b"1")


def test_a_url_is_shown_without_what_is_secret() -> None:
    assert shown("http://me:hunter2@host:1/v1?key=1") == "http://host:1/v1"
    assert shown("http://host:port/v1") == "the endpoint's URL"
