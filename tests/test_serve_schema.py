"""The gateway against its own OpenAPI description: what fits it, and much that does not, gets an answer that it describes."""

import asyncio
import threading
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from bounded import WAIT_S, joined
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from serve_world import world

from temper.serve.keys import SCOPES

EXAMPLES = 10
NOT_CHECKED = [positive_data_acceptance]
"""A policy may refuse any text, and 400 is what it then answers."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address and a key of a gateway that runs in a thread of its own."""
    up, done = threading.Event(), asyncio.Event()
    known: dict[str, object] = {}

    async def run() -> None:
        async with world(tmp_path_factory.mktemp("schema")) as made:
            _, token = made.gateway.keys.make("all", SCOPES, by="test")
            known.update(url=made.url, token=token, loop=asyncio.get_running_loop())
            up.set()
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert up.wait(WAIT_S), "the gateway did not start"
    yield str(known["url"]), str(known["token"])
    known["loop"].call_soon_threadsafe(done.set)  # type: ignore[attr-defined]
    joined(thread, "the gateway to stop")


def test_every_route_keeps_to_the_description(served: tuple[str, str]) -> None:
    """Every operation, with bodies that fit and bodies that do not; what failed is told by operation."""
    url, token = served
    headers = {"Authorization": f"Bearer {token}"}
    failed: dict[str, str] = {}
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(generation_mode=mode))
            def conforms(case: schemathesis.Case) -> None:
                answer = case.call(timeout=WAIT_S, headers=headers)
                # the check of wrong bodies does not know that 413 refuses one
                too_large = [negative_data_rejection] if answer.status_code == 413 else []
                case.validate_response(answer, excluded_checks=[*NOT_CHECKED, *too_large])

            try:
                conforms()
            except Unsatisfiable:
                continue  # nothing about the request can be wrong
            except (AssertionError, BaseExceptionGroup) as error:
                failed[f"{operation.label} {mode.value}"] = str(error)[:1500]
    assert not failed, "\n\n".join(f"{name}: {why}" for name, why in failed.items())


@pytest.mark.parametrize(
    "route", ["/v1/chat/completions", "/v1/completions", "/v1/moderations", "/beta/litellm_basic_guardrail_api"]
)
@pytest.mark.parametrize("odd", ["9" * 60, "1e999", '"\\ud800"', "[" * 400 + "]" * 400, '{"a": {"b": -' + "9" * 30 + "}}"])
def test_json_at_its_edges_is_answered_and_no_failure(served: tuple[str, str], route: str, odd: str) -> None:
    url, token = served
    fields = '"model": "fake", "prompt": "hi", "input": "hi", "texts": ["hi"], "input_type": "request"'
    messages = '"messages": [{"role": "user", "content": "hi"}]'
    for body in (
        f'{{{fields}, {messages}, "tools": [{{"type": "function", "function": {odd}, "odd": {odd}}}]}}',
        f'{{"seed": {odd}, {fields}, {messages}}}',
    ):
        answer = httpx.post(
            url + route,
            content=body,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=WAIT_S,
        )
        assert answer.status_code in (200, 400)
