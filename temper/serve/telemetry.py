"""Traces, metrics and evaluation events for OpenTelemetry, made from the rows of finished responses: no text can get in.

The extra `temper-llm[otel]`. Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set. The conventions for generative models are still in
development, so every name stands here, once, under the version it was taken from; names of ours begin with `temper.`.
"""

import importlib.util
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import temper
from temper.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

# Names of the GenAI conventions as of 2026-08, when all of them were still in development.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
STREAM = "gen_ai.request.stream"
RESPONSE = "gen_ai.response.id"
FINISH = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"
DURATION = "gen_ai.client.operation.duration"
TTFC = "gen_ai.client.operation.time_to_first_chunk"
TOKEN_USAGE = "gen_ai.client.token.usage"
EVALUATION = "gen_ai.evaluation.result"
EVALUATION_NAME = "gen_ai.evaluation.name"
EVALUATION_VALUE = "gen_ai.evaluation.score.value"
EVALUATION_LABEL = "gen_ai.evaluation.score.label"
ERROR = "error.type"
ACTION = "temper.action"
POLICY = "temper.policy.version"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
BUCKETS = [0.01 * 2**k for k in range(14)]
TOKEN_BUCKETS = [4.0**k for k in range(14)]
_OPERATIONS = {"chat": "chat", "completions": "text_completion"}


class Telemetry:
    """Spans, metrics and events of one worker. `models`, which may grow, are the names that may stand in an attribute."""

    def __init__(
        self, tracers: "TracerProvider", meters: "MeterProvider", events: "LoggerProvider", *, models: Collection[str] = ()
    ) -> None:
        self.models = models
        self.providers: tuple[Any, ...] = (tracers, meters, events)
        self._tracer = tracers.get_tracer("temper.serve", temper.__version__)
        self._events = events.get_logger("temper.serve", temper.__version__)
        meter = meters.get_meter("temper.serve", temper.__version__)
        self._duration = meter.create_histogram(DURATION, unit="s", explicit_bucket_boundaries_advisory=BUCKETS)
        self._first = meter.create_histogram(TTFC, unit="s", explicit_bucket_boundaries_advisory=BUCKETS)
        self._tokens = meter.create_histogram(TOKEN_USAGE, unit="{token}", explicit_bucket_boundaries_advisory=TOKEN_BUCKETS)

    def response(self, row: Mapping[str, Any], *, traceparent: str = "") -> None:
        """The span and the metrics of one finished response, a row of the table `responses`, whose `at` is its beginning.

        `traceparent` is the header of that name: the span becomes a child of the caller's.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        model = row["model"] if row["model"] in self.models else "other"
        operation = _OPERATIONS.get(row["route"].strip("/").rpartition("/")[2], "chat")
        shared: dict[str, Any] = {OPERATION: operation, PROVIDER: "temper", MODEL: model}
        if row["status"] >= 500:
            shared[ERROR] = str(row["status"])
        told = {
            RESPONSE: row["id"],
            FINISH: [row["finish"]],
            STREAM: bool(row["stream"]),
            INPUT_TOKENS: row["prompt_tokens"],
            OUTPUT_TOKENS: row["completion_tokens"],
            REASONING_TOKENS: row["reasoning_tokens"],
            ACTION: row["action"],
            POLICY: row["policy"],
            **({} if row.get("first_s") is None else {FIRST_CHUNK: row["first_s"]}),
        }
        span = self._tracer.start_span(
            f"{operation} {model}",
            context=TraceContextTextMapPropagator().extract({"traceparent": traceparent}) if traceparent else None,
            kind=SpanKind.SERVER,
            attributes={**shared, **told},
            start_time=int(row["at"] * 1e9),
        )
        if row["status"] >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(int((row["at"] + row["seconds"]) * 1e9))
        self._duration.record(row["seconds"], shared)
        if row.get("first_s") is not None:
            self._first.record(row["first_s"], shared)
        self._tokens.record(row["prompt_tokens"], {**shared, TOKEN_TYPE: "input"})
        self._tokens.record(row["completion_tokens"], {**shared, TOKEN_TYPE: "output"})

    def evaluation(self, response_id: str, name: str, value: float | None, label: str = "") -> None:
        """The event of one opinion about a response, a person's or an audit's. `label` is a word of ours, never a comment."""
        from opentelemetry._logs import LogRecord

        self._events.emit(LogRecord(event_name=EVALUATION, attributes=evaluation_attributes(response_id, name, value, label)))

    def close(self) -> None:
        """Send what waits to be sent."""
        for provider in self.providers:
            if hasattr(provider, "shutdown"):
                provider.shutdown()


def evaluation_attributes(response_id: str, name: str, value: float | None, label: str = "") -> dict[str, Any]:
    """The attributes of an evaluation event; also what `temper loop export --to otel` writes."""
    given = {EVALUATION_NAME: name, RESPONSE: response_id}
    scored = {} if value is None else {EVALUATION_VALUE: value}
    return {**given, **scored, **({EVALUATION_LABEL: label} if label else {})}


def from_environment(models: Collection[str] = ()) -> Telemetry | None:
    """Telemetry to the collector that the environment names, None where it names none.

    Raises `UsageError` where one is named and the extra is not installed.
    """
    if not os.environ.get(ENDPOINT):
        return None
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None:
        raise UsageError(f"{ENDPOINT} is set and OpenTelemetry is not installed; pip install 'temper-llm[otel]', or unset it")
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "temper")})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    events = LoggerProvider(resource=resource)
    events.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource)
    return Telemetry(tracers, meters, events, models=models)
