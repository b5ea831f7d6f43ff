"""A span known by its traceparent alone: the caller's, or one that is not recorded."""

from __future__ import annotations

from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

_SAMPLED_DIGITS = frozenset("13579bdf")  # the last digit of the flags of a sampled trace


class TraceparentSpan(NonRecordingSpan):
    """A span whose ids are parsed when they are asked for.

    Most calls are not sampled: then only logs, the audit and new spans ask, and a client sends the
    text as it is.
    """

    _parsed: SpanContext | None = None

    def __init__(self, traceparent: str, *, is_remote: bool) -> None:
        """Takes a well-formed traceparent of version 00 (W3C Trace Context) with valid ids."""
        self.traceparent = traceparent
        self.is_sampled = traceparent[-1] in _SAMPLED_DIGITS
        self._is_remote = is_remote

    def get_span_context(self) -> SpanContext:
        if self._parsed is None:
            _, trace_id, span_id, flags = self.traceparent.split("-")
            self._parsed = SpanContext(
                int(trace_id, 16), int(span_id, 16), self._is_remote, TraceFlags(int(flags, 16))
            )
        return self._parsed

    def __repr__(self) -> str:
        return f"TraceparentSpan({self.traceparent!r})"
