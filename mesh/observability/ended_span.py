"""Spans of work that has ended: cheap to make, and read by the SDK only if it must.

A run makes many of them at once, and most of their fields are those of other runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.proto.trace.v1.trace_pb2 import Span
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import TraceFlags

NO_PARENT = 0  # in place of a span id: the root of the trace

OK = Status(StatusCode.UNSET)
FAILED = Status(StatusCode.ERROR)


class SpanTemplate:
    """The fields that many spans have in common; ``encoded`` belongs to the encoder."""

    __slots__ = ("attributes", "encoded", "kind", "name", "status")

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, str | int],
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        error: str = "",
    ) -> None:
        self.name = name
        self.attributes = {**attributes, "error.type": error} if error else dict(attributes)
        self.kind = kind
        self.status = FAILED if error else OK
        self.encoded: Span | None = None


class Origin(NamedTuple):
    """The process that a span is from."""

    resource: Resource
    scope: InstrumentationScope


class EndedSpan(ReadableSpan):
    """A span from a template. Its parent, and itself, may also have been exported elsewhere."""

    def __init__(
        self,
        origin: Origin,
        template: SpanTemplate,
        trace: tuple[int, TraceFlags],
        ids: tuple[int, int],
        times_ns: tuple[int, int],
        attributes: Mapping[str, str | int],
        events: Sequence[Event],
    ) -> None:
        """Takes the ids of the span and its parent, and attributes beside the template's."""
        self.origin = origin
        self.template = template
        self.trace = trace
        self.ids = ids
        self.times_ns = times_ns
        self.own_attributes = attributes
        self.own_events = events

    def __getattr__(self, name: str) -> Any:
        """Returns a field of ReadableSpan. Sets all of them, at the first access to one."""
        if "times_ns" not in vars(self):  # a copy in the making
            raise AttributeError(name)
        trace_id, flags = self.trace
        own, parent = (
            SpanContext(trace_id, id, is_remote=True, trace_flags=flags) if id else None
            for id in self.ids
        )
        super().__init__(
            self.template.name,
            own,
            parent,
            self.origin.resource,
            {**self.template.attributes, **self.own_attributes},
            self.own_events,
            (),
            self.template.kind,
            status=self.template.status,
            start_time=self.times_ns[0],
            end_time=self.times_ns[1],
            instrumentation_scope=self.origin.scope,
        )
        return object.__getattribute__(self, name)
