"""Traces: where spans go, how many of them, and under which ids."""

from __future__ import annotations

import hashlib
import threading
import uuid
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from mesh.observability.spans import EncodedSpanExporter, SpanBatcher
from mesh.observability.tracer import Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from mesh.observability.spans import SpanSink

EXPORT_TIMEOUT_S = 2  # seconds for one batch
FLUSH_TIMEOUT_S = 3.0  # seconds for all that waits; a dead collector may not hold up the end
MAX_CACHED_IDS = 4096  # ids that are kept: who begins something asks again when it ends


def derive_span_id(*parts: str | int) -> int:
    """The span id that these parts always give: the same for the first try and its recovery."""
    return derive_span_ids(*parts)[0]


@lru_cache(MAX_CACHED_IDS)
def derive_span_ids(*parts: str | int) -> tuple[int, int]:
    """That of a span, and another one for what is first below it."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1, int.from_bytes(digest[8:16], "big") or 1


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Sends spans to a collector; TLS if ``endpoint`` begins with https."""
    secure = endpoint.startswith("https://")
    return EncodedSpanExporter(endpoint=endpoint, insecure=not secure, timeout=EXPORT_TIMEOUT_S)


class Traces:
    """The spans of a process: those that its tracer opens, and those that it draws."""

    def __init__(self, sample_ratio: float, outgoing: SpanBatcher | None) -> None:
        self._outgoing = outgoing
        self.span_sink: SpanSink | None = (
            outgoing.add if outgoing else None
        )  # None: nobody would see them
        self.tracer = Tracer(self.span_sink, sample_ratio)

    def shutdown(self) -> None:
        if self._outgoing is not None:
            self._outgoing.shutdown()


def open_traces(
    service: str, *, sample_ratio: float, exporter: SpanExporter | None = None
) -> Traces:
    """Samples whole traces: the first service decides, the others follow its decision."""
    resource = {
        "service.name": service,
        "service.namespace": "anya",
        "service.version": version("anya-mesh"),
        "service.instance.id": str(uuid.uuid4()),
    }
    return Traces(sample_ratio, SpanBatcher(exporter, resource) if exporter else None)


def close(traces: Traces, exporter: SpanExporter | None) -> None:
    """Send the spans that wait, as far as FLUSH_TIMEOUT_S allows. Blocks meanwhile."""
    if exporter is None:
        traces.shutdown()
        return
    cut = threading.Timer(FLUSH_TIMEOUT_S, exporter.shutdown)
    cut.start()
    try:
        traces.shutdown()
    finally:
        cut.cancel()
