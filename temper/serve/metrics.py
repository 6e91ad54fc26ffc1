"""What one worker counts for Prometheus, in a registry of its own. No label ever holds text or a value that a client made up.

The hot path looks its counters up once: `response` costs a few dictionary reads and increments. What is only known when somebody
asks (queues, holds, loop lag) is read at that moment. Workers of one machine leave their counters in a folder of their own, so
that whichever is asked tells of all.
"""

import asyncio
import logging
import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from fastapi import APIRouter

    from temper.serve.state import Gateway
    from temper.serve.telemetry import Telemetry

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Buckets of a request, as OpenTelemetry's conventions for generative models have them."""
FILTER_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
OTHER = "other"
MOST = 200  # values of one label; what comes later is counted as OTHER
_NAME = re.compile(r"[A-Za-z0-9_.:/@-]{1,80}")
_LAG_EVERY_S = 0.1
_LAG_KEPT = 600  # samples, one minute
SHARE_S = 5.0
GONE_S = 4 * SHARE_S  # a worker that wrote nothing for so long has ended
log = logging.getLogger(__name__)


class Meters:
    """The counters of one worker. `models` are the names that may stand in a label: a client may ask for any.

    `telemetry`, where it is on, is told of every response and every rating.
    """

    def __init__(self, *, worker: str = "0", models: Iterable[str] = (), telemetry: "Telemetry | None" = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.worker = worker
        self.models = set(models)
        self.telemetry = telemetry
        if telemetry is not None:
            telemetry.models = self.models  # the same set, so that both learn
        self.shared: Path | None = None
        self._known: dict[str, set[str]] = {}
        self._children: dict[tuple[str, ...], Any] = {}
        self._kinds: dict[tuple[str, str, int, str], tuple[Any, Any, Any]] = {}
        self._lags: deque[float] = deque(maxlen=_LAG_KEPT)
        self._watched: dict[str, tuple[str, Callable[[], float]]] = {}
        self._requests = self._counter("temper_requests", "Requests answered.", "route", "model", "status", "action")
        self._findings = self._counter("temper_findings", "Findings.", "filter", "rule", "channel", "action", "shadow")
        self._errors = self._counter("temper_filter_errors", "Filters that failed.", "filter", "on_error")
        self._tokens = self._counter("temper_tokens", "Tokens, as the upstream counted them.", "model", "kind")
        self._shed = self._counter("temper_shed", "Requests refused for load or a limit.", "why")
        self._feedback = self._counter("temper_feedback", "Ratings given.", "rating")
        self._scanned = self._counter("temper_scanned_characters", "Characters of answers that filters read.").labels(worker)
        self._released = self._counter("temper_released_characters", "Characters of answers delivered.").labels(worker)
        self._unscanned = self._gauge("temper_unscanned_characters", "Delivered and never scanned: above 0 is an alarm.")
        self._seconds = self._histogram("temper_request_seconds", "From request to last byte.", SECONDS, "route", "action")
        self._first = self._histogram("temper_first_byte_seconds", "From request to first text.", SECONDS, "route")
        self._filter = self._histogram("temper_filter_seconds", "One call of a filter.", FILTER_SECONDS, "filter")
        held_back = self._histogram("temper_hold_back_seconds", "How long text waited to be released.", SECONDS)
        self._waited = held_back.labels(worker)
        self._under_way = self._gauge("temper_under_way", "Requests being answered.")
        self._ready = self._gauge("temper_ready", "1 where the last self-test passed.")
        self.registry.register(_Asked(self))

    def response(self, row: Mapping[str, Any], *, traceparent: str = "") -> None:
        """Count one answered request, a row of the table `responses`; where telemetry is on, it becomes a span too."""
        if self.telemetry is not None:
            self.telemetry.response({**row, "model": self.named(row["model"])}, traceparent=traceparent)
        model = self.named(row["model"])
        kind_of = row["route"], model, row["status"], row["action"]
        meters = self._kinds.get(kind_of)
        if meters is None:
            meters = self._kinds[kind_of] = self._of_kind(*kind_of)
        requests, seconds, first = meters
        requests.inc()
        seconds.observe(row["seconds"])
        if row.get("first_s") is not None:
            first.observe(row["first_s"])
        scanned, released = row["scanned"], row["released"]
        self._scanned.inc(scanned)
        self._released.inc(released)
        if released > scanned:
            self._unscanned.inc(released - scanned)
        for kind in ("prompt", "completion", "reasoning"):
            if count := row[f"{kind}_tokens"]:
                self._child(self._tokens, model, kind).inc(count)
        if row["findings"] != "[]":
            self._count_findings(orjson.loads(row["findings"]))

    def _of_kind(self, route: str, model: str, status: int, action: str) -> tuple[Any, Any, Any]:
        """The counter and the two histograms that responses of one kind go into; looked up once for each kind."""
        route, action = self._bounded("route", route), self._bounded("action", action)
        requests = self._child(self._requests, route, model, self._bounded("status", str(status)), action)
        return requests, self._child(self._seconds, route, action), self._child(self._first, route)

    def learn(self, models: Iterable[str]) -> None:
        """Names of models that may stand in labels and rows: those of the settings, and those the model server lists."""
        self.models.update(models)

    def named(self, model: str) -> str:
        """The model's name where it is known, else OTHER: what a client made up may be anything, a person's name too."""
        return model if model in self.models else OTHER

    def filter_ms(self, name: str, s: float) -> None:
        """One call of a filter took `s` seconds."""
        self._child(self._filter, self._bounded("filter", name)).observe(s)

    def lag(self, s: float) -> None:
        """Text waited `s` seconds in the hold-back window."""
        self._waited.observe(s)

    def error(self, name: str, on_error: str) -> None:
        """A filter failed, and its `on_error` decided."""
        self._child(self._errors, self._bounded("filter", name), on_error).inc()

    def shed(self, why: str) -> None:
        """A request was refused for load or a limit."""
        self._child(self._shed, self._bounded("why", why)).inc()

    def feedback(self, rating: int | None, response_id: str = "") -> None:
        """Somebody rated a response 1 or -1, or said something without a rating (None)."""
        said = {1: "up", -1: "down"}.get(rating or 0, "none")
        self._child(self._feedback, said).inc()
        if self.telemetry is not None and rating is not None:
            self.telemetry.evaluation(response_id, "user_feedback", float(rating), said)

    @property
    def under_way(self) -> Gauge:
        """The gauge of requests being answered: `inc()` and `dec()` it."""
        return self._under_way

    def ready(self, ok: bool) -> None:
        self._ready.set(ok)

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody asks for the metrics: the length of a queue, say."""
        self._watched[name] = (what, read)

    def forget_watch(self, name: str) -> None:
        self._watched.pop(name, None)

    def loop_lag(self) -> float | None:
        """The 99th percentile of how late the event loop was over the last minute, in seconds; None before a first sample."""
        lags = sorted(self._lags)
        return lags[min(len(lags) - 1, int(0.99 * len(lags)))] if lags else None

    async def watch_loop(self) -> None:
        """Sample the event loop's lag, and leave the counters for other workers, until cancelled."""
        last = 0.0
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_LAG_EVERY_S)
            now = time.perf_counter()
            self._lags.append(max(0.0, now - before - _LAG_EVERY_S))
            if self.shared is not None and now - last >= SHARE_S:
                last = now
                await asyncio.to_thread(self.share)

    def share(self) -> None:
        """Leave this worker's counters where the others find them."""
        if self.shared is None:
            return
        try:
            file = self.shared / f"{self.worker}.prom"
            beside = file.with_suffix(".new")
            beside.write_bytes(generate_latest(self.registry))
            beside.replace(file)
        except OSError as error:
            log.warning("metrics: the other workers cannot be told: %s", type(error).__name__)

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus scrapes, of all workers of this machine, and its content type."""
        own = generate_latest(self.registry)
        if self.shared is None:
            return own, CONTENT_TYPE_LATEST
        others = [f for f in sorted(self.shared.glob("*.prom")) if f.stem != self.worker]
        fresh = [f.read_bytes() for f in others if time.time() - f.stat().st_mtime < GONE_S]
        return together([own, *fresh]), CONTENT_TYPE_LATEST

    def asked(self) -> Iterator[Metric]:
        """What is read at the moment of asking."""
        for name, (what, read) in list(self._watched.items()):
            family = GaugeMetricFamily(name, what, labels=["worker"])
            family.add_metric([self.worker], read())
            yield family
        if (lag := self.loop_lag()) is not None:
            family = GaugeMetricFamily("temper_loop_lag_p99_seconds", "How late the event loop was.", labels=["worker"])
            family.add_metric([self.worker], lag)
            yield family

    def _count_findings(self, findings: Iterable[Mapping[str, Any]]) -> None:
        for f in findings:
            name = self._bounded("filter", f.get("filter", ""))
            action = self._bounded("action", f.get("action", ""))
            rule, channel = self._bounded("rule", f.get("rule", "")), self._bounded("channel", f.get("channel", ""))
            self._child(self._findings, name, rule, channel, action, "yes" if f.get("shadow") else "no").inc()
            if f.get("rule") == "error":
                self.error(name, action)

    def _bounded(self, label: str, value: object) -> str:
        """The value where it looks like a name and there are not too many yet; else OTHER."""
        known = self._known.setdefault(label, set())
        if value in known:
            return str(value)
        if not isinstance(value, str) or len(known) >= MOST or not (value == "" or _NAME.fullmatch(value)):
            return OTHER
        known.add(value)
        return value

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric._name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(self.worker, *labels)
        return child

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, ("worker", *labels), registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(name, what, ("worker",), registry=self.registry).labels(self.worker)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, what, ("worker", *labels), buckets=buckets, registry=self.registry)


def together(texts: Iterable[bytes]) -> bytes:
    """Expositions of several workers as one: each family once, with the samples of all, told apart by the label `worker`."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for text in texts:
        name = b""
        for line in text.splitlines():
            if line.startswith(b"# "):
                name = line.split(b" ", 3)[2]
                head = heads.setdefault(name, [])
                if line not in head:
                    head.append(line)
            else:
                samples.setdefault(name, []).append(line)
    return b"".join(line + b"\n" for name, head in heads.items() for line in (*head, *samples.get(name, ())))


def meeting_place(port: int) -> Path | None:
    """A folder of this user alone where the workers behind one port leave their counters, emptied of what ended long ago; None
    where somebody else has it.
    """
    folder = Path(tempfile.gettempdir()) / f"temper-metrics-{os.getuid()}-{port}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
            raise PermissionError
        for file in folder.glob("*.prom"):
            if time.time() - file.stat().st_mtime > GONE_S:
                file.unlink(missing_ok=True)
    except OSError as error:
        log.error("metrics: each worker tells of itself alone: %s", type(error).__name__)
        return None
    return folder


class _Asked(Collector):
    """Hands the registry what is read at the moment of asking."""

    def __init__(self, meters: Meters) -> None:
        self.meters = meters

    def collect(self) -> Iterator[Metric]:
        return self.meters.asked()


def routes(gateway: "Gateway") -> "APIRouter":
    """`GET /metrics`, for a key with the scope `metrics` or, as every route, for loopback where no key is needed."""
    from fastapi import APIRouter, Request
    from fastapi.responses import Response

    from temper.serve.access import identify, open_to

    router = APIRouter()
    if gateway.settings.workers > 1:
        gateway.meters.shared = meeting_place(gateway.settings.port)

    @router.get("/metrics", response_class=Response, tags=["operations"])
    async def metrics(request: Request) -> Response:
        """Counters of the workers on this machine in the text format of Prometheus, those of others at most five seconds old."""
        if not await open_to(gateway, request):
            await identify(gateway, request, "metrics")
        waiting, oldest = await gateway.store.run(_holds, reads=True)
        gateway.meters.watch("temper_holds_waiting", "Items in the hold queue.", lambda: waiting)
        gateway.meters.watch("temper_oldest_hold_seconds", "Age of the oldest item that waits.", lambda: oldest)
        body, kind = await asyncio.to_thread(gateway.meters.exposition)
        # what the database says is told once, by whoever is asked
        for name in ("temper_holds_waiting", "temper_oldest_hold_seconds"):
            gateway.meters.forget_watch(name)
        return Response(body, media_type=kind)

    return router


def _holds(conn: Any) -> tuple[int, float]:
    from sqlalchemy import func, select

    from temper.serve.tables import holds

    count, oldest = conn.execute(
        select(func.count(), func.min(holds.c.made_at)).select_from(holds).where(holds.c.state == "waiting")
    ).one()
    return count, 0.0 if oldest is None else max(0.0, time.time() - oldest)
