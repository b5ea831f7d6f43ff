"""Traces: the OpenTelemetry SDK, configured for one process."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    get_current_span,
    use_span,
)

from mesh.observability.ended_span import EndedSpan, Origin
from mesh.observability.exporters import open_exporters
from mesh.observability.processor import SpanLosses, SpanQueue
from mesh.observability.span_ids import DerivedIdGenerator
from mesh.observability.traceparent import TraceparentSpan
from mesh.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TextIO

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Event
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Link, Span
    from opentelemetry.util.types import Attributes

    from mesh.observability.config import TraceConfig
    from mesh.observability.ended_span import SpanTemplate

FLUSH_TIMEOUT_S = 3.0  # at shutdown, for all queued spans: a dead collector must not delay it
ABORT_TIMEOUT_S = 0.5  # then, for an export in progress to fail

PACKAGE = "anya-mesh"
SCOPE = InstrumentationScope("mesh", version(PACKAGE))

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
UNSAMPLED = TraceFlags.get_default()


class SpanSink:
    """Takes spans that have ended: of work that outlives a call, and has no open span."""

    def __init__(self, queues: Sequence[SpanQueue], sampler: Sampler, resource: Resource) -> None:
        self._queues = queues
        self._sampler = sampler
        # A ParentBased sampler of the SDK decides by the parent's sampled flag alone.
        self._follows_parent = isinstance(sampler, ParentBased)
        self._origin = Origin(resource, SCOPE)

    def samples(self, trace_id: int, flags: TraceFlags) -> bool:
        """Returns whether to record the descendants of a span that another process may have."""
        if self._follows_parent:
            return flags.sampled
        result = self._sampler.should_sample(None, trace_id, "")
        return result.decision is Decision.RECORD_AND_SAMPLE

    def add(
        self,
        template: SpanTemplate,
        trace: tuple[int, TraceFlags],
        ids: tuple[int, int],
        times_ns: tuple[int, int],
        attributes: Mapping[str, str | int],
        events: Sequence[Event] = (),
    ) -> None:
        """Exports a span; its fields are those of ``EndedSpan``. Neither blocks nor fails."""
        span = EndedSpan(self._origin, template, trace, ids, times_ns, attributes, events)
        for queue in self._queues:
            queue.add(span)


class Traces:
    """The spans of a process: ``tracer`` starts spans, ``span_sink`` takes ended ones.

    ``span_sink`` is None if no span is exported.
    """

    def __init__(
        self,
        tracer: Tracer,
        span_sink: SpanSink | None = None,
        queues: Sequence[SpanQueue] = (),
        losses: SpanLosses | None = None,
    ) -> None:
        self.tracer = tracer
        self.span_sink = span_sink
        self._queues = queues
        self._losses = losses or SpanLosses()

    def close(self) -> None:
        """Exports the queued spans, for FLUSH_TIMEOUT_S at most. Blocks."""
        # Daemons: an exporter may wait for a dead collector longer than the process lives. One for
        # each, so that no other exporter waits with it.
        flushes = [
            threading.Thread(target=queue.shutdown, name="flush spans", daemon=True)
            for queue in self._queues
        ]
        for flush in flushes:
            flush.start()
        _join(flushes, FLUSH_TIMEOUT_S)
        for queue, flush in zip(self._queues, flushes, strict=True):
            if flush.is_alive():
                queue.abort()
        _join(flushes, ABORT_TIMEOUT_S)
        self._losses.report()


def open_traces(service: str, config: TraceConfig, *, console: TextIO = sys.stdout) -> Traces:
    """Opens the traces of a service. Raises ConfigError if a limit of spans is invalid.

    Without an exporter no span is recorded, but calls have ids, which the logs show.
    """
    if config.disabled:
        return Traces(NoOpTracer())
    sampler = _sampler(config)
    exporters = open_exporters(config, console)
    if not exporters:
        return Traces(IdTracer(sampler))
    resource = _resource(service, config)
    try:
        limits = SpanLimits()
    except ValueError as error:  # names the variable
        raise ConfigError(f"{error}; correct it, or unset it") from None
    provider = TracerProvider(
        sampler,
        resource,
        shutdown_on_exit=False,
        id_generator=DerivedIdGenerator(),
        span_limits=limits,
    )
    losses = SpanLosses()
    queues = [SpanQueue(exporter, config, losses) for exporter in exporters]
    for queue in queues:
        provider.add_span_processor(queue)
    span_sink = SpanSink(queues, sampler, resource)
    tracer = provider.get_tracer(SCOPE.name, SCOPE.version)
    return Traces(tracer, span_sink, queues, losses)


class IdTracer(Tracer):
    """Starts spans that have ids and are not recorded, which the SDK does not offer.

    The ids are for the logs, and for other processes, which may have an exporter.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler  # under this name as in the SDK's tracer
        self._ids = DerivedIdGenerator()

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """Returns a span in the trace of ``context``, or in one of its own."""
        parent = get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self._ids.generate_trace_id()
        flags, state = UNSAMPLED, parent.trace_state or None
        if self.sampler is not ALWAYS_OFF:  # which costs more to ask than all else here
            result = self.sampler.should_sample(context, trace_id, name, kind, attributes, links)
            sampled = result.decision is Decision.RECORD_AND_SAMPLE
            flags, state = SAMPLED if sampled else UNSAMPLED, result.trace_state
        span_id = self._ids.generate_span_id()
        if not state:
            ids = f"{trace_id:032x}-{span_id:016x}"
            return TraceparentSpan(f"00-{ids}-{flags:02x}", is_remote=False)
        return NonRecordingSpan(
            SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags, trace_state=state)
        )

    # The API's version also decorates coroutines, which this project does not use.
    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, *given: Any, **more: Any
    ) -> Iterator[Span]:
        """Starts a span that is current in the block."""
        with use_span(self.start_span(*given, **more)) as span:
            yield span


class ServiceResource(Resource):
    """A resource that computes its hash once: the encoder asks for it with every span."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)


def _join(threads: Sequence[threading.Thread], timeout_s: float) -> None:
    """Returns once all have ended, or the time is over."""
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _sampler(config: TraceConfig) -> Sampler:
    match config.sampler:
        case "always_on":
            return ALWAYS_ON
        case "always_off":
            return ALWAYS_OFF
        case "traceidratio":
            return TraceIdRatioBased(config.sampler_ratio)
        case "parentbased_traceidratio":
            return ParentBasedTraceIdRatio(config.sampler_ratio)
        case "parentbased_always_off":
            return DEFAULT_OFF
        case _:
            return DEFAULT_ON


def _resource(service: str, config: TraceConfig) -> Resource:
    attributes = {
        "service.name": service,
        "service.namespace": "anya",
        "service.version": version(PACKAGE),
        "service.instance.id": str(uuid.uuid4()),
        **config.attributes,
    }
    if config.service_name:
        attributes["service.name"] = config.service_name
    return ServiceResource(Resource.create(attributes))
