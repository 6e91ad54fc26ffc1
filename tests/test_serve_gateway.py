"""The running service: reload, shutdown, its other routes, and its own description."""

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest
from bounded import soon
from fake_openai import BANNED, CLEAN, fake
from serve_world import POLICY, World, listening, run, said

from temper.serve import reload as reloading
from temper.serve.gateway import ROUTERS, SETTINGS, application, build, from_environment, to_environment
from temper.serve.state import Settings

LOOSE = POLICY.replace('phrases = ["zorblax protocol"]', 'phrases = ["somethingelse"]')


def test_it_is_ready_once_every_filter_has_fired(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        ready = await w.client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"], ready.json()["failed"]) == (200, True, [])
        assert ready.json()["cells"] > 20
        assert (await w.client.get("/healthz")).json() == {"status": "ok"}
        w.gateway.ready.cells = {}
        refused = await w.chat("hi")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")

    run(tmp_path, test)


def test_models_are_the_upstreams_as_far_as_they_may_be_asked(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        listed = (await w.client.get("/v1/models")).json()
        assert listed == {"object": "list", "data": [{"id": "fake", "object": "model", "created": 1, "owned_by": "test"}]}
        assert (await w.client.get("/v1/models/fake")).json()["id"] == "fake"
        assert (await w.client.get("/v1/models/none")).json()["error"]["code"] == "model_not_found"

    run(tmp_path, test)


def test_moderations_are_the_policys_filters_in_openais_shape(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        async def ask(given: object) -> httpx.Response:
            return await w.client.post("/v1/moderations", json={"input": given})

        told = (await ask(["fine", f"the {BANNED}"])).json()
        assert [r["flagged"] for r in told["results"]] == [False, True]
        assert told["results"][1]["categories"] == {"sabotage": True}
        assert told["results"][1]["category_applied_input_types"] == {"sabotage": ["text"]}
        parts = [{"type": "text", "text": "zorblax"}, {"type": "text", "text": "protocol"}]
        assert [r["flagged"] for r in (await ask(parts)).json()["results"]] == [True]
        for wrong in (None, [], 5, [{"type": "image_url", "image_url": {"url": "x"}}]):
            assert (await ask(wrong)).status_code == 400

    run(tmp_path, test)


def test_a_changed_policy_takes_over_without_dropping_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "EVERY_S", 0.02)

    async def test(w: World) -> None:
        before = w.gateway.guard.policy.version
        slow = asyncio.ensure_future(w.stream("[[slow]] hi"))
        await soon(lambda: w.fake.bodies, "the model server to be asked")
        Path(w.gateway.settings.policy).write_text(LOOSE)
        await soon(lambda: w.gateway.guard.policy.version != before, "the policy to be read again")
        frames, _ = await slow
        assert said(frames) == CLEAN
        passed = (await w.chat("[[bad_out]] hi")).json()
        assert BANNED in passed["choices"][0]["message"]["content"]
        assert {r["policy"] for r in await w.rows()} == {before, w.gateway.guard.policy.version}

    run(tmp_path, test)


def test_a_policy_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        before = w.gateway.guard
        file = Path(w.gateway.settings.policy)
        _, token = await asyncio.to_thread(w.gateway.keys.make, "admin", ["admin"], by="t")
        admin = {"authorization": f"Bearer {token}"}
        file.write_text("[filters.nothing]\n")
        reply = await w.client.post("/admin/reload", headers=admin)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "policy_not_loaded")
        assert w.gateway.guard is before
        file.write_text(LOOSE)
        reply = await w.client.post("/admin/reload", headers=admin)
        assert reply.json()["versions"] == [w.gateway.guard.policy.version]
        assert w.gateway.guard is not before
        assert (await w.client.post("/admin/reload")).status_code == 401

    run(tmp_path, test)


def test_a_key_may_have_a_policy_of_its_own(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        own = tmp_path / "own.toml"
        own.write_text(LOOSE.replace('name = "test"', 'name = "own"'))
        _, token = await asyncio.to_thread(w.gateway.keys.make, "k", ["chat"], by="t", policy=str(own))
        _, lost = await asyncio.to_thread(w.gateway.keys.make, "l", ["chat"], by="t", policy="nowhere")
        w.client.headers["authorization"] = f"Bearer {token}"
        reply = await w.chat("[[bad_out]] hi")
        assert BANNED in reply.text
        assert reply.headers["x-temper-policy"].startswith("own@")
        w.client.headers["authorization"] = f"Bearer {lost}"
        assert (await w.chat("hi")).json()["error"]["code"] == "policy_unavailable"

    run(tmp_path, test)


def test_a_graceful_stop_finishes_streams_and_loses_no_row(tmp_path: Path) -> None:
    async def test() -> None:
        file = tmp_path / "test.toml"
        file.write_text(POLICY)
        async with fake() as upstream:
            settings = Settings(
                upstream=upstream.url,
                policy=str(file),
                database=f"sqlite:///{tmp_path / 'temper.db'}",
                secret=tmp_path / "secret",
                checkpoints=tmp_path / "checkpoints",
            )
            gateway = build(settings)
            async with listening(application(gateway)) as (url, server), httpx.AsyncClient(base_url=url, timeout=20) as client:
                body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "[[slow]]"}]}
                slow = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
                await soon(lambda: upstream.bodies, "the model server to be asked")
                server.should_exit = True
                reply = await slow
                assert reply.text.endswith("data: [DONE]\n\n")
            import sqlite3

            rows = sqlite3.connect(tmp_path / "temper.db").execute("select finish, released from responses").fetchall()
            assert rows == [("stop", len(CLEAN))]

    asyncio.run(test())


def test_the_description_names_every_route_and_docs_pages_are_off(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        described = (await w.client.get("/openapi.json")).json()
        paths = set(described["paths"])
        assert {"/v1/chat/completions", "/v1/completions", "/v1/moderations", "/v1/models", "/readyz", "/metrics"} <= paths
        refs = {r.split('"')[0].rpartition("/")[2] for r in json.dumps(described).split("#/components/schemas/")[1:]}
        assert refs <= set(described["components"]["schemas"])
        for page in ("/docs", "/redoc"):
            assert (await w.client.get(page)).status_code == 404
        assert b"temper_requests" in (await w.client.get("/metrics")).content

    run(tmp_path, test)


def test_settings_reach_worker_processes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        upstream="http://127.0.0.1:1/v1",
        models=("a", "b"),
        policy="rules-only",
        database=f"sqlite:///{tmp_path / 'x.db'}",
        secret=tmp_path / "secret",
        checkpoints=tmp_path / "c",
    )
    monkeypatch.setenv(SETTINGS, to_environment(settings))
    assert from_environment().gateway.settings == settings


def test_sighup_reads_the_policy_again(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        before = w.gateway.guard.policy.version
        Path(w.gateway.settings.policy).write_text(LOOSE)
        signal.raise_signal(signal.SIGHUP)
        await soon(lambda: w.gateway.guard.policy.version != before, "the policy to be read again")

    run(tmp_path, test)


def test_every_router_is_there() -> None:
    import importlib

    assert [n for n in ROUTERS if not hasattr(importlib.import_module(f"temper.serve.{n}"), "routes")] == []
