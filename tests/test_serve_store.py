"""The store on both databases: transactions, migrations, the file's mode, a database that goes away and comes back."""

import asyncio
import stat
import sys
import threading
from pathlib import Path

import pytest
from bounded import WAIT_S, joined
from serve_parts import CHILDREN, SECRET
from sqlalchemy import func, insert, inspect, select
from sqlalchemy.exc import IntegrityError

from temper.errors import StorageError, UsageError
from temper.serve import ids, tables
from temper.serve.keyring import Keyring, fresh, open_keyring
from temper.serve.migrations import HEAD
from temper.serve.store import Store, config

pytest_plugins = ("serve_parts",)


def _spend(key: str) -> dict[str, object]:
    return {"key_id": key, "window": "day:1", "requests": 1, "tokens": 1}


def test_ids_sort_by_time_and_are_all_different() -> None:
    made = [ids.new("hold") for _ in range(2000)]
    assert len(set(made)) == 2000
    assert all(len(i) == 31 and i.startswith("hold_") for i in made)
    assert [i[:15] for i in made] == sorted(i[:15] for i in made)


def test_work_that_raises_leaves_nothing(store: Store) -> None:
    def half(connection: object) -> None:
        connection.execute(insert(tables.spent), _spend("a"))  # type: ignore[attr-defined]
        raise KeyError("stop")

    with pytest.raises(KeyError):
        store.now(half)
    assert store.now(lambda c: c.execute(select(func.count()).select_from(tables.spent)).scalar()) == 0


def test_foreign_keys_are_checked(store: Store) -> None:
    row = {"id": "r", "hold_id": "none", "person_id": "p", "at": 1.0, "verdict": "release"}
    with pytest.raises(IntegrityError):
        store.now(lambda c: c.execute(insert(tables.ratings), row))


def test_many_threads_write_without_losing_a_row(store: Store) -> None:
    async def main() -> None:
        await asyncio.gather(*(store.run(lambda c, i=i: c.execute(insert(tables.spent), _spend(f"k{i}"))) for i in range(60)))

    asyncio.run(main())
    assert store.now(lambda c: c.execute(select(func.count()).select_from(tables.spent)).scalar()) == 60


def test_a_reader_does_not_wait_for_a_writer(store: Store) -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(connection: object) -> None:
        connection.execute(insert(tables.spent), _spend("a"))  # type: ignore[attr-defined]
        inside.set()
        assert go.wait(WAIT_S)

    writer = threading.Thread(target=store.now, args=(slow,))
    writer.start()
    assert inside.wait(WAIT_S)
    assert store.now(lambda c: c.execute(select(func.count()).select_from(tables.spent)).scalar(), reads=True) == 0
    go.set()
    joined(writer, "the writer")


def test_migrating_an_empty_database_makes_exactly_the_tables(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection: object) -> object:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), tables.metadata)  # type: ignore[arg-type]

    assert store.now(differences) == []
    assert sorted(store.now(lambda c: inspect(c).get_table_names())) == sorted([*tables.metadata.tables, "alembic_version"])


def test_a_downgrade_takes_every_table_away(store: Store) -> None:
    from alembic import command

    store.now(lambda c: command.downgrade(config(c), "base"))
    assert store.now(lambda c: inspect(c).get_table_names()) == ["alembic_version"]
    store.migrate()
    assert set(tables.metadata.tables) < set(store.now(lambda c: inspect(c).get_table_names()))


def test_the_named_head_is_the_last_migration(store: Store) -> None:
    from alembic.script import ScriptDirectory

    assert store.now(lambda c: ScriptDirectory.from_config(config(c)).get_current_head()) == HEAD


def _migrated(url: str, gate: object) -> None:
    gate.wait(120)  # type: ignore[attr-defined]
    store = Store(url)
    store.migrate()
    store.close()


def test_two_processes_that_migrate_at_once_do_it_once(store_url: str) -> None:
    gate = CHILDREN.Barrier(2)
    both = [CHILDREN.Process(target=_migrated, args=(store_url, gate)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [p.exitcode for p in both] == [0, 0]


def test_tables_of_a_newer_version_are_refused(store: Store) -> None:
    store.now(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="newer temper"):
        store.migrate()


def test_what_is_up_to_date_needs_no_migration_library(tmp_path: Path) -> None:
    import subprocess

    url = f"sqlite:///{tmp_path}/t.db"
    made = Store(url)
    made.migrate()
    made.close()
    code = f"import sys; from temper.serve.store import Store; Store({url!r}).migrate(); assert 'alembic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], timeout=120)


def test_the_file_of_sqlite_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/deep/t.db")
    store.migrate()
    store.now(lambda c: c.execute(insert(tables.spent), _spend("a")))
    files = list((tmp_path / "deep").iterdir())
    assert {f.name for f in files} >= {"t.db", "t.db-wal"}
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    pragmas = {p: store.now(lambda c, p=p: c.exec_driver_sql(f"PRAGMA {p}").scalar()) for p in ("journal_mode", "synchronous")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}
    store.close()


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_another_kind_of_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UsageError, match="wanted sqlite:///FILE"):
        Store(url)
    with pytest.raises(UsageError) as error:
        Store("mysql://me:hunter2@h/d")
    assert "hunter2" not in str(error.value)


def test_the_secret_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "temper.secret"
    first = open_keyring(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_keyring(path).derive("vault") == first.derive("vault")
    assert len({first.derive(p) for p in ("journal", "vault", "cookie", "hooks", "links", "checkpoints")}) == 6
    path.chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        open_keyring(path)


def test_an_old_secret_still_reads_and_a_new_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = open_keyring(path)
    path.write_text(fresh() + "\n" + path.read_text())
    both = open_keyring(path)
    assert both.derive("vault") != old.derive("vault")
    assert both.derived("vault")[1] == old.derive("vault")


def test_the_secret_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import base64

    monkeypatch.setenv("TEMPER_SECRET", base64.b64encode(SECRET).decode())
    assert open_keyring(tmp_path / "none").derive("links") == Keyring([SECRET]).derive("links")
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("TEMPER_SECRET", "short")
    with pytest.raises(StorageError, match="TEMPER_SECRET") as error:
        open_keyring(tmp_path / "none")
    assert "short" not in str(error.value)
