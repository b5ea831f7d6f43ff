"""The settings of traces: the variables of the OpenTelemetry specification, checked at the start.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mesh.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh.settings import Settings

GRPC = "grpc"
HTTP = "http/protobuf"
DEFAULT_ENDPOINTS = {GRPC: "http://localhost:4317", HTTP: "http://localhost:4318"}
HTTP_PATH = "/v1/traces"

OTLP = "otlp"
CONSOLE = "console"
NONE = "none"

DEFAULT_SAMPLER = "parentbased_always_on"
SAMPLERS = (
    *("always_on", "always_off", "traceidratio"),
    *(DEFAULT_SAMPLER, "parentbased_always_off", "parentbased_traceidratio"),
)

MAX_DELAY_MS = 3_600_000
MAX_QUEUE_SPANS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpConfig:
    """The collector, and how to reach it. Each variable has a form of its own for traces.

    ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` takes precedence over ``OTEL_EXPORTER_OTLP_ENDPOINT``,
    and so on.
    """

    protocol: str = GRPC  # _PROTOCOL, or HTTP
    endpoint: str = DEFAULT_ENDPOINTS[GRPC]  # _ENDPOINT; with HTTP including its path
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # _HEADERS, secret
    insecure: bool = False  # _INSECURE, for gRPC and an endpoint without a scheme
    certificate: Path | None = None  # _CERTIFICATE: the authorities that it trusts
    client_certificate: Path | None = None  # _CLIENT_CERTIFICATE
    client_key: Path | None = None  # _CLIENT_KEY
    timeout_s: float = 10.0  # _TIMEOUT, in seconds as in OpenTelemetry's SDK for Python
    compression: str = NONE  # _COMPRESSION, or "gzip"

    @classmethod
    def from_settings(cls, settings: Settings) -> OtlpConfig:
        """Reads the variables. Raises ConfigError if one is invalid, or a certificate unusable."""
        of = _OtlpVariables(settings)
        _check_certificates(settings, of)
        protocol = settings.choice(of("PROTOCOL"), GRPC, (GRPC, HTTP), ignore_case=True)
        return cls(
            protocol=protocol,
            endpoint=_endpoint(settings, of("ENDPOINT"), protocol),
            headers=settings.headers(of("HEADERS")),
            insecure=settings.flag(of("INSECURE")),
            certificate=_path(settings, of("CERTIFICATE")),
            client_certificate=_path(settings, of("CLIENT_CERTIFICATE")),
            client_key=_path(settings, of("CLIENT_KEY")),
            timeout_s=settings.number(
                of("TIMEOUT"), 10, minimum=0.001, maximum=600, unit="seconds"
            ),
            compression=settings.choice(of("COMPRESSION"), NONE, (NONE, "gzip"), ignore_case=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """The spans that a process records, and the exporters that it hands them to."""

    service_name: str = ""  # OTEL_SERVICE_NAME; empty: the name of the service
    attributes: Mapping[str, str] = field(default_factory=dict)  # OTEL_RESOURCE_ATTRIBUTES
    disabled: bool = False  # OTEL_SDK_DISABLED: no ids either
    exporters: tuple[str, ...] | None = None  # OTEL_TRACES_EXPORTER; None: nothing is set
    otlp: OtlpConfig = field(default_factory=OtlpConfig)  # OTEL_EXPORTER_OTLP_...
    sampler: str = DEFAULT_SAMPLER  # OTEL_TRACES_SAMPLER, one of SAMPLERS
    sampler_ratio: float = 1.0  # OTEL_TRACES_SAMPLER_ARG, 0 to 1
    schedule_delay_ms: int = 5000  # OTEL_BSP_SCHEDULE_DELAY between two exports
    max_queue_spans: int = 2048  # OTEL_BSP_MAX_QUEUE_SIZE
    max_batch_spans: int = 512  # OTEL_BSP_MAX_EXPORT_BATCH_SIZE, in one export
    export_timeout_ms: int = 30_000  # OTEL_BSP_EXPORT_TIMEOUT, of one export

    @classmethod
    def from_settings(cls, settings: Settings) -> TraceConfig:
        """Reads the variables. Raises ConfigError if one is invalid."""
        queue = settings.integer(
            "OTEL_BSP_MAX_QUEUE_SIZE", 2048, minimum=1, maximum=MAX_QUEUE_SPANS
        )
        batch = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
        return cls(
            service_name=settings.text("OTEL_SERVICE_NAME"),
            attributes=settings.entries("OTEL_RESOURCE_ATTRIBUTES"),
            disabled=settings.flag("OTEL_SDK_DISABLED"),
            exporters=_exporters(settings),
            otlp=OtlpConfig.from_settings(settings),
            sampler=settings.choice(
                "OTEL_TRACES_SAMPLER", DEFAULT_SAMPLER, SAMPLERS, ignore_case=True
            ),
            sampler_ratio=settings.number("OTEL_TRACES_SAMPLER_ARG", 1, minimum=0, maximum=1),
            schedule_delay_ms=settings.integer(
                "OTEL_BSP_SCHEDULE_DELAY", 5000, minimum=1, maximum=MAX_DELAY_MS
            ),
            max_queue_spans=queue,
            max_batch_spans=settings.integer(batch, min(512, queue), minimum=1, maximum=queue),
            export_timeout_ms=settings.integer(
                "OTEL_BSP_EXPORT_TIMEOUT", 30_000, minimum=1, maximum=MAX_DELAY_MS
            ),
        )


def collector_config(endpoint: str, *, schedule_delay_ms: int = 5000) -> TraceConfig:
    """Returns the settings that export to a collector over gRPC, and are otherwise the default."""
    otlp = OtlpConfig(endpoint=endpoint)
    return TraceConfig(exporters=(OTLP,), otlp=otlp, schedule_delay_ms=schedule_delay_ms)


class _OtlpVariables:
    """Names the variable that is set: the one for traces, otherwise the one for all signals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, suffix: str) -> str:
        of_traces = f"OTEL_EXPORTER_OTLP_TRACES_{suffix}"
        return of_traces if self._settings.text(of_traces) else f"OTEL_EXPORTER_OTLP_{suffix}"


def _endpoint(settings: Settings, name: str, protocol: str) -> str:
    text = settings.text(name)
    if not text:
        return DEFAULT_ENDPOINTS[protocol] + (HTTP_PATH if protocol == HTTP else "")
    if not _is_url(text) and not (protocol == GRPC and "://" not in text):
        remedy = f"set it to http://HOST:PORT or https://HOST:PORT for {protocol}"
        raise settings.invalid(name, remedy)
    if protocol == HTTP and "_TRACES_" not in name:
        return text.rstrip("/") + HTTP_PATH
    return text


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port, or the brackets of an IPv6 address
        return False


def _path(settings: Settings, name: str) -> Path | None:
    text = settings.text(name)
    return Path(text) if text else None


def _check_certificates(settings: Settings, of: _OtlpVariables) -> None:
    """Raises ConfigError for files that would only fail every handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    remedy = "set it to a readable PEM file, or unset it"
    name = of("CERTIFICATE")
    if authorities := settings.text(name):
        try:
            context.load_verify_locations(authorities)
        except OSError as error:
            cause = error.strerror or error
            raise ConfigError(f"{name} {authorities} cannot be used: {cause}; {remedy}") from None
    names = of("CLIENT_CERTIFICATE"), of("CLIENT_KEY")
    certificate, key = map(settings.text, names)
    if bool(certificate) is not bool(key):
        raise ConfigError(f"{' and '.join(names)} belong together: set both, or unset both")
    if certificate:
        try:
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            cause = error.strerror or error
            files = f"{names[0]} {certificate} with {names[1]} {key}"
            raise ConfigError(f"{files} cannot be used: {cause}; {remedy}") from None


def _exporters(settings: Settings) -> tuple[str, ...] | None:
    name = "OTEL_TRACES_EXPORTER"
    text = settings.text(name)
    if not text:
        return (OTLP,) if settings.text(_OtlpVariables(settings)("ENDPOINT")) else None
    chosen = tuple(dict.fromkeys(entry.strip().lower() for entry in text.split(",")))
    if chosen == (NONE,):
        return ()
    if not set(chosen) <= {OTLP, CONSOLE}:
        raise settings.invalid(name, f"set it to {OTLP}, {CONSOLE} or {NONE}")
    return chosen
