"""The audit journal: what is written is committed, and whatever is changed afterwards is found, on both databases."""

import asyncio
import itertools
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bounded import until
from cryptography.exceptions import InvalidSignature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_parts import SECRET, answer, writing
from sqlalchemy import Connection, Table, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from temper.errors import StorageError
from temper.serve import chain
from temper.serve import journal as journals
from temper.serve.journal import Journal, verify
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import counters, responses, spent
from temper.serve.tables import journal as lines
from temper.serve.verify import public_key

pytest_plugins = ("serve_parts",)


@pytest.fixture
def written(store: Store, keyring: Keyring, tmp_path: Path) -> Iterator[Path]:
    """Two closed lanes of nine rows or so; gives the folder of checkpoints."""
    folder = tmp_path / "checkpoints"
    for _ in range(2):
        with writing(store, keyring, folder) as made:
            for i in range(3):
                made.response(answer(first_s=None if i else 0.1, findings=json.dumps([{"filter": "pii", "shadow": bool(i)}])))
            made.write("thing.made", "hold_1", {"by": "pérson", "n": 1})
            made.flush()
            made.checkpoint()
            made.write("thing.decided", "hold_1", {"by": "pérson", "verdict": "release"})
    assert verify(store, keyring, folder).problems == []
    return folder


def _rows(store: Store, table: Table) -> list[dict[str, Any]]:
    order = (table.c.lane, table.c.seq) if table is lines else (table.c.id,)
    return [dict(r) for r in store.now(lambda c: c.execute(select(table).order_by(*order)).mappings().all())]


def _another(value: Any, column: Any) -> Any:
    """A value of the same type that is not the one given."""
    if value is None:
        return 1.5 if column.name == "first_s" else "x"
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return ("y" if value[:1] == "x" else "x") + value[1:]


def test_an_edit_of_any_column_of_any_row_is_found(store: Store, keyring: Keyring, written: Path) -> None:
    for row in _rows(store, lines)[:8]:
        for column in lines.columns:
            changed = row[column.name] + 1000 if column.name == "seq" else _another(row[column.name], column)
            now = {**row, column.name: changed}
            _edit(store, row, now)
            assert verify(store, keyring, written).problems, (column.name, row)
            _edit(store, now, row)
    assert verify(store, keyring, written).problems == []


def _edit(store: Store, old: dict[str, Any], new: dict[str, Any]) -> None:
    at = lines.c.lane == old["lane"], lines.c.seq == old["seq"]
    assert store.now(lambda c: c.execute(update(lines).where(*at).values(new))).rowcount == 1


def test_an_edit_of_any_column_of_an_answer_is_found(store: Store, keyring: Keyring, written: Path) -> None:
    for row in _rows(store, responses)[:2]:
        for column in responses.columns:
            now = {**row, column.name: _another(row[column.name], column)}
            store.now(lambda c, i=row["id"], now=now: c.execute(update(responses).where(responses.c.id == i).values(now)))
            assert verify(store, keyring, written).problems, (column.name, row)
            store.now(lambda c, i=now["id"], row=row: c.execute(update(responses).where(responses.c.id == i).values(row)))
    assert verify(store, keyring, written).problems == []


def test_each_deletion_of_one_row_is_found(store: Store, keyring: Keyring, written: Path) -> None:
    for row in _rows(store, lines):
        at = lines.c.lane == row["lane"], lines.c.seq == row["seq"]
        store.now(lambda c, at=at: c.execute(delete(lines).where(*at)))
        assert verify(store, keyring, written).problems, row
        store.now(lambda c, row=row: c.execute(insert(lines), row))
    for row in _rows(store, responses):
        store.now(lambda c, i=row["id"]: c.execute(delete(responses).where(responses.c.id == i)))
        assert "removed from the table responses" in verify(store, keyring, written).problems[0]
        store.now(lambda c, row=row: c.execute(insert(responses), row))


def test_every_length_of_truncation_is_found_and_so_is_a_lane_that_is_gone(store: Store, keyring: Keyring, written: Path) -> None:
    rows = _rows(store, lines)
    lane = rows[-1]["lane"]
    own = [r for r in rows if r["lane"] == lane]
    gone = [r["subject"] for r in own if r["kind"] == "response"]
    answers = [r for r in _rows(store, responses) if r["id"] in gone]
    for kept in range(len(own)):
        at = lines.c.lane == lane, lines.c.seq > kept
        store.now(lambda c, at=at: c.execute(delete(lines).where(*at)))
        left = {r["subject"] for r in own[:kept]}
        lost = [g for g in gone if g not in left]
        store.now(lambda c, lost=lost: c.execute(delete(responses).where(responses.c.id.in_(lost))))
        problems = verify(store, keyring, written).problems
        assert any("cut off" in p if kept else "whole lane" in p for p in problems), (kept, problems)
        store.now(lambda c, rest=own[kept:]: c.execute(insert(lines), rest))
        back = [a for a in answers if a["id"] in lost]
        if back:
            store.now(lambda c, back=back: c.execute(insert(responses), back))
    assert verify(store, keyring, written).problems == []


def test_two_rows_in_another_order_are_found(store: Store, keyring: Keyring, written: Path) -> None:
    rows = _rows(store, lines)
    for one, two in itertools.pairwise(rows):
        _swap(store, one, two)
        assert verify(store, keyring, written).problems, (one, two)
        _swap(store, {**one, "lane": two["lane"], "seq": two["seq"]}, {**two, "lane": one["lane"], "seq": one["seq"]})
    assert verify(store, keyring, written).problems == []


def _swap(store: Store, one: dict[str, Any], two: dict[str, Any]) -> None:
    def work(connection: Connection) -> None:
        for row in (one, two):
            connection.execute(delete(lines).where(lines.c.lane == row["lane"], lines.c.seq == row["seq"]))
        places = ({"lane": two["lane"], "seq": two["seq"]}, {"lane": one["lane"], "seq": one["seq"]})
        connection.execute(insert(lines), [{**one, **places[0]}, {**two, **places[1]}])

    store.now(work)


def test_two_whole_lanes_that_change_names_are_found(store: Store, keyring: Keyring, written: Path) -> None:
    a, b = sorted({r["lane"] for r in _rows(store, lines)})

    def work(connection: Connection) -> None:
        for old, new in ((a, "between"), (b, a), ("between", b)):
            connection.execute(update(lines).where(lines.c.lane == old).values(lane=new))

    store.now(work)
    assert verify(store, keyring, written).problems


@pytest.mark.parametrize("seq", [-1, 0, 1000])
def test_an_inserted_row_is_found(store: Store, keyring: Keyring, written: Path, seq: int) -> None:
    row = _rows(store, lines)[2]
    store.now(lambda c: c.execute(insert(lines), {**row, "seq": seq}))
    assert verify(store, keyring, written).problems


def test_an_answer_without_a_line_is_found(store: Store, keyring: Keyring, written: Path) -> None:
    store.now(lambda c: c.execute(insert(responses), answer(id="resp_forged")))
    assert "resp_forged" in verify(store, keyring, written).problems[0]


def test_a_lane_made_with_another_key_is_found(store: Store, keyring: Keyring, written: Path, tmp_path: Path) -> None:
    with writing(store, Keyring([bytes(32)]), tmp_path / "elsewhere"):
        pass
    assert any("another secret" in p for p in verify(store, keyring, written).problems)


def test_the_wrong_secret_vouches_for_nothing_and_an_old_one_reads(store: Store, keyring: Keyring, written: Path) -> None:
    found = verify(store, Keyring([bytes(32)]), written)
    assert any("another secret" in p for p in found.problems)
    assert any("not signed with this secret" in p for p in found.problems)
    assert verify(store, Keyring([bytes(32), SECRET]), written).problems == []


def test_values_of_another_type_are_told_and_not_stumbled_over(store: Store, keyring: Keyring, written: Path) -> None:
    if not store.sqlite:
        pytest.skip("PostgreSQL holds values of a column's type only")
    row = _rows(store, lines)[3]
    where = f"WHERE lane = '{row['lane']}' AND seq = {row['seq']}"
    for change in ("at = 'noon'", "body = x'00ff'", "seq = 'three'", "body = CAST(x'ff' AS TEXT)", "mac = NULL"):
        with store.engine.connect() as connection, connection.begin() as transaction:
            before = [tuple(r) for r in connection.exec_driver_sql(f"SELECT * FROM journal {where}")]
            try:
                connection.exec_driver_sql(f"UPDATE journal SET {change} {where}")
            except IntegrityError:
                continue
            transaction.commit()
        assert verify(store, keyring, written).problems, change
        with store.engine.begin() as connection:
            connection.exec_driver_sql(
                f"DELETE FROM journal WHERE rowid = (SELECT rowid FROM journal WHERE mac = '{row['mac']}')"
            )
            connection.exec_driver_sql("INSERT INTO journal VALUES (?,?,?,?,?,?,?)", before[0])
    assert verify(store, keyring, written).problems == []


def _pages(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _drop_file(folder: Path) -> None:
    _pages(folder)[0].unlink()


def _drop_all(folder: Path) -> None:
    shutil.rmtree(folder)


def _drop_first_line(folder: Path) -> None:
    path = _pages(folder)[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


def _drop_journaled_lines(folder: Path) -> None:
    path = _pages(folder)[0]
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def _swap_lines(folder: Path) -> None:
    path = _pages(folder)[0]
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([second, first, *rest]))


def _repeat_line(folder: Path) -> None:
    path = _pages(folder)[0]
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])


def _change_seq(folder: Path) -> None:
    path = _pages(folder)[0]
    first, *rest = path.read_bytes().splitlines(keepends=True)
    page = json.loads(first)
    page["heads"][0][1] += 1
    path.write_bytes(b"".join([chain.encode(page).encode() + b"\n", *rest]))


def _garble(folder: Path) -> None:
    path = _pages(folder)[0]
    path.write_bytes(b"\xff{]\n" + path.read_bytes())


def _swap_files(folder: Path) -> None:
    one, two = _pages(folder)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


@pytest.mark.parametrize(
    "harm",
    [
        _drop_file,
        _drop_all,
        _drop_first_line,
        _drop_journaled_lines,
        _swap_lines,
        _repeat_line,
        _change_seq,
        _garble,
        _swap_files,
    ],
)
def test_harm_to_the_checkpoints_is_found(store: Store, keyring: Keyring, written: Path, harm: Callable[[Path], None]) -> None:
    harm(written)
    assert verify(store, keyring, written).problems


def test_an_old_backup_of_the_database_is_found(keyring: Keyring, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/t.db")
    store.migrate()
    folder = tmp_path / "checkpoints"
    with writing(store, keyring, folder) as journal:
        journal.response(answer())
    store.close()
    shutil.copy(tmp_path / "t.db", tmp_path / "backup.db")
    store = Store(f"sqlite:///{tmp_path}/t.db")
    with writing(store, keyring, folder) as journal:
        journal.response(answer())
    store.close()
    old = Store(f"sqlite:///{tmp_path}/backup.db")
    assert any("whole lane was removed" in p for p in verify(old, keyring, folder).problems)
    old.close()


_VALUES = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.none())
_BODIES = st.dictionaries(st.text(max_size=8), _VALUES, max_size=4)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    acts=st.lists(st.tuples(st.text(min_size=1, max_size=60), _BODIES), min_size=1, max_size=8),
    harm=st.sampled_from(["edit", "delete", "copy"]),
    where=st.integers(0, 1000),
)
def test_whatever_is_written_reads_back_and_whatever_is_changed_is_found(
    store: Store, keyring: Keyring, tmp_path: Path, acts: list[tuple[str, dict[str, Any]]], harm: str, where: int
) -> None:
    folder = tmp_path / "property"
    shutil.rmtree(folder, ignore_errors=True)
    store.now(lambda c: c.execute(delete(lines)))
    with writing(store, keyring, folder) as journal:
        for subject, body in acts:
            journal.write("thing.made", subject, body)
    assert verify(store, keyring, folder).problems == []
    rows = _rows(store, lines)
    row = rows[where % len(rows)]
    at = lines.c.lane == row["lane"], lines.c.seq == row["seq"]
    if harm == "edit":
        store.now(lambda c: c.execute(update(lines).where(*at).values(body=row["body"] + " ")))
    elif harm == "delete":
        store.now(lambda c: c.execute(delete(lines).where(*at)))
    else:
        store.now(lambda c: c.execute(insert(lines), {**row, "seq": len(rows) + 1}))
    assert verify(store, keyring, folder).problems


def test_a_batch_writes_answers_lines_and_counters_together(
    store: Store, keyring: Keyring, journal: Journal, tmp_path: Path
) -> None:
    async def main() -> None:
        for i in range(600):
            harm = [{"filter": "harm", "shadow": True, "score": s} for s in (0.5, 0.25)]
            found = [{"filter": "pii", "shadow": False, "score": None}, *harm] if i < 10 else []
            row = answer(at=7200.0 + i, action="block" if i < 10 else "allow", findings=json.dumps(found))
            journal.response(row)
        assert journal.waiting > 0
        await journal.settled()
        assert journal.waiting == 0

    asyncio.run(main())
    rows = store.now(lambda c: c.execute(select(counters)).mappings().all())
    found = {(r["hour"], r["name"]): (r["n"], r["total"], r["squares"]) for r in rows}
    assert found[2, "requests"] == (600, 150.0, 37.5)
    assert found[2, "action:block"] == (10, 10.0, 10.0)
    assert found[2, "filter:pii"][0] == found[2, "shadow:harm"][0] == 10
    assert found[2, "score:harm"] == (10, 5.0, 2.5), "the highest score of an answer"
    assert found[2, "completion_tokens"] == (600, 4200.0, 29400.0)
    assert store.now(lambda c: c.execute(select(func.count()).select_from(responses)).scalar()) == 600
    assert verify(store, keyring, tmp_path / "checkpoints").problems == []


def test_text_that_a_database_refuses_is_made_fit_and_reads_back(store: Store, keyring: Keyring, written: Path) -> None:
    with writing(store, keyring, written) as journal:
        odd = "m\0\ud800" + "é" * 300
        journal.response(answer(model=odd, completion_tokens=10**30, seconds=float("nan"), first_s=3))
        journal.write("note", "s" * 99, {"odd": odd})
    assert verify(store, keyring, written).problems == []
    row = next(r for r in _rows(store, responses) if r["model"].startswith("m\ufffd"))
    assert (len(row["model"]), row["completion_tokens"], row["seconds"]) == (200, 2**31 - 1, 0.0)


def test_a_row_with_another_set_of_columns_is_refused_at_once(journal: Journal) -> None:
    with pytest.raises(ValueError, match="'colour'"):
        journal.response({**answer(), "colour": "red"})
    row = answer()
    del row["model"]
    with pytest.raises(ValueError, match="'model'"):
        journal.response(row)


def test_a_row_that_the_database_refuses_for_good_stops_no_other(
    store: Store, keyring: Keyring, journal: Journal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        for id_ in ("resp_a", "resp_b", "resp_a", "resp_c"):
            journal.response(answer(id=id_))
        journal.flush()
    assert [r["id"] for r in _rows(store, responses)] == ["resp_a", "resp_b", "resp_c"]
    assert "refused a row of kind response" in caplog.text
    assert [r["subject"] for r in _rows(store, lines) if r["kind"] == "row.refused"] == ["resp_a"]
    journal.checkpoint()
    journal.flush()
    assert verify(store, keyring, tmp_path / "checkpoints").problems == []


def test_an_act_and_its_line_are_committed_together_or_not_at_all(store: Store, journal: Journal) -> None:
    row = {"key_id": "k", "window": "day:1", "requests": 1, "tokens": 1}
    assert journal.act("thing.made", "k", {}, lambda c: bool(c.execute(insert(spent), row))).result(10)
    with pytest.raises(IntegrityError):
        journal.act("thing.made", "again", {}, lambda c: c.execute(insert(spent), row)).result(10)
    assert [r["subject"] for r in _rows(store, lines) if r["kind"] == "thing.made"] == ["k"]


def test_who_gives_up_waiting_for_an_act_stops_neither_it_nor_the_journal(store: Store, journal: Journal) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(asyncio.wrap_future(journal.act("note", "s", {}, lambda _: 1)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await journal.settled()

    asyncio.run(main())
    assert journal.accepts
    assert "note" in [r["kind"] for r in _rows(store, lines)]


def test_while_the_database_is_away_nothing_is_lost_and_nothing_more_is_taken(
    store: Store, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "QUEUE", 20)
    full = OperationalError("INSERT", {}, Exception("database or disk is full"))
    real = store.now

    def broken(work: Any, *, reads: bool = False) -> Any:
        raise full

    with writing(store, keyring, tmp_path / "c") as journal:
        assert journal.accepts
        monkeypatch.setattr(store, "now", broken)
        journal.response(answer(id="resp_1"))
        until(lambda: bool(journal.trouble), "the journal to notice")
        assert not journal.accepts
        assert "disk is full" in journal.trouble
        with pytest.raises(StorageError, match="is full"):
            for _ in range(30):
                journal.response(answer())
        monkeypatch.setattr(store, "now", real)
        journal.flush()
        assert journal.accepts
    assert len(_rows(store, responses)) in (19, 20)  # the line of the first checkpoint may wait among them
    assert verify(store, keyring, tmp_path / "c").problems == []


def test_a_full_disk_under_sqlite_is_waited_out(keyring: Keyring, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/t.db")
    store.migrate()
    pages = store.now(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())

    def limit(most: int) -> None:
        store.engine.dispose()  # the limit is each connection's own
        limit.most = most  # type: ignore[attr-defined]

    from sqlalchemy import event

    limit.most = 1 << 30  # type: ignore[attr-defined]
    event.listen(store.engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={limit.most}"))  # type: ignore[attr-defined]
    with writing(store, keyring, tmp_path / "c") as journal:
        limit(pages + 8)
        for _ in range(1000):
            journal.response(answer())
        until(lambda: bool(journal.trouble), "the journal to notice")
        assert "full" in journal.trouble
        limit(1 << 30)
        journal.flush()
        assert journal.accepts
    assert len(_rows(store, responses)) == 1000
    assert verify(store, keyring, tmp_path / "c").problems == []
    store.close()


def test_a_restart_of_postgresql_loses_no_row(pg_server: Any, keyring: Keyring, tmp_path: Path) -> None:
    store = Store(pg_server.url())
    store.migrate()
    with writing(store, keyring, tmp_path / "c") as journal:
        journal.response(answer())
        journal.flush()
        pg_server.stop()
        try:
            for _ in range(50):
                journal.response(answer())
            until(lambda: bool(journal.trouble), "the journal to notice")
        finally:
            pg_server.start()
        for _ in range(50):
            journal.response(answer())
        journal.flush()
        assert journal.accepts
    assert len(_rows(store, responses)) == 101
    assert verify(store, keyring, tmp_path / "c").problems == []
    store.close()


def test_a_commit_whose_answer_got_lost_is_not_done_twice(
    store: Store, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.now
    lost = [OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))]

    def after_commit(work: Any, *, reads: bool = False) -> Any:
        result = real(work, reads=reads)
        if lost and not reads:
            raise lost.pop()
        return result

    row = {"key_id": "k", "window": "day:1", "requests": 1, "tokens": 1}
    with writing(store, keyring, tmp_path / "c") as journal:
        journal.flush()
        monkeypatch.setattr(store, "now", after_commit)
        assert journal.act("thing.made", "k", {}, lambda c: bool(c.execute(insert(spent), row))).result(10)
        assert lost == []
    assert sum(r["kind"] == "thing.made" for r in _rows(store, lines)) == 1
    assert verify(store, keyring, tmp_path / "c").problems == []


def test_a_closed_journal_takes_nothing(store: Store, keyring: Keyring, tmp_path: Path) -> None:
    journal = Journal(store, keyring, tmp_path / "c")
    with pytest.raises(StorageError, match="closed"):
        journal.write("note", "s", {})
    journal.start()
    asyncio.run(journal.close())
    assert not journal.accepts
    with pytest.raises(StorageError, match="closed"):
        journal.response(answer())
    assert [r["kind"] for r in _rows(store, lines)] == ["lane.opened", "checkpoint", "lane.closed"]


def test_nobody_waits_for_a_writer_that_is_no_more(
    store: Store, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)

    class Panic(BaseException):
        """What a library in Rust raises."""

    def panics(_: Any) -> None:
        raise Panic

    journal = Journal(store, keyring, tmp_path / "c")
    journal.start()
    for waiting in (journal.act("note", "s", {}, panics), journal._turn()):
        with pytest.raises(StorageError, match="ended by Panic"):
            waiting.result(10)
    assert not journal.accepts
    assert [r.exc_type for r in raised] in ([], [Panic]), "the thread may be at its end, or past it"
    with pytest.raises(StorageError, match="could not be saved: the thread that writes ended by Panic"):
        journal.stop()
    late = Journal(store, keyring, tmp_path / "d")
    late.start()
    late.stop()
    late._thread, late._closing = threading.current_thread(), threading.Event()  # as one sees it who looked just before
    with pytest.raises(StorageError, match="it was stopped"):
        late._turn().result(10)


def test_a_clock_that_goes_back_is_told_and_is_no_problem(
    store: Store, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(store, keyring, tmp_path / "c") as journal:
        monkeypatch.setattr(journals.time, "time", lambda: 1000.0)
        journal.write("note", "s", {})
        monkeypatch.undo()
    found = verify(store, keyring, tmp_path / "c")
    assert found.problems == []
    assert any("clock went back" in n for n in found.notes)


def test_a_checkpoint_that_cannot_be_written_is_told_and_made_up_for(store: Store, keyring: Keyring, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with writing(store, keyring, folder) as journal:
        shutil.rmtree(folder)
        folder.write_text("in the way")
        with pytest.raises(StorageError, match="no checkpoint"):
            journal.checkpoint()
        assert journal.accepts
        folder.unlink()


def test_verifying_beside_a_gateway_at_work_finds_nothing(store: Store, keyring: Keyring, tmp_path: Path) -> None:
    with writing(store, keyring, tmp_path / "c") as journal:
        for _ in range(5):
            for _ in range(50):
                journal.response(answer())
            journal.checkpoint()
            assert verify(store, keyring, tmp_path / "c").problems == []


def test_an_auditor_checks_checkpoints_with_the_public_key_as_the_docs_say(keyring: Keyring, written: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "audit-log.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    first = _pages(written)[0].read_text(encoding="utf-8").splitlines()[0]
    assert names["check"](first, public_key(keyring))["number"] == 1
    with pytest.raises(InvalidSignature):
        names["check"](first.replace('"number":1', '"number":2'), public_key(keyring))
