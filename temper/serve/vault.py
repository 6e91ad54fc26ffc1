"""The only place where text of requests and answers is kept: encrypted, for a purpose, until it expires.

A box is zstd over JSON under AES-256-GCM. Its id, purpose and expiry are authenticated with it, so that a row cannot be moved,
relabelled or made to live longer by whoever writes to the database.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, insert, select

from temper.errors import StorageError
from temper.files import dumps
from temper.serve import ids
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import vault

_NONCE = 12
_NAME = 4  # bytes that tell which secret a box was made with


class Vault:
    """Boxes in the table `vault`."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self.store = store
        self._box = Box(keyring, "vault")

    def put(self, connection: Connection, purpose: str, value: Mapping[str, Any], keep_s: float) -> str:
        """Encrypt a JSON-able value for `keep_s` seconds; gives its id."""
        made, id_ = time.time(), ids.new("vault")
        expires = made + keep_s
        box = self._box.seal(zstandard.compress(dumps(value).encode()), _about(id_, purpose, expires))
        row = {"id": id_, "purpose": purpose, "made_at": made, "expires_at": expires, "box": box}
        connection.execute(insert(vault), row)
        return id_

    def get(self, connection: Connection, id_: str) -> dict[str, Any] | None:
        """The value, None where it expired or never was. Raises `StorageError` where it was tampered with."""
        row = connection.execute(select(vault).where(vault.c.id == id_, vault.c.expires_at > time.time())).one_or_none()
        if row is None:
            return None
        packed = self._box.open(row.box, _about(row.id, row.purpose, row.expires_at))
        found: dict[str, Any] = json.loads(zstandard.decompress(packed))
        return found

    def sweep(self, connection: Connection) -> int:
        """Delete what has expired; gives how many boxes."""
        return connection.execute(delete(vault).where(vault.c.expires_at <= time.time())).rowcount


class Box:
    """AES-256-GCM with the keys of one purpose; `about` is authenticated and must be the same on opening."""

    def __init__(self, keyring: Keyring, purpose: str) -> None:
        self._keys = {hashlib.sha256(key).digest()[:_NAME]: AESGCM(key) for key in keyring.derived(purpose)}
        self._newest = next(iter(self._keys))

    def seal(self, body: bytes, about: str) -> bytes:
        nonce = os.urandom(_NONCE)
        return self._newest + nonce + self._keys[self._newest].encrypt(nonce, body, about.encode())

    def open(self, box: bytes, about: str) -> bytes:
        """Raises `StorageError` where the box is damaged, or was made with a secret that is no longer kept."""
        name, nonce, body = box[:_NAME], box[_NAME : _NAME + _NONCE], box[_NAME + _NONCE :]
        if name not in self._keys:
            raise StorageError("an encrypted value was made with a secret that is not in the secret file; put the old line back")
        try:
            return self._keys[name].decrypt(nonce, body, about.encode())
        except InvalidTag:
            raise StorageError("an encrypted value in the database was changed: it does not open with its key") from None


def _about(id_: str, purpose: str, expires: float) -> str:
    return f"{id_} {purpose} {expires!r}"
