"""The hold queue: answers that wait for a person, who decides them, and what the client gets. Nothing here draws a page.

An item is `waiting` until it is `released`, `edited`, `refused` or `expired`, and never leaves those four. Each change is one
conditional UPDATE, so that of two reviewers, or of a reviewer and the clock, one wins. An item past its time is refused by every
reader, whether or not `expire` has run. Texts lie in the vault alone; the journal has ids and verdicts.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy import Connection, RowMapping, Update, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from temper.errors import RunError, UsageError
from temper.serve import ids
from temper.serve.chain import clean
from temper.serve.journal import Journal
from temper.serve.keyring import Keyring
from temper.serve.notice import Notice
from temper.serve.policy import Review
from temper.serve.tables import holds, journal, people, ratings, responses
from temper.serve.verdict import Turn

if TYPE_CHECKING:
    from temper.serve.people import Person
    from temper.serve.store import Store
    from temper.serve.vault import Vault
    from temper.serve.webhooks import Hooks
    from temper.stats import Estimate

T = TypeVar("T")
State = Literal["waiting", "released", "edited", "refused", "expired"]
VERDICTS = ("release", "edit", "refuse")
LABELS = ("", "safe", "unsafe")
KINDS = ("output", "input", "agentic", "appeal")
KEEP_S = 7 * 86_400.0  # texts outlive their item this long: for the client that comes late, and for blind second ratings
APPEAL_S = 7 * 86_400.0  # how long an appeal link is good
POLL_S = (0.25, 2.0)  # the first and the longest pause between two looks at the database: another worker may have decided
BATCH = 200  # items one run of `expire` takes into one transaction
LONGEST = {"note": 2_000, "message": 500, "why": 2_000, "edit": 200_000}
REFUSED = "A reviewer refused this answer."
NONE = Notice({}, None)
EXPIRED = "Nobody reviewed this answer in time, so it was not released."


class Conflict(RunError):
    """Somebody else was there first: the item is decided, expired, leased to another, or changed since it was read."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client may know of an item. `answers` are set where it was released or edited and the text is still kept; an item
    held before the model was asked has none. `message` goes with a refusal, `first` before the content of each answer and
    `disclosure` beside them, as they would have if nobody had held it.
    """

    state: State
    answers: tuple[Mapping[str, Any], ...] | None = None
    message: str = ""
    id: str = ""
    response_id: str = ""
    key_id: str = ""
    kind: str = ""
    model: str = ""
    made_at: float = 0.0
    expires_at: float = 0.0
    first: str = ""
    disclosure: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Rating:
    """One reviewer's opinion. `text` names the edit it agrees to, "" for the answer as the model wrote it."""

    person_id: str
    person: str
    at: float
    verdict: str
    label: str
    category: str
    note: str
    second: bool
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """An item as a reviewer sees it. The fields after `findings` are filled by `item`, not in lists; `kept` says that the text is
    still there, `proposal` is the edit that waits for a second person, `seen` its id.
    """

    id: str
    response_id: str
    key_id: str
    kind: str
    category: str
    state: State
    policy: str
    made_at: float
    expires_at: float
    wanted: int
    lease_by: str
    lease_name: str
    lease_until: float
    decided_at: float | None
    message: str
    findings: tuple[Mapping[str, Any], ...]
    request: Mapping[str, Any] | None = None
    answers: tuple[Mapping[str, Any], ...] = ()
    why: str = ""
    kept: bool = True
    proposal: tuple[Mapping[str, Any], ...] | None = None
    seen: str = ""
    ratings: tuple[Rating, ...] = ()

    def leased(self, now: float) -> bool:
        return bool(self.lease_by) and self.lease_until > now


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cohen's kappa of first and blind second ratings: of the verdicts, and of the labels where both gave one."""

    verdicts: "Estimate"
    labels: "Estimate"


@dataclass(frozen=True, slots=True)
class Links:
    """Appeal links: a response's id, signed and dated, so that only who got the message can appeal."""

    keyring: Keyring

    def url(self, base: str, response_id: str) -> str:
        """The address a block message names; `base` is the gateway's public address."""
        return f"{base.rstrip('/')}/appeal/{self._signer().dumps(response_id)}"

    def response(self, token: str) -> str | None:
        """The response a token was made for, None where it is forged or older than `APPEAL_S`."""
        try:
            found = self._signer().loads(token, max_age=int(APPEAL_S))
        except BadSignature:
            return None
        return found if isinstance(found, str) else None

    def _signer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(list(reversed(self.keyring.derived("links"))), salt="appeal")


class Holds:
    """The queue in the database. `clock` gives seconds since the epoch."""

    def __init__(
        self, store: "Store", vault: "Vault", journal: Journal, hooks: "Hooks", *, clock: Callable[[], float] = time.time
    ) -> None:
        self.store, self.vault, self.journal, self.hooks, self.clock = store, vault, journal, hooks, clock
        self._waiting: dict[str, list[asyncio.Event]] = {}

    # Making items.

    async def hold(
        self,
        turn: Turn,
        *,
        kind: str,
        category: str,
        findings: Sequence[Mapping[str, Any]],
        request: Mapping[str, Any],
        answers: Sequence[Mapping[str, Any]],
        review: Review,
        notice: Notice = NONE,
    ) -> str:
        """Put an item into the queue and return its id, once it is committed.

        `findings` are rows as in `responses.findings`, with `choice` and `why`; `request` is the body that was asked; `answers`
        are `{reasoning, content, calls: [{name, call_id, arguments}]}`, none where the model was not asked yet. `notice` is what
        they disclose once they are released.
        """
        box = {**_box(request, answers, notice), "why": ""}
        row = self._row(ids.new("hold"), turn.id, turn.key, kind, category, turn.policy, findings, review)
        await self._act("hold.made", row["id"], _told(row), lambda conn: self._insert(conn, row, box, review))
        return str(row["id"])

    async def keep(
        self, *, request: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], review: Review, notice: Notice = NONE
    ) -> str:
        """Put what was blocked into the vault for an appeal, for `review.expire_s`; the id belongs in `responses.vault_id`."""
        box = _box(request, answers, notice)
        return await self.store.run(lambda conn: self.vault.put(conn, "hold", box, review.expire_s))

    async def appeal(self, response_id: str, why: str, review: Review) -> str:
        """Open an item of kind appeal for a blocked response, with its text where it is still kept; returns the item's id.

        A response is appealed once: its item's id follows from the response's. Raises `Conflict` for a second appeal,
        `UsageError` where the response is unknown, was not blocked, or `why` is too long.
        """
        _bounded(why=why)
        id = appeal_id(response_id)

        def work(conn: Connection) -> None:
            found = conn.execute(select(responses).where(responses.c.id == response_id)).mappings().first()
            if found is None or found["action"] != "block":
                raise UsageError("this link belongs to no answer that was blocked")
            box = (self.vault.get(conn, found["vault_id"]) if found["vault_id"] else None) or {"request": None, "answers": []}
            findings = json.loads(found["findings"])
            category = next((str(f.get("category", "")) for f in findings if not f.get("shadow")), "")
            row = self._row(id, response_id, found["key_id"], "appeal", category, found["policy"], findings, review)
            self._insert(conn, row, {**box, "why": why}, review)

        try:
            await self._act("hold.made", id, {"response_id": response_id, "kind": "appeal"}, work)
        except IntegrityError:
            raise Conflict("this answer was appealed already") from None
        return id

    # Leases.

    async def claim(self, id: str, person: "Person", seconds: float) -> bool:
        """Take or renew the lease of a waiting item; False where another has it or the item waits no more."""
        now = self.clock()
        taken = update(holds).where(self._open(id, person.id, now)).values(lease_by=person.id, lease_until=now + seconds)
        return await self._once("hold.claimed", id, {"by": person.id, "until": now + seconds}, taken)

    renew = claim

    async def give_back(self, id: str, person: "Person") -> bool:
        """Let an item go that one has the lease of."""
        freed = (
            update(holds)
            .where(holds.c.id == clean(id, 48), holds.c.lease_by == person.id)
            .values(lease_by=None, lease_until=None)
        )
        return await self._once("hold.given_back", id, {"by": person.id}, freed)

    # Verdicts.

    async def decide(
        self,
        id: str,
        person: "Person",
        verdict: str,
        *,
        edit: Sequence[str] | None = None,
        label: str = "",
        category: str = "",
        note: str = "",
        message: str = "",
        seen: str = "",
    ) -> State:
        """Record a reviewer's verdict and return the state it leaves the item in.

        A refusal refuses. Release and edit take as many people as the item wants, and what they agree on is one text: who
        releases an item that somebody edited agrees to that edit, and an edit is agreed to by its author alone until another
        releases it. `edit` has the new content of each answer of the model; it carries no reasoning and no tool calls. `seen`
        is the `Item.seen` that was on the screen. Raises `Conflict`, `UsageError`.
        """
        _checked(verdict, label, edit)
        _bounded(note=note, message=message, edit="".join(edit or ()))
        texts = [{"reasoning": "", "content": text, "calls": []} for text in edit or ()]
        opinion = {"verdict": verdict, "label": label, "category": clean(category, 64), "note": clean(note)}
        told = {"by": person.id, "verdict": verdict, "label": label, "category": category[:64], "second": False}
        state = await self._act(
            "hold.rated", id, told, lambda conn: self._decided(conn, id, person, opinion, texts, message, seen)
        )
        if state != "waiting":
            await self._said("hold.decided", id, {"by": person.id, "state": state})
            self._wake(id)
        return state

    async def rate(self, id: str, person: "Person", verdict: str, *, label: str = "", category: str = "", note: str = "") -> None:
        """Record a blind second rating of a decided item; it decides nothing. Raises `Conflict` where it is not the person's."""
        _checked(verdict, label, [""] if verdict == "edit" else None)
        _bounded(note=note)

        def work(conn: Connection) -> None:
            if conn.scalar(select(holds.c.state).where(holds.c.id == clean(id, 48))) not in ("released", "edited", "refused"):
                raise Conflict("a second rating is for items that reviewers decided")
            if self._saw(conn, id, person):
                raise Conflict("you saw what others said of this item: a second rating is given blind")
            opinion = {"verdict": verdict, "label": label, "category": clean(category, 64), "note": clean(note), "second": True}
            conn.execute(insert(ratings).values(**self._rating(id, person), **opinion))

        told = {"by": person.id, "verdict": verdict, "label": label, "category": category[:64], "second": True}
        try:
            await self._act("hold.rated", id, told, work)
        except IntegrityError:
            raise Conflict("you rated this item before; a second rating is another person's") from None

    async def expire(self) -> int:
        """Refuse what nobody decided in time, and return how many items that were; a job runs it."""
        now = self.clock()
        late = and_(holds.c.state == "waiting", holds.c.expires_at <= now)
        total = 0
        while found := await self.store.run(
            lambda conn: conn.scalars(select(holds.c.id).where(late).limit(BATCH)).all(), reads=True
        ):
            for done in await asyncio.gather(*(self._expired(id, now) for id in found)):
                total += done
        return total

    async def _expired(self, id: str, now: float) -> bool:
        late = and_(holds.c.id == id, holds.c.state == "waiting", holds.c.expires_at <= now)
        gone = update(holds).values(state="expired", decided_at=now, lease_by=None, lease_until=None, message=EXPIRED)
        done = await self._once("hold.expired", id, {}, gone.where(late), lambda conn: self._tell(conn, id, "expired"))
        self._wake(id)
        return done

    # Reading.

    async def outcome(self, id: str) -> Outcome:
        """What became of an item. Raises `UsageError` where there is none of that id."""
        return await self.store.run(lambda conn: self._outcome(conn, id), reads=True)

    async def wait(self, id: str, seconds: float) -> Outcome:
        """The item's outcome, as soon as it is decided or has expired, at the latest after `seconds`."""
        end, pause = time.monotonic() + seconds, POLL_S[0]
        event = asyncio.Event()
        self._waiting.setdefault(id, []).append(event)
        try:
            while True:
                found = await self.outcome(id)
                left = end - time.monotonic()
                if found.state != "waiting" or left <= 0:
                    return found
                event.clear()
                # At its end an item is expired by the clock, which wakes nobody.
                until = min(left, pause, max(found.expires_at - self.clock(), 0.01))
                try:
                    await asyncio.wait_for(event.wait(), until)
                except TimeoutError:
                    pause = min(pause * 1.5, POLL_S[1])
        finally:
            self._waiting[id].remove(event)
            if not self._waiting[id]:
                del self._waiting[id]

    async def admits(self, id: str, key: str, request: Mapping[str, Any]) -> bool:
        """Whether a reviewer let this very request of this key through before the model was asked."""

        def work(conn: Connection) -> bool:
            row = conn.execute(select(holds).where(holds.c.id == clean(id, 48))).mappings().first()
            if row is None or row["key_id"] != key or row["kind"] not in ("input", "agentic") or row["state"] != "released":
                return False
            box = self.vault.get(conn, row["vault_id"])
            return box is not None and box["request"] == dict(request)

        return await self.store.run(work, reads=True)

    async def items(
        self,
        *,
        state: str = "waiting",
        kind: str = "",
        category: str = "",
        older_s: float = 0.0,
        sort: str = "oldest",
        limit: int = 200,
    ) -> list[Item]:
        """Items without their texts. `state` "" is any; `sort` is oldest, newest or expires."""
        now = self.clock()
        wanted = self._listed().where(holds.c.made_at <= now - older_s).limit(limit)
        if state == "waiting":
            wanted = wanted.where(holds.c.state == "waiting", holds.c.expires_at > now)
        elif state == "expired":  # also what the job has not seen yet
            wanted = wanted.where(or_(holds.c.state == state, and_(holds.c.state == "waiting", holds.c.expires_at <= now)))
        elif state:
            wanted = wanted.where(holds.c.state == state)
        if kind:
            wanted = wanted.where(holds.c.kind == kind)
        if category:
            wanted = wanted.where(holds.c.category == clean(category, 64))
        order = {"newest": holds.c.made_at.desc(), "expires": holds.c.expires_at}.get(sort, holds.c.made_at)
        rows = await self.store.run(lambda conn: conn.execute(wanted.order_by(order, holds.c.id)).mappings().all(), reads=True)
        return [self._item(row) for row in rows]

    async def waiting(self) -> tuple[int, float | None]:
        """How many items wait, and when the oldest of them was made."""
        now = self.clock()
        counted = select(func.count(), func.min(holds.c.made_at)).where(holds.c.state == "waiting", holds.c.expires_at > now)
        n, oldest = await self.store.run(lambda conn: conn.execute(counted).one(), reads=True)
        return n, oldest

    async def categories(self) -> list[str]:
        """The categories that any item has."""
        return await self.store.run(
            lambda conn: list(conn.scalars(select(holds.c.category).distinct().order_by(holds.c.category))), reads=True
        )

    async def item(self, id: str, person: "Person", *, blind: bool = False) -> Item:
        """An item with its texts, on record as viewed. `blind` leaves out what others thought of it. Raises `UsageError`."""

        def work(conn: Connection) -> Item:
            row = conn.execute(self._listed().where(holds.c.id == clean(id, 48))).mappings().first()
            if row is None:
                raise UsageError("no item has this id")
            box = self.vault.get(conn, row["vault_id"]) or {}
            request = box.get("request")
            made = replace(
                self._item(row),
                request=request,
                answers=tuple(box.get("answers", ())),
                why=box.get("why", ""),
                kept=request is not None,
            )
            if blind:
                return replace(made, state="waiting", message="", decided_at=None, lease_by="", lease_name="")
            given = self._ratings(conn, id)
            seen = _proposed(given)
            edited = self.vault.get(conn, seen) if seen else None
            return replace(made, ratings=given, seen=seen, proposal=tuple(edited["answers"]) if edited else None)

        found = await self.store.run(work, reads=True)
        await self._said("hold.viewed", id, {"by": person.id, "blind": blind})
        return found

    async def second(self, person: "Person", share: float, *, limit: int = 50) -> list[Item]:
        """Items put back for a blind rating by this person: decided, drawn, rated by nobody else a second time, text still kept.

        An item is drawn by its id, so that a share stays the same draw for every reader, and a larger one contains a smaller.
        """
        rated = select(ratings.c.hold_id).where(or_(ratings.c.person_id == person.id, ratings.c.second))
        wanted = (
            self._listed()
            .where(
                holds.c.state.in_(("released", "edited", "refused")),
                holds.c.expires_at > self.clock() - KEEP_S,
                holds.c.id.not_in(rated),
            )
            .order_by(holds.c.decided_at.desc())
            .limit(5_000)
        )

        def work(conn: Connection) -> list[Item]:
            drawn = (row for row in conn.execute(wanted).mappings().all() if _drawn(row["id"], share))
            return [self._item(row) for row in islice((r for r in drawn if not self._saw(conn, r["id"], person)), limit)]

        found = await self.store.run(work, reads=True)
        return [replace(item, state="waiting", message="", decided_at=None) for item in found]

    async def unseen(self, person: "Person", share: float) -> set[str]:
        """Ids of the items whose verdicts this person must not read, since a blind rating of them is still wanted."""
        return {item.id for item in await self.second(person, share, limit=5_000)}

    async def agreement(self) -> Agreement:
        """How far the first and the blind second ratings agree beyond chance, over all items that have both."""
        from temper.agreement import cohen_kappa

        first, again = ratings.alias(), ratings.alias()
        # Of a two-person item the first rating is the earliest; a second rater never saw either.
        earliest = select(func.min(ratings.c.at)).where(ratings.c.hold_id == first.c.hold_id, ~ratings.c.second).scalar_subquery()
        paired = (
            select(first.c.verdict, again.c.verdict, first.c.label, again.c.label)
            .join(again, and_(again.c.hold_id == first.c.hold_id, again.c.second))
            .where(~first.c.second, first.c.at == earliest)
            .order_by(first.c.hold_id)
        )
        rows = await self.store.run(lambda conn: conn.execute(paired).all(), reads=True)
        labelled = [(a, b) for _, _, a, b in rows if a and b]
        return Agreement(
            cohen_kappa([r[0] for r in rows], [r[1] for r in rows]),
            cohen_kappa([a for a, _ in labelled], [b for _, b in labelled]),
        )

    async def overblocked(self) -> "Estimate":
        """The share of decided items that reviewers released as they were, with a Wilson interval: held in vain."""
        from temper.stats import proportion

        counted = select(holds.c.state, func.count()).where(holds.c.state.in_(("released", "edited", "refused")))
        rows = await self.store.run(lambda conn: conn.execute(counted.group_by(holds.c.state)).all(), reads=True)
        states = {str(state): int(n) for state, n in rows}
        return proportion(states.get("released", 0), sum(states.values()))

    # Inside one transaction.

    def _open(self, id: str, person_id: str, now: float) -> Any:
        free = or_(holds.c.lease_by.is_(None), holds.c.lease_by == person_id, holds.c.lease_until <= now)
        return and_(holds.c.id == clean(id, 48), holds.c.state == "waiting", holds.c.expires_at > now, free)

    def _decided(
        self,
        conn: Connection,
        id: str,
        person: "Person",
        opinion: Mapping[str, str],
        texts: Sequence[Mapping[str, Any]],
        message: str,
        seen: str,
    ) -> State:
        now = self.clock()
        # This first write locks the row (SQLite: the database) until the transaction ends, so verdicts come one by one.
        locked = conn.execute(update(holds).where(self._open(id, person.id, now)).values(lease_by=person.id, lease_until=now))
        if locked.rowcount != 1:
            raise Conflict(self._why_closed(conn, id, now))
        given = self._ratings(conn, id)
        if _proposed(given) != seen:
            raise Conflict("the item was edited since you opened it; look at it again")
        row = conn.execute(select(holds).where(holds.c.id == id)).mappings().one()
        text = seen
        if opinion["verdict"] == "edit":
            written = (self.vault.get(conn, row["vault_id"]) or {}).get("answers", ())
            if not written or len(texts) != len(written):
                raise UsageError(f"edit: {len(texts)} texts for {len(written)} answers; wanted one for each that the model wrote")
            text = self.vault.put(conn, "hold", {"answers": list(texts)}, row["expires_at"] - now + KEEP_S)
        self._write_rating(conn, id, person, opinion, text, given)
        if opinion["verdict"] == "refuse":
            return self._close(conn, row, "refused", now, message=clean(message) or REFUSED)
        agreed = {r.person_id for r in given if r.text == text and r.verdict != "refuse"} | {person.id}
        if len(agreed) < row["wanted"]:
            freed = update(holds).where(holds.c.id == id).values(lease_by=None, lease_until=None)
            conn.execute(freed)
            return "waiting"
        return self._close(conn, row, "edited" if text else "released", now, outcome_vault_id=text or None)

    def _close(self, conn: Connection, row: RowMapping, state: State, now: float, **changes: Any) -> State:
        closed = {"state": state, "decided_at": now, "lease_by": None, "lease_until": None, **changes}
        conn.execute(update(holds).where(holds.c.id == row["id"]).values(**closed))
        self._tell(conn, row["id"], state)
        return state

    def _tell(self, conn: Connection, id: str, state: State) -> None:
        self.hooks.queue(conn, "hold.decided", {"id": id, "state": state})

    def _why_closed(self, conn: Connection, id: str, now: float) -> str:
        row = conn.execute(self._listed().where(holds.c.id == clean(id, 48))).mappings().first()
        if row is None:
            return "no item has this id"
        item = self._item(row)
        if item.state == "waiting":
            return f"{item.lease_name or 'somebody else'} has this item"
        return f"this item is {item.state} already"

    def _write_rating(
        self, conn: Connection, id: str, person: "Person", opinion: Mapping[str, str], text: str, given: Sequence[Rating]
    ) -> None:
        """A new row, or the person's own row again: who released the original may still agree to another's edit."""
        own = next((r for r in given if r.person_id == person.id), None)
        values = {**opinion, "edit_vault_id": text or None}
        if own is None:
            conn.execute(insert(ratings).values(**self._rating(id, person), **values, second=False))
            return
        if own.text == text and opinion["verdict"] != "refuse":
            raise Conflict("you agreed to this text already; it needs another person")
        mine = and_(ratings.c.hold_id == id, ratings.c.person_id == person.id)
        conn.execute(update(ratings).where(mine).values(at=self.clock(), **values))

    def _rating(self, id: str, person: "Person") -> dict[str, Any]:
        return {"id": ids.new("rate"), "hold_id": id, "person_id": person.id, "at": self.clock()}

    def _ratings(self, conn: Connection, id: str) -> tuple[Rating, ...]:
        wanted = (
            select(ratings, people.c.name)
            .outerjoin(people, people.c.id == ratings.c.person_id)
            .where(ratings.c.hold_id == id)
            .order_by(ratings.c.at, ratings.c.id)
        )
        return tuple(
            Rating(
                r["person_id"],
                r["name"] or r["person_id"],
                r["at"],
                r["verdict"],
                r["label"],
                r["category"],
                r["note"],
                r["second"],
                r["edit_vault_id"] or "",
            )
            for r in conn.execute(wanted).mappings()
        )

    def _saw(self, conn: Connection, id: str, person: "Person") -> bool:
        """Whether the person opened the item when it had a verdict: of two people's verdicts the first is seen before the end."""
        first = select(func.min(ratings.c.at)).where(ratings.c.hold_id == id).scalar_subquery()
        viewed = select(journal.c.body).where(journal.c.subject == id, journal.c.kind == "hold.viewed", journal.c.at >= first)
        views = [json.loads(body) for body in conn.scalars(viewed)]
        return any(v["by"] == person.id and not v["blind"] for v in views)

    def _outcome(self, conn: Connection, id: str) -> Outcome:
        row = conn.execute(select(holds).where(holds.c.id == clean(id, 48))).mappings().first()
        if row is None:
            raise UsageError("no held item has this id")
        state, message = row["state"], row["message"]
        if state == "waiting" and row["expires_at"] <= self.clock():
            state, message = "expired", EXPIRED
        answers, box = None, None
        if state in ("released", "edited"):
            box = self.vault.get(conn, row["vault_id"])
            given = self.vault.get(conn, row["outcome_vault_id"]) if state == "edited" else box
            answers = tuple(given["answers"]) or None if given is not None else None
        box = box or {}
        return Outcome(
            state=state,
            answers=answers,
            message=message,
            id=id,
            response_id=row["response_id"],
            key_id=row["key_id"],
            kind=row["kind"],
            model=str((box.get("request") or {}).get("model", "")),
            made_at=row["made_at"],
            expires_at=row["expires_at"],
            first=box.get("first", ""),
            disclosure=box.get("disclosure"),
        )

    def _row(
        self,
        id: str,
        response_id: str,
        key_id: str,
        kind: str,
        category: str,
        policy: str,
        findings: Sequence[Mapping[str, Any]],
        review: Review,
    ) -> dict[str, Any]:
        now = self.clock()
        return {
            "id": id,
            "response_id": response_id,
            "key_id": key_id,
            "made_at": now,
            "expires_at": now + review.expire_s,
            "kind": kind,
            "category": clean(category, 64),
            "state": "waiting",
            "policy": policy,
            "findings": json.dumps([dict(f) for f in findings]),
            "wanted": 2 if not _categories(category, findings).isdisjoint(review.two_person) else 1,
        }

    def _insert(self, conn: Connection, row: Mapping[str, Any], box: Mapping[str, Any], review: Review) -> None:
        conn.execute(insert(holds).values(**row, vault_id=self.vault.put(conn, "hold", box, review.expire_s + KEEP_S)))
        self.hooks.queue(conn, "hold.made", {k: row[k] for k in ("id", "kind", "category", "expires_at")})

    def _listed(self) -> Any:
        return select(holds, people.c.name.label("lease_name")).outerjoin(people, people.c.id == holds.c.lease_by)

    def _item(self, row: RowMapping) -> Item:
        late = row["state"] == "waiting" and row["expires_at"] <= self.clock()
        return Item(
            id=row["id"],
            response_id=row["response_id"],
            key_id=row["key_id"],
            kind=row["kind"],
            category=row["category"],
            state="expired" if late else row["state"],
            policy=row["policy"],
            made_at=row["made_at"],
            expires_at=row["expires_at"],
            wanted=row["wanted"],
            lease_by=row["lease_by"] or "",
            lease_name=row["lease_name"] or "",
            lease_until=row["lease_until"] or 0.0,
            decided_at=row["decided_at"],
            message=row["message"],
            findings=tuple(json.loads(row["findings"])),
        )

    async def _act(self, kind: str, id: str, body: Mapping[str, Any], work: Callable[[Connection], T]) -> T:
        """Do the work and write its journal line, both or neither."""
        return await asyncio.wrap_future(self.journal.act(kind, id, body, work))

    async def _once(
        self, kind: str, id: str, body: Mapping[str, Any], change: Update, then: Callable[[Connection], None] | None = None
    ) -> bool:
        """Make a change that holds for one row or none; where it holds for none, False and no journal line."""

        def work(conn: Connection) -> None:
            if conn.execute(change).rowcount != 1:
                raise Conflict("the item changed")
            if then is not None:
                then(conn)

        try:
            await self._act(kind, id, body, work)
        except Conflict:
            return False
        return True

    async def _said(self, kind: str, id: str, body: Mapping[str, Any]) -> None:
        self.journal.write(kind, id, body)
        await self.journal.settled()

    def _wake(self, id: str) -> None:
        for event in self._waiting.get(id, ()):
            event.set()


def appeal_id(response_id: str) -> str:
    """The id of a response's appeal: the same each time, so that the database refuses a second one."""
    return "hold_a" + hashlib.sha256(response_id.encode()).hexdigest()[:25]


def _box(request: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], notice: Notice) -> dict[str, Any]:
    """What the vault keeps of an item."""
    texts = {"request": dict(request), "answers": [dict(a) for a in answers]}
    return {**texts, "first": notice.first, "disclosure": notice.body}


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("response_id", "key_id", "kind", "category", "policy", "wanted", "expires_at")}


def _categories(deciding: str, findings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Everything an item was stopped for: a second finding asks for its second person too."""
    return {deciding, *(str(f.get("category", "")) for f in findings if not f.get("shadow"))}


def _proposed(given: Sequence[Rating]) -> str:
    """The edit that was made last, "" where nobody edited."""
    return next((r.text for r in reversed(given) if r.verdict == "edit" and not r.second), "")


def _drawn(id: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(f"second {id}".encode()).digest()[:8]) < share * 2**64


def _checked(verdict: str, label: str, edit: Sequence[str] | None) -> None:
    if verdict not in VERDICTS:
        raise UsageError(f"verdict: wanted one of {', '.join(VERDICTS)}")
    if label not in LABELS:
        raise UsageError("label: wanted safe, unsafe or none")
    if (verdict == "edit") != (edit is not None):
        raise UsageError("edit: an edit comes with its text, and only an edit does")


def _bounded(**given: str) -> None:
    for name, text in given.items():
        if len(text) > LONGEST[name]:
            raise UsageError(f"{name}: {len(text)} characters; wanted at most {LONGEST[name]}")
