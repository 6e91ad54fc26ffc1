"""Spans, metrics and evaluation events come out under the names of the conventions, hold no text, and are off by default."""

import pytest

otel = pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk._logs import LoggerProvider  # noqa: E402
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor  # noqa: E402
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from temper.serve import telemetry  # noqa: E402
from temper.serve.metrics import Meters  # noqa: E402
from temper.serve.telemetry import Telemetry, from_environment  # noqa: E402

ROW = {
    "id": "resp_1",
    "at": 1000.0,
    "route": "chat",
    "model": "m",
    "status": 200,
    "finish": "stop",
    "action": "allow",
    "policy": "abc",
    "stream": True,
    "prompt_tokens": 3,
    "completion_tokens": 5,
    "reasoning_tokens": 2,
    "seconds": 2.0,
    "first_s": 0.5,
}


def parts() -> tuple[Telemetry, InMemorySpanExporter, InMemoryMetricReader, InMemoryLogRecordExporter]:
    spans, metrics, logs = InMemorySpanExporter(), InMemoryMetricReader(), InMemoryLogRecordExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    events = LoggerProvider()
    events.add_log_record_processor(SimpleLogRecordProcessor(logs))
    return Telemetry(tracers, MeterProvider([metrics]), events), spans, metrics, logs


def test_a_response_is_a_span_of_its_duration_with_the_names_of_the_conventions() -> None:
    made, spans, metrics, _ = parts()
    made.response(ROW)
    (span,) = spans.get_finished_spans()
    assert span.name == "chat m"
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(2.0)
    assert span.attributes["gen_ai.usage.reasoning.output_tokens"] == 2
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    found = {m.name for r in metrics.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert found == {telemetry.DURATION, telemetry.TTFC, telemetry.TOKEN_USAGE}


def test_a_span_is_a_child_of_the_callers() -> None:
    made, spans, _, _ = parts()
    made.response(ROW, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    (span,) = spans.get_finished_spans()
    assert span.parent.span_id == 0xB7AD6B7169203331


def test_a_failed_response_is_a_failed_span() -> None:
    made, spans, _, _ = parts()
    made.response({**ROW, "status": 503})
    (span,) = spans.get_finished_spans()
    assert span.status.status_code.name == "ERROR" and span.attributes["error.type"] == "503"


def test_a_rating_is_an_evaluation_event_too() -> None:
    made, _, _, logs = parts()
    meters = Meters(telemetry=made)
    meters.feedback(1, "resp_1")
    meters.feedback(None, "resp_1")
    (found,) = logs.get_finished_logs()
    assert found.log_record.attributes["gen_ai.evaluation.score.label"] == "up"


def test_an_opinion_is_an_evaluation_event() -> None:
    made, _, _, logs = parts()
    made.evaluation("resp_1", "user_feedback", -1.0, "down")
    (found,) = logs.get_finished_logs()
    assert found.log_record.event_name == "gen_ai.evaluation.result"
    assert found.log_record.attributes["gen_ai.evaluation.score.value"] == -1.0


def test_it_is_off_unless_the_environment_names_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(telemetry.ENDPOINT, raising=False)
    assert from_environment() is None


def test_the_names_are_those_that_the_installed_conventions_have() -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

    known = {v for k, v in vars(gen_ai_attributes).items() if k.startswith("GEN_AI_") and isinstance(v, str)}
    ours = {v for v in vars(telemetry).values() if isinstance(v, str) and v.startswith("gen_ai.")}
    assert ours - known == {telemetry.DURATION, telemetry.TTFC, telemetry.TOKEN_USAGE, telemetry.EVALUATION}
