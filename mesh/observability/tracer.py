"""OpenTelemetry's tracer API over cheap spans: a few fields, handed to a sink at the end.

benchmarks/mesh.py measures what they cost: ``chain_all_spans_vs_bare`` against calls without spans,
``all_spans_vs_sdk`` against the spans of the SDK.
"""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

from mesh.observability.spans import NO_PARENT, FinishedSpan, span_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextvars import Token

    from opentelemetry.context import Context

    from mesh.observability.spans import SpanSink

LOWER_HALF = 2**64 - 1  # of a trace id: the sampler looks at nothing else
SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)
UNSAMPLED = trace.TraceFlags(trace.TraceFlags.DEFAULT)


class RecordingSpan(trace.Span):
    """A sampled span that has not ended. Keeps attributes and status, but no events."""

    def __init__(
        self,
        span_sink: SpanSink,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext,
        start_ns: int,
        attributes: Mapping[str, Any] | None,
    ) -> None:
        self._span_sink: SpanSink | None = span_sink
        self._name = name
        self._kind = kind
        self._context = context
        self._parent = parent
        self._start_ns = start_ns
        self._attributes: dict[str, str | int] = {}
        self.set_attributes(attributes or {})
        self._failed = False

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return self._span_sink is not None

    def set_attribute(self, key: str, value: Any) -> None:
        """Sets an attribute. Values other than texts and integers are stored as text."""
        self._attributes[key] = value if type(value) in (str, int) else str(value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def update_name(self, name: str) -> None:
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Marks the span as failed or not. Drops the description: it may hold personal data."""
        code = status.status_code if isinstance(status, Status) else status
        self._failed = code is StatusCode.ERROR

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Records the class of the exception. Drops its text: it may hold personal data."""
        self._attributes["error.type"] = type(exception).__name__

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Drops the event."""

    def end(self, end_time: int | None = None) -> None:
        """Hands the finished span to the sink, at the first call only."""
        span_sink, self._span_sink = self._span_sink, None
        if span_sink is None:
            return
        span_sink(
            FinishedSpan(
                span_template(
                    self._name,
                    tuple(self._attributes.items()),
                    self._kind,
                    failed=self._failed,
                ),
                self._context.trace_id,
                self._context.span_id,
                self._parent.span_id if self._parent.is_valid else NO_PARENT,
                self._start_ns,
                end_time or time.time_ns(),
                is_below_remote=self._parent.is_remote,
            )
        )


class ChildSpans(NonRecordingSpan):
    """The parent of the spans that the block starts; its own span is exported elsewhere.

    The first span started in the block has the id ``first``.
    """

    _token: Token[Context]

    def __init__(self, trace_id: int, span_id: int, flags: int, first: int) -> None:
        self._ids = trace_id, span_id
        self._flags = flags
        self._first = first

    def get_span_context(self) -> SpanContext:
        flags = trace.TraceFlags(self._flags)
        return SpanContext(*self._ids, is_remote=True, trace_flags=flags)

    def next_id(self) -> int:
        """Returns ``first`` once, then random ids, across all tasks of the block."""
        first, self._first = self._first, 0
        return first or _random_id()

    def __enter__(self) -> ChildSpans:
        self._token = attach(trace.set_span_in_context(self))
        return self

    def __exit__(self, *_: object) -> None:
        detach(self._token)


class Tracer(trace.Tracer):
    """Samples whole traces: the root span decides, and its descendants follow."""

    def __init__(self, span_sink: SpanSink | None, sample_ratio: float) -> None:
        """Records nothing if ``span_sink`` is None."""
        self._span_sink = span_sink
        self._bound = round(sample_ratio * 2**64)

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Any = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        above = trace.get_current_span(context)
        parent = above.get_span_context()
        if parent.is_valid:
            trace_id, sampled = parent.trace_id, parent.trace_flags.sampled
        else:
            trace_id = random.getrandbits(128) or 1
            sampled = trace_id & LOWER_HALF < self._bound
        own = SpanContext(
            trace_id,
            above.next_id() if isinstance(above, ChildSpans) else _random_id(),
            is_remote=False,
            trace_flags=SAMPLED if sampled else UNSAMPLED,
            trace_state=parent.trace_state,
        )
        if not sampled or self._span_sink is None:
            return NonRecordingSpan(own)
        start_ns = start_time or time.time_ns()
        return RecordingSpan(self._span_sink, name, kind, own, parent, start_ns, attributes)

    # The API's version also decorates coroutines, which this project does not use.
    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, *given: Any, **more: Any
    ) -> Iterator[trace.Span]:
        """Starts a span that is current in the block and ends with it."""
        with trace.use_span(self.start_span(*given, **more), end_on_exit=True) as span:
            yield span


def _random_id() -> int:
    return random.getrandbits(64) or 1
