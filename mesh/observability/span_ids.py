"""Span ids that every process derives alike, and spans that get them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

if TYPE_CHECKING:
    from contextvars import Token

# Under which a context has its current span.
SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))

MAX_CACHED_IDS = 4096  # a span's id is derived at its start and again at its end


def derive_span_id(*parts: str | int) -> int:
    """Returns the span id derived from these parts: the same before and after a crash."""
    return derive_span_ids(*parts)[0]


@lru_cache(MAX_CACHED_IDS)
def derive_span_ids(*parts: str | int) -> tuple[int, int]:
    """Returns the span id derived from these parts, and one for its first child."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1, int.from_bytes(digest[8:16], "big") or 1


class ChildSpans(trace.NonRecordingSpan):
    """The parent of the spans that the block starts; its own span is exported elsewhere.

    The first span started in the block, across all of its tasks, has the id ``first``.
    """

    _token: Token[Context]

    def __init__(self, trace_id: int, span_id: int, flags: int, first: int) -> None:
        self._ids = trace_id, span_id
        self._flags = flags
        self._first = first

    def get_span_context(self) -> trace.SpanContext:
        # Made when it is asked for: a step that makes no call of its own needs none.
        return trace.SpanContext(
            *self._ids, is_remote=True, trace_flags=trace.TraceFlags(self._flags)
        )

    def take_first(self) -> int:
        """Returns ``first`` once, then 0."""
        first, self._first = self._first, 0
        return first

    def __enter__(self) -> ChildSpans:
        # In no context but this: what else the run's task may have in its own is not the call's.
        self._token = attach(Context({SPAN_KEY: self}))
        return self

    def __exit__(self, *_: object) -> None:
        detach(self._token)


class DerivedIdGenerator(RandomIdGenerator):
    """Generates random ids, except for the first span in a block of ``ChildSpans``."""

    def generate_span_id(self) -> int:
        """Returns the id of the next span."""
        parent = trace.get_current_span()
        first = parent.take_first() if isinstance(parent, ChildSpans) else 0
        return first or super().generate_span_id()
