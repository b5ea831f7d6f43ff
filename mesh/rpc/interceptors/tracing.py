"""One span per call on each side, joined across the wire by traceparent (W3C Trace Context)."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import trace
from opentelemetry.context import Context, attach, get_current
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh.errors import MeshError
from mesh.observability.span_ids import SPAN_KEY
from mesh.observability.traceparent import TraceparentSpan
from mesh.rpc.call import serving_or_none
from mesh.rpc.interceptors.errors import code_of, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.trace import Span, SpanContext, Tracer

    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors import ClientCall, ServerCall

PROPAGATOR = TraceContextTextMapPropagator()
# The form that nearly all callers send. The propagator reads the others (no ids, other versions,
# a tracestate).
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")

# Statuses that make a server's span a failed one: a refusal does not.
SERVER_ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)

_BY_NUMBER: dict[int | None, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_ROOT = Context()


@contextmanager
def receive(call: ServerCall) -> Iterator[None]:
    """Continues the caller's trace while the call is served."""
    method = call.serving.method
    tracer, skip = call.rules.tracer, skips_unsampled(call.rules.tracer)
    span = start_server_span(call.serving, tracer, attributes_of(method), skip=skip)
    code = grpc.StatusCode.CANCELLED  # by the caller or the deadline, unless the call ends
    try:
        yield
        code = status_of(call.context)
    finally:
        if span is not None:
            end_server_span(span, code)


def start_server_span(
    serving: ServingCall, tracer: Tracer, attributes: Mapping[str, str], *, skip: bool
) -> Span | None:
    """Makes the span of the call current and returns it; None if it is not recorded.

    With ``skip`` (see ``skips_unsampled``) none is started if the caller did not sample its trace.
    Then the caller's span is current: logs and spans of other libraries belong to its trace. The
    call has its own task, so nothing is detached.
    """
    parent = serving.parent
    above = _ROOT if parent is None else Context({SPAN_KEY: parent})
    if skip and parent is not None and _is_unsampled(parent):
        attach(above)
        return None
    span = tracer.start_span(
        serving.method, context=above, kind=trace.SpanKind.SERVER, attributes=attributes
    )
    attach(Context({SPAN_KEY: span}))
    return span if span.is_recording() else None


def end_server_span(span: Span, code: grpc.StatusCode) -> None:
    """Ends the span of a call, with its status."""
    _record(span, code, failed=code in SERVER_ERRORS)
    span.end()


def read_parent(metadata: Iterable[tuple[str, str | bytes]]) -> Span | None:
    """Returns the caller's span, or None if the metadata has no valid one."""
    traceparent: str | bytes | None = None
    has_state = False
    for key, value in metadata:
        if key == "traceparent":
            traceparent = value
        elif key == "tracestate":
            has_state = True
    if traceparent is None:
        return None
    if not has_state and _TRACEPARENT.fullmatch(str(traceparent)):
        return TraceparentSpan(str(traceparent), is_remote=True)
    carrier = {key: value for key, value in metadata if key in PROPAGATOR.fields}
    span = trace.get_current_span(PROPAGATOR.extract(carrier, _ROOT))
    return span if span.get_span_context().is_valid else None


def remote_parent() -> SpanContext | None:
    """Returns the caller's span as sent with the call being served, or None.

    Work that outlives the call, such as a run, is a child of this span, not of the server's.
    """
    serving = serving_or_none()
    if serving is None or serving.parent is None:
        return None
    return serving.parent.get_span_context()


def current_traceparent() -> str:
    """Returns the traceparent of the current span, to be stored with data; empty if untraced."""
    return dict(headers_of(trace.get_current_span())).get("traceparent", "")


@contextmanager
def send(call: ClientCall) -> Iterator[None]:
    """Sends the trace to the server. The span is not made current: a stream outlives its frame."""
    attributes = attributes_of(call.method, call.rules.target)
    tracer, skip = call.rules.tracer, skips_unsampled(call.rules.tracer)
    span, call.metadata = start_client_span(call.method, tracer, attributes, skip=skip)
    code = grpc.StatusCode.CANCELLED  # if no branch below is reached
    failure: grpc.aio.AioRpcError | MeshError | None = None
    try:
        yield
        code = grpc.StatusCode.OK
    except (grpc.aio.AioRpcError, MeshError) as error:
        code = code_of(error) if isinstance(error, MeshError) else error.code()
        failure = error
        raise
    finally:
        end_client_span(span, code, failure)


def start_client_span(
    method: str, tracer: Tracer, attributes: Mapping[str, str], *, skip: bool
) -> tuple[Span | None, tuple[tuple[str, str], ...]]:
    """Returns the span of a call and the metadata that sends it.

    The span is None if it is not recorded. With ``skip`` (see ``skips_unsampled``) none is started
    within an unsampled trace: the metadata sends the ids of the current span.
    """
    context = get_current()
    outer = context.get(SPAN_KEY)
    if skip and isinstance(outer, trace.Span) and _is_unsampled(outer):
        return None, headers_of(outer)
    span = tracer.start_span(method, context, trace.SpanKind.CLIENT, attributes)
    return span if span.is_recording() else None, headers_of(span)


def end_client_span(
    span: Span | None, code: grpc.StatusCode, failure: grpc.aio.AioRpcError | MeshError | None
) -> None:
    """Ends the span of a call, with its status, and the reason of its failure if it has one."""
    if span is None:
        return
    if failure is not None and (reason := reason_of(failure)):
        span.set_attribute("anya.reason", reason)
    _record(span, code, failed=code is not grpc.StatusCode.OK)
    span.end()


def skips_unsampled(tracer: Tracer) -> bool:
    """Tells if the tracer records nothing below an unsampled span, so that it need not be asked."""
    sampler = getattr(tracer, "sampler", None)
    return sampler is not ALWAYS_ON and not isinstance(sampler, TraceIdRatioBased)


def headers_of(span: Span) -> tuple[tuple[str, str], ...]:
    """Returns the metadata that makes ``span`` the parent of a call; empty if it is not valid."""
    if isinstance(span, TraceparentSpan):
        return (("traceparent", span.traceparent),)
    context = span.get_span_context()
    if not context.is_valid:
        return ()
    ids = f"{context.trace_id:032x}-{context.span_id:016x}"
    traceparent = ("traceparent", f"00-{ids}-{context.trace_flags:02x}")
    if not context.trace_state:
        return (traceparent,)
    return traceparent, ("tracestate", context.trace_state.to_header())


def attributes_of(method: str, target: str | None = None) -> dict[str, str]:
    """Returns the attributes of the span of a call; with its ``target`` on the client."""
    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    return attributes if target is None else {**attributes, "server.address": target}


def status_of(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    """Returns the status of a call, as gRPC sends it: UNKNOWN for a code that no status has."""
    code: object = context.code()
    if code is None:
        return grpc.StatusCode.OK
    if isinstance(code, grpc.StatusCode):
        return code
    number = code if isinstance(code, int) else None
    return _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def _is_unsampled(span: Span) -> bool:
    """Tells if the span is of a trace that is not recorded; False if it is of none."""
    if isinstance(span, TraceparentSpan):
        return not span.is_sampled
    context = span.get_span_context()
    return context.is_valid and not context.trace_flags.sampled


def _record(span: Span, code: grpc.StatusCode, *, failed: bool) -> None:
    span.set_attribute("rpc.response.status_code", code.name)
    if failed:
        span.set_attribute("error.type", code.name)
        span.set_status(trace.StatusCode.ERROR)
