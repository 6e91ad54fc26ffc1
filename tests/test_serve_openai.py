"""The official client against the gateway, in its current major version and, where one is installed, in the previous."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from bounded import soon
from serve_world import World, run

SCRIPT = Path(__file__).parent / "openai_client.py"
PREVIOUS = os.environ.get("TEMPER_OPENAI_PREVIOUS", "")


async def ran(python: str, w: World) -> str:
    """The script's output under an interpreter; the interpreter runs in isolation, so that it finds its own packages only."""
    work = await asyncio.create_subprocess_exec(
        python, "-I", str(SCRIPT), f"{w.url}/v1", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(work.communicate(), 200)
    except TimeoutError:
        work.kill()
        raise
    assert work.returncode == 0, err.decode()
    return out.decode().strip()


def both(tmp_path: Path, python: str, major: str) -> None:
    async def test(w: World) -> None:
        assert (await ran(python, w)).split(".")[0] == major
        blocked = [b for b in w.fake.bodies if "the zorblax protocol" in str(b)]
        assert blocked == []
        rows = await w.rows()
        # a policy's block was asked once each way: the client did not retry it
        assert len([r for r in rows if (r["status"], r["action"]) == (400, "block")]) == 2

        async def left() -> bool:
            return [r["status"] for r in await w.rows()].count(499) == 3

        await soon(left, "the three requests whose client left to be on record")

    run(tmp_path, test)


def test_the_current_client_passes(tmp_path: Path) -> None:
    import openai

    both(tmp_path, sys.executable, openai.__version__.split(".")[0])


@pytest.mark.skipif(not PREVIOUS, reason="TEMPER_OPENAI_PREVIOUS names no interpreter with the previous major version")
def test_the_previous_client_passes(tmp_path: Path) -> None:
    import openai

    both(tmp_path, PREVIOUS, str(int(openai.__version__.split(".")[0]) - 1))
