"""The short way to read and write a traceparent gives what OpenTelemetry's propagator gives."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh.rpc.interceptors.tracing import headers_of, read_parent

PROPAGATOR = TraceContextTextMapPropagator()
IDS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


def hexadecimal(digits: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=digits, max_size=digits)


well_formed = st.builds("00-{}-{}-{}".format, hexadecimal(32), hexadecimal(16), hexadecimal(2))
spoiled = st.builds(
    lambda text, at, by: text[:at] + by + text[at + 1 :],
    well_formed,
    st.integers(0, 54),
    st.text(max_size=2),
)
traceparents = well_formed | spoiled | st.text()
states = st.text() | st.builds("{}={}".format, st.text("abc@-_*/0", min_size=1), st.text())
pairs = st.one_of(
    st.tuples(st.just("traceparent"), traceparents),
    st.tuples(st.just("tracestate"), states),
    st.tuples(st.sampled_from(["x", "traceparent-bin", "Traceparent"]), st.text()),
)


@given(st.lists(pairs, max_size=4))
@example([("traceparent", f"{IDS}-01")])
@example([("traceparent", f"{IDS}-01\n")])
@example([("traceparent", f"{IDS}-00"), ("traceparent", f"{IDS}-01")])
@example([("traceparent", f"{IDS}-01"), ("tracestate", "a=1")])
@example([("traceparent", f"00-{'0' * 32}-{'1' * 16}-01")])
@example([("traceparent", "00-" + "\u0661" * 32 + "-" + "1" * 16 + "-01")])
def test_parent_is_the_one_that_the_propagator_reads(metadata: list[tuple[str, str]]) -> None:
    context = PROPAGATOR.extract(dict(metadata), Context())
    expected = trace.get_current_span(context).get_span_context()

    found = read_parent(metadata)

    if found is None:
        assert not expected.is_valid
    else:
        assert found.get_span_context() == expected
        assert found.get_span_context().is_remote


@given(well_formed)
def test_unsampled_parent_is_sent_to_the_next_service_as_it_came(traceparent: str) -> None:
    parent = read_parent([("traceparent", traceparent)])

    if parent is not None:
        assert headers_of(parent) == (("traceparent", traceparent),)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255), st.booleans())
def test_metadata_is_what_the_propagator_writes(
    trace_id: int, span_id: int, flags: int, has_state: bool
) -> None:
    state = trace.TraceState([("vendor", "1")]) if has_state else None
    span = trace.NonRecordingSpan(
        trace.SpanContext(trace_id, span_id, False, trace.TraceFlags(flags), state)
    )
    expected: dict[str, str] = {}
    PROPAGATOR.inject(expected, trace.set_span_in_context(span, Context()))

    assert dict(headers_of(span)) == expected


@pytest.mark.parametrize("span", [trace.INVALID_SPAN])
def test_invalid_span_is_not_sent(span: trace.Span) -> None:
    assert headers_of(span) == ()
