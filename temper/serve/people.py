"""People who review and administer: passwords under argon2, guesses slowed down, and signed cookies for sessions.

A session ends an hour after its last request, twelve hours after the sign-in, and at once where its person signs out, gets a new
password or is disabled.
"""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from itsdangerous import BadData, URLSafeTimedSerializer
from sqlalchemy import ColumnElement, Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from temper.errors import UnknownName, UsageError, nearest
from temper.serve import ids
from temper.serve.chain import clean
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import people

Role = Literal["reviewer", "admin"]
ROLES: tuple[Role, ...] = ("reviewer", "admin")
"""From the least to the most: an admin may do what a reviewer may."""
SHORTEST = 10  # characters of a password
IDLE_S = 3600.0
SESSION_S = 43_200.0
RENEW_S = 60.0
_FREE = 3  # guesses without a wait
_LONGEST_WAIT_S = 300.0
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a password, and what they may do."""

    id: str
    name: str
    role: Role

    def may(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in person. `csrf` must come with each form; `cookie` is a renewed cookie where one is due, else ""."""

    person: Person
    csrf: str
    cookie: str = ""


class Throttled(Exception):
    """Too many wrong passwords for a name or from an address; `retry_after_s` says when the next guess is heard."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many attempts; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class People:
    """The people in the database. Methods block: call them in a thread."""

    def __init__(self, store: Store, keyring: Keyring, journal: Journal) -> None:
        self.store = store
        self.journal = journal
        self._hasher = PasswordHasher()
        self._one = threading.Lock()  # a hash takes 64 MiB: one at a time
        self._slow = _Slowdown()
        newest_last = list(reversed(keyring.derived("cookie")))
        self._seal = URLSafeTimedSerializer(newest_last, salt="session", signer_kwargs={"digest_method": sha256})
        self._csrf = keyring.derive("cookie")

    def add(self, name: str, password: str, role: str, *, by: str) -> Person:
        """A new person. Raises `UsageError` for a name that is taken, a role that is none, a password too short."""
        name = _name(name)
        if role not in ROLES:
            raise UsageError(f"role {role!r}: {nearest(role, ROLES)}")
        person = Person(ids.new("person"), name, role)
        row = {"id": person.id, "name": name, "argon2": self._hash(password), "role": role, "made_at": time.time()}
        try:
            self.journal.act(
                "person.added", person.id, {"name": name, "role": role, "by": by}, lambda c: c.execute(insert(people), row)
            ).result()
        except IntegrityError:
            raise UsageError(f"somebody is called {name!r} already; choose another name") from None
        return person

    def check(self, name: str, password: str, address: str = "") -> Person | None:
        """Who this is, None where name or password is wrong. Raises `Throttled` after several wrong ones."""
        name = clean(name.strip(), 200)
        places = (f"name {name}", f"address {address}") if address else (f"name {name}",)
        self._slow.begin(places)
        row = self.store.now(lambda c: _found(c, people.c.name == name), reads=True)
        # a name that is not known takes as long as one that is
        right = self._verify(row["argon2"] if row else self._nobody, password) and row is not None and row["disabled_at"] is None
        if not right or row is None:
            self.journal.write("person.refused", row["id"] if row else "unknown", {"address": address})
            return None
        self._slow.right(places)
        if self._hasher.check_needs_rehash(row["argon2"]):
            again = self._hash(password)
            self.store.now(lambda c: c.execute(update(people).where(people.c.id == row["id"]).values(argon2=again)))
        self.journal.write("person.signed_in", row["id"], {"address": address})
        return _person(row)

    def password(self, name: str, password: str, *, by: str) -> None:
        """Set a new password and end the person's sessions. Raises `UnknownName`, `UsageError`."""
        self._change(name, "person.password", by, argon2=self._hash(password), session=people.c.session + 1)

    def disable(self, name: str, *, by: str) -> None:
        """End a person's access and sessions. Raises `UnknownName`."""
        self._change(name, "person.disabled", by, disabled_at=time.time(), session=people.c.session + 1)

    def sign_out(self, person: Person) -> None:
        """Void every cookie of the person."""
        self._change(person.name, "person.signed_out", person.name, session=people.c.session + 1)

    def all(self) -> list[dict[str, Any]]:
        """Every person by name, without hashes."""
        kept = [people.c[n] for n in ("id", "name", "role", "made_at", "disabled_at")]
        return [dict(r) for r in self.store.now(lambda c: c.execute(select(*kept).order_by(people.c.name)).mappings().all())]

    def cookie(self, person: Person) -> str:
        """A cookie for a new session of a person whose password was just checked."""
        row = self.store.now(lambda c: _found(c, people.c.id == person.id), reads=True)
        return self._made(person.id, row["session"] if row else -1, time.time(), secrets.token_urlsafe(16))

    def session(self, cookie: str) -> Session | None:
        """Whose session a cookie is, None where it is not ours, too old or void."""
        read = self._read(cookie)
        if read is None:
            return None
        (id_, version, started, nonce), signed = read
        row = self.store.now(lambda c: _found(c, people.c.id == id_), reads=True)
        if row is None or row["disabled_at"] is not None or row["session"] != version:
            return None
        renewed = self._made(id_, version, started, nonce) if time.time() - signed > RENEW_S else ""
        token = hmac.new(self._csrf, f"csrf {id_} {nonce}".encode(), sha256).hexdigest()
        return Session(_person(row), token, renewed)

    def _made(self, id_: str, version: int, started: float, nonce: str) -> str:
        made: str = self._seal.dumps([id_, version, started, nonce])
        return made

    def _read(self, cookie: str) -> tuple[tuple[str, int, float, str], float] | None:
        try:
            (id_, version, started, nonce), signed = self._seal.loads(cookie, max_age=int(IDLE_S), return_timestamp=True)
        except BadData:
            return None
        if not started <= time.time() < started + SESSION_S:
            return None
        return (id_, version, started, nonce), signed.timestamp()

    def _change(self, name: str, kind: str, by: str, **values: Any) -> None:
        row = self.store.now(lambda c: _found(c, people.c.name == name.strip()), reads=True)
        if row is None:
            known = self.store.now(lambda c: list(c.execute(select(people.c.name)).scalars()), reads=True)
            raise UnknownName(f"nobody is called {name!r}; {nearest(name, known)}")
        change = update(people).where(people.c.id == row["id"]).values(**values)
        self.journal.act(kind, row["id"], {"by": by}, lambda c: c.execute(change)).result()

    def _hash(self, password: str) -> str:
        if len(password) < SHORTEST:
            raise UsageError(f"a password of {len(password)} characters; wanted at least {SHORTEST}")
        if len(password) > 1024:
            raise UsageError("a password of more than 1,024 characters; choose a shorter one")
        with self._one:
            return self._hasher.hash(password)

    def _verify(self, known: str, password: str) -> bool:
        with self._one:
            try:
                return self._hasher.verify(known, password[:1024])
            except (VerificationError, InvalidHashError):
                return False

    @cached_property
    def _nobody(self) -> str:
        return self._hash(secrets.token_urlsafe(32))


class _Slowdown:
    """Wrong guesses by name and by address: three are free, then each doubles the wait. This worker's own memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and until when the next is not heard

    def begin(self, places: Sequence[str]) -> None:
        """Count a guess as wrong before it is judged, so that many at once gain nothing. Raises `Throttled`."""
        now = time.monotonic()
        with self._lock:
            wait = max(self._tries.get(place, (0, 0.0))[1] for place in places) - now
            if wait > 0:
                raise Throttled(wait)
            for place in places:
                count = self._tries.pop(place, (0, 0.0))[0] + 1
                pause = min(2.0 ** (count - _FREE), _LONGEST_WAIT_S) if count >= _FREE else 0.0
                self._tries[place] = (count, now + pause)
            while len(self._tries) > _REMEMBERED:
                self._tries.popitem(last=False)

    def right(self, places: Sequence[str]) -> None:
        with self._lock:
            for place in places:
                self._tries.pop(place, None)


def _name(given: str) -> str:
    name = given.strip()
    if not name or len(name) > 200 or not name.isprintable():
        raise UsageError("a person needs a name of 1 to 200 printable characters")
    return name


def _found(connection: Connection, where: ColumnElement[bool]) -> RowMapping | None:
    return connection.execute(select(people).where(where)).mappings().one_or_none()


def _person(row: RowMapping) -> Person:
    return Person(row["id"], row["name"], row["role"])
