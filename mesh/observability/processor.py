"""The queue of ended spans: bounded, free of the texts of exceptions, and counting its losses."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_TYPE
from opentelemetry.trace import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.observability.config import TraceConfig

LOSS_LOG_INTERVAL_S = 60.0
EXCEPTION = "exception"  # the event of OpenTelemetry's record_exception

log = logging.getLogger(__name__)


class SpanLosses:
    """Counts the spans that are lost, and logs the counts at most once per interval."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._logged_at = -LOSS_LOG_INTERVAL_S
        self._logged = 0

    def add(self, count: int, cause: str) -> None:
        """Counts ``count`` spans as lost."""
        with self._lock:
            self._counts[cause] += count
            if time.monotonic() < self._logged_at + LOSS_LOG_INTERVAL_S:
                return
            self._logged_at = time.monotonic()
        self.report()

    def report(self) -> None:
        """Logs how many spans were lost so far, if there are more than at the last report."""
        if self._counts.total() > self._logged:
            self._logged = self._counts.total()
            causes = ", ".join(f"{count} {cause}" for cause, count in self._counts.items())
            log.warning("spans lost since the start: %s", causes)


class CountingExporter(SpanExporter):
    """Counts the spans that an exporter is given, and those that it does not deliver."""

    def __init__(self, exporter: SpanExporter, losses: SpanLosses) -> None:
        self._exporter = exporter
        self._losses = losses
        self._is_open = True
        self.exported = 0  # or being exported
        self.in_flight = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hands the spans to the exporter."""
        self.exported += len(spans)
        if not self._is_open:
            return SpanExportResult.FAILURE  # ``abort`` has counted them
        self.in_flight = len(spans)
        result = SpanExportResult.FAILURE  # if it raises
        try:
            result = self._exporter.export(spans)
        finally:
            self.in_flight = 0
            if result is not SpanExportResult.SUCCESS and self._is_open:
                self._losses.add(len(spans), "not accepted by the collector")
        return result

    def shutdown(self) -> None:
        """Closes the exporter, at the first call only; an export in progress fails."""
        if self._is_open:
            self._is_open = False
            self._exporter.shutdown()


class SpanQueue(BatchSpanProcessor):
    """Queues ended spans, which a thread of its own exports in batches."""

    def __init__(self, exporter: SpanExporter, config: TraceConfig, losses: SpanLosses) -> None:
        self._counting = CountingExporter(exporter, losses)
        self._max_spans = config.max_queue_spans
        self._losses = losses
        self._accepted = 0
        super().__init__(
            self._counting,
            max_queue_size=config.max_queue_spans,
            schedule_delay_millis=config.schedule_delay_ms,
            max_export_batch_size=config.max_batch_spans,
            export_timeout_millis=config.export_timeout_ms,
        )

    @property
    def waiting(self) -> int:
        """Number of spans that were not exported yet."""
        return self._accepted - self._counting.exported

    def on_end(self, span: ReadableSpan) -> None:
        """Queues the span without the texts of its exceptions. Neither blocks nor fails."""
        if not span.context.trace_flags.sampled:
            return
        has_texts = span.status.description is not None or any(
            event.name == EXCEPTION for event in span.events
        )
        self.add(_without_texts(span) if has_texts else span)

    def add(self, span: ReadableSpan) -> None:
        """Queues a sampled span that holds no texts. Neither blocks nor fails."""
        if self._accepted - self._counting.exported >= self._max_spans:
            self._losses.add(1, "dropped from the full queue")
            return
        self._accepted += 1
        self._batch_processor.emit(span)

    def abort(self) -> None:
        """Ends an export in progress, and counts its spans and those that wait as lost."""
        lost = self.waiting + self._counting.in_flight
        self._counting.shutdown()
        if lost > 0:
            self._losses.add(lost, "waiting when the process stopped")


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    """Returns the span with the types of its exceptions only: a text may hold personal data."""
    types = [str((event.attributes or {}).get(EXCEPTION_TYPE, "")) for event in _exceptions(span)]
    attributes = span.attributes or {}
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        {**attributes, ERROR_TYPE: types[-1]} if types else attributes,
        [
            Event(event.name, {EXCEPTION_TYPE: types.pop(0)}, event.timestamp)
            if event.name == EXCEPTION
            else event
            for event in span.events
        ],
        span.links,
        span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _exceptions(span: ReadableSpan) -> list[Event]:
    return [event for event in span.events if event.name == EXCEPTION]
