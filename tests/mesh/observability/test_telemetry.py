"""Export of spans: ids, sampling, and a collector that may be unavailable."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.trace import SpanKind

from mesh.observability import telemetry
from mesh.observability.spans import MAX_QUEUE, NO_PARENT, FinishedSpan, span_template
from mesh.observability.tracer import SAMPLED, ChildSpans, Tracer

if TYPE_CHECKING:
    from collections.abc import Iterator


class Collector(TraceServiceServicer):
    """Keeps the OTLP requests that it receives."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []

    def Export(  # noqa: N802
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        self.received.append(request)
        return ExportTraceServiceResponse()


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


def test_spans_reach_a_collector_with_the_name_of_their_service() -> None:
    with collecting() as (collector, endpoint):
        exporter = telemetry.otlp_exporter(endpoint)
        traces = telemetry.open_traces("bitcoin", sample_ratio=1, exporter=exporter)
        traces.tracer.start_span("a call").end()
        telemetry.close(traces, exporter)

    [spans] = collector.received[0].resource_spans
    resource = {pair.key: pair.value.string_value for pair in spans.resource.attributes}
    assert resource["service.name"] == "bitcoin"
    assert resource["service.namespace"] == "anya"
    assert resource["service.version"]
    assert resource["service.instance.id"]
    assert [span.name for span in spans.scope_spans[0].spans] == ["a call"]


def test_span_from_the_sink_is_sent_beside_one_of_the_tracer() -> None:
    step = (("step", "pay"), ("attempt", 2))
    failed = span_template("pay", step, SpanKind.CLIENT, failed=True, error="UNAVAILABLE")
    with collecting() as (collector, endpoint):
        exporter = telemetry.otlp_exporter(endpoint)
        traces = telemetry.open_traces("bitcoin", sample_ratio=1, exporter=exporter)
        assert traces.span_sink
        traces.span_sink(FinishedSpan(failed, 0xA, 0xB, 0xC, 1_000, 3_000, {"run": "r"}))
        traces.tracer.start_span("a call").end()
        telemetry.close(traces, exporter)

    span, opened = collector.received[0].resource_spans[0].scope_spans[0].spans
    assert opened.name == "a call"
    assert (span.trace_id[-1], span.span_id[-1], span.parent_span_id[-1]) == (0xA, 0xB, 0xC)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000, 3_000)
    assert (span.name, span.kind) == ("pay", Span.SPAN_KIND_CLIENT)
    assert span.status.message == "UNAVAILABLE"
    assert {
        pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes
    } == {
        "step": "pay",
        "attempt": 2,
        "run": "r",
    }


def test_dead_collector_delays_neither_spans_nor_shutdown() -> None:
    exporter = telemetry.otlp_exporter("http://127.0.0.1:1")  # no server listens there
    traces = telemetry.open_traces("bitcoin", sample_ratio=1, exporter=exporter)
    tracer = traces.tracer
    start = time.monotonic()

    for _ in range(MAX_QUEUE + 1):
        tracer.start_span("a call").end()
    telemetry.close(traces, exporter)

    # Each of the 32 batches alone would be tried for EXPORT_TIMEOUT_S.
    assert time.monotonic() - start < 5 * telemetry.FLUSH_TIMEOUT_S


def test_derived_span_id_depends_on_every_part_and_on_nothing_else() -> None:
    span_id = telemetry.derive_span_id("run", "step", 1)

    assert telemetry.derive_span_id("run", "step", 1) == span_id
    assert telemetry.derive_span_id("run", "step", 2) != span_id
    assert telemetry.derive_span_id("runs", "tep", 1) != span_id
    assert 0 < span_id < 1 << 64


def test_chosen_id_is_used_for_one_span() -> None:
    tracer = telemetry.open_traces("bitcoin", sample_ratio=1).tracer

    with ChildSpans(0x1234, 1, SAMPLED, 7):
        first, second = tracer.start_span("a"), tracer.start_span("b")
    third = tracer.start_span("c")

    ids = [span.get_span_context().span_id for span in (first, second, third)]
    assert ids[0] == 7
    assert 7 not in ids[1:]


def test_unused_chosen_id_ends_with_its_block() -> None:
    tracer = telemetry.open_traces("bitcoin", sample_ratio=1).tracer

    with ChildSpans(0x1234, 1, SAMPLED, 7):
        pass

    assert tracer.start_span("a").get_span_context().span_id != 7


def test_roots_are_sampled_by_the_ratio_and_children_follow() -> None:
    ended: list[FinishedSpan] = []
    tracer = Tracer(ended.append, 0.5)

    for _ in range(400):
        with tracer.start_as_current_span("root"):
            tracer.start_span("below").end()

    pairs = list(zip(ended[::2], ended[1::2], strict=True))
    assert 100 < len(pairs) < 300
    for below, root in pairs:
        assert below.trace_id == root.trace_id
        assert below.parent_id == root.span_id
        assert root.parent_id == NO_PARENT


def test_span_has_the_class_of_an_error_but_not_its_text() -> None:
    ended: list[FinishedSpan] = []
    tracer = Tracer(ended.append, 1)

    with pytest.raises(ValueError, match="hunter2"), tracer.start_as_current_span("root"):
        raise ValueError("the password is hunter2")

    (span,) = ended
    assert span.template.status.code == Status.STATUS_CODE_ERROR
    assert [pair.value.string_value for pair in span.template.attributes] == ["ValueError"]
    assert "hunter2" not in str(span.template)


def test_span_is_handed_to_the_sink_once() -> None:
    ended: list[FinishedSpan] = []
    open_span = Tracer(ended.append, 1).start_span("a call", start_time=5)

    open_span.end(7)
    open_span.end(9)

    assert [(span.start_ns, span.end_ns) for span in ended] == [(5, 7)]
    assert not open_span.is_recording()
