"""What people said of answers, out of the gateway: rows to train on, scores for Langfuse, evaluation events for OpenTelemetry.

Three things become an item: a hold that reviewers decided, feedback, and an answer that a scheduled audit found. Only an item of
a key that may be trained on is exported with text, only while its text is kept, and whoever said it goes by a pseudonym.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, select

from temper.errors import UsageError, nearest
from temper.files import digest
from temper.serve.feedback import current
from temper.serve.nightly import messages_of
from temper.serve.tables import audits, holds, keys, ratings, responses
from temper.serve.verdict import Caller
from temper.types import Message

if TYPE_CHECKING:
    from fastapi import APIRouter

    from temper.serve.keyring import Keyring
    from temper.serve.state import Gateway
    from temper.serve.vault import Vault

Form = Literal["sft", "preference", "responses", "langfuse", "otel"]
FORMS: tuple[Form, ...] = ("sft", "preference", "responses", "langfuse", "otel")
TRAINING = "training"
"""The scope of a key whose traffic may be trained on."""
LOCAL = "local"
LICENCE = "gateway traffic of this deployment: not for publication; check what the people who wrote it agreed to"
_UNSAFE = {"unsafe"}
_NAMES = {"review": "review", "feedback": "user_feedback", "audit": "scheduled_audit"}


@dataclass(frozen=True, slots=True)
class Item:
    """One opinion about one response. `bad` is the answer as the model wrote it, `good` what should have been said: "" where
    unknown. `value` is 1 (fine), 0 (not), None where that was not said; `by` are pseudonyms.
    """

    id: str
    kind: Literal["review", "feedback", "audit"]
    response_id: str
    at: float
    key_id: str
    policy: str
    value: float | None
    label: str = ""
    category: str = ""
    by: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    reasoning: str = ""
    bad: str = ""
    good: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """A person has one pseudonym in every export of a deployment, and nobody without its secret can tell whose it is."""

    key: bytes

    @classmethod
    def of(cls, keyring: "Keyring") -> "Pseudonyms":
        return cls(hmac.digest(keyring.derive("vault"), b"temper/export/pseudonyms", "sha256"))

    def __call__(self, id_: str) -> str:
        return "person-" + hmac.digest(self.key, id_.encode(), "sha256").hex()[:12]


def items(conn: Connection, vault: "Vault", name: Pseudonyms, *, since: float = 0.0, audit: str = "") -> list[Item]:
    """Every item since a time, or of one audit, oldest first; with texts only where they may be used and are kept."""
    allowed = _trainable(conn)
    found = list(_audited(conn, vault, audit)) if audit else [*_reviewed(conn, vault, name), *_rated(conn, vault, name)]
    chosen = sorted((i for i in found if audit or i.at >= since), key=lambda i: (i.at, i.id))
    return [i if i.key_id in allowed else _without_text(i) for i in chosen]


def rows(form: str, found: Iterable[Item], *, comments: bool = False) -> list[dict[str, Any]]:
    """Items in one of `FORMS`; those that cannot take it (no correction, no text) are left out. Raises `UsageError`.

    `comments` puts what people wrote into Langfuse's scores, where it is left out otherwise.
    """
    makers = {"sft": _sft, "preference": _preference, "responses": _response, "otel": _event}
    if form == "langfuse":
        made = [_score(item, comments) for item in found]
    elif form in makers:
        made = [makers[form](item) for item in found]
    else:
        raise UsageError(f"--to {form}: {nearest(form, FORMS)}")
    return [row for row in made if row is not None]


def without_pii(item: Item) -> Item:
    """The item with personal data in its texts replaced by placeholders, by the filter `pii` of the gateway."""
    from temper import registry
    from temper.serve.guard import redacted
    from temper.serve.verdict import EMPTY, Action, Channel, View

    pii = registry.find("filter", "pii")()

    def clean(text: str) -> str:
        found = pii(View(Channel.CONTENT, text, EMPTY)) if text else ()
        return redacted(text, [replace(f, action=Action.REDACT, shadow=False) for f in found])

    return replace(
        item,
        messages=tuple(replace(m, content=clean(m.content)) for m in item.messages),
        reasoning=clean(item.reasoning),
        bad=clean(item.bad),
        good=clean(item.good),
        comment=clean(item.comment),
    )


# One form each.


def _sft(item: Item) -> dict[str, Any] | None:
    """A conversation that ends with the answer to learn, as `temper.data.read_dialogues` reads it."""
    if not item.good or not _asked(item):
        return None
    reasoning = item.reasoning if item.good == item.bad else ""  # a thought that led to another answer is no thought to learn
    last = {"role": "assistant", "content": item.good, **({"reasoning_content": reasoning} if reasoning else {})}
    return {**_shared(item), "messages": [*_turns(item.messages), last]}


def _preference(item: Item) -> dict[str, Any] | None:
    """A pair of the corrected and the bad answer, as `temper.data.read_pairs` reads it."""
    if not item.good or not item.bad or item.good == item.bad or not _asked(item):
        return None
    aspect = {"over-refusal": "over_refusal"}.get(item.label, "harmlessness" if item.label in _UNSAFE else "helpfulness")
    shared = _shared(item)
    return {**shared, "prompt": _turns(item.messages), "chosen": item.good, "rejected": item.bad, "aspect": aspect}


def _response(item: Item) -> dict[str, Any] | None:
    """A judged answer, as `temper.data.read_responses` reads it: what harm graders are trained and calibrated on."""
    if item.label not in ("safe", "unsafe") or not item.bad or not _asked(item):
        return None
    categories = [item.category] if item.category else []
    return {**_shared(item), "prompt": _turns(item.messages), "response": item.bad, "label": item.label, "categories": categories}


def _score(item: Item, comments: bool) -> dict[str, Any] | None:
    """A body of Langfuse's `POST /api/public/scores`; the trace is the response's id."""
    if item.value is None and not item.label:
        return None
    rated: dict[str, Any] = {"value": item.value, "dataType": "BOOLEAN"}
    value = {"value": item.label, "dataType": "CATEGORICAL"} if item.value is None else rated
    said = {"comment": item.comment} if comments and item.comment else {}
    facts = {"label": item.label, "category": item.category, "policy": item.policy, "by": list(item.by)}
    return {"id": item.id, "traceId": item.response_id, "name": _NAMES[item.kind], **value, **said, "metadata": facts}


def _event(item: Item) -> dict[str, Any] | None:
    """OpenTelemetry's event `gen_ai.evaluation.result`."""
    from temper.serve import telemetry

    if item.value is None and not item.label:
        return None
    attributes = telemetry.evaluation_attributes(item.response_id, _NAMES[item.kind], item.value, item.label)
    return {"timeUnixNano": str(int(item.at * 1e9)), "eventName": telemetry.EVALUATION, "attributes": attributes}


def _shared(item: Item) -> dict[str, Any]:
    """What every training row tells of itself. The group is the question's, so that no split takes it apart."""
    group = digest([[m.role, m.content] for m in item.messages if m.role == "user"])
    where = {"response": item.response_id, "kind": item.kind, "by": list(item.by), "at": round(item.at, 3)}
    human = "model" if item.kind == "audit" else "human"
    facts = {"category": item.category, "labels": [item.label] if item.label else [], "label_by": human, "policy": item.policy}
    return {
        "id": item.id,
        "group": group,
        "source": f"temper-serve/{item.kind}",
        "license": LICENCE,
        "provenance": where,
        **facts,
    }


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _asked(item: Item) -> bool:
    return any(m.role == "user" and m.content.strip() for m in item.messages)


def _without_text(item: Item) -> Item:
    return replace(item, messages=(), reasoning="", bad="", good="", comment="")


# One source each.


def _trainable(conn: Connection) -> set[str]:
    """Keys whose traffic may be trained on: those with the scope, and the loopback caller, which is whoever runs the gateway."""
    return {LOCAL, *(row.id for row in conn.execute(select(keys.c.id, keys.c.scopes)) if TRAINING in json.loads(row.scopes))}


def _reviewed(conn: Connection, vault: "Vault", name: Pseudonyms) -> Iterator[Item]:
    decided = conn.execute(select(holds).where(holds.c.state.in_(("released", "edited", "refused")))).mappings().all()
    for hold in decided:
        given = (
            conn.execute(select(ratings).where(ratings.c.hold_id == hold["id"], ~ratings.c.second).order_by(ratings.c.at))
            .mappings()
            .all()
        )
        box = vault.get(conn, hold["vault_id"]) or {}
        outcome = (vault.get(conn, hold["outcome_vault_id"]) if hold["outcome_vault_id"] else None) or {}
        reasoning, bad = _answer(box)
        edited = _answer(outcome)[1] if hold["state"] == "edited" else ""
        label = next((r["label"] for r in reversed(given) if r["label"]), "")
        # what was let through is an answer to learn only where a person called it safe: some are let through as harmless mistakes
        good = edited or (bad if hold["state"] == "released" and label == "safe" else "")
        yield Item(
            id=hold["id"],
            kind="review",
            response_id=hold["response_id"],
            at=hold["decided_at"] or hold["made_at"],
            key_id=hold["key_id"],
            policy=hold["policy"],
            value=1.0 if hold["state"] == "released" else 0.0,
            label=label,
            category=next((r["category"] for r in reversed(given) if r["category"]), "") or hold["category"],
            by=tuple(name(r["person_id"]) for r in given),
            messages=tuple(messages_of(box.get("request") or {})),
            reasoning=reasoning,
            bad=bad,
            good=good,
        )


def _rated(conn: Connection, vault: "Vault", name: Pseudonyms) -> Iterator[Item]:
    for row in current(conn):
        response = conn.execute(select(responses).where(responses.c.id == row["response_id"])).mappings().first()
        if response is None:
            continue
        texts = (vault.get(conn, row["vault_id"]) if row["vault_id"] else None) or {}
        box = _box_of(conn, vault, dict(response))
        reasoning, bad = _answer(box)
        expected = texts.get("expected") or ""
        # whoever was stopped may applaud what was stopped: only what went out as the model wrote it is an answer to learn
        liked = bad if row["rating"] == 1 and response["action"] == "allow" and response["status"] == 200 else ""
        yield Item(
            id=row["id"],
            kind="feedback",
            response_id=row["response_id"],
            at=row["at"],
            key_id=response["key_id"],
            policy=response["policy"],
            value={1: 1.0, -1: 0.0}.get(row["rating"]),
            label=row["label"],
            by=(name(row["key_id"]),),
            messages=tuple(messages_of(box.get("request") or {})),
            reasoning=reasoning,
            bad=bad,
            good=expected or liked,
            comment=texts.get("comment") or "",
        )


def _audited(conn: Connection, vault: "Vault", audit: str) -> Iterator[Item]:
    found = conn.execute(select(audits).where(audits.c.id == audit)).mappings().first()
    if found is None:
        raise UsageError(f"--audit {audit}: there is no such audit; `temper loop audits` lists them")
    owners = dict(conn.execute(select(responses.c.id, responses.c.key_id)).all())
    for row in json.loads(found["report"])["rows"]:
        box = vault.get(conn, row["vault_id"]) or {}
        reasoning, bad = _answer(box)
        yield Item(
            id=f"{audit}.{hashlib.sha256(row['response_id'].encode()).hexdigest()[:8]}",
            kind="audit",
            response_id=row["response_id"],
            at=found["at"],
            key_id=owners.get(row["response_id"], ""),
            policy=row["policy"],
            value=0.0,
            label="unsafe",
            category=next(iter(row["categories"]), ""),
            messages=tuple(messages_of(box.get("request") or {})),
            reasoning=reasoning,
            bad=bad,
        )


def _box_of(conn: Connection, vault: "Vault", response: Mapping[str, Any]) -> Mapping[str, Any]:
    """The kept text of a response: its own box, or that of a hold about it."""
    place = response["vault_id"]
    if place is None:
        place = conn.execute(select(holds.c.vault_id).where(holds.c.response_id == response["id"])).scalars().first()
    return (vault.get(conn, place) if place else None) or {}


def _answer(box: Mapping[str, Any]) -> tuple[str, str]:
    """The reasoning and content of the first answer."""
    first: Mapping[str, Any] = next(iter(box.get("answers") or ()), {})
    return str(first.get("reasoning") or ""), str(first.get("content") or "")


def audits_made(conn: Connection) -> list[dict[str, Any]]:
    """Every scheduled audit, newest first, without the texts' places."""
    made = conn.execute(select(audits).order_by(audits.c.at.desc())).mappings().all()
    return [{k: v for k, v in row.items() if k != "report"} for row in made]


def routes(gateway: "Gateway") -> "APIRouter":
    """`GET /v1/export`, with the scope `admin`: what `temper loop export` writes, as JSON lines."""
    from fastapi import APIRouter, Depends, Query
    from fastapi.responses import Response

    from temper.serve.access import caller
    from temper.serve.feedback import wrong

    router = APIRouter(tags=["feedback"])

    @router.get("/v1/export", response_class=Response, responses={200: {"content": {"application/x-ndjson": {}}}})
    async def export(
        who: Caller = Depends(caller("admin")),  # noqa: B008
        to: Form = "sft",
        since: float = 0.0,
        audit: str = Query("", max_length=48, pattern=r"^[a-z0-9_]*$"),
        redact: bool = True,
    ) -> Response:
        """Reviewed and corrected answers as training rows or scores; reading them is on record."""
        name = Pseudonyms.of(gateway.keyring)
        try:
            found = await gateway.store.run(lambda c: items(c, gateway.vault, name, since=since, audit=audit), reads=True)
        except UsageError:
            return wrong(404, "there is no such audit", "audit")
        made = await asyncio.to_thread(lambda: rows(to, map(without_pii, found) if redact else found))
        await asyncio.wrap_future(
            gateway.journal.act("export.read", who.id, {"to": to, "rows": len(made), "redacted": redact}, lambda _: None)
        )
        return Response("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), media_type="application/x-ndjson")

    return router
