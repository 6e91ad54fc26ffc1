"""A model server over https is asked where its certificate is trusted, and never otherwise."""

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_openai import CLEAN, Fake, fake
from serve_world import World, said, world

from temper.serve.upstream import Remote

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates; its own is in the file `ca`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / f"{name}.pem"
        own = self._made(self.name, self.key.public_key(), NOW + DAY).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self.ca.write_bytes(own.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def server(self, address: str = "127.0.0.1", ends: datetime.datetime = NOW + DAY) -> ssl.SSLContext:
        """What a server at this address shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        made = self._made(x509.Name([]), key.public_key(), ends).add_extension(alternative, critical=True)
        pem = serialization.Encoding.PEM
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        file = self.folder / "server.pem"
        file.write_bytes(key.private_bytes(pem, *plain) + made.sign(self.key, hashes.SHA256()).public_bytes(pem))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _made(self, name: x509.Name, key: Any, ends: datetime.datetime) -> x509.CertificateBuilder:
        dated = x509.CertificateBuilder().not_valid_before(NOW - 2 * DAY).not_valid_after(ends)
        return dated.subject_name(name).issuer_name(self.name).public_key(key).serial_number(x509.random_serial_number())


def asked(tmp_path: Path, tls: ssl.SSLContext, ca: str, test: Callable[[World, Fake], Awaitable[None]]) -> None:
    """Ask a gateway whose upstream is an https server of its own."""

    async def main() -> None:
        async with fake(tls) as server:
            upstream = Remote(server.url, "sk-secret", ca=ca)
            async with world(tmp_path, upstream=upstream) as w:
                await test(w, server)

    asyncio.run(main())


def test_a_certificate_of_a_named_authority_is_trusted(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")

    async def test(w: World, server: Fake) -> None:
        reply = await w.chat("hi")
        assert (reply.status_code, reply.json()["choices"][0]["message"]["content"]) == (200, CLEAN)
        frames, _ = await w.stream("hi")
        assert said(frames) == CLEAN
        assert any(b"Bearer sk-secret" in head for head in server.heads)

    asked(tmp_path, ours.server(), str(ours.ca), test)


@pytest.mark.parametrize("wrong", ["authority", "system", "address", "date"])
def test_what_is_not_trusted_is_a_502_and_is_sent_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str) -> None:
    ours = Authority(tmp_path, "ours")
    ca = {"authority": str(Authority(tmp_path, "other").ca), "system": ""}.get(wrong, str(ours.ca))
    tls = ours.server("127.0.0.2" if wrong == "address" else "127.0.0.1", NOW - DAY if wrong == "date" else NOW + DAY)

    async def test(w: World, server: Fake) -> None:
        for stream in (False, True):
            reply = await asyncio.wait_for(w.chat("hi", stream=stream), 10)
            assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_untrusted")
            assert "not trusted" in reply.json()["error"]["message"]
        assert server.bodies == []
        assert server.heads == []
        assert "--upstream-ca names who signs it" in caplog.text

    asked(tmp_path, tls, ca, test)
