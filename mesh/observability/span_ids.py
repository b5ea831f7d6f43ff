"""Span ids that every process derives alike, and spans that get them."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context

MAX_CACHED_IDS = 4096  # a span's id is derived at its start and again at its end

_parent: ContextVar[ChildSpans | None] = ContextVar("parent_of_chosen_id", default=None)


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

    _tokens: tuple[Token[Context], Token[ChildSpans | None]]

    def __init__(self, trace_id: int, span_id: int, flags: int, first: int) -> None:
        super().__init__(
            trace.SpanContext(
                trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags)
            )
        )
        self._first = first

    def take_first(self) -> int:
        """Returns ``first`` once, then 0."""
        first, self._first = self._first, 0
        return first

    def __enter__(self) -> ChildSpans:
        self._tokens = attach(trace.set_span_in_context(self)), _parent.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        attached, chosen = self._tokens
        _parent.reset(chosen)
        detach(attached)


class DerivedIdGenerator(RandomIdGenerator):
    """Generates random ids, except for the first span in a block of ``ChildSpans``."""

    def generate_span_id(self) -> int:
        """Returns the id of the next span."""
        parent = _parent.get()
        return (parent.take_first() if parent else 0) or super().generate_span_id()
