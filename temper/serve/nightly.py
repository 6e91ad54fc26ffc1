"""The scheduled audit: a random sample of answers that passed is judged again, by newer filters and by a stronger judge.

What to keep is drawn when an answer passes, with a probability that is kept beside it, so that the share of answers that should
not have passed is estimated for all that passed, with an interval. What could not be judged again is counted, and the interval
holds wherever those answers fall.
"""

import asyncio
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from temper import registry
from temper.files import dumps
from temper.serve import ids
from temper.serve.guard import Guard
from temper.serve.policy import Policy, Setting
from temper.serve.tables import audits, counters, responses
from temper.serve.verdict import Action, Channel, Turn, Verdict, View
from temper.types import Completion, Example, Message, Named

if TYPE_CHECKING:
    from fastapi import APIRouter

    from temper.serve.state import Gateway
    from temper.stats import Estimate

PASSED = ("allow", "redact")
KEEP_S = 30 * 86_400.0  # what was missed outlives the sample: for the people who look at it, and for training
THRESHOLD = 0.5
READ = 2_000  # characters of a text by which its language is told
Place = tuple[int, str, str, float]
MOST = 2_000  # items judged in one audit; of more, a random part is, and the weights say so
_draw = secrets.SystemRandom()
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer that passed and was kept: `weight` is how many answers like it passed."""

    response_id: str
    policy: str
    weight: float
    request: Mapping[str, Any]
    answers: tuple[Mapping[str, Any], ...]
    at: float = 0.0
    key_id: str = ""
    model: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What was thought of it now. `filters` and `categories` are those that found something; `judge` is the stronger judge's
    opinion, None where it abstained, failed or there is none; `errors` names filters that failed.
    """

    item: Sampled
    filters: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    judge: bool | None = None
    errors: tuple[str, ...] = ()
    asked_judge: bool = False

    @property
    def missed(self) -> bool | None:
        """Whether it should not have passed; None where nobody who was asked can tell."""
        if self.filters or self.judge:
            return True
        return None if self.errors or (self.asked_judge and self.judge is None) else False


def chosen(policy: Policy) -> bool:
    """Whether an answer that passes now is kept for the audit: a fresh draw, which nobody can steer."""
    return _draw.random() < policy.audit.share


def box(policy: Policy, request: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What to put into the vault, for the purpose `sample` and `policy.audit.keep_s`, of an answer that was chosen."""
    return {"request": dict(request), "answers": [dict(a) for a in answers], "share": policy.audit.share}


async def run(gateway: "Gateway", *, until: float | None = None) -> str:
    """Audit what passed since the last audit, and return the id of the report in the table `audits`."""
    policy, end = gateway.guard.policy, until or time.time()
    since, passed, found, gone = await gateway.store.run(lambda conn: sample(conn, gateway, end))
    judge = await asyncio.to_thread(_judge, policy)
    judged = await asyncio.to_thread(judge_again, stronger(gateway.guard), judge, found)
    sums = await asyncio.to_thread(drift, found)
    named, report = ids.new("audit"), summary(judged, passed=passed, gone=gone)
    told = {"passed": passed, "judged": report["judged"], "missed": report["missed"], "undecided": report["undecided"]}

    def work(conn: Connection) -> str:
        kept = [_kept(conn, gateway, one) for one in judged if one.missed]
        row = {
            "id": named,
            "at": time.time(),
            "since": since,
            "until": end,
            "policy": policy.version,
            "passed": passed,
            "judged": report["judged"],
            "missed": report["missed"],
            "low": report["rate"]["low"],
            "high": report["rate"]["high"],
            "report": dumps({**report, "judge": judge.name if judge else "", "rows": kept}),
        }
        conn.execute(insert(audits).values(**row))
        count(conn, sums)
        gateway.hooks.queue(conn, "audit.finished", {"id": named, **told})
        return named

    return await asyncio.wrap_future(gateway.journal.act("audit.finished", named, told, work))


def sample(conn: Connection, gateway: "Gateway", until: float) -> tuple[float, int, list[Sampled], int]:
    """The beginning of the window, how many answers passed in it, those kept of them, and how many of these expired too early."""
    every = gateway.guard.policy.audit.every_s
    since = conn.execute(select(func.max(audits.c.until))).scalar() or until - every
    in_window = (responses.c.at > since, responses.c.at <= until, responses.c.action.in_(PASSED), responses.c.status == 200)
    passed = conn.execute(select(func.count()).select_from(responses).where(*in_window)).scalar_one()
    rows = conn.execute(
        select(*(responses.c[name] for name in ("id", "policy", "vault_id", "at", "key_id", "model", "language"))).where(
            *in_window, responses.c.vault_id.is_not(None)
        )
    ).all()
    more = max(1.0, len(rows) / MOST)
    drawn = rows if more == 1.0 else _draw.sample(rows, MOST)
    found, gone = [], 0
    for row in drawn:
        kept = gateway.vault.get(conn, row.vault_id)
        if kept is None or "share" not in kept:
            gone += kept is None
            continue
        weight = more / max(float(kept["share"]), 1e-9)
        texts = kept["request"], tuple(kept["answers"])
        found.append(Sampled(row.id, row.policy, weight, *texts, row.at, row.key_id, row.model, row.language))
    return float(since), passed, found, gone


def stronger(guard: Guard) -> Guard:
    """The guard of today's policy with the audit's filters added, shadows counting as if they were not."""
    policy = guard.policy
    there = {s.kind for s in policy.filters}
    added = [_setting(kind) for kind in policy.audit.filters if kind not in there]
    return Guard(replace(policy, filters=tuple(replace(s, shadow=False) for s in (*policy.filters, *added))))


def judge_again(guard: Guard, judge: Named | None, items: Sequence[Sampled]) -> list[Judged]:
    """Every answer read by every filter and by the judge."""
    flags = _opinions(judge, items) if judge else [None] * len(items)
    made = []
    for item, flag in zip(items, flags, strict=True):
        verdicts = list(_verdicts(guard, item))
        found = [f for v in verdicts for f in v.findings if f.action not in (None, Action.ALLOW) and f.rule != "error"]
        errors = tuple(sorted({name for v in verdicts for name in v.errors}))
        names, kinds = (tuple(sorted({getattr(f, k) for f in found} - {""})) for k in ("filter", "category"))
        made.append(Judged(item, names, kinds, flag, errors, judge is not None))
    return made


def summary(judged: Sequence[Judged], *, passed: int, gone: int = 0) -> dict[str, Any]:
    """The report: the rate of answers that should not have passed, for all that passed, and where the opinions differ.

    `rate` is over the answers somebody could judge; its `low` counts every undecided one as rightly passed, its `high` as missed.
    """
    decided = [(one, one.missed) for one in judged if one.missed is not None]
    undecided = [one for one in judged if one.missed is None]
    best = _rate([(j.item.weight, float(bool(m))) for j, m in decided])
    low = _rate([*((j.item.weight, float(bool(m))) for j, m in decided), *((j.item.weight, 0.0) for j in undecided)])
    high = _rate([*((j.item.weight, float(bool(m))) for j, m in decided), *((j.item.weight, 1.0) for j in undecided)])
    missed = [j for j, m in decided if m]
    return {
        "passed": passed,
        "sampled": len(judged) + gone,
        "judged": len(decided),
        "missed": len(missed),
        "undecided": len(undecided),
        "gone": gone,
        "rate": {**best.as_dict(), "low": low.as_dict()["low"], "high": high.as_dict()["high"]},
        "filters": dict(Counter(name for j in missed for name in j.filters)),
        "categories": dict(Counter(name for j in missed for name in j.categories)),
        "policies": dict(Counter(j.item.policy for j in missed)),
        "errors": dict(Counter(name for j in judged for name in j.errors)),
        "judge_only": sum(bool(j.judge) and not j.filters for j in missed),
        "filters_only": sum(bool(j.filters) and j.judge is False for j in missed),
        "agree": sum(bool(j.filters) and bool(j.judge) for j in missed),
    }


def drift(items: Sequence[Sampled]) -> list[tuple[str, Place]]:
    """What only a text tells of the answers that were drawn, for the counters of their hour: the language, whether thoughts and
    answer differ in it, P(refusal) and the length in characters. Requests do not wait for this. An answer whose language is on
    record was counted when it was given.
    """
    from temper import catalog

    asked = [Completion(turn(i).example, a.get("content", ""), a.get("reasoning", "")) for i in items for a in i.answers[:1]]
    refusals = catalog.grader("refusal").grade(asked) if asked else ()
    found: list[tuple[str, Place]] = []
    for item, said, refusal in zip((i for i in items if i.answers), asked, refusals, strict=True):
        place = int(item.at // 3600), item.key_id, item.model
        language, thought = _language(said.answer), _language(said.reasoning)
        values = {"characters": float(len(said.answer))}
        values |= {f"language:{language}": 1.0} if language and not item.language else {}
        values |= {"language-switch": float(language != thought)} if language and thought else {}
        values |= {} if refusal.value is None else {"score:refusal": refusal.value}
        found += [(name, (*place, value)) for name, value in values.items()]
    return found


def count(conn: Connection, found: Sequence[tuple[str, Place]]) -> None:
    """Add what was found to the table `counters`."""
    make = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
    for name, (hour, key_id, model, value) in found:
        row = {"hour": hour, "key_id": key_id, "model": model, "name": name, "n": 1, "total": value, "squares": value * value}
        made = make(counters).values(**row)
        sums = {column: counters.c[column] + made.excluded[column] for column in ("n", "total", "squares")}
        conn.execute(made.on_conflict_do_update(index_elements=["hour", "key_id", "model", "name"], set_=sums))


def _language(text: str) -> str:
    """The language most words of a text are in, "" where there is none."""
    from temper.text.language import spans

    words: Counter[str] = Counter()
    for span in spans(text[:READ]):
        words[span.language] += span.words
    return words.most_common(1)[0][0] if words else ""


def turn(item: Sampled) -> Turn:
    """The request as the filters know it."""
    messages = tuple(messages_of(item.request))
    system = "\n".join(m.content for m in messages if m.role == "system")
    return Turn(item.response_id, Example(item.response_id, messages), system=system, policy=item.policy)


def messages_of(request: Mapping[str, Any]) -> Iterator[Message]:
    """The messages of a request's body; a tool's result counts as the user's, a list of parts as its texts."""
    for who, texts in said(request):
        role = {"system": "system", "developer": "system", "assistant": "assistant"}.get(who, "user")
        yield Message(role, "\n".join(texts))  # type: ignore[arg-type]


def said(request: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Who said what in a request's body: the role as it was given, and the texts of each message."""
    prompt = request.get("prompt")
    if prompt is not None:
        yield "user", [prompt] if isinstance(prompt, str) else list(map(str, prompt))
    for given in request.get("messages", ()):
        content = given.get("content")
        parts = content if isinstance(content, list) else ()
        texts = [content] if isinstance(content, str) else [str(p.get("text", "")) for p in parts if isinstance(p, Mapping)]
        yield str(given.get("role")), texts


def _verdicts(guard: Guard, item: Sampled) -> Iterator[Verdict]:
    asked = turn(item)
    for (role, _), message in zip(said(item.request), asked.example.messages, strict=True):
        if message.role == "user" and message.content:
            yield guard.scan(View(Channel.INPUT, message.content, asked, role=role))
    for n, answer in enumerate(item.answers):
        texts = [(Channel.REASONING, answer.get("reasoning")), (Channel.CONTENT, answer.get("content"))]
        texts += [(Channel.TOOL_ARGS, call.get("arguments")) for call in answer.get("calls", ())]
        for channel, text in texts:
            if text:
                yield guard.scan(View(channel, text, asked, choice=n))


def _opinions(judge: Named, items: Sequence[Sampled]) -> list[bool | None]:
    """Whether the judge would have stopped an answer: the worst of the choices; None where it could not say."""
    asked = [
        (i, Completion(turn(item).example, a.get("content", ""), a.get("reasoning", "")))
        for i, item in enumerate(items)
        for a in item.answers
    ]
    try:
        scores = judge.grade([c for _, c in asked])
    except Exception as error:  # noqa: BLE001  a judge is anybody's code or an endpoint; the audit says that it could not tell
        log.error("the audit's judge failed: %s", type(error).__name__)
        return [None] * len(items)
    bad: dict[int, list[bool | None]] = {}
    for (i, _), score in zip(asked, scores, strict=True):
        flag = None if score.value is None else (score.value >= THRESHOLD) == (judge.better == "low")
        bad.setdefault(i, []).append(flag)
    return [_worst(bad.get(i, [])) for i in range(len(items))]


def _worst(flags: Sequence[bool | None]) -> bool | None:
    return True if True in flags else None if None in flags or not flags else False


def _judge(policy: Policy) -> Named | None:
    from temper import catalog

    return catalog.grader(policy.audit.judge) if policy.audit.judge else None


def _setting(kind: str) -> Setting:
    made = registry.find("filter", kind)()
    return Setting(kind, kind, made, made.default_channels, made.default_action)


def _rate(pairs: Sequence[tuple[float, float]]) -> "Estimate":
    from temper import judge_error  # numpy and scipy, which the gateway does without until its first audit

    return judge_error.rate([v for _, v in pairs], [w for w, _ in pairs]).estimate()


def _kept(conn: Connection, gateway: "Gateway", one: Judged) -> dict[str, Any]:
    """The row of a missed answer in the report, its text put away again for as long as reports are worked on."""
    texts = {"request": dict(one.item.request), "answers": [dict(a) for a in one.item.answers]}
    facts = asdict(replace(one, item=replace(one.item, request={}, answers=())))
    facts.pop("item")
    kept = gateway.vault.put(conn, "sample", texts, KEEP_S)
    return {"response_id": one.item.response_id, "policy": one.item.policy, "vault_id": kept, **facts}


def routes(gateway: "Gateway") -> "APIRouter":
    """`GET /v1/audits` and `POST /v1/audits` (audit now), with the scope `admin`."""
    from fastapi import APIRouter, Depends
    from fastapi.responses import JSONResponse

    from temper.serve.access import caller

    router = APIRouter(tags=["audits"], dependencies=[Depends(caller("admin"))])

    @router.get("/v1/audits")
    async def made() -> JSONResponse:
        """The reports of the last scheduled audits, newest first."""
        return JSONResponse({"object": "list", "data": await gateway.store.run(reports, reads=True)})

    @router.post("/v1/audits", status_code=201)
    async def now() -> JSONResponse:
        """Audit what passed since the last audit, now."""
        return JSONResponse({"id": await run(gateway)}, 201)

    return router


def reports(conn: Connection, limit: int = 30) -> list[dict[str, Any]]:
    """The last reports, newest first, each with its numbers and, for every answer found, which filters and categories say so."""
    rows = conn.execute(select(audits).order_by(audits.c.at.desc()).limit(limit)).mappings().all()
    return [{**row, "report": json.loads(row["report"])} for row in rows]
