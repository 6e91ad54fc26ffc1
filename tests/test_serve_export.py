"""What people said goes out as rows that training reads, without people's names, and only where it may be trained on."""

import asyncio
import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import postgres
import pytest
from ops_parts import Word, client, gateway, policy, put, setting
from sqlalchemy import insert
from typer.testing import CliRunner

from temper.cli.loop import app
from temper.data.read import read_dialogues, read_pairs, read_responses
from temper.errors import UsageError
from temper.files import append_rows
from temper.serve import export, ids, nightly
from temper.serve import feedback as told
from temper.serve.export import Item, Pseudonyms
from temper.serve.policy import Policy, Sampled
from temper.serve.tables import feedback, holds, journal, ratings
from temper.types import Message

pytest_plugins = ("serve_parts",)
ASKED = {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "how do I boil an egg?"}]}
BOX = {"request": ASKED, "answers": [{"reasoning": "eggs", "content": "never ask", "calls": []}], "why": "", "share": 1.0}
NAME = Pseudonyms(b"k")
ITEM = Item(
    id="hold_1",
    kind="review",
    response_id="chatcmpl_1",
    at=1000.0,
    key_id="local",
    policy="p1",
    value=0.0,
    label="over-refusal",
    category="food",
    by=("person-1",),
    messages=(Message("system", "be kind"), Message("user", "how do I boil an egg?")),
    reasoning="eggs",
    bad="never ask",
    good="for six minutes",
)


def held(made: Any, state: str, *, edit: str = "", label: str = "", key: str = "local", keep_s: float = 3600) -> str:
    """A decided hold with one rating; its id."""

    edited = {"answers": [{"reasoning": "", "content": edit, "calls": []}]}

    def work(conn: Any) -> str:
        named, at = ids.new("hold"), time.time()
        outcome = made.vault.put(conn, "hold", edited, keep_s) if edit else None
        place = made.vault.put(conn, "hold", BOX, keep_s)
        row = {
            "id": named,
            "response_id": f"chatcmpl_{named}",
            "key_id": key,
            "made_at": at,
            "expires_at": at + 9,
            "kind": "output",
        }
        row |= {
            "category": "food",
            "state": state,
            "policy": "p1",
            "findings": "[]",
            "vault_id": place,
            "outcome_vault_id": outcome,
        }
        conn.execute(insert(holds).values(**row, wanted=1, decided_at=at, message=""))
        rated = {"id": ids.new("rating"), "hold_id": named, "person_id": "person_alice", "at": at, "verdict": state}
        conn.execute(insert(ratings).values(**rated, label=label, category="", note="", second=False))
        return named

    return str(made.store.now(work))


def said(made: Any, response: str, rating: int, expected: str = "") -> None:
    def work(conn: Any) -> None:
        place = made.vault.put(conn, "feedback", {"comment": "", "expected": expected, "value": None}, 3600) if expected else None
        row = {"id": ids.new("fb"), "response_id": response, "key_id": "local", "at": time.time(), "rating": rating, "label": ""}
        conn.execute(insert(feedback).values(**row, vault_id=place))

    made.store.now(work)


def items(made: Any, **given: Any) -> list[Item]:
    return list(made.store.now(lambda c: export.items(c, made.vault, Pseudonyms.of(made.keyring), **given)))


def with_gateway(folder: Path, work: Any, made_of: Policy | None = None) -> None:
    async def main() -> None:
        async with gateway(folder, made_of or policy()) as made:
            await work(made)

    asyncio.run(main())


def test_edits_releases_and_corrections_become_dialogues_that_training_reads(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        held(made, "edited", edit="for six minutes")
        held(made, "released", label="safe")
        held(made, "released")
        held(made, "refused", label="unsafe")
        said(made, put(made, BOX), -1, "seven, from cold")
        said(made, put(made, BOX), 1)
        said(made, put(made, BOX), -1)
        rows = export.rows("sft", items(made))
        append_rows(tmp_path / "rows.jsonl", [{**r, "split": "train"} for r in rows])
        read = read_dialogues(str(tmp_path / "rows.jsonl"), split="train")
        found = {(d.reasoning, d.answer) for d in read}
        assert found == {("", "for six minutes"), ("eggs", "never ask"), ("", "seven, from cold")} and len(read) == 4
        assert all(d.example.group == read[0].example.group and d.example.license for d in read)

    with_gateway(tmp_path, work)


@pytest.mark.parametrize("changes", [{"action": "block"}, {"action": "review"}, {"action": "redact"}, {"status": 502}])
def test_applause_for_what_was_stopped_trains_nothing(tmp_path: Path, changes: Any) -> None:
    async def work(made: Any) -> None:
        said(made, put(made, BOX, **changes), 1)
        (found,) = items(made)
        assert found.bad and not found.good and export.rows("sft", [found]) == []

    with_gateway(tmp_path, work)


def test_a_correction_of_a_bad_answer_is_a_pair(tmp_path: Path) -> None:
    append_rows(tmp_path / "pairs.jsonl", export.rows("preference", [ITEM, replace(ITEM, id="x", good="never ask")]))
    (pair,) = read_pairs(str(tmp_path / "pairs.jsonl"))
    assert (pair.chosen, pair.rejected, pair.label_by, pair.aspect) == ("for six minutes", "never ask", "human", "over_refusal")
    assert pair.example.tags >= {"borderline"}


def test_judged_answers_are_what_harm_graders_read(tmp_path: Path) -> None:
    append_rows(tmp_path / "r.jsonl", export.rows("responses", [replace(ITEM, label="unsafe"), ITEM]))
    (found,) = read_responses(str(tmp_path / "r.jsonl"))
    assert (found.response, found.label, found.label_by) == ("never ask", "unsafe", "human")


def test_a_row_says_where_it_comes_from() -> None:
    (row,) = export.rows("sft", [ITEM])
    assert row["policy"] == "p1" and row["source"] == "temper-serve/review" and "not for publication" in row["license"]
    assert row["provenance"] == {"response": "chatcmpl_1", "kind": "review", "by": ["person-1"], "at": 1000.0}


def test_people_have_pseudonyms_that_are_the_same_each_time_and_tell_nothing(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        held(made, "edited", edit="a")
        held(made, "edited", edit="b")
        one, two = items(made)
        assert one.by == two.by and "alice" not in str(one) and one.by != (NAME("person_alice"),)

    with_gateway(tmp_path, work)


def test_a_key_without_leave_and_text_that_expired_give_no_rows_and_still_a_score(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        held(made, "edited", edit="a", key="key_private")
        held(made, "edited", edit="b", keep_s=-1)
        found = items(made)
        assert len(found) == 2 and export.rows("sft", found) == [] and export.rows("preference", found) == []
        assert len(export.rows("langfuse", found)) == 2

    with_gateway(tmp_path, work)


def test_scores_have_langfuses_shape_and_a_comment_only_on_request() -> None:
    (row,) = export.rows("langfuse", [replace(ITEM, comment="call 555 0199")])
    assert {k: row[k] for k in ("id", "traceId", "name", "value", "dataType")} == {
        "id": "hold_1",
        "traceId": "chatcmpl_1",
        "name": "review",
        "value": 0.0,
        "dataType": "BOOLEAN",
    }
    assert "555" not in json.dumps(row)
    (row,) = export.rows("langfuse", [replace(ITEM, value=None, comment="call 555 0199")], comments=True)
    assert (row["value"], row["dataType"], row["comment"]) == ("over-refusal", "CATEGORICAL", "call 555 0199")


def test_events_have_opentelemetrys_names() -> None:
    (row,) = export.rows("otel", [ITEM])
    assert row["eventName"] == "gen_ai.evaluation.result" and row["timeUnixNano"] == str(1000 * 10**9)
    assert row["attributes"]["gen_ai.evaluation.score.value"] == 0.0 and row["attributes"]["gen_ai.response.id"] == "chatcmpl_1"


def test_personal_data_is_replaced_by_the_gateways_own_filter() -> None:
    mail = "write to alice.liddell@example.org please"
    clean = export.without_pii(replace(ITEM, good=mail, bad=mail, comment=mail, messages=(Message("user", mail),)))
    assert "alice" not in str(clean) and clean.good == clean.messages[0].content != mail


def test_what_an_audit_found_can_be_exported(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        bad = put(made, {**BOX, "answers": [{"content": "so forbidden"}]})
        put(made, BOX)
        audit = await nightly.run(made, until=time.time() + 1)
        (found,) = items(made, audit=audit)
        assert (found.response_id, found.bad, found.label) == (bad, "so forbidden", "unsafe")
        (row,) = export.rows("responses", [found])
        assert row["label_by"] == "model"
        with pytest.raises(UsageError, match="no such audit"):
            items(made, audit="audit_none")

    with_gateway(tmp_path, work, policy(setting(Word()), audit=Sampled(filters=())))


def test_an_unknown_form_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="langfuse"):
        export.rows("langfus", [])


def test_an_admin_reads_the_export_over_http_and_that_is_on_record(tmp_path: Path) -> None:
    async def work(made: Any) -> None:
        held(made, "edited", edit="for six minutes")
        _, token = await asyncio.to_thread(made.keys.make, "a", ("admin",), by="test")
        async with client(made, export.routes(made), token=token) as http:
            reply = await http.get("/v1/export", params={"to": "preference"})
            assert json.loads(reply.text)["chosen"] == "for six minutes"
            assert (await http.get("/v1/export", params={"audit": "audit_none"})).status_code == 404
        assert "export.read" in made.store.now(lambda c: [r.kind for r in c.execute(journal.select())])

    with_gateway(tmp_path, work)


def test_the_command_writes_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(made: Any) -> None:
        held(made, "edited", edit="for six minutes")

    with_gateway(tmp_path, work)
    monkeypatch.setenv("TEMPER_SECRET", base64.b64encode(bytes(range(32))).decode())
    out = tmp_path / "pairs.jsonl"
    args = ["export", "--to", "preference", "--out", str(out), "--database", f"sqlite:///{tmp_path}/temper.db"]
    told = CliRunner().invoke(app, args)
    assert told.exit_code == 0, told.output
    assert told.output.startswith("1 rows in") and read_pairs(str(out))[0].chosen == "for six minutes"
    assert isinstance(CliRunner().invoke(app, args).exception, UsageError)


def test_all_of_it_works_on_postgresql(pg_server: postgres.Server, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateway(tmp_path, policy(setting(Word()), audit=Sampled(filters=())), pg_server.url()) as made:
            held(made, "edited", edit="for six minutes")
            response = put(made, {**BOX, "answers": [{"content": "so forbidden"}]})
            async with client(made, told.routes(made)) as http:
                body = {"response_id": response, "rating": -1, "expected": "no"}
                assert (await http.post("/v1/feedback", json=body)).status_code == 201
            audit = await nightly.run(made, until=time.time() + 1)
            assert [i.response_id for i in items(made, audit=audit)] == [response]
            assert {r["messages"][-1]["content"] for r in export.rows("sft", items(made))} == {"for six minutes", "no"}
            assert made.store.now(export.audits_made)[0]["missed"] == 1

    asyncio.run(main())
