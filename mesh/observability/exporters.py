"""Exporters of spans: OTLP over gRPC or HTTP, and the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExportResult

from mesh.observability.config import CONSOLE, GRPC, HTTP, NONE
from mesh.observability.encoder import encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TextIO

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from mesh.observability.config import OtlpConfig, TraceConfig


def open_exporters(config: TraceConfig, console: TextIO) -> list[SpanExporter]:
    """Returns the exporters of a process."""
    timeout_s = min(config.otlp.timeout_s, config.export_timeout_ms / 1000)
    return [
        ConsoleSpanExporter(out=console)
        if exporter == CONSOLE
        else _OTLP_EXPORTERS[config.otlp.protocol](config.otlp, timeout_s)
        for exporter in config.exporters or ()
    ]


class GrpcSpanExporter(OTLPSpanExporter):
    """Exports OTLP over gRPC, encoded by mesh.observability.encoder."""

    def __init__(self, otlp: OtlpConfig, timeout_s: float) -> None:
        # Not by OTLPSpanExporter's own, which reads the variables again, and fails at an empty one.
        super(OTLPSpanExporter, self).__init__(
            stub=TraceServiceStub,  # type: ignore[arg-type]  # typed as an instance
            result=SpanExportResult,  # type: ignore[arg-type]
            endpoint=otlp.endpoint,
            insecure=otlp.endpoint.lower().startswith("http://") or otlp.insecure,
            credentials=grpc.ssl_channel_credentials(
                _read(otlp.certificate), _read(otlp.client_key), _read(otlp.client_certificate)
            ),
            headers=dict(otlp.headers),
            timeout=timeout_s,
            compression=grpc.Compression.NoCompression
            if otlp.compression == NONE
            else grpc.Compression.Gzip,
        )

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return encode(data)


def _http(otlp: OtlpConfig, timeout_s: float) -> SpanExporter:
    # Only here: a process that exports over gRPC needs no HTTP client in memory.
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpSpanExporter,
    )

    from mesh.observability.answer_session import AnswerSession

    return HttpSpanExporter(
        endpoint=otlp.endpoint,
        certificate_file=_text(otlp.certificate),
        client_key_file=_text(otlp.client_key),
        client_certificate_file=_text(otlp.client_certificate),
        headers=dict(otlp.headers),
        timeout=timeout_s,
        compression=Compression.NoCompression if otlp.compression == NONE else Compression.Gzip,
        session=AnswerSession(),
    )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


_OTLP_EXPORTERS = {GRPC: GrpcSpanExporter, HTTP: _http}
