"""The local mesh's collector: OTLP over gRPC on the loopback interface, into the span store."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from cli.spans.span import ReceivedSpan, SpanEvent
from cli.spans.store import SpanStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

KINDS = {
    number: name.removeprefix("SPAN_KIND_") for name, number in trace_pb2.Span.SpanKind.items()
}
FAILED = trace_pb2.Status.STATUS_CODE_ERROR
GATHER_S = 0.2
MAX_NS = 2**63 - 1  # that the store can hold
MAX_MESSAGE_BYTES = 16 * 1024 * 1024


@asynccontextmanager
async def receiving(path: Path) -> AsyncIterator[str]:
    """Runs the collector for the block; yields its URL. Accepted spans are on disk at its end."""
    with (
        ThreadPoolExecutor(1, "spans") as writer,
        await asyncio.wrap_future(writer.submit(SpanStore, path)) as store,
    ):
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ]
        )
        add_TraceServiceServicer_to_server(Receiver(store, writer), server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await server.stop(grace=2)


class Receiver(TraceServiceServicer):
    """Answers once the spans are committed: a sender that gets no answer sends them again.

    The spans of one trace come from all services at about the same time, and are cheapest together.
    """

    def __init__(self, store: SpanStore, writer: ThreadPoolExecutor) -> None:
        self._store = store
        self._writer = writer
        self._gathered: list[pb.ExportTraceServiceRequest] = []
        self._keeping: asyncio.Task[None] | None = None  # what is gathered now, soon

    async def Export(  # noqa: N802  (gRPC's name)
        self, request: pb.ExportTraceServiceRequest, context: Any
    ) -> pb.ExportTraceServiceResponse:
        self._gathered.append(request)
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_soon(), name="keep spans")
        await asyncio.shield(self._keeping)
        return pb.ExportTraceServiceResponse()

    async def _keep_soon(self) -> None:
        await asyncio.sleep(GATHER_S)
        requests, self._gathered, self._keeping = self._gathered, [], None
        await asyncio.get_running_loop().run_in_executor(self._writer, self._keep, requests)

    def _keep(self, requests: list[pb.ExportTraceServiceRequest]) -> None:
        self._store.add(chain.from_iterable(map(read, requests)))


def read(request: pb.ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    """Returns the spans of an OTLP request; skips those without valid ids or times."""
    for batch in request.resource_spans:
        service = str(_plain(batch.resource.attributes).get("service.name", ""))
        for scope in batch.scope_spans:
            for span in scope.spans:
                if len(span.trace_id) == 16 and len(span.span_id) == 8 and _ends(span):
                    yield _span(span, service)


def _ends(span: trace_pb2.Span) -> bool:
    return max(span.start_time_unix_nano, span.end_time_unix_nano) <= MAX_NS


def _span(span: trace_pb2.Span, service: str) -> ReceivedSpan:
    status = span.status
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        service=service,
        name=span.name,
        kind=KINDS.get(span.kind, "UNSPECIFIED"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        failed=status.code == FAILED,
        message=status.message,
        attributes=_plain(span.attributes),
        events=[
            SpanEvent(event.time_unix_nano, event.name, _plain(event.attributes))
            for event in span.events
            if event.time_unix_nano <= MAX_NS
        ],
    )


def _plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    if text := value.string_value:  # nearly all are
        return text
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return _plain(value.kvlist_value.values)
        case "bytes_value":
            return value.bytes_value.hex()
        case scalar:
            return getattr(value, scalar)
