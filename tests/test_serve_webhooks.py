"""Webhooks: signed as the standard's own library wants it, retried, ended by 410, and never sent into a private network."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from bounded import soon
from sqlalchemy import select, update
from standardwebhooks import Webhook

from temper.errors import UnknownName, UsageError
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import deliveries, hooks
from temper.serve.webhooks import Hooks, Refused, _Public, public, sweep

pytest_plugins = ("serve_parts",)


class Receiver:
    """Keeps what it gets; answers with the statuses given, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses = list(statuses)
        self.url = ""

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator["Receiver"]:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/hook"  # type: ignore[union-attr]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"location": "/hook"} if 300 <= status < 400 else {})


@pytest.fixture
def sender(store: Store, keyring: Keyring, journal: Journal) -> Hooks:
    return Hooks(store, keyring, journal, allow_private=True)


def _event(sender: Hooks, event: str = "hold.made") -> None:
    sender.store.now(lambda c: sender.queue(c, event, {"id": "hold_1"}))


def _due(store: Store) -> None:
    store.now(lambda c: c.execute(update(deliveries).values(due_at=0.0)))


def _row(store: Store) -> dict[str, Any]:
    return dict(store.now(lambda c: c.execute(select(deliveries)).mappings().one()))


def test_an_event_arrives_signed(sender: Hooks, store: Store) -> None:
    async def main() -> None:
        async with Receiver().up() as receiver:
            id_, secret = await asyncio.to_thread(sender.add, receiver.url, ["hold.made"], by="me")
            _event(sender)
            _event(sender, "alert")
            assert await sender.deliver() == 1
            assert await sender.deliver() == 0
            [(headers, body)] = receiver.got
            event = Webhook(secret).verify(body, headers)
            assert (event["type"], event["data"]) == ("hold.made", {"id": "hold_1"})
            assert headers["webhook-id"] == _row(store)["id"]
            assert _row(store)["done_at"] is not None
            stored = store.now(lambda c: c.execute(select(hooks.c.secret)).scalar())
            assert secret.encode() not in stored
            assert sender.all()[0]["id"] == id_

    asyncio.run(main())


def test_an_event_whose_transaction_fails_is_not_sent(sender: Hooks, store: Store) -> None:
    sender.add("http://127.0.0.1:1/hook", by="me")

    def fails(connection: Any) -> None:
        sender.queue(connection, "alert", {})
        raise KeyError("stop")

    with pytest.raises(KeyError):
        store.now(fails)
    assert asyncio.run(sender.deliver()) == 0


@pytest.mark.parametrize("status", [500, 302, 404])
def test_a_delivery_that_fails_is_tried_again_under_the_same_id(sender: Hooks, store: Store, status: int) -> None:
    async def main() -> None:
        async with Receiver(status).up() as receiver:
            await asyncio.to_thread(sender.add, receiver.url, by="me")
            _event(sender)
            assert await sender.deliver() == 1
            row = _row(store)
            assert (row["tries"], row["last_error"], row["done_at"]) == (1, f"HTTP {status}", None)
            assert 5 <= row["due_at"] - row["made_at"] < 7
            assert await sender.deliver() == 0
            _due(store)
            assert await sender.deliver() == 1
            assert _row(store)["done_at"] is not None
            assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
            assert len(receiver.got) == 2

    asyncio.run(main())


def test_a_receiver_that_is_never_there_is_given_up(sender: Hooks, store: Store) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sender.add(f"http://127.0.0.1:{closed.getsockname()[1]}/", by="me")
    _event(sender)

    async def main() -> int:
        for tries in range(1, 20):
            assert await sender.deliver() == 1
            if _row(store)["done_at"] is not None:
                return tries
            _due(store)
        return 0

    assert asyncio.run(main()) == 8
    assert _row(store)["last_error"] == "ClientConnectorError"


def test_gone_disables_the_receiver(sender: Hooks, store: Store) -> None:
    async def main() -> None:
        async with Receiver(410).up() as receiver:
            await asyncio.to_thread(sender.add, receiver.url, by="me")
            _event(sender)
            _event(sender)
            await sender.deliver()
            _event(sender)
            _due(store)
            await sender.deliver()
            assert len(receiver.got) == 2
            assert sender.all()[0]["disabled_at"] is not None

    asyncio.run(main())


def test_two_workers_send_an_event_once(sender: Hooks, store: Store, keyring: Keyring, journal: Journal) -> None:
    async def main() -> None:
        async with Receiver().up() as receiver:
            await asyncio.to_thread(sender.add, receiver.url, by="me")
            for _ in range(20):
                _event(sender)
            other = Hooks(store, keyring, journal, allow_private=True)
            for _ in range(20):  # each round delivers one at least
                if not sum(await asyncio.gather(sender.deliver(), other.deliver())):
                    break
            assert len(receiver.got) == 20
            assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 20

    asyncio.run(main())


def test_the_task_delivers_by_itself(sender: Hooks, store: Store) -> None:
    async def main() -> None:
        async with Receiver().up() as receiver:
            await asyncio.to_thread(sender.add, receiver.url, by="me")
            _event(sender)
            sender.start()
            await soon(lambda: receiver.got, "a delivery")
            await sender.close()
            assert len(receiver.got) == 1

    asyncio.run(main())


def test_a_private_address_is_refused_when_given_and_when_connected_to(store: Store, keyring: Keyring, journal: Journal) -> None:
    strict = Hooks(store, keyring, journal)
    for url in (
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest",
        "https://10.0.0.8/",
        "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/x",  # full-width digits, which the client makes plain
        "https://169\u3002254\u3002169\u3002254/latest",
        "http://a.example/",
    ):
        with pytest.raises(UsageError):
            strict.add(url, by="me")
    for url in ("https://user:pass@a.example/", "ftp://a.example/", "https:///x", "https://a.example:99999/"):
        with pytest.raises(UsageError):
            strict.add(url, by="me")
    # a name that leads here passes at first, and is refused when it is to be connected to
    strict.add("https://localhost/hook", by="me")
    _event(strict)
    assert asyncio.run(strict.deliver()) == 1
    assert "private address" in _row(store)["last_error"] or _row(store)["last_error"] == "ClientConnectorDNSError"
    assert _row(store)["done_at"] is None


def test_a_name_is_resolved_to_public_addresses_alone() -> None:
    async def main() -> None:
        resolver = _Public(allow_private=False)
        with pytest.raises(Refused):
            await resolver.resolve("localhost", 443)
        assert await _Public(allow_private=True).resolve("localhost", 443)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, is_public: bool) -> None:
    assert public(address) is is_public


def test_a_hook_that_makes_no_sense_is_refused_and_old_deliveries_are_swept(sender: Hooks, store: Store) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'hold\.made'"):
        sender.add("http://a.example/", ["hold.mad"], by="me")
    with pytest.raises(UnknownName):
        sender.disable("hook_none", by="me")
    id_, _ = sender.add("http://127.0.0.1:1/", by="me")
    _event(sender)
    sender.disable(id_, by="me")
    assert asyncio.run(sender.deliver()) == 0
    row = _row(store)
    assert row["last_error"] == "the receiver was disabled"
    assert json.loads(row["body"])["data"] == {"id": "hold_1"}
    assert store.now(lambda c: sweep(c, row["done_at"] + 1)) == 0
    assert store.now(lambda c: sweep(c, row["done_at"] + 8 * 86_400)) == 1
