"""An answer that a person released tells what it is like every other: header, object and first message."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from serve_world import POLICY, World, frames, run, said
from sqlalchemy import select
from test_serve_chat import WHO

from temper.serve.tables import holds

FIRST = "I am a machine."
TELLING = POLICY.replace("header = true", f'header = true\nfirst_message = "{FIRST}"')


async def decided(w: World, edit: tuple[str, ...] = ()) -> str:
    """The id of the item that waits, once a reviewer has decided it."""
    waiting = select(holds.c.id).where(holds.c.state == "waiting")
    while not (found := await w.gateway.store.run(lambda c: c.scalar(waiting))):
        await asyncio.sleep(0.01)
    assert await w.gateway.holds.claim(found, WHO, 60)
    await w.gateway.holds.decide(found, WHO, "edit" if edit else "release", edit=edit or None)
    return str(found)


def told(body: dict[str, Any]) -> str:
    assert body["disclosure"]["ai_generated"] is True
    content = body["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


@pytest.mark.parametrize("edit", [(), ("A person wrote this.",)])
def test_a_released_answer_begins_as_the_policy_says(tmp_path: Path, edit: tuple[str, ...]) -> None:
    begins = f"{FIRST}\n\n{edit[0] if edit else 'The committee'}"

    async def test(w: World) -> None:
        reply, hold = await asyncio.gather(w.chat("[[review]] hi"), decided(w, edit))
        assert told(reply.json()).startswith(begins)
        assert reply.headers["x-temper-disclosure"].startswith("ai-generated")
        assert told((await w.client.get(f"/v1/holds/{hold}")).json()["result"]).startswith(begins)
        streamed, _ = await asyncio.gather(w.chat("[[review]] hi", stream=True), decided(w, edit))
        assert said(frames(streamed.text)).startswith(begins)
        # not the conversation's first answer
        before = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        later = {"model": "fake", "messages": [*before, {"role": "user", "content": "[[review]] hi"}]}
        reply, hold = await asyncio.gather(w.client.post("/v1/chat/completions", json=later), decided(w, edit))
        assert FIRST not in told(reply.json())
        assert FIRST not in told((await w.client.get(f"/v1/holds/{hold}")).json()["result"])

    strict = '[channels.content]\nmode = "strict"\n'  # nothing of a stream is out before it is held
    run(tmp_path, test, f"{TELLING}[review]\nwait_s = 10\n{strict}")


def test_an_answer_that_was_blocked_and_released_on_appeal_begins_so_too(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        reply = await w.chat("[[bad_out]] hi")
        id = await w.gateway.holds.appeal(reply.json()["id"], "why not", w.gateway.guard.policy.review)
        assert await decided(w) == id
        assert told((await w.client.get(f"/v1/holds/{id}")).json()["result"]).startswith(f"{FIRST}\n\nThe committee")

    run(tmp_path, test, TELLING)
