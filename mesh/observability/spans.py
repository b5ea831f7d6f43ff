"""Spans that have ended, on their way to a collector: kept for a moment, sent in batches.

What outlives a call is drawn when it ends, with all that is known of it by then: such a span is
never open, needs no context, and costs little. Those of calls end up here, too.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2 as pb
from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORT_INTERVAL_S = 0.2  # seconds: soon enough that what is just done can be looked at
MAX_BATCH = 512  # spans in one request
MAX_QUEUE = 16384  # spans; what comes while it is full is dropped, never waited for

MAX_SPAN_TEMPLATES = 4096  # kept from one span to the next

SCOPE = "mesh"  # the name of our tracers
NO_PARENT = 0
KINDS = {
    SpanKind.INTERNAL: pb.Span.SPAN_KIND_INTERNAL,
    SpanKind.SERVER: pb.Span.SPAN_KIND_SERVER,
    SpanKind.CLIENT: pb.Span.SPAN_KIND_CLIENT,
    SpanKind.PRODUCER: pb.Span.SPAN_KIND_PRODUCER,
    SpanKind.CONSUMER: pb.Span.SPAN_KIND_CONSUMER,
}

_BELOW = pb.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK  # or at the root
_BELOW_REMOTE = _BELOW | pb.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


# What many spans have in common, encoded once.
SpanTemplate: TypeAlias = pb.Span


@lru_cache(MAX_SPAN_TEMPLATES)
def span_template(
    name: str,
    attributes: tuple[tuple[str, str | int], ...],
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    failed: bool = False,
    why: str = "",
) -> SpanTemplate:
    """Made anew at the first call only: not to be changed."""
    encoded = pb.Span(name=name, kind=KINDS[kind])
    _add(dict(attributes), encoded.attributes)
    if failed:
        encoded.status.code = pb.Status.STATUS_CODE_ERROR
        encoded.status.message = why
    return encoded


class FinishedSpan(NamedTuple):
    template: SpanTemplate
    trace_id: int
    span_id: int
    parent_id: int  # NO_PARENT: it begins the trace
    start_ns: int  # since 1970
    end_ns: int
    attributes: Mapping[str, str | int] = MappingProxyType({})  # its own, beside those of its shape
    is_below_remote: bool = True  # the span above may be another process's, after a crash at least


SpanSink: TypeAlias = "Callable[[FinishedSpan], None]"


class SpanBatcher:
    """Spans that wait to be sent by a thread of its own."""

    def __init__(self, exporter: SpanExporter, resource: Mapping[str, str]) -> None:
        """The ``exporter`` takes what ``encode`` makes; ``resource`` says who drew the spans."""
        self._exporter = exporter
        self._resource = resource
        self._waiting: deque[FinishedSpan] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._export_forever, name="spans", daemon=True)
        self._thread.start()

    def add(self, span: FinishedSpan) -> None:
        """Have it sent soon. Neither waits nor fails, in whatever thread."""
        if len(self._waiting) < MAX_QUEUE and not self._closing.is_set():
            self._waiting.append(span)

    def shutdown(self) -> None:
        """Send what waits. Who may not wait so long shuts the exporter down meanwhile."""
        self._closing.set()
        self._thread.join()
        self._exporter.shutdown()

    def _export_forever(self) -> None:
        while not self._closing.wait(EXPORT_INTERVAL_S):
            self._export_all()
        self._export_all()

    def _export_all(self) -> None:
        while self._waiting:
            count = min(MAX_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            request: Any = encode(batch, self._resource)
            self._exporter.export(request)


class EncodedSpanExporter(OTLPSpanExporter):
    """Sends batches that are encoded already."""

    def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
        request: ExportTraceServiceRequest = data
        return request

    def _count_data(self, data: Any) -> int:
        request = self._translate_data(data)
        return sum(len(scope.spans) for by in request.resource_spans for scope in by.scope_spans)


def encode(spans: Sequence[FinishedSpan], resource: Mapping[str, str]) -> ExportTraceServiceRequest:
    """One request with all of them."""
    request = ExportTraceServiceRequest()
    ours = request.resource_spans.add()
    _add(resource, ours.resource.attributes)
    scope = ours.scope_spans.add()
    scope.scope.name = SCOPE
    for span in spans:
        _encode(span, scope.spans.add())
    return request


def _encode(span: FinishedSpan, encoded: pb.Span) -> None:
    encoded.CopyFrom(span.template)
    encoded.trace_id = span.trace_id.to_bytes(16, "big")
    encoded.span_id = span.span_id.to_bytes(8, "big")
    encoded.flags = _BELOW
    if span.parent_id != NO_PARENT:
        encoded.parent_span_id = span.parent_id.to_bytes(8, "big")
        encoded.flags = _BELOW_REMOTE if span.is_below_remote else _BELOW
    encoded.start_time_unix_nano = span.start_ns
    encoded.end_time_unix_nano = span.end_ns
    _add(span.attributes, encoded.attributes)


def _add(
    attributes: Mapping[str, str | int], encoded: RepeatedCompositeFieldContainer[KeyValue]
) -> None:
    for name, value in attributes.items():
        told = encoded.add(key=name).value
        if isinstance(value, str):
            told.string_value = value
        else:
            told.int_value = value
