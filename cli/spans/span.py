"""Spans and the traces that they make up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


CLIENT = "CLIENT"  # the kind of a span around a call


class SpanEvent(NamedTuple):
    """Something that happened during a span."""

    time_ns: int  # since 1970
    name: str
    attributes: Mapping[str, Any]


class ReceivedSpan(NamedTuple):
    """One span as it was received. Times are nanoseconds since 1970."""

    trace_id: str  # 32 hex characters
    span_id: str  # 16 hex characters
    parent_id: str  # empty: the root
    service: str  # the resource's service.name
    name: str
    kind: str  # INTERNAL, SERVER, CLIENT, PRODUCER or CONSUMER
    start_ns: int
    end_ns: int
    failed: bool
    message: str  # why it failed, if that is known
    attributes: Mapping[str, Any]
    events: Sequence[SpanEvent] = ()

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Trace:
    """All spans of one trace that have arrived, by start."""

    trace_id: str
    spans: tuple[ReceivedSpan, ...]

    @classmethod
    def of(cls, trace_id: str, spans: Iterable[ReceivedSpan]) -> Trace:
        return cls(trace_id, tuple(sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))))

    @property
    def start_ns(self) -> int:
        return min((span.start_ns for span in self.spans), default=0)

    @property
    def seconds(self) -> float:
        return (max((span.end_ns for span in self.spans), default=0) - self.start_ns) / 1e9

    @property
    def services(self) -> list[str]:
        return sorted({span.service for span in self.spans})

    @property
    def roots(self) -> list[ReceivedSpan]:
        """Spans without a parent. A whole trace has one."""
        return [span for span in self.spans if not span.parent_id]

    @property
    def orphans(self) -> list[ReceivedSpan]:
        """Spans whose parent is not here: it was lost, or has not ended yet."""
        known = {span.span_id for span in self.spans}
        return [span for span in self.spans if span.parent_id and span.parent_id not in known]

    @property
    def unanswered(self) -> list[ReceivedSpan]:
        """Calls whose other end is not here: it has not arrived yet, or its process was killed."""
        parents = {span.parent_id for span in self.spans}
        return [span for span in self.spans if span.kind == CLIENT and span.span_id not in parents]

    @property
    def is_whole(self) -> bool:
        return len(self.roots) == 1 and not self.orphans

    def walk(self) -> Iterator[tuple[int, ReceivedSpan]]:
        """Yields every span with its depth, parents before children; roots first, then orphans."""
        children: dict[str, list[ReceivedSpan]] = {}
        for span in self.spans:
            children.setdefault(span.parent_id, []).append(span)
        waiting = [(0, span) for span in reversed([*self.roots, *self.orphans])]
        while waiting:
            depth, span = waiting.pop()
            yield depth, span
            waiting += [(depth + 1, child) for child in reversed(children.get(span.span_id, ()))]
