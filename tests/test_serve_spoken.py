"""The column `language` of `responses`: filled where a filter read the answer for its language, and counted once."""

from pathlib import Path

import pytest
from serve_world import POLICY, World, run
from sqlalchemy import select

from temper.serve import nightly
from temper.serve.tables import counters

READING = POLICY + '[filters.tongue]\nkind = "language"\naction = "allow"\n[audit]\nshare = 1.0\nfilters = []\n'
TRAIN = "When does the train to the coast leave today, and why is it late?"
TOOLS = [{"type": "function", "function": {"name": "sh", "parameters": {"type": "object", "properties": {"cmd": {}}}}}]


async def counted(w: World) -> dict[str, int]:
    rows = await w.gateway.store.run(lambda c: c.execute(select(counters)).all())
    return {row.name: row.n for row in rows if row.name.startswith("language:")}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answers_language_is_on_record_where_a_filter_read_it(tmp_path: Path, stream: bool) -> None:
    async def test(w: World) -> None:
        for name in ("clean", "german", "reasons", "calls", "bad_out"):
            reply = await w.chat(f"[[{name}]] {TRAIN}", stream=stream, tools=TOOLS)
            assert reply.status_code == 200, (reply.text, w.gateway.ready.why)
        await w.chat("12345", stream=stream)
        assert [row["language"] for row in await w.rows()] == ["en", "de", "en", "", "", ""]
        assert await counted(w) == {"language:en": 2, "language:de": 1}
        await nightly.run(w.gateway)
        assert await counted(w) == {"language:en": 3, "language:de": 1}, "only what was not counted yet: the answer to 12345"

    run(tmp_path, test, READING)


def test_where_no_filter_reads_for_it_the_audit_counts(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        await w.chat(f"[[clean]] {TRAIN}")
        assert [row["language"] for row in await w.rows()] == [""]
        await nightly.run(w.gateway)
        assert await counted(w) == {"language:en": 1}

    run(tmp_path, test, POLICY + "[audit]\nshare = 1.0\nfilters = []\n")
