"""Short constructors of spans for the tests of the span store."""

from __future__ import annotations

from cli.spans.span import ReceivedSpan

TRACE = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000


def span(
    span_id: str,
    parent_id: str = "",
    *,
    trace_id: str = TRACE,
    service: str = "orchestrator",
    start: int = 0,
    end: int = 10,
    failed: bool = False,
    message: str = "",
) -> ReceivedSpan:
    """Returns a span that is named by its id. ``start`` and ``end`` are milliseconds."""
    return ReceivedSpan(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent_id,
        service=service,
        name=f"anya.test.v1.Test/{span_id}",
        kind="SERVER",
        start_ns=start * MS,
        end_ns=end * MS,
        failed=failed,
        message=message,
        attributes={"rpc.system.name": "grpc"},
    )
