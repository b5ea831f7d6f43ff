"""Where a run stands in its trace, as a traceparent (W3C Trace Context)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.observability.spans import NO_PARENT
from mesh.observability.telemetry import derive_span_id, derive_span_ids

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext


def parent_of_run(run_id: str, caller: SpanContext | None, serving: SpanContext) -> str:
    """What a run is below, as a traceparent: the caller's span, which outlives the call.

    A caller without a span has a trace begun for the run, apart from that of the call being
    served: its span may never leave a process that is killed. Empty if nobody traces.
    """
    if caller is not None:
        return _traceparent(caller.trace_id, caller.span_id, caller.trace_flags)
    if not serving.is_valid:
        return ""
    # The sampler judges by the lower half: with the same one, both are sampled or neither.
    _, upper = derive_span_ids(run_id)
    trace_id = upper << 64 | serving.trace_id & 2**64 - 1
    return _traceparent(trace_id, NO_PARENT, serving.trace_flags)


def sampled(traceparent: str) -> str:
    """The same trace, looked at whoever began it: below nothing, if its beginner does not look."""
    if not traceparent or int(traceparent[53:55], 16) & 1:
        return traceparent
    return _traceparent(int(traceparent[3:35], 16), NO_PARENT, 1)


def traceparent_of_run(run_id: str, parent: str) -> str:
    """For whoever continues the run's trace below the run itself."""
    return f"{parent[:36]}{derive_span_id(run_id):016x}{parent[52:]}" if parent else ""


def trace_id_of(traceparent: str) -> str:
    """32 hex digits, or nothing."""
    return traceparent[3:35]


def _traceparent(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
