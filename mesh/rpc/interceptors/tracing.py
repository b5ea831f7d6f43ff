"""One span per call on each side, joined across the wire by traceparent (W3C Trace Context)."""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import grpc
from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh.errors import MeshError
from mesh.rpc.interceptors.errors import code_of, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span

    from mesh.rpc.interceptors import ClientCall, ServerCall

PROPAGATOR = TraceContextTextMapPropagator()
# The form that nearly all callers send. The propagator reads the others (no ids, other versions,
# a tracestate).
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
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

_remote: ContextVar[SpanContext | None] = ContextVar("remote_parent", default=None)


@contextmanager
def receive(call: ServerCall) -> Iterator[None]:
    """Continues the caller's trace while the call is served."""
    context, remote = _context(call)
    _remote.set(remote)
    if remote is not None and not remote.trace_flags.sampled:
        attach(context)  # unsampled by the caller: the logs need its ids, and no span is recorded
        yield
        return
    span = call.rules.tracer.start_span(
        call.method,
        context=context,
        kind=trace.SpanKind.SERVER,
        attributes={"rpc.system.name": "grpc", "rpc.method": call.method},
    )
    attach(trace.set_span_in_context(span))  # the call has its own task: no detach needed
    code = grpc.StatusCode.CANCELLED  # by the caller or the deadline, unless the call ends
    try:
        yield
        code = _code(call.context.code())
    finally:
        _record(span, code, failed=code in SERVER_ERRORS)
        span.end()


def remote_parent() -> SpanContext | None:
    """Returns the caller's span as sent with the call being served, or None.

    Work that outlives the call, such as a run, is a child of this span, not of the server's.
    """
    return _remote.get()


def current_traceparent() -> str:
    """Returns the traceparent of the current span, to be stored with data; empty if untraced."""
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")


@contextmanager
def send(call: ClientCall) -> Iterator[None]:
    """Sends the trace to the server. The span is not made current: a stream outlives its frame."""
    outer = trace.get_current_span().get_span_context()
    if outer.is_valid and not outer.trace_flags.sampled:
        PROPAGATOR.inject(call.metadata)  # unsampled: the server gets the ids of the current span
        yield
        return
    span = call.rules.tracer.start_span(
        call.method,
        kind=trace.SpanKind.CLIENT,
        attributes={
            "rpc.system.name": "grpc",
            "rpc.method": call.method,
            "server.address": call.rules.target,
        },
    )
    PROPAGATOR.inject(call.metadata, trace.set_span_in_context(span))
    code = grpc.StatusCode.CANCELLED  # if no branch below is reached
    try:
        yield
        code = grpc.StatusCode.OK
    except (grpc.aio.AioRpcError, MeshError) as error:
        code = code_of(error) if isinstance(error, MeshError) else error.code()
        if span.is_recording() and (reason := reason_of(error)):
            span.set_attribute("anya.reason", reason)
        raise
    finally:
        _record(span, code, failed=code is not grpc.StatusCode.OK)
        span.end()


def _context(call: ServerCall) -> tuple[Context, SpanContext | None]:
    """Returns the caller's span as a context and as itself, or None if it sent no valid one."""
    metadata = call.context.invocation_metadata() or ()
    carrier = {key: value for key, value in metadata if key in FIELDS}
    if not carrier:
        return Context(), None
    if len(carrier) == 1 and (found := _TRACEPARENT.fullmatch(str(carrier.get("traceparent")))):
        remote = _span_context(*found.groups())
        return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context()), remote
    context = PROPAGATOR.extract(carrier, Context())
    remote = trace.get_current_span(context).get_span_context()
    return context, remote if remote.is_valid else None


def _span_context(trace_id: str, span_id: str, flags: str) -> SpanContext:
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )


def _record(span: Span, code: grpc.StatusCode, *, failed: bool) -> None:
    if not span.is_recording():
        return
    span.set_attribute("rpc.response.status_code", code.name)
    if failed:
        span.set_attribute("error.type", code.name)
        span.set_status(trace.StatusCode.ERROR)


def _code(code: grpc.StatusCode | int | None) -> grpc.StatusCode:
    """Converts the code of a context: 0 if unset, otherwise a StatusCode or its number."""
    if isinstance(code, grpc.StatusCode):
        return code
    return next(known for known in grpc.StatusCode if known.value[0] == (code or 0))
