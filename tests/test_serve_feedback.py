"""Feedback is taken from who got the answer, its text lies in the vault alone, and a wrong body is told without quoting it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_parts import client, gateway, policy, put
from sqlalchemy import select

from temper.serve import feedback
from temper.serve.policy import Limits
from temper.serve.tables import feedback as table
from temper.serve.tables import journal

BOX = {
    "request": {"messages": [{"role": "user", "content": "2+2?"}]},
    "answers": [{"content": "5", "reasoning": ""}],
    "share": 1.0,
}


def run(folder: Path, work: Any) -> None:
    async def main() -> None:
        async with gateway(folder, policy()) as made:
            await work(made)

    asyncio.run(main())


def test_a_rating_and_a_correction_are_kept_and_their_texts_are_encrypted(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        response = put(made, BOX)
        async with client(made, feedback.routes(made)) as http:
            body = {"response_id": response, "rating": "down", "label": "incorrect", "comment": "zebra says no", "expected": "4"}
            reply = await http.post("/v1/feedback", json=body)
        assert reply.status_code == 201 and reply.json()["object"] == "feedback"
        (row,) = made.store.now(lambda c: feedback.read(c, made.vault, response_id=response, limit=10))
        assert (row["rating"], row["label"], row["comment"], row["expected"], row["kept"]) == (
            -1,
            "incorrect",
            "zebra says no",
            "4",
            True,
        )
        stored = made.store.now(lambda c: c.execute(select(table)).mappings().one())
        assert "zebra" not in str(dict(stored))
        lines = made.store.now(lambda c: c.execute(select(journal.c.kind, journal.c.body)).all())
        assert [b for k, b in lines if k == "feedback.given"] and "zebra" not in str(lines)
        assert b'rating="down"' in made.meters.exposition()[0]

    run(tmp_path, work)


def test_the_latest_word_of_a_key_counts_and_all_are_kept(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        response = put(made)
        async with client(made, feedback.routes(made)) as http:
            for rating in ("up", -1, 1):
                assert (await http.post("/v1/feedback", json={"response_id": response, "rating": rating})).status_code == 201
        assert [r["rating"] for r in made.store.now(feedback.current)] == [1]
        assert len(made.store.now(lambda c: feedback.read(c, made.vault, response_id=None, limit=10))) == 3

    run(tmp_path, work)


def test_nobody_rates_another_keys_response_or_learns_that_it_is_there(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        theirs = put(made, key_id="key_other")
        _, token = await asyncio.to_thread(made.keys.make, "me", ("feedback",), by="test")
        _, admin = await asyncio.to_thread(made.keys.make, "admin", ("feedback", "admin"), by="test")
        async with client(made, feedback.routes(made), token=token) as http:
            known = await http.post("/v1/feedback", json={"response_id": theirs, "rating": 1})
            unknown = await http.post("/v1/feedback", json={"response_id": "chatcmpl_none", "rating": 1})
            assert known.status_code == unknown.status_code == 404 and known.content == unknown.content
            assert (await http.get("/v1/feedback")).status_code == 403
        async with client(made, feedback.routes(made), token=admin) as http:
            assert (await http.post("/v1/feedback", json={"response_id": theirs, "rating": 1})).status_code == 201
            assert len((await http.get("/v1/feedback")).json()["data"]) == 1
        read = made.store.now(lambda c: c.execute(select(journal.c.kind)).scalars().all())
        await made.journal.settled()
        read = made.store.now(lambda c: c.execute(select(journal.c.kind)).scalars().all())
        assert "feedback.read" in read

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"response_id": "x", "rating": "alice@example.org"}, "rating"),
        ({"response_id": "alice@example.org", "rating": 1}, "response_id"),
        ({"response_id": "x", "label": "alice@example.org"}, "label"),
        ({"response_id": "x", "alice@example.org": 1}, ""),
        ({"response_id": "x"}, "rating"),
        ({"response_id": "x", "comment": "alice@example.org" * 1000}, "comment"),
        ({"response_id": "x", "rating": True}, "rating"),
        (["alice@example.org"], ""),
    ],
)
def test_a_wrong_field_is_named_and_not_quoted(body: object, field: str) -> None:
    assert feedback.parse(json.dumps(body).encode()) == field


@given(st.binary(max_size=200))
def test_any_bytes_are_feedback_or_the_name_of_a_field(raw: bytes) -> None:
    parsed = feedback.parse(raw)
    assert isinstance(parsed, feedback.Given) or parsed in {"", *feedback.Given.model_fields}


def test_a_key_says_no_more_than_its_limits_allow(tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, policy(limits=Limits(requests_per_minute=2))) as made:
            response = put(made)
            async with client(made, feedback.routes(made)) as http:
                said = [await http.post("/v1/feedback", json={"response_id": response, "rating": 1}) for _ in range(4)]
            assert [r.status_code for r in said].count(429) >= 1

    asyncio.run(main())


def test_a_body_that_is_too_long_is_not_read_to_its_end(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        async with client(made, feedback.routes(made)) as http:
            reply = await http.post("/v1/feedback", content=b"{" + b" " * (feedback.BYTES + 1))
            assert reply.status_code == 413

    run(tmp_path, work)
