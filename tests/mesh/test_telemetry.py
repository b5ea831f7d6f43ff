"""Spans on their way: under the ids they were given, to a collector that may be dead."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from mesh import telemetry
from mesh.spans import CLIENT, MAX_QUEUE, FinishedSpan, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator


class Collector(TraceServiceServicer):
    """Keeps what it is sent, as OTLP has it on the wire."""

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
        provider = telemetry.tracer_provider("bitcoin", sample_ratio=1, exporter=exporter)
        provider.get_tracer("tests").start_span("a call").end()
        telemetry.close(provider, exporter)

    [spans] = collector.received[0].resource_spans
    resource = {pair.key: pair.value.string_value for pair in spans.resource.attributes}
    assert resource["service.name"] == "bitcoin"
    assert resource["service.namespace"] == "anya"
    assert resource["service.version"]
    assert resource["service.instance.id"]
    assert [span.name for span in spans.scope_spans[0].spans] == ["a call"]


def test_a_drawn_span_is_sent_beside_one_that_was_open() -> None:
    failed = Shape("pay", {"step": "pay", "attempt": 2}, error="UNAVAILABLE", kind=CLIENT)
    with collecting() as (collector, endpoint):
        exporter = telemetry.otlp_exporter(endpoint)
        provider = telemetry.tracer_provider("bitcoin", sample_ratio=1, exporter=exporter)
        assert provider.draw
        provider.draw(FinishedSpan(failed, 0xA, 0xB, 0xC, 1_000, 3_000, {"run": "r"}))
        provider.get_tracer("tests").start_span("a call").end()
        telemetry.close(provider, exporter)

    opened, drawn = collector.received[0].resource_spans
    assert opened.resource == drawn.resource
    (span,) = drawn.scope_spans[0].spans
    assert (span.trace_id[-1], span.span_id[-1], span.parent_span_id[-1]) == (0xA, 0xB, 0xC)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000, 3_000)
    assert (span.name, span.kind, span.status.message) == ("pay", CLIENT, "UNAVAILABLE")
    assert {
        pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes
    } == {
        "step": "pay",
        "attempt": 2,
        "error.type": "UNAVAILABLE",
        "run": "r",
    }


def test_a_dead_collector_makes_nobody_wait() -> None:
    exporter = telemetry.otlp_exporter("http://127.0.0.1:1")  # nobody listens there
    provider = telemetry.tracer_provider("bitcoin", sample_ratio=1, exporter=exporter)
    tracer = provider.get_tracer("tests")
    start = time.monotonic()

    for _ in range(MAX_QUEUE + 1):
        tracer.start_span("a call").end()
    telemetry.close(provider, exporter)

    # Each of the 32 batches alone would be tried for EXPORT_TIMEOUT.
    assert time.monotonic() - start < 5 * telemetry.FLUSH_TIMEOUT


def test_a_derived_span_id_depends_on_every_part_and_on_nothing_else() -> None:
    span_id = telemetry.derive_span_id("run", "step", 1)

    assert telemetry.derive_span_id("run", "step", 1) == span_id
    assert telemetry.derive_span_id("run", "step", 2) != span_id
    assert telemetry.derive_span_id("runs", "tep", 1) != span_id
    assert 0 < span_id < 1 << 64


def test_a_chosen_id_is_for_one_span() -> None:
    tracer = telemetry.tracer_provider("bitcoin", sample_ratio=1).get_tracer("tests")

    with telemetry.next_span_id(7):
        first, second = tracer.start_span("a"), tracer.start_span("b")
    third = tracer.start_span("c")

    ids = [span.get_span_context().span_id for span in (first, second, third)]
    assert ids[0] == 7
    assert 7 not in ids[1:]


def test_a_chosen_id_that_nobody_took_is_forgotten() -> None:
    tracer = telemetry.tracer_provider("bitcoin", sample_ratio=1).get_tracer("tests")

    with telemetry.next_span_id(7):
        pass

    assert tracer.start_span("a").get_span_context().span_id != 7
