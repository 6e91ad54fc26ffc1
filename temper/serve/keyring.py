"""The master secret and the keys derived from it. It lives in a file or the environment, never in the database.

The file holds one secret a line, 32 bytes in base64. The first is used; those below it only read what was written before, so a
secret is changed by putting a new line on top.
"""

import base64
import binascii
import os
import secrets
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from temper.errors import StorageError, UsageError
from temper.files import storage

VARIABLE = "TEMPER_SECRET"
PURPOSES = ("journal", "checkpoints", "vault", "cookie", "hooks", "links")
SIZE = 32


class Keyring:
    """Keys for each purpose, from the newest secret to the oldest."""

    def __init__(self, secrets_: Sequence[bytes]) -> None:
        if not secrets_ or any(len(s) != SIZE for s in secrets_):
            raise StorageError(f"a master secret of {[len(s) for s in secrets_]} bytes; wanted {SIZE} random bytes")
        self._secrets = tuple(secrets_)
        self.derived = cache(self._derived)

    def __repr__(self) -> str:
        return f"Keyring({len(self._secrets)} secrets)"

    def derive(self, purpose: str) -> bytes:
        """The key of a purpose, 32 bytes, from the newest secret."""
        return self.derived(purpose)[0]

    def _derived(self, purpose: str) -> tuple[bytes, ...]:
        """The keys of a purpose, the newest first: what was written under an older secret is still read."""
        if purpose not in PURPOSES:
            raise ValueError(f"no key is derived for {purpose!r}; known: {', '.join(PURPOSES)}")
        info = f"temper/{purpose}/1".encode()
        return tuple(HKDF(SHA256(), SIZE, salt=None, info=info).derive(s) for s in self._secrets)


def open_keyring(path: Path, *, make: bool = True) -> Keyring:
    """The keyring of the environment variable `TEMPER_SECRET`, else of the file. `make` says whether one that is missing is made.

    Raises `StorageError` where the file is readable by others or holds no secret, `UsageError` where it is missing and not made.
    """
    given = os.environ.get(VARIABLE, "")
    if given.strip():
        return Keyring(_parsed(given.replace(",", "\n"), f"the variable {VARIABLE}"))
    if not make and not path.is_file():
        raise UsageError(f"--secret {path}: no such file; wanted the one that `temper serve` was started with, or {VARIABLE}")
    if not path.exists():
        _make(path)
    mode = path.stat().st_mode & 0o077
    if mode and os.name == "posix":
        raise StorageError(f"{path}: others may read it (mode {path.stat().st_mode & 0o777:o}); chmod 600 {path}")
    return Keyring(_parsed(path.read_text(encoding="ascii", errors="replace"), str(path)))


def fresh() -> str:
    """A new secret as a line of the file."""
    return base64.b64encode(secrets.token_bytes(SIZE)).decode()


def _make(path: Path) -> None:
    """Several workers may start at once: the file appears whole, and the first one's stays."""
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(fresh() + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(beside, path)
            except FileExistsError:
                return
        finally:
            beside.unlink(missing_ok=True)


def _parsed(text: str, where: str) -> list[bytes]:
    found = []
    for line in text.split():
        try:
            found.append(base64.b64decode(line, validate=True))
        except (binascii.Error, ValueError):
            raise StorageError(f"{where}: a line is not base64; wanted {SIZE} random bytes: openssl rand -base64 32") from None
    if not found or any(len(s) != SIZE for s in found):
        raise StorageError(f"{where}: {[len(s) for s in found]} bytes; wanted {SIZE} random bytes: openssl rand -base64 32")
    return found
