"""The vault: text is read back by who has the key, for as long as it was to be kept, and no longer."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_parts import SECRET
from sqlalchemy import update

from temper.errors import StorageError
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import vault
from temper.serve.vault import Vault

pytest_plugins = ("serve_parts",)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(st.text(max_size=10), _JSON, max_size=4))
def test_what_is_put_is_got_back(store: Store, keyring: Keyring, value: dict[str, object]) -> None:
    kept = Vault(store, keyring)
    id_ = store.now(lambda c: kept.put(c, "hold", value, 60))
    assert store.now(lambda c: kept.get(c, id_)) == value


def test_nothing_of_the_text_is_in_the_database(keyring: Keyring, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/t.db")
    store.migrate()
    kept = Vault(store, keyring)
    store.now(lambda c: kept.put(c, "hold", {"prompt": "canary-7f3a canary-7f3a"}, 60))
    store.close()
    assert all(b"canary" not in f.read_bytes() for f in tmp_path.iterdir())


def test_what_expired_is_not_given_and_then_swept(store: Store, keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Vault(store, keyring)
    short, long = (store.now(lambda c, s=s: kept.put(c, "hold", {"a": s}, s)) for s in (10, 1000))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11)
    assert store.now(lambda c: kept.get(c, short)) is None
    assert store.now(lambda c: kept.get(c, long)) == {"a": 1000}
    assert store.now(kept.sweep) == 1
    assert store.now(kept.sweep) == 0
    assert store.now(lambda c: kept.get(c, long)) == {"a": 1000}
    assert store.now(lambda c: kept.get(c, "vault_unknown")) is None


@pytest.mark.parametrize(
    "change",
    [{"purpose": "export"}, {"expires_at": 4e9}, {"id": "vault_other"}, {"box": b"\0" * 60}, {"box": b""}],
    ids=["purpose", "expiry", "id", "box", "empty"],
)
def test_a_box_that_was_changed_moved_or_made_to_live_longer_does_not_open(
    store: Store, keyring: Keyring, change: dict[str, object]
) -> None:
    kept = Vault(store, keyring)
    id_ = store.now(lambda c: kept.put(c, "hold", {"a": 1}, 60))
    store.now(lambda c: c.execute(update(vault).values(change)))
    with pytest.raises(StorageError):
        store.now(lambda c: kept.get(c, str(change.get("id", id_))))


def test_a_new_secret_reads_old_boxes_while_the_old_one_is_kept(store: Store, keyring: Keyring) -> None:
    id_ = store.now(lambda c: Vault(store, keyring).put(c, "hold", {"a": 1}, 60))
    assert store.now(lambda c: Vault(store, Keyring([bytes(32), SECRET])).get(c, id_)) == {"a": 1}
    with pytest.raises(StorageError, match="put the old line back"):
        store.now(lambda c: Vault(store, Keyring([bytes(32)])).get(c, id_))
