"""Export of spans: ids, sampling, losses, and a collector that may be unavailable."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import Event, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    set_span_in_context,
)

from mesh.observability import telemetry
from mesh.observability.config import GRPC, HTTP, OtlpConfig, TraceConfig, collector_config
from mesh.observability.ended_span import SpanTemplate
from mesh.observability.processor import SpanLosses, SpanQueue
from mesh.observability.span_ids import ChildSpans, derive_span_id
from mesh.observability.telemetry import open_traces
from mesh.settings import Settings
from tests.mesh.observability.collectors import PROTOCOLS, collecting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mesh.observability.collectors import Collector

SAMPLED = TraceFlags(TraceFlags.SAMPLED)


@contextmanager
def exporting() -> Iterator[tuple[Collector, TraceConfig]]:
    with collecting(GRPC) as collector:
        yield collector, collector_config(collector.endpoint)


@contextmanager
def answering_without_end() -> Iterator[str]:
    """Runs a collector over HTTP whose answers do not end; yields its endpoint."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # the client has gone
                while True:
                    self.wfile.write(b"x")

        def log_message(self, *_: Any) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
        server.shutdown()
        thread.join()


def test_spans_reach_a_collector_with_the_name_of_their_service() -> None:
    with exporting() as (collector, config):
        traces = open_traces("bitcoin", config)
        traces.tracer.start_span("a call").end()
        traces.close()

    [spans] = collector.exports[0].request.resource_spans
    resource = {pair.key: pair.value.string_value for pair in spans.resource.attributes}
    assert resource["service.name"] == "bitcoin"
    assert resource["service.namespace"] == "anya"
    assert resource["service.version"]
    assert resource["service.instance.id"]
    assert [span.name for span in collector.spans] == ["a call"]


def test_ended_span_of_the_sink_is_sent_beside_one_of_the_tracer() -> None:
    with exporting() as (collector, config):
        traces = open_traces("bitcoin", config)
        assert traces.span_sink
        traces.span_sink.add(
            SpanTemplate("pay", {"step": "pay"}, SpanKind.CLIENT, error="LATE"),
            (0xA, SAMPLED),
            (0xB, 0xC),
            (1_000, 3_000),
            {"attempt": 2},
            [Event("retry", {"delay_ms": 5}, 2_000)],
        )
        traces.tracer.start_span("a call").end()
        traces.close()

    [resource] = collector.exports[0].request.resource_spans
    [scope] = resource.scope_spans
    span, opened = scope.spans
    assert opened.name == "a call"
    assert (span.trace_id[-1], span.span_id[-1], span.parent_span_id[-1]) == (0xA, 0xB, 0xC)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000, 3_000)
    assert (span.name, span.kind) == ("pay", Span.SPAN_KIND_CLIENT)
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert {
        pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes
    } == {"step": "pay", "attempt": 2, "error.type": "LATE"}
    assert [(event.name, event.time_unix_nano) for event in span.events] == [("retry", 2_000)]


def test_dead_collector_delays_neither_spans_nor_shutdown() -> None:
    config = collector_config("http://127.0.0.1:1")  # no server listens there
    traces = open_traces("bitcoin", config)
    start = time.monotonic()

    for _ in range(config.max_queue_spans + 1):
        traces.tracer.start_span("a call").end()
    ended = time.monotonic()
    traces.close()

    assert ended - start < config.otlp.timeout_s / 2
    assert time.monotonic() - ended < 2 * telemetry.FLUSH_TIMEOUT_S


def test_lost_spans_are_counted_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    config = replace(collector_config("http://127.0.0.1:1"), max_queue_spans=10, max_batch_spans=10)
    traces = open_traces("bitcoin", config)

    with caplog.at_level(logging.WARNING, "mesh.observability"):
        for _ in range(1000):
            traces.tracer.start_span("a call").end()
        during = [record.message for record in caplog.records if "mesh" in record.name]
        traces.close()

    assert len(during) == 1
    assert "dropped from the full queue" in during[0]
    lost = caplog.records[-1].args
    assert lost
    assert "980 dropped" in str(lost) or "990 dropped" in str(lost)


def test_spans_of_an_export_that_raises_are_counted_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class BrokenExporter(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            raise RuntimeError

    losses = SpanLosses()
    queue = SpanQueue(BrokenExporter(), TraceConfig(), losses)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(queue)
    with caplog.at_level(logging.WARNING, "mesh.observability"):
        provider.get_tracer("mesh").start_span("a call").end()
        provider.shutdown()

    assert "spans lost since the start: 1 not accepted by the collector" in caplog.messages


def test_spans_of_an_export_that_does_not_end_are_counted_as_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_TIMEOUT_S", 0.2)
    with collecting(HTTP, blocked=True) as collector, caplog.at_level(logging.WARNING):
        otlp = OtlpConfig(protocol=HTTP, endpoint=f"{collector.endpoint}/v1/traces")
        traces = open_traces("bitcoin", TraceConfig(exporters=("otlp",), otlp=otlp))
        for _ in range(3):
            traces.tracer.start_span("a call").end()
        traces.close()

    assert "spans lost since the start: 3 waiting when the process stopped" in caplog.messages


def test_dead_collector_takes_no_spans_from_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_TIMEOUT_S", 0.2)
    config = replace(collector_config("http://127.0.0.1:1"), exporters=("otlp", "console"))
    console = io.StringIO()
    traces = open_traces("bitcoin", config, console=console)
    traces.tracer.start_span("a call").end()
    traces.close()

    assert "a call" in console.getvalue()


def test_answer_without_an_end_ends_no_export() -> None:
    with answering_without_end() as endpoint:
        otlp = OtlpConfig(protocol=HTTP, endpoint=endpoint)
        config = TraceConfig(exporters=("otlp",), otlp=otlp, max_batch_spans=1)
        traces = open_traces("bitcoin", config)
        start = time.monotonic()
        for _ in range(3):
            traces.tracer.start_span("a call").end()
        traces.close()

    assert time.monotonic() - start < telemetry.FLUSH_TIMEOUT_S


@pytest.mark.parametrize("variable", ["TIMEOUT", "HEADERS", "CERTIFICATE", "INSECURE"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_empty_variable_is_as_one_that_is_unset(
    monkeypatch: pytest.MonkeyPatch, protocol: str, variable: str
) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_TRACES_{variable}", "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    with collecting(protocol) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        traces = open_traces("bitcoin", TraceConfig.from_settings(Settings(os.environ)))
        traces.tracer.start_span("a call").end()
        traces.close()

    assert len(collector.exports) == 1


def test_derived_span_id_depends_on_every_part_and_on_nothing_else() -> None:
    span_id = derive_span_id("run", "step", 1)

    assert derive_span_id("run", "step", 1) == span_id
    assert derive_span_id("run", "step", 2) != span_id
    assert derive_span_id("runs", "tep", 1) != span_id
    assert 0 < span_id < 1 << 64


def test_chosen_id_is_used_for_one_span() -> None:
    tracer = open_traces("bitcoin", TraceConfig()).tracer

    with ChildSpans(0x1234, 1, SAMPLED, 7):
        first, second = tracer.start_span("a"), tracer.start_span("b")
    third = tracer.start_span("c")

    ids = [span.get_span_context().span_id for span in (first, second, third)]
    assert ids[0] == 7
    assert 7 not in ids[1:]


def test_unused_chosen_id_ends_with_its_block() -> None:
    tracer = open_traces("bitcoin", TraceConfig()).tracer

    with ChildSpans(0x1234, 1, SAMPLED, 7):
        pass

    assert tracer.start_span("a").get_span_context().span_id != 7


def test_calls_without_an_exporter_have_ids_and_are_not_recorded() -> None:
    traces = open_traces("bitcoin", TraceConfig())

    span = traces.tracer.start_span("a")

    assert span.get_span_context().is_valid
    assert span.get_span_context().trace_flags.sampled  # for processes that have an exporter
    assert not span.is_recording()
    assert traces.span_sink is None


def test_calls_without_an_exporter_continue_the_trace_of_their_caller() -> None:
    tracer = open_traces("bitcoin", TraceConfig()).tracer
    above = set_span_in_context(NonRecordingSpan(SpanContext(0xA, 0xB, is_remote=True)))

    context = tracer.start_span("a", above).get_span_context()

    assert (context.trace_id, context.trace_flags.sampled) == (0xA, False)


def test_roots_are_sampled_by_the_ratio_and_children_follow() -> None:
    with exporting() as (collector, config):
        ratio = replace(config, sampler="parentbased_traceidratio", sampler_ratio=0.5)
        traces = open_traces("bitcoin", ratio)
        for _ in range(400):
            with traces.tracer.start_as_current_span("root"):
                traces.tracer.start_span("below").end()
        traces.close()

    pairs = list(zip(collector.spans[::2], collector.spans[1::2], strict=True))
    assert 100 < len(pairs) < 300
    for below, root in pairs:
        assert below.trace_id == root.trace_id
        assert below.parent_span_id == root.span_id
        assert root.parent_span_id == b""


@pytest.mark.parametrize(
    ("sampler", "kept"), [("parentbased_always_on", True), ("always_off", False)]
)
def test_descendants_of_a_sampled_span_are_recorded_as_the_sampler_says(
    sampler: str, kept: bool
) -> None:
    with exporting() as (_, config):
        traces = open_traces("bitcoin", replace(config, sampler=sampler))
        assert traces.span_sink

        assert traces.span_sink.samples(0xA, SAMPLED) is kept
        assert not traces.span_sink.samples(0xA, TraceFlags.get_default())
        traces.close()


def test_span_has_the_class_of_an_error_but_not_its_text() -> None:
    with exporting() as (collector, config):
        traces = open_traces("bitcoin", config)
        with pytest.raises(ValueError, match="hunter2"), traces.tracer.start_as_current_span("a"):
            raise ValueError("the password is hunter2")
        traces.close()

    (span,) = collector.spans
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert [(pair.key, pair.value.string_value) for pair in span.attributes] == [
        ("error.type", "ValueError")
    ]
    assert [event.name for event in span.events] == ["exception"]
    assert "hunter2" not in str(span)
    assert "Traceback" not in str(span)
