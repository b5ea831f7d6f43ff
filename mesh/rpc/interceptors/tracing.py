"""One span per call on each side, joined across the wire by traceparent (W3C Trace Context)."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh.errors import MeshError
from mesh.rpc.call import serving_or_none
from mesh.rpc.interceptors.errors import code_of, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.trace import Span, Tracer

    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors import ClientCall, ServerCall

PROPAGATOR = TraceContextTextMapPropagator()
# The form that nearly all callers send. The propagator reads the others (no ids, other versions,
# a tracestate).
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED_ENDS = frozenset("13579bdf")  # last digits of the flags of a sampled traceparent
FIELDS = frozenset(PROPAGATOR.fields)  # the property builds a new set at each access

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


class RemoteSpan(NonRecordingSpan):
    """The caller's span, from a well-formed traceparent whose ids are parsed when asked for.

    Most calls are not sampled: then only logs, the audit and new spans ask.
    """

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent
        self._parsed: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        if self._parsed is None:
            _, trace_id, span_id, flags = self.traceparent.split("-")
            self._parsed = SpanContext(
                int(trace_id, 16),
                int(span_id, 16),
                is_remote=True,
                trace_flags=TraceFlags(int(flags, 16)),
            )
        return self._parsed

    def __repr__(self) -> str:
        return f"RemoteSpan({self.traceparent!r})"


@contextmanager
def receive(call: ServerCall) -> Iterator[None]:
    """Continues the caller's trace while the call is served."""
    method = call.serving.method
    span = start_server_span(call.serving, call.context, call.rules.tracer, attributes_of(method))
    code = grpc.StatusCode.CANCELLED  # by the caller or the deadline, unless the call ends
    try:
        yield
        code = status_of(call.context)
    finally:
        end_server_span(span, code)


def start_server_span(
    serving: ServingCall,
    context: grpc.aio.ServicerContext[Any, Any],
    tracer: Tracer,
    attributes: Mapping[str, str],
) -> Span | None:
    """Makes the span of the call current and returns it; None if it is unsampled as its parent is.

    Then the caller's span is current: logs and spans of other libraries belong to its trace. The
    call has its own task, so nothing is detached.
    """
    parent = serving.parent = read_parent(context.invocation_metadata() or ())
    if parent is None:
        above = _ROOT
    else:
        above = trace.set_span_in_context(parent, _ROOT)
        if _is_unsampled(parent, tracer):
            attach(above)
            return None
    span = tracer.start_span(
        serving.method, context=above, kind=trace.SpanKind.SERVER, attributes=attributes
    )
    attach(trace.set_span_in_context(span, above))
    return span


def end_server_span(span: Span | None, code: grpc.StatusCode) -> None:
    """Ends the span of a call, with its status."""
    if span is not None:
        _record(span, code, failed=code in SERVER_ERRORS)
        span.end()


def read_parent(metadata: Iterable[tuple[str, str | bytes]]) -> Span | None:
    """Returns the caller's span, or None if the metadata has no valid one."""
    carrier = {key: value for key, value in metadata if key in FIELDS}
    if not carrier:
        return None
    traceparent = str(carrier.get("traceparent"))
    if len(carrier) == 1 and _TRACEPARENT.fullmatch(traceparent):
        return RemoteSpan(traceparent)
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
    span, call.metadata = start_client_span(call.method, call.rules.tracer, attributes)
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
    method: str, tracer: Tracer, attributes: Mapping[str, str]
) -> tuple[Span | None, tuple[tuple[str, str], ...]]:
    """Returns the span of a call and the metadata that sends it.

    Within an unsampled trace that is None, and the metadata sends the ids of the current span.
    """
    outer = trace.get_current_span()
    if _is_unsampled(outer, tracer):
        return None, headers_of(outer)
    span = tracer.start_span(method, kind=trace.SpanKind.CLIENT, attributes=attributes)
    return span, headers_of(span)


def end_client_span(
    span: Span | None, code: grpc.StatusCode, failure: grpc.aio.AioRpcError | MeshError | None
) -> None:
    """Ends the span of a call, with its status, and the reason of its failure if it has one."""
    if span is None:
        return
    if failure is not None and span.is_recording() and (reason := reason_of(failure)):
        span.set_attribute("anya.reason", reason)
    _record(span, code, failed=code is not grpc.StatusCode.OK)
    span.end()


def headers_of(span: Span) -> tuple[tuple[str, str], ...]:
    """Returns the metadata that makes ``span`` the parent of a call; empty if it is not valid."""
    if isinstance(span, RemoteSpan):
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


def _is_unsampled(span: Span, tracer: Tracer) -> bool:
    """Tells if the tracer records nothing below the span; False if it would have to be asked."""
    sampler = getattr(tracer, "sampler", None)
    if sampler is ALWAYS_ON or isinstance(sampler, TraceIdRatioBased):
        return False
    if isinstance(span, RemoteSpan):
        return span.traceparent[-1] not in _SAMPLED_ENDS
    context = span.get_span_context()
    return context.is_valid and not context.trace_flags.sampled


def _record(span: Span, code: grpc.StatusCode, *, failed: bool) -> None:
    if not span.is_recording():
        return
    span.set_attribute("rpc.response.status_code", code.name)
    if failed:
        span.set_attribute("error.type", code.name)
        span.set_status(trace.StatusCode.ERROR)
