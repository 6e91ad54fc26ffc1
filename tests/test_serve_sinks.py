"""Personal data planted wherever a client, a model or an error can put it is found in no log, metric, trace or column.

The whole gateway runs against a scripted model server; afterwards every byte it left on disk is searched. Only the vault, with
its key, gives the text back.
"""

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_world import POLICY, World
from serve_world import run as in_world
from sqlalchemy import select

from temper.serve import logs
from temper.serve.tables import metadata, responses, vault

MARK = re.compile(r"zz[a-z]+q@leak\.test|\+49 151 5550\d{4}", re.IGNORECASE)
BROKEN = '''
from dataclasses import dataclass
from temper.serve.verdict import Action, Canary, Channel, canary_turn

@dataclass(frozen=True, slots=True)
class Broken:
    """Fires on its canary and fails, quoting what it read, where the text says so."""
    name: str = "broken"
    pace: str = "window"
    heavy: bool = False
    reach: int = 10
    default_channels: tuple = tuple(Channel)
    default_action: Action = Action.BLOCK

    def __call__(self, view):
        if "explode" in view.text:
            raise ValueError(f"cannot read {view.text}")
        from temper.serve.verdict import Finding
        at = view.text.find("brokencana")
        return (Finding("broken", "canary", start=at, end=at + 10),) if at >= 0 else ()

    def canary(self, channel):
        return Canary("the brokencana here", canary_turn())
'''


def mark(place: str) -> str:
    """Personal data that tells where it was planted."""
    return f"zz{place}q@leak.test or +49 151 5550{sum(map(ord, place)) % 10000:04d}"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root, stream = logging.getLogger(), io.StringIO()
    before, level, thread, unraisable = list(root.handlers), root.level, threading.excepthook, sys.unraisablehook
    logs.setup(["broken", "rules", "email", "fake"], level=logging.DEBUG, stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
    threading.excepthook, sys.unraisablehook = thread, unraisable


def traced(world: World) -> Any:
    """Turn telemetry on, into memory."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from temper.serve.telemetry import Telemetry

    spans, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    world.app._traces = Telemetry(tracers, MeterProvider([reader]), LoggerProvider())
    return lambda: "".join(s.to_json() for s in spans.get_finished_spans()) + str(reader.get_metrics_data())


def policy(folder: Path) -> str:
    (folder / "broken.py").write_text(BROKEN)
    kept = "[audit]\nshare = 1.0\nfilters = []\n"
    return POLICY + f'\n[filters.broken]\nkind = "{folder / "broken.py"}:Broken"\n{kept}'


async def everything(world: World, said: str) -> list[Any]:
    """Every way in that there is, each with its own mark; the replies."""
    c, replies = world.client, []
    evil = {"user-agent": mark("agent"), "x-note": mark("header"), "traceparent": mark("trace"), "prefer": mark("prefer")}
    tool = {"type": "function", "function": {"name": "f", "description": mark("tool"), "parameters": {"title": mark("schema")}}}
    history = [
        {"role": "system", "content": mark("system")},
        {"role": "user", "content": mark("user")},
        {"role": "assistant", "content": mark("earlier")},
    ]
    for stream in (False, True):
        for scenario in ("leaky", "clean", "500", "429", "hangup", "garbage", "bad_out", "review", "email"):
            messages = [*history, {"role": "user", "content": f"{said} [[{scenario}]]"}]
            body = {"model": "fake", "messages": messages, "stream": stream, "user": mark("id"), "metadata": {"a": mark("meta")}}
            replies.append(await c.post("/v1/chat/completions", json=body, headers=evil))
        for last in (f"{mark('blocked')} zorblax protocol", f"{mark('held')} grumbletons", f"{mark('boom')} explode"):
            body = {"model": "fake", "messages": [*history, {"role": "user", "content": last}], "stream": stream, "tools": [tool]}
            replies.append(await c.post("/v1/chat/completions", json=body))
    replies.append(await c.post("/v1/chat/completions", json={"model": mark("model"), "messages": history}))
    replies.append(await c.post("/v1/chat/completions", content=b'{"messages": "' + mark("badjson").encode()))
    replies.append(
        await c.post("/v1/chat/completions", json={"model": "fake", "messages": [{"role": mark("role"), "content": "x"}]})
    )
    replies.append(await c.post("/v1/chat/completions", json={"model": "fake", "messages": [], mark("key"): 1}))
    replies.append(await c.post("/v1/completions", json={"model": "fake", "prompt": mark("prompt")}))
    replies.append(await c.post("/v1/moderations", json={"input": mark("moderated")}))
    replies.append(await c.get(f"/{mark('path')}", params={"q": mark("query")}))
    replies.append(await c.get("/v1/models", headers={"authorization": f"Bearer {mark('token')}", "cookie": mark("cookie")}))
    given = {
        "input_type": "request",
        "texts": [f"{mark('litellm')} zorblax protocol"],
        "model": mark("theirs"),
        "request_data": {},
    }
    replies.append(await c.post("/beta/litellm_basic_guardrail_api", json=given))
    await world.gateway.journal.settled()
    row = (await world.rows())[0]
    told = {"response_id": row["id"], "rating": "down", "comment": mark("comment"), "expected": mark("expected")}
    replies.append(await c.post("/v1/feedback", json=told))
    replies.append(await c.post("/v1/feedback", json={"response_id": mark("ref"), "label": mark("label")}))
    return replies


def columns(world: World) -> str:
    """Everything in every table, as text, but the vault's boxes."""
    found = []
    for table in metadata.sorted_tables:
        rows = world.gateway.store.now(lambda c, t=table: c.execute(select(t)).mappings().all(), reads=True)
        found += [str({k: v for k, v in row.items() if (table.name, k) != ("vault", "box")}) for row in rows]
    return "\n".join(found)


def on_disk(folder: Path) -> dict[str, str]:
    """The bytes of every file the gateway left: the database with its log, checkpoints, the secret."""
    ours = {"test.toml", "broken.py"}
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in ours and "__pycache__" not in p.parts]
    assert any(p.name == "temper.db" for p in files)
    return {p.name: p.read_bytes().decode("latin-1") for p in files}


def test_personal_data_reaches_no_log_metric_trace_or_column(
    tmp_path: Path, logged: io.StringIO, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leaky = {"reasoning_content": mark("thought"), "content": mark("answer"), "tool": {"name": "f", "arguments": mark("args")}}
    monkeypatch.setitem(fake_openai.ANSWERS, "leaky", leaky)
    seen: dict[str, str] = {}

    async def work(world: World) -> None:
        spans = traced(world)
        replies = await everything(world, mark("said"))
        assert {r.status_code for r in replies} >= {200, 400, 404}
        errors = [r.text for r in replies if r.status_code >= 400]
        seen["errors"] = "".join(errors)
        await world.gateway.journal.settled()
        seen["metrics"] = (await world.client.get("/metrics")).text
        seen["ready"] = (await world.client.get("/readyz")).text
        seen["traces"] = spans()
        seen["columns"] = columns(world)
        boxes = world.gateway.store.now(
            lambda c: [world.gateway.vault.get(c, id_) for id_ in c.execute(select(vault.c.id)).scalars().all()]
        )
        kept = str(boxes)
        for place in ("held", "comment", "expected", "blocked"):
            assert mark(place) in kept, f"the vault does not give back {place}"
        assert len(await world.rows()) >= 20 and "gen_ai.usage.input_tokens" in seen["traces"]
        seen.update({f"while it runs: {k}": v for k, v in on_disk(tmp_path).items()})

    in_world(tmp_path, work, policy(tmp_path))
    seen.update(on_disk(tmp_path))
    seen["log"] = logged.getvalue()
    seen["stdout and stderr"] = "".join(capfd.readouterr())
    assert "temper_requests_total" in seen["metrics"] and '"filter broken failed on' in seen["log"]
    leaks = {sink: sorted({m.group() for m in MARK.finditer(text)}) for sink, text in seen.items() if MARK.search(text)}
    assert leaks == {}


def test_the_search_would_find_what_it_looks_for(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        from sqlalchemy import update

        await world.chat(f"{mark('said')} [[clean]]")
        await world.gateway.journal.settled()
        world.gateway.store.now(lambda c: c.execute(update(responses).values(language=mark("x")[:16])))
        assert "zzxq@leak.test" in columns(world)

    in_world(tmp_path, work, policy(tmp_path))
    assert any("zzxq@leak.test" in text for text in on_disk(tmp_path).values())


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=0x4FFF, exclude_categories=["Cs", "Cc"]), min_size=14))
def test_any_text_at_all_stays_out(tmp_path_factory: pytest.TempPathFactory, logged: io.StringIO, text: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    monkey = {"content": text, "reasoning_content": text}
    seen: dict[str, str] = {}

    async def work(world: World) -> None:
        fake_openai.ANSWERS["any"] = monkey
        for last in (f"{text} [[any]]", f"{text} explode", f"{text} grumbletons", f"{text} [[500]]"):
            for stream in (False, True):
                await world.chat(last, stream=stream)
        await world.gateway.journal.settled()
        seen["metrics"] = (await world.client.get("/metrics")).text
        seen["columns"] = columns(world)

    try:
        in_world(folder, work, policy(folder))
    finally:
        fake_openai.ANSWERS.pop("any", None)
    seen["log"] = logged.getvalue()
    seen.update({k: v.encode("latin-1").decode("utf-8", "replace") for k, v in on_disk(folder).items()})
    spelled = {text, json.dumps(text)[1:-1], repr(text)[1:-1]}
    assert [(sink, s) for sink, found in seen.items() for s in spelled if s in found] == []
