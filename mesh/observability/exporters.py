"""Exporters of spans: OTLP over gRPC or HTTP, and the console."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from mesh.observability.config import CONSOLE, GRPC, NONE
from mesh.settings import ConfigError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from opentelemetry.sdk.trace.export import SpanExporter

    from mesh.observability.config import OtlpConfig, TraceConfig


def open_exporters(config: TraceConfig, console: TextIO) -> list[SpanExporter]:
    """Returns the exporters of a process. Raises ConfigError if a certificate cannot be used."""
    timeout_s = min(config.otlp.timeout_s, config.export_timeout_ms / 1000)
    return [
        ConsoleSpanExporter(out=console)
        if exporter == CONSOLE
        else _otlp_exporter(config.otlp, timeout_s)
        for exporter in config.exporters or ()
    ]


def _otlp_exporter(otlp: OtlpConfig, timeout_s: float) -> SpanExporter:
    _check_certificates(otlp)
    return (_grpc if otlp.protocol == GRPC else _http)(otlp, timeout_s)


def _grpc(otlp: OtlpConfig, timeout_s: float) -> SpanExporter:
    return GrpcSpanExporter(
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


def _http(otlp: OtlpConfig, timeout_s: float) -> SpanExporter:
    # Only here: a process that exports over gRPC needs no HTTP client in memory.
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(
        endpoint=otlp.endpoint,
        certificate_file=_text(otlp.certificate),
        client_key_file=_text(otlp.client_key),
        client_certificate_file=_text(otlp.client_certificate),
        headers=dict(otlp.headers),
        timeout=timeout_s,
        compression=Compression.NoCompression if otlp.compression == NONE else Compression.Gzip,
    )


def _check_certificates(otlp: OtlpConfig) -> None:
    """Raises ConfigError for files that would only fail every handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if otlp.certificate is not None:
        try:
            context.load_verify_locations(otlp.certificate)
        except OSError as error:
            raise _unusable("CERTIFICATE", otlp.certificate, error) from None
    if (otlp.client_certificate is None) is not (otlp.client_key is None):
        raise ConfigError(
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY belong "
            "together: set both, or unset both"
        )
    if otlp.client_certificate is not None and otlp.client_key is not None:
        try:
            context.load_cert_chain(otlp.client_certificate, otlp.client_key, password="")
        except OSError as error:
            both = f"{otlp.client_certificate} with OTEL_EXPORTER_OTLP_CLIENT_KEY {otlp.client_key}"
            raise _unusable("CLIENT_CERTIFICATE", both, error) from None


def _unusable(variable: str, path: Path | str, error: OSError) -> ConfigError:
    return ConfigError(
        f"OTEL_EXPORTER_OTLP_{variable} {path} cannot be used: {error.strerror or error}; "
        "set it to a readable PEM file, or unset it"
    )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
