"""Spans that have ended, on their way to a collector: kept for a moment, sent in batches.

What outlives a call is drawn when it ends, with all that is known of it by then: such a span is
never open, needs no context, and costs little. Those that the SDK has ended go the same way.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1 import trace_pb2 as pb
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORT_EVERY = 0.2  # seconds: soon enough that what is just done can be looked at
MAX_BATCH = 512  # spans in one request
MAX_QUEUE = 16384  # spans; what comes while it is full is dropped, never waited for

SCOPE = "mesh"  # the name of our tracers
INTERNAL, CLIENT = pb.Span.SPAN_KIND_INTERNAL, pb.Span.SPAN_KIND_CLIENT
NO_PARENT = 0

# The span above a drawn one is as good as another process's: it may be, after a crash.
_AT_ROOT = pb.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_BELOW = _AT_ROOT | pb.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class Shape:
    """What many spans have in common: encoded once, by whoever draws them again and again."""

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, str | int],
        *,
        error: str = "",
        kind: pb.Span.SpanKind.ValueType = INTERNAL,
    ) -> None:
        """``error``: why such a span failed, in a word; empty if it ended well."""
        self.encoded = pb.Span(name=name, kind=kind)
        _add(attributes, self.encoded.attributes)
        if error:
            _add({"error.type": error}, self.encoded.attributes)
            self.encoded.status.code = pb.Status.STATUS_CODE_ERROR
            self.encoded.status.message = error


class FinishedSpan(NamedTuple):
    shape: Shape
    trace_id: int
    span_id: int
    parent_id: int  # NO_PARENT: it begins the trace
    start_ns: int  # since 1970
    end_ns: int
    attributes: Mapping[str, str | int]  # those that are its own


Draw: TypeAlias = "Callable[[FinishedSpan], None]"


class Outgoing(SpanProcessor):
    """Sampled spans that wait to be sent by a thread of its own."""

    def __init__(self, exporter: SpanExporter, resource: Resource) -> None:
        """The ``exporter`` takes what ``encode`` makes; ``resource`` is who drew the spans."""
        self._exporter = exporter
        self._resource = resource
        self._waiting: deque[ReadableSpan | FinishedSpan] = deque()
        self._closing = threading.Event()
        self._exporting = threading.Lock()
        self._thread = threading.Thread(target=self._export_forever, name="spans", daemon=True)
        self._thread.start()

    def add(self, span: ReadableSpan | FinishedSpan) -> None:
        """Have it sent soon. Neither waits nor fails, in whatever thread."""
        if len(self._waiting) < MAX_QUEUE and not self._closing.is_set():
            self._waiting.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self.add(span)

    def shutdown(self) -> None:
        """Send what waits. Who may not wait so long shuts the exporter down meanwhile."""
        self._closing.set()
        self._thread.join()
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        self._export_all()
        return True

    def _export_forever(self) -> None:
        while not self._closing.wait(EXPORT_EVERY):
            self._export_all()
        self._export_all()

    def _export_all(self) -> None:
        with self._exporting:
            while self._waiting:
                count = min(MAX_BATCH, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(count)]
                request: Any = encode(batch, self._resource)
                self._exporter.export(request)


class Exporter(OTLPSpanExporter):
    """Sends batches that are encoded already."""

    def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
        request: ExportTraceServiceRequest = data
        return request

    def _count_data(self, data: Any) -> int:
        request = self._translate_data(data)
        return sum(len(scope.spans) for by in request.resource_spans for scope in by.scope_spans)


def encode(
    spans: Sequence[ReadableSpan | FinishedSpan], resource: Resource
) -> ExportTraceServiceRequest:
    """One request with all of them; the drawn ones are those of ``resource``."""
    request = encode_spans([span for span in spans if isinstance(span, ReadableSpan)])
    if drawn := [span for span in spans if isinstance(span, FinishedSpan)]:
        ours = request.resource_spans.add()
        _add(resource.attributes, ours.resource.attributes)
        scope = ours.scope_spans.add()
        scope.scope.name = SCOPE
        for span in drawn:
            _encode(span, scope.spans.add())
    return request


def _encode(span: FinishedSpan, encoded: pb.Span) -> None:
    encoded.CopyFrom(span.shape.encoded)
    encoded.trace_id = span.trace_id.to_bytes(16, "big")
    encoded.span_id = span.span_id.to_bytes(8, "big")
    encoded.flags = _AT_ROOT
    if span.parent_id != NO_PARENT:
        encoded.parent_span_id = span.parent_id.to_bytes(8, "big")
        encoded.flags = _BELOW
    encoded.start_time_unix_nano = span.start_ns
    encoded.end_time_unix_nano = span.end_ns
    _add(span.attributes, encoded.attributes)


def _add(attributes: Mapping[str, Any], encoded: RepeatedCompositeFieldContainer[KeyValue]) -> None:
    for name, value in attributes.items():
        if isinstance(value, str):
            encoded.add(key=name).value.string_value = value
        else:
            encoded.add(key=name).value.int_value = value
