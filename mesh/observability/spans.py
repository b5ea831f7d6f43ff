"""Finished spans on their way to a collector: queued, encoded and sent in batches.

Work that outlives a call, such as a run, exports its span when it ends. Such a span is never open
and needs no context. The spans of calls arrive here at their end as well.
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

EXPORT_INTERVAL_S = 0.2  # short enough that an operator sees what has just happened
MAX_BATCH = 512  # spans in one request
MAX_QUEUE = 16384  # spans; while it is full, further spans are dropped

MAX_SPAN_TEMPLATES = 4096  # cached between spans

SCOPE = "mesh"  # the instrumentation scope
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


# The fields that many spans have in common, encoded once.
SpanTemplate: TypeAlias = pb.Span


@lru_cache(MAX_SPAN_TEMPLATES)
def span_template(
    name: str,
    attributes: tuple[tuple[str, str | int], ...],
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    failed: bool = False,
    error: str = "",
) -> SpanTemplate:
    """Returns a cached span with these fields, which must not be changed."""
    encoded = pb.Span(name=name, kind=KINDS[kind])
    _add(dict(attributes), encoded.attributes)
    if failed:
        encoded.status.code = pb.Status.STATUS_CODE_ERROR
        encoded.status.message = error
    return encoded


class FinishedSpan(NamedTuple):
    template: SpanTemplate
    trace_id: int
    span_id: int
    parent_id: int  # NO_PARENT: the root of the trace
    start_ns: int  # since 1970
    end_ns: int
    attributes: Mapping[str, str | int] = MappingProxyType({})  # beside those of the template
    is_below_remote: bool = True  # the parent may be of another process


SpanSink: TypeAlias = "Callable[[FinishedSpan], None]"


class SpanBatcher:
    """A queue of finished spans, and the thread that sends them."""

    def __init__(self, exporter: SpanExporter, resource: Mapping[str, str]) -> None:
        """Starts the thread. The ``exporter`` takes the requests that ``encode`` returns."""
        self._exporter = exporter
        self._resource = resource
        self._waiting: deque[FinishedSpan] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._export_forever, name="spans", daemon=True)
        self._thread.start()

    def add(self, span: FinishedSpan) -> None:
        """Queues a span. Neither blocks nor fails, in any thread."""
        if len(self._waiting) < MAX_QUEUE and not self._closing.is_set():
            self._waiting.append(span)

    def shutdown(self) -> None:
        """Sends the queued spans. Shutting the exporter down in another thread ends it early."""
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
    """Sends requests that are encoded already."""

    def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
        request: ExportTraceServiceRequest = data
        return request

    def _count_data(self, data: Any) -> int:
        request = self._translate_data(data)
        return sum(len(scope.spans) for by in request.resource_spans for scope in by.scope_spans)


def encode(spans: Sequence[FinishedSpan], resource: Mapping[str, str]) -> ExportTraceServiceRequest:
    """Returns one export request with these spans."""
    request = ExportTraceServiceRequest()
    by_resource = request.resource_spans.add()
    _add(resource, by_resource.resource.attributes)
    scope = by_resource.scope_spans.add()
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
        encoded_value = encoded.add(key=name).value
        if isinstance(value, str):
            encoded_value.string_value = value
        else:
            encoded_value.int_value = value
