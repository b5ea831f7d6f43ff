"""The encoder of spans: the same bytes as OpenTelemetry's own encoder."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from mesh.observability.encoder import encode
from mesh.observability.ended_span import NO_PARENT, EndedSpan, Origin, SpanTemplate

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

RESOURCES = [Resource({"service.name": name}) for name in ("bitcoin", "web5")]
SCOPES = [InstrumentationScope(name, "1") for name in ("mesh", "library")]

text = st.text(max_size=5)
scalar = st.one_of(text, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats())
attributes = st.dictionaries(
    text, st.one_of(scalar, st.lists(scalar, max_size=3), st.binary(max_size=3)), max_size=4
)
flags = st.sampled_from([TraceFlags(1), TraceFlags(3)])
times = st.integers(0, 2**63 - 1)
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    flags,
    st.sampled_from([TraceState(), TraceState([("vendor", "x"), ("other", "y")])]),
)
spans = st.builds(
    ReadableSpan,
    text,
    contexts,
    st.none() | contexts,
    st.sampled_from(RESOURCES),
    attributes,
    st.lists(st.builds(Event, text, st.none() | attributes, times), max_size=2),
    st.lists(st.builds(Link, contexts, attributes), max_size=1),
    st.sampled_from(SpanKind),
    status=st.sampled_from(
        [Status(), Status(StatusCode.OK), Status(StatusCode.ERROR), Status(StatusCode.ERROR, "x")]
    ),
    start_time=times,
    end_time=times,
    instrumentation_scope=st.sampled_from(SCOPES),
)


span_ids = st.integers(1, 2**64 - 1)
known = st.dictionaries(text, st.one_of(text, st.integers(0, 9)), max_size=3)
templates = st.builds(SpanTemplate, text, known, st.sampled_from(SpanKind), error=text)
origins = st.builds(Origin, st.sampled_from(RESOURCES), st.sampled_from(SCOPES))
ended_spans = st.builds(
    EndedSpan,
    origins,
    templates,
    st.tuples(st.integers(1, 2**128 - 1), flags),
    st.tuples(span_ids, st.just(NO_PARENT) | span_ids),
    st.tuples(times, times),
    st.fixed_dictionaries({"run.id": text}),
    st.lists(st.builds(Event, text, known, times), max_size=1),
)


@given(st.lists(spans | ended_spans, max_size=6).map(lambda spans: sorted(spans, key=_group)))
def test_spans_are_encoded_as_opentelemetry_does(spans: list[ReadableSpan]) -> None:
    assert _bytes(encode(spans)) == _bytes(encode_spans(spans))


def test_spans_of_a_tracer_are_encoded_as_opentelemetry_does() -> None:
    ended: list[ReadableSpan] = []

    class ListExporter(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            ended.extend(spans)  # type: ignore[arg-type]
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(ListExporter()))
    for _ in range(2):
        with provider.get_tracer("mesh").start_as_current_span("a", attributes={"b": 1}) as span:
            span.add_event("c", {"d": True})

    assert encode(ended) == encode_spans(ended)


@pytest.mark.parametrize("value", [2**63, "\ud800", {1: 2}, {1}, object()])
def test_attribute_that_otlp_cannot_hold_is_left_out_alone(value: Any) -> None:
    spans = [_span({"a": 1}), _span({"a": 1, "b": value, "c": 2})]

    assert _bytes(encode(spans)) == _bytes(encode_spans(spans))
    assert len(encode(spans).resource_spans[0].scope_spans[0].spans) == 2


def test_zero_keeps_its_sign() -> None:
    spans = [_span({"a": zero}) for zero in (0.0, 0.0, -0.0)]

    assert _bytes(encode(spans)) == _bytes(encode_spans(spans))


@pytest.mark.parametrize(
    "limits",
    [
        {"max_links": 0},
        {"max_events": 0},
        {"max_span_attributes": 1},
        {"max_event_attributes": 1},
        {"max_link_attributes": 1},
    ],
)
def test_what_the_limits_of_spans_have_dropped_is_counted(limits: dict[str, int]) -> None:
    provider = TracerProvider(shutdown_on_exit=False, span_limits=SpanLimits(**limits))
    link = Link(SpanContext(1, 2, is_remote=True), {"a": 1, "b": 2})
    spans: list[Any] = []
    for _ in range(2):
        span = provider.get_tracer("mesh").start_span("a", attributes={"a": 1, "b": 2})
        if "max_event" in str(limits):
            span.add_event("c", {"a": 1, "b": 2})
        if "max_link" in str(limits):
            span.add_link(link.context, link.attributes)
        span.end()
        spans.append(span)

    assert _bytes(encode(spans)) == _bytes(encode_spans(spans))


def test_ended_span_can_be_copied() -> None:
    template = SpanTemplate("a", {"b": 1})
    origin = Origin(RESOURCES[0], SCOPES[0])
    span = EndedSpan(origin, template, (1, TraceFlags(1)), (2, NO_PARENT), (3, 4), {}, ())

    assert copy(span).name == copy(span).template.name == "a"


def _span(attributes: dict[str, Any]) -> ReadableSpan:
    context = SpanContext(1, 2, is_remote=False)
    return ReadableSpan("a", context, None, RESOURCES[0], attributes, start_time=1, end_time=2)


def _group(span: ReadableSpan) -> tuple[str, str]:
    scope = span.instrumentation_scope
    return str(span.resource.attributes["service.name"]), scope.name if scope else ""


def _bytes(request: ExportTraceServiceRequest) -> list[bytes]:
    """Returns each span with its resource and scope: as bytes, for a float may equal nothing."""
    return [
        message.SerializeToString(deterministic=True)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        for message in (resource.resource, scope.scope, span)
    ]
