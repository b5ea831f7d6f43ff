"""Traces: the exporter, the sample ratio, and span ids derived from names."""

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

EXPORT_TIMEOUT_S = 2  # for one batch
FLUSH_TIMEOUT_S = 3.0  # at shutdown, for all waiting spans: a dead collector must not delay it
MAX_CACHED_IDS = 4096  # a span's id is derived at its start and again at its end


def derive_span_id(*parts: str | int) -> int:
    """Returns the span id derived from these parts: the same before and after a crash."""
    return derive_span_ids(*parts)[0]


@lru_cache(MAX_CACHED_IDS)
def derive_span_ids(*parts: str | int) -> tuple[int, int]:
    """Returns the span id derived from these parts, and one for its first child."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1, int.from_bytes(digest[8:16], "big") or 1


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Returns an exporter to a collector; it uses TLS if ``endpoint`` begins with https."""
    secure = endpoint.startswith("https://")
    return EncodedSpanExporter(endpoint=endpoint, insecure=not secure, timeout=EXPORT_TIMEOUT_S)


class Traces:
    """The spans of a process: ``tracer`` starts spans, ``span_sink`` takes finished ones."""

    def __init__(self, sample_ratio: float, batcher: SpanBatcher | None) -> None:
        self._batcher = batcher
        self.span_sink: SpanSink | None = batcher.add if batcher else None
        self.tracer = Tracer(self.span_sink, sample_ratio)

    def shutdown(self) -> None:
        if self._batcher is not None:
            self._batcher.shutdown()


def open_traces(
    service: str, *, sample_ratio: float, exporter: SpanExporter | None = None
) -> Traces:
    """Opens the traces of a service. The root span decides if a trace is sampled."""
    resource = {
        "service.name": service,
        "service.namespace": "anya",
        "service.version": version("anya-mesh"),
        "service.instance.id": str(uuid.uuid4()),
    }
    return Traces(sample_ratio, SpanBatcher(exporter, resource) if exporter else None)


def close(traces: Traces, exporter: SpanExporter | None) -> None:
    """Sends the waiting spans, for FLUSH_TIMEOUT_S at most. Blocks."""
    if exporter is None:
        traces.shutdown()
        return
    cut = threading.Timer(FLUSH_TIMEOUT_S, exporter.shutdown)
    cut.start()
    try:
        traces.shutdown()
    finally:
        cut.cancel()
