"""Reads the audit journal back and says what was changed: edits, insertions, deletions, another order, rows cut off. What the
tables say of held items, keys, people and policies is held against it too: nothing was released that nobody released.

The chain alone finds every change but one, rows missing at the end of a lane or a whole lane; those are found up to the last
checkpoint. Reading takes one snapshot of the database, so that it may run beside a gateway at work.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, Table, exists, func, select
from sqlalchemy.exc import DBAPIError

from temper.serve.chain import encode, mac, row_digest
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import holds, journal, keys, people, policies, responses

SHOWN = 200  # problems that are told one by one
_ROWS = 1000
_TYPES = {"lane": str, "seq": int, "at": float, "kind": str, "subject": str, "body": str, "mac": str}


@dataclass(slots=True)
class Report:
    """What was found. `problems` is empty for a journal that nobody changed; `notes` are no problems, but worth knowing."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lanes: int = 0
    rows: int = 0
    checkpoints: int = 0
    more: int = 0

    def problem(self, text: str) -> None:
        if len(self.problems) < SHOWN:
            self.problems.append(text)
        else:
            self.more += 1


@dataclass(slots=True)
class _Lane:
    """A lane while it is read: its key, its last row, and what is still to be told of it."""

    key: bytes | None = None
    seq: int = 0
    mac: str = ""
    at: float = 0.0
    last: str = ""
    back: int = 0


_MADE: Mapping[str, tuple[str, Table]] = {
    "hold.made": ("item", holds),
    "key.made": ("key", keys),
    "person.added": ("person", people),
    "policy.stored": ("policy", policies),
}


@dataclass(slots=True)
class _Acts:
    """What the lines say was made, by kind and id; the last verdict of each person on each item; the ids that were ended."""

    made: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in _MADE})
    said: dict[str, dict[str, str]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def read(self, row: Mapping[str, Any]) -> None:
        kind, id_ = row["kind"], row["subject"]
        if kind in _MADE:
            self.made[kind][id_] = _table(row["body"])
        elif kind == "hold.rated":
            told = _table(row["body"])
            if not told.get("second"):
                self.said.setdefault(id_, {})[str(told.get("by"))] = str(told.get("verdict"))
        elif kind in ("key.revoked", "person.disabled"):
            self.ended.add(id_)


@dataclass(slots=True)
class _Pages:
    """The checkpoint files: the digest of each line by lane and number, and the head of each lane that they saw."""

    lines: dict[tuple[str, int], str] = field(default_factory=dict)
    heads: dict[tuple[str, int], str] = field(default_factory=dict)


def verify(store: Store, keyring: Keyring, checkpoints: Path) -> Report:
    """Read everything and compare. Problems are sentences that name lane and row."""
    report = Report()
    # Heads are read before the rows and lines again after them: a gateway that writes meanwhile only adds to both.
    before = _read_pages(checkpoints, keyring, report)
    try:
        named = store.now(lambda connection: _read_rows(connection, keyring, before, report), reads=True)
    except DBAPIError as error:  # text that is no text, a damaged file: what cannot be read cannot be vouched for
        report.problem(f"after row {report.rows}: the database cannot be read: {type(error.orig).__name__}: {error.orig}")
        return report
    after = _read_pages(checkpoints, keyring, Report())
    for (lane, number), digest in sorted(named.items()):
        found = after.lines.get((lane, number))
        if found is None:
            report.problem(f"checkpoint {number} of {lane} is in the journal and not in {checkpoints}: it was removed")
        elif found != digest:
            report.problem(f"checkpoint {number} of {lane} is not the one that the journal names")
    report.checkpoints = len(before.lines)
    return report


def public_key(keyring: Keyring) -> str:
    """The key, in base64, with which anybody checks the signatures of checkpoints (ed25519) without knowing the secret."""
    return base64.b64encode(_public(keyring.derive("checkpoints")).public_bytes_raw()).decode()


def _public(seed: bytes) -> Ed25519PublicKey:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key()


def _read_rows(connection: Connection, keyring: Keyring, pages: _Pages, report: Report) -> dict[tuple[str, int], str]:
    """Every row in order; gives the checkpoints that the journal names."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    named: dict[tuple[str, int], str] = {}
    lanes: dict[str, _Lane] = {}
    missing = dict(pages.heads)
    acts = _Acts()
    known = 0
    for row, answer in _rows(connection):
        report.rows += 1
        if any(type(row[name]) is not kind for name, kind in _TYPES.items()):
            report.problem(f"{row['lane']!r} row {row['seq']!r}: was changed: a value is of another type")
            continue
        lane = lanes.setdefault(row["lane"], _Lane())
        _read_row(row, lane, keyring, report)
        seen = missing.pop((row["lane"], row["seq"]), None)
        if seen is not None and seen != row["mac"]:
            report.problem(f"{row['lane']} row {row['seq']}: not the row that a checkpoint saw; the lane was written anew")
        if row["kind"] == "response":
            known += answer is not None
            _read_answer(row, answer, report)
        if row["kind"] == "checkpoint":
            _name_checkpoint(row, named, report)
        acts.read(row)
    report.lanes = len(lanes)
    _tell_missing(missing, lanes, report)
    for name, lane in lanes.items():
        if lane.last != "lane.closed":
            report.notes.append(f"{name} is not closed: its process is at work, or was killed")
        if lane.back:
            report.notes.append(f"{name}: the clock went back {lane.back} times; the order is that of the rows")
    if known != connection.execute(select(func.count()).select_from(responses)).scalar():
        for id_ in _unknown(connection):
            report.problem(f"response {id_} is in no line of the journal: it was put in by hand, or its line removed")
    _read_tables(connection, acts, report)
    return named


def _read_tables(connection: Connection, acts: _Acts, report: Report) -> None:
    """Whether each item, key, person and policy is as the journal says it was made, and has become what was done to it."""
    for kind, (what, table) in _MADE.items():
        made = dict(acts.made[kind])
        for row in connection.execute(select(table)).mappings():
            told = made.pop(row["id"], None)
            if told is None:
                report.problem(f"{what} {row['id']} is in no line of the journal: it was put in by hand, or its line removed")
                continue
            found = {**row, "sha256": text_digest(row["text"])} if table is policies else row
            for name in sorted(found.keys() & told.keys()):
                if found[name] != told[name]:
                    report.problem(f"{what} {row['id']}: its {name} was changed")
            if row["id"] in acts.ended and row["revoked_at" if table is keys else "disabled_at"] is None:
                report.problem(f"{what} {row['id']}: was ended, and is live again")
            if table is holds:
                _read_state(dict(row), acts.said.get(row["id"], {}), report)
        for id_ in sorted(made):
            report.problem(f"{what} {id_}: its row was removed")


def _read_state(row: Mapping[str, Any], said: Mapping[str, str], report: Report) -> None:
    """Whether a decided item has the verdicts that it takes; `said` is each person's last one."""
    wanted = {"released": ("release", "edit"), "edited": ("release", "edit"), "refused": ("refuse",)}.get(row["state"])
    if wanted is None:
        return
    n, takes = sum(v in wanted for v in said.values()), 1 if row["state"] == "refused" else row["wanted"]
    if n < takes:
        report.problem(f"item {row['id']} is {row['state']}, which takes {takes} verdict{'s' * (takes > 1)}; the journal has {n}")


def text_digest(text: str) -> str:
    """What the line of a stored policy says of its text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _rows(connection: Connection) -> Iterator[tuple[dict[str, Any], Sequence[Any] | None]]:
    """Rows of the journal in order, each with the values of the row of `responses` that it tells of.

    Answers are looked up by their ids, a thousand at a time: a join is planned from statistics that a young database lacks.
    """
    ordered = select(journal).order_by(journal.c.lane, journal.c.seq).execution_options(yield_per=_ROWS)
    for rows in connection.execute(ordered).mappings().partitions():
        wanted = [row["subject"] for row in rows if row["kind"] == "response"]
        found = connection.execute(select(responses).where(responses.c.id.in_(wanted))).all() if wanted else []
        answers = {answer.id: tuple(answer) for answer in found}
        for row in rows:
            yield dict(row), answers.get(row["subject"]) if row["kind"] == "response" else None


def _unknown(connection: Connection) -> Sequence[str]:
    """Ids of answers that no line tells of."""
    told = exists().where(journal.c.subject == responses.c.id, journal.c.kind == "response")
    return connection.execute(select(responses.c.id).where(~told).order_by(responses.c.id).limit(SHOWN)).scalars().all()


def _read_row(row: Mapping[str, Any], lane: _Lane, keyring: Keyring, report: Report) -> None:
    place = f"{row['lane']} row {row['seq']}"
    if lane.key is None and row["seq"] == 1:
        lane.key = next((k for k in keyring.derived("journal") if _fits(k, row, "")), None)
        if lane.key is None:
            report.problem(f"{place}: was changed, or made with another secret than the one given")
    elif row["seq"] != lane.seq + 1:
        gap = row["seq"] - lane.seq - 1
        report.problem(f"{place}: {gap} rows before it were removed" if gap > 0 else f"{place}: out of order")
    elif lane.key is not None and not _fits(lane.key, row, lane.mac):
        report.problem(f"{place}: was changed, or is not the row that followed row {lane.seq}")
    if row["seq"] == 1 and row["kind"] != "lane.opened":
        report.problem(f"{place}: a lane begins with lane.opened, not {row['kind']}")
    lane.back += row["at"] < lane.at
    lane.seq, lane.mac, lane.at, lane.last = row["seq"], row["mac"], row["at"], row["kind"]


def _fits(key: bytes, row: Mapping[str, Any], prev: str) -> bool:
    if not math.isfinite(row["at"]):
        return False
    wanted = mac(key, row["lane"], row["seq"], row["at"], row["kind"], row["subject"], row["body"], prev)
    return hmac.compare_digest(wanted.encode(), row["mac"].encode())


def _read_answer(row: Mapping[str, Any], answer: Sequence[Any] | None, report: Report) -> None:
    place = f"response {row['subject']} ({row['lane']} row {row['seq']})"
    if answer is None:
        report.problem(f"{place}: its row was removed from the table responses")
        return
    told = _table(row["body"])
    try:  # a row written before a column was added is digested without it
        digest = row_digest(answer[: int(told.get("columns", 0))])
    except (ValueError, TypeError):  # NaN, bytes: nothing that was ever written
        digest = ""
    if digest != told.get("sha256"):
        report.problem(f"{place}: its row in the table responses was changed")


def _name_checkpoint(row: Mapping[str, Any], named: dict[tuple[str, int], str], report: Report) -> None:
    told = _table(row["body"])
    if not isinstance(told.get("number"), int) or not isinstance(told.get("sha256"), str):
        report.problem(f"{row['lane']} row {row['seq']}: names no checkpoint")
        return
    named[row["lane"], told["number"]] = told["sha256"]


def _tell_missing(missing: Mapping[tuple[str, int], str], lanes: Mapping[str, _Lane], report: Report) -> None:
    """One sentence a lane: rows that a checkpoint saw and that are gone."""
    furthest: dict[str, int] = {}
    for lane, seq in missing:
        furthest[lane] = max(seq, furthest.get(lane, 0))
    for lane, seq in sorted(furthest.items()):
        if lane not in lanes:
            report.problem(f"{lane}: the whole lane was removed; a checkpoint saw {seq} rows of it")
        elif seq > lanes[lane].seq:
            report.problem(f"{lane}: ends with row {lanes[lane].seq}, and a checkpoint saw row {seq}: rows were cut off")


def _table(text: Any) -> dict[str, Any]:
    """A JSON object, empty for anything else: a row that was changed may hold anything."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_pages(folder: Path, keyring: Keyring, report: Report) -> _Pages:
    pages = _Pages()
    publics = [_public(seed) for seed in keyring.derived("checkpoints")]
    for path in sorted(folder.glob("*.jsonl")):
        _read_file(path, publics, pages, report)
    return pages


def _read_file(path: Path, publics: list[Ed25519PublicKey], pages: _Pages, report: Report) -> None:
    prev = ""
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            report.notes.append(f"{path.name}: the last line is torn, as a crash leaves it")
            return
        page = _table(line.decode("utf-8", "replace"))
        if not _signed(page, publics):
            report.problem(f"{path.name} line {number}: not signed with this secret, or changed")
            return
        if page["lane"] != path.stem or page["number"] != number or page["prev"] != prev:
            report.problem(f"{path.name} line {number}: not the checkpoint that belongs there; lines were removed or moved")
            return
        prev = hashlib.sha256(line).hexdigest()
        pages.lines[page["lane"], number] = prev
        for lane, seq, head, _ in page["heads"]:
            if pages.heads.setdefault((lane, seq), head) != head:
                report.problem(f"{path.name} line {number}: two checkpoints saw different rows {seq} of {lane}")


def _signed(page: Mapping[str, Any], publics: list[Ed25519PublicKey]) -> bool:
    try:
        signature = base64.b64decode(page["signature"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return False
    body = encode({k: v for k, v in page.items() if k != "signature"}).encode("utf-8", "replace")
    return any(_checks(key, signature, body) for key in publics)


def _checks(key: Ed25519PublicKey, signature: bytes, body: bytes) -> bool:
    try:
        key.verify(signature, body)
    except InvalidSignature:
        return False
    return True
