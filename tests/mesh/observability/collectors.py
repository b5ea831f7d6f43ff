"""OTLP collectors: real servers over gRPC and over HTTP, with TLS on demand."""

from __future__ import annotations

import gzip
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from mesh.observability.config import GRPC, HTTP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from mesh.config import Identity

PROTOCOLS = (GRPC, HTTP)


@dataclass(frozen=True)
class Export:
    """A request as it arrived."""

    request: ExportTraceServiceRequest
    headers: dict[str, str]
    path: str = ""  # of HTTP
    peer: str = ""  # a DNS name in the client's certificate
    timeout_s: float = 0.0  # until gRPC's deadline

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for resource in self.request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, str]:
        [resource] = self.request.resource_spans
        return {pair.key: pair.value.string_value for pair in resource.resource.attributes}


@dataclass
class Collector:
    """Keeps what it receives. While it is ``blocked``, it receives and does not answer."""

    endpoint: str = ""
    exports: list[Export] = field(default_factory=list)
    answers: threading.Event = field(default_factory=threading.Event)
    decompresses: bool = True

    @property
    def spans(self) -> list[Span]:
        return [span for export in self.exports for span in export.spans]

    def receive(self, export: Export) -> None:
        self.exports.append(export)
        self.answers.wait(20)


@contextmanager
def collecting(
    protocol: str,
    *,
    identity: Identity | None = None,
    blocked: bool = False,
    decompresses: bool = True,
) -> Iterator[Collector]:
    """Runs a collector; with an ``identity`` over TLS, and it requires a client certificate.

    ``decompresses``: whether it takes compressed requests over gRPC.
    """
    collector = Collector(decompresses=decompresses)
    if not blocked:
        collector.answers.set()
    serve = _serve_grpc if protocol == GRPC else _serve_http
    with serve(collector, identity):
        try:
            yield collector
        finally:
            collector.answers.set()


class _TraceServicer(TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(  # noqa: N802
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        names: Any = context.auth_context().get("x509_subject_alternative_name", [])
        peer = next((name.decode() for name in names if name.startswith(b"tracer")), "")
        remaining = context.time_remaining() or 0.0
        self._collector.receive(Export(request, headers, peer=peer, timeout_s=remaining))
        return ExportTraceServiceResponse()


@contextmanager
def _serve_grpc(collector: Collector, identity: Identity | None) -> Iterator[None]:
    options = [("grpc.so_reuseport", 0)]
    if not collector.decompresses:
        options.append(("grpc.compression_enabled_algorithms_bitset", 1))  # "identity" alone
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    add_TraceServiceServicer_to_server(_TraceServicer(collector), server)  # type: ignore[no-untyped-call]
    if identity is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = identity.key.read_bytes(), identity.certificate.read_bytes()
        credentials = grpc.ssl_server_credentials([pair], identity.ca.read_bytes(), True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    collector.endpoint = f"{'https' if identity else 'http'}://localhost:{port}"
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


@contextmanager
def _serve_http(collector: Collector, identity: Identity | None) -> Iterator[None]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert headers["content-type"] == "application/x-protobuf"
            request = ExportTraceServiceRequest.FromString(body)
            collector.receive(Export(request, headers, self.path, _peer_of(self.connection)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    if identity is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=identity.ca)
        context.load_cert_chain(identity.certificate, identity.key)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if identity else "http"
    collector.endpoint = f"{scheme}://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _peer_of(connection: Any) -> str:
    if not isinstance(connection, ssl.SSLSocket):
        return ""
    names: Any = (connection.getpeercert() or {}).get("subjectAltName", ())
    return next((str(name) for _, name in names if str(name).startswith("tracer")), "")
