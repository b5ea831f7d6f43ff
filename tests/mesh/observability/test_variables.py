"""OpenTelemetry's variables: each acts in a service's process, towards a real collector."""

from __future__ import annotations

import json
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.mesh.v1.outbox_pb2 import ReadOutboxRequest
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from mesh.observability.config import GRPC, HTTP
from mesh.testing import eventually
from tests.mesh.observability.collectors import PROTOCOLS, collecting
from tests.mesh.service_process import child, credentials, environment_of, ready

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from mesh.testing import Authority

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED_TRACE = "1af7651916cd43dd8448eb211c80319c"
UNSAMPLED = f"00-{UNSAMPLED_TRACE}-b7ad6b7169203331-00"
ENDPOINT, TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
PROTOCOL, TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"

over_both = pytest.mark.parametrize("protocol", PROTOCOLS)


@dataclass
class Service:
    """The service's process while it runs."""

    process: Process
    channel: grpc.aio.Channel

    async def call(self, times: int = 1, *, traceparent: str = "") -> None:
        metadata = (("traceparent", traceparent),) if traceparent else ()
        stub = OutboxServiceStub(self.channel)
        for _ in range(times):
            await stub.ReadOutbox(ReadOutboxRequest(), timeout=5, metadata=metadata)

    async def stop(self) -> tuple[str, str]:
        """Stops the process, and returns what it wrote to stdout and stderr."""
        self.process.send_signal(signal.SIGTERM)
        out, err = await self.process.communicate()
        assert self.process.returncode == 0
        return out.decode(), err.decode()


@dataclass
class Services:
    """Starts the service with variables of a test."""

    authority: Authority
    environment: Mapping[str, str]

    @asynccontextmanager
    async def running(self, variables: Mapping[str, str]) -> AsyncIterator[Service]:
        async with child({**self.environment, **variables}) as process:
            target = f"localhost:{(await ready(process))['port']}"
            async with grpc.aio.secure_channel(target, credentials(self.authority)) as channel:
                yield Service(process, channel)

    async def call_once(
        self, variables: Mapping[str, str], *, traceparent: str = ""
    ) -> tuple[str, str]:
        """Starts the service, calls it, stops it, and returns what it wrote."""
        async with self.running(variables) as service:
            await service.call(traceparent=traceparent)
            return await service.stop()


@pytest.fixture
def services(authority: Authority, tmp_path: Path) -> Services:
    return Services(authority, environment_of(authority, tmp_path))


@over_both
async def test_endpoint_and_protocol_lead_to_the_collector(
    services: Services, protocol: str
) -> None:
    with collecting(protocol) as collector:
        await services.call_once({ENDPOINT: collector.endpoint, PROTOCOL: protocol})

    [export] = collector.exports
    assert [span.name for span in export.spans] == ["anya.mesh.v1.OutboxService/ReadOutbox"]
    assert export.path == ("/v1/traces" if protocol == HTTP else "")
    assert export.resource["service.name"] == "bitcoin"
    assert export.resource["service.namespace"] == "anya"
    assert export.resource["telemetry.sdk.name"] == "opentelemetry"


@over_both
async def test_variables_for_traces_take_precedence(services: Services, protocol: str) -> None:
    other = GRPC if protocol == HTTP else HTTP
    with collecting(protocol) as collector, collecting(other) as unused:
        path = "/of/traces" if protocol == HTTP else ""
        await services.call_once(
            {
                ENDPOINT: unused.endpoint,
                TRACES_ENDPOINT: collector.endpoint + path,
                PROTOCOL: other,
                TRACES_PROTOCOL: protocol,
            }
        )

    [export] = collector.exports
    assert export.path == path
    assert not unused.exports


@over_both
async def test_headers_are_sent_with_every_export(services: Services, protocol: str) -> None:
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20x, x-tenant=a"}
    with collecting(protocol) as collector:
        await services.call_once({ENDPOINT: collector.endpoint, PROTOCOL: protocol, **headers})

    [export] = collector.exports
    assert export.headers["authorization"] == "Bearer x"
    assert export.headers["x-tenant"] == "a"


@over_both
async def test_certificates_make_a_mutual_tls_connection(
    services: Services, protocol: str, authority: Authority
) -> None:
    own = authority.issue(dns=("tracer",))
    with collecting(protocol, identity=authority.issue()) as collector:
        await services.call_once(
            {
                ENDPOINT: collector.endpoint,
                PROTOCOL: protocol,
                "OTEL_EXPORTER_OTLP_CERTIFICATE": str(own.ca),
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(own.certificate),
                "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(own.key),
            }
        )

    [export] = collector.exports
    assert export.peer == "tracer"


@over_both
async def test_collector_of_an_unknown_authority_gets_no_spans(
    services: Services, protocol: str, authority: Authority
) -> None:
    with collecting(protocol, identity=authority.issue()) as collector:
        _, err = await services.call_once({ENDPOINT: collector.endpoint, PROTOCOL: protocol})

    assert not collector.exports
    assert "spans lost since the start: 1" in err


async def test_insecure_reaches_an_endpoint_without_a_scheme(services: Services) -> None:
    with collecting(GRPC) as collector:
        endpoint = collector.endpoint.removeprefix("http://")
        await services.call_once({ENDPOINT: endpoint, "OTEL_EXPORTER_OTLP_INSECURE": "true"})

    assert len(collector.spans) == 1


@over_both
@pytest.mark.parametrize(
    "timeout", [("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5"), ("OTEL_BSP_EXPORT_TIMEOUT", "500")]
)
async def test_timeout_ends_an_export_that_gets_no_answer(
    services: Services, protocol: str, timeout: tuple[str, str]
) -> None:
    with collecting(protocol, blocked=True) as collector:
        variables = {
            ENDPOINT: collector.endpoint,
            PROTOCOL: protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "10",
            timeout[0]: timeout[1],
        }
        async with services.running(variables) as service:
            await service.call()
            assert service.process.stderr
            lines = [await service.process.stderr.readline() for _ in range(2)]

    assert b"spans lost since the start: 1 not accepted by the collector" in lines[-1]
    assert collector.exports[0].timeout_s <= 0.5


async def test_exports_over_http_are_compressed_on_demand(services: Services) -> None:
    compression = {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    with collecting(HTTP) as collector:
        await services.call_once({ENDPOINT: collector.endpoint, PROTOCOL: HTTP, **compression})

    [export] = collector.exports
    assert export.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(("compression", "accepted"), [("none", 1), ("gzip", 0)])
async def test_exports_over_grpc_are_compressed_on_demand(
    services: Services, compression: str, accepted: int
) -> None:
    variables = {"OTEL_EXPORTER_OTLP_COMPRESSION": compression}
    # The name of the compression is no metadata: that a server refuses it shows that it is used.
    with collecting(GRPC, decompresses=False) as strict:
        await services.call_once({ENDPOINT: strict.endpoint, **variables})
    with collecting(GRPC) as collector:
        await services.call_once({ENDPOINT: collector.endpoint, **variables})

    assert (len(strict.spans), len(collector.spans)) == (accepted, 1)


@pytest.mark.parametrize(
    ("sampler", "argument", "recorded"),
    [
        # The callers whose calls are recorded.
        ("always_on", "", {"root", "sampled", "unsampled"}),
        ("always_off", "", set()),
        ("traceidratio", "0", set()),
        ("traceidratio", "1", {"root", "sampled", "unsampled"}),
        ("parentbased_always_on", "", {"root", "sampled"}),
        ("parentbased_always_off", "", {"sampled"}),
        ("ParentBased_TraceIdRatio", "0", {"sampled"}),
    ],
)
async def test_sampler_decides_which_traces_are_recorded(
    services: Services, sampler: str, argument: str, recorded: set[str]
) -> None:
    with collecting(GRPC) as collector:
        variables = {
            ENDPOINT: collector.endpoint,
            "OTEL_TRACES_SAMPLER": sampler,
            "OTEL_TRACES_SAMPLER_ARG": argument,
        }
        async with services.running(variables) as service:
            await service.call()
            await service.call(traceparent=SAMPLED)
            await service.call(traceparent=UNSAMPLED)
            await service.stop()

    callers = {TRACE: "sampled", UNSAMPLED_TRACE: "unsampled"}
    found = [callers.get(span.trace_id.hex(), "root") for span in collector.spans]
    assert sorted(found) == sorted(recorded)


async def test_schedule_delay_is_the_time_between_two_exports(services: Services) -> None:
    with collecting(GRPC) as collector:
        variables = {ENDPOINT: collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "10"}
        async with services.running(variables) as service:
            await service.call()
            await eventually(lambda: len(collector.spans) == 1, within=3)


async def test_export_holds_at_most_the_batch_size(services: Services) -> None:
    with collecting(GRPC) as collector:
        variables = {ENDPOINT: collector.endpoint, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
        async with services.running(variables) as service:
            await service.call(5)
            await service.stop()

    assert len(collector.spans) == 5
    assert max(len(export.spans) for export in collector.exports) == 2


async def test_spans_beyond_the_queue_size_are_dropped_and_counted(services: Services) -> None:
    with collecting(GRPC, blocked=True) as collector:
        variables = {
            ENDPOINT: collector.endpoint,
            "OTEL_BSP_MAX_QUEUE_SIZE": "3",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
        }
        async with services.running(variables) as service:
            await service.call()
            await eventually(lambda: len(collector.exports) == 1)
            await service.call(10)
            assert service.process.stderr
            line = json.loads(await service.process.stderr.readline())

    assert line["message"] == "spans lost since the start: 1 dropped from the full queue"


async def test_disabled_sdk_records_nothing(services: Services) -> None:
    with collecting(GRPC) as collector:
        await services.call_once({ENDPOINT: collector.endpoint, "OTEL_SDK_DISABLED": "TRUE"})

    assert not collector.exports


async def test_exporter_none_records_nothing(services: Services) -> None:
    with collecting(GRPC) as collector:
        await services.call_once({ENDPOINT: collector.endpoint, "OTEL_TRACES_EXPORTER": "none"})

    assert not collector.exports


async def test_console_exporter_writes_to_stdout_beside_the_collector(services: Services) -> None:
    with collecting(GRPC) as collector:
        exporters = {"OTEL_TRACES_EXPORTER": "otlp,console"}
        out, _ = await services.call_once({ENDPOINT: collector.endpoint, **exporters})

    assert json.loads(out)["name"] == "anya.mesh.v1.OutboxService/ReadOutbox"
    assert len(collector.spans) == 1


@over_both
async def test_service_name_and_resource_attributes_describe_the_process(
    services: Services, protocol: str
) -> None:
    with collecting(protocol) as collector:
        await services.call_once(
            {
                ENDPOINT: collector.endpoint,
                PROTOCOL: protocol,
                "OTEL_SERVICE_NAME": "bitcoin-eu",
                "OTEL_RESOURCE_ATTRIBUTES": "service.name=b,service.namespace=eu,city=K%C3%B6ln",
            }
        )

    [export] = collector.exports
    resource = export.resource
    assert resource["service.name"] == "bitcoin-eu"
    assert resource["service.namespace"] == "eu"
    assert resource["city"] == "Köln"
    assert resource["service.version"]
