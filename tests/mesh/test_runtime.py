"""The runtime of a service: port, health, policy, certificates and shutdown."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from socket import AF_INET
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from anya.mesh.v1.outbox_pb2 import ReadOutboxRequest
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from mesh.config import MeshConfig
from mesh.runtime import Ports, Runtime, StartError, open_runtime
from mesh.security.trust import PolicyError
from mesh.settings import ConfigError
from mesh.testing import Authority, eventually, reason
from tests.mesh.outbox_service import outbox_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.config import Identity

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
def config(authority: Authority, tmp_path: Path) -> MeshConfig:
    return MeshConfig(
        service="bitcoin", identity=authority.issue_service("bitcoin"), home=tmp_path / "home"
    )


@asynccontextmanager
async def orchestrator(
    authority: Authority, config: MeshConfig, bitcoin: Ports
) -> AsyncIterator[Runtime]:
    """The runtime of a service that calls the one under test."""
    config = replace(
        config,
        service="orchestrator",
        identity=authority.issue_service("orchestrator"),
        peers={"bitcoin": f"127.0.0.1:{bitcoin.port}"},
    )
    async with open_runtime(config) as runtime:
        yield runtime


async def read(channel: grpc.aio.Channel) -> str:
    reply = await OutboxServiceStub(channel).ReadOutbox(ReadOutboxRequest())
    return str(reply.entries[0].event.type)


async def health(port: int) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = HealthStub(channel)  # its types are those of the synchronous API
        reply: HealthCheckResponse = await stub.Check(HealthCheckRequest(), timeout=5)
        return reply.status


async def test_granted_call_is_served_within_its_bounds(
    authority: Authority, config: MeshConfig
) -> None:
    async with (
        outbox_service(config) as ports,
        orchestrator(authority, config, ports) as caller,
        caller.channel("bitcoin") as channel,
    ):
        assert await read(channel) == "orchestrator -> bitcoin"


async def test_channel_refuses_a_server_of_another_name(
    authority: Authority, config: MeshConfig
) -> None:
    impostor = replace(config, identity=authority.issue_service("web5"))

    async with (
        outbox_service(impostor) as ports,
        orchestrator(authority, config, ports) as caller,
        caller.channel("bitcoin") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await read(channel)

    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("caller", ["no certificate", "plaintext", "another authority"])
async def test_client_without_a_certificate_of_our_ca_is_not_connected(
    config: MeshConfig, caller: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger")).issue_service("orchestrator")
    pair = (stranger.key.read_bytes(), stranger.certificate.read_bytes())
    ca = config.identity.ca.read_bytes()
    credentials = {
        "no certificate": grpc.ssl_channel_credentials(ca),
        "another authority": grpc.ssl_channel_credentials(ca, *pair),
    }

    async with outbox_service(config) as ports:
        target = f"localhost:{ports.port}"
        channel = (
            grpc.aio.insecure_channel(target)
            if caller == "plaintext"
            else grpc.aio.secure_channel(target, credentials[caller])
        )
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await OutboxServiceStub(channel).ReadOutbox(ReadOutboxRequest(), timeout=5)

    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_restarted_peer_is_reconnected_soon(authority: Authority, config: MeshConfig) -> None:
    async with outbox_service(config) as ports:
        pass

    async with (
        orchestrator(authority, config, ports) as caller,
        caller.channel("bitcoin") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await read(channel)
        async with outbox_service(replace(config, listen=f"127.0.0.1:{ports.port}")):
            async with asyncio.timeout(0.6):
                await channel.channel_ready()

            assert await read(channel) == "orchestrator -> bitcoin"


async def test_peer_without_a_target_cannot_be_called(
    authority: Authority, config: MeshConfig
) -> None:
    async with open_runtime(config) as runtime:
        with pytest.raises(ConfigError, match="ANYA_PEERS lacks web5"):
            runtime.channel("web5")


async def test_health_port_answers_in_plaintext_without_a_certificate(config: MeshConfig) -> None:
    async with outbox_service(config) as ports:
        assert await health(ports.health_port) == SERVING


async def test_health_port_serves_nothing_else(config: MeshConfig) -> None:
    async with (
        outbox_service(config) as ports,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.health_port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await OutboxServiceStub(channel).ReadOutbox(ReadOutboxRequest(), timeout=5)

    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_and_hands_out_their_files(
    authority: Authority, config: MeshConfig, version: str
) -> None:
    asked = [
        {"list_services": ""},
        {"file_containing_symbol": "anya.mesh.v1.OutboxService"},
        {"file_containing_symbol": f"grpc.reflection.{version}.ServerReflection"},
    ]

    async with outbox_service(config) as ports:
        operator = authority.issue("spiffe://anya.internal/client/operator")
        listing, outbox, itself = await reflect(ports.port, operator, version, asked)

    names = {service.name for service in listing.list_services_response.service}
    files = [
        FileDescriptorProto.FromString(reply.file_descriptor_response.file_descriptor_proto[0])
        for reply in (outbox, itself)
    ]
    assert names == {
        "anya.mesh.v1.OutboxService",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert [file.package for file in files] == ["anya.mesh.v1", f"grpc.reflection.{version}"]
    assert [service.name for service in files[0].service] == ["OutboxService"]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_needs_a_grant(
    authority: Authority, config: MeshConfig, version: str
) -> None:
    ungranted = authority.issue("spiffe://anya.internal/ns/anya/sa/orchestrator")

    async with outbox_service(config) as ports:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await reflect(ports.port, ungranted, version, [{"list_services": ""}])

    assert reason(refusal.value) == "PERMISSION_NOT_GRANTED"


async def reflect(
    port: int, identity: Identity, version: str, asked: list[dict[str, str]]
) -> list[Any]:
    """Returns the replies of one reflection stream, in messages of the version's own package."""
    package = f"grpc.reflection.{version}"
    request_type, reply_type = (
        GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"{package}.{name}"))
        for name in ("ServerReflectionRequest", "ServerReflectionResponse")
    )
    credentials = grpc.ssl_channel_credentials(
        identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        stream: Any = channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request_type.SerializeToString,
            reply_type.FromString,
        )
        call = stream(iter([request_type(**request) for request in asked]), timeout=5)
        return [reply async for reply in call]


async def test_request_above_the_size_limit_is_refused(
    authority: Authority, config: MeshConfig
) -> None:
    async with (
        outbox_service(config) as ports,
        orchestrator(authority, config, ports) as caller,
        caller.channel("bitcoin") as channel,
    ):
        send: Any = channel.unary_unary("/anya.mesh.v1.OutboxService/ReadOutbox")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await send(bytes(5 << 20), timeout=5)

    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("setting", ["listen", "health_listen"])
async def test_port_in_use_is_named(config: MeshConfig, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        taken: Any = {setting: address}

        with pytest.raises(StartError, match=f"cannot listen on {address}: Address already in use"):
            async with outbox_service(replace(config, **taken)):
                pass


class SocketWithoutIPv6(socket.socket):
    """A socket of a host whose kernel has no IPv6."""

    def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *args, **options)


@pytest.mark.parametrize(
    ("setting", "variable"), [("listen", "ANYA_LISTEN"), ("health_listen", "ANYA_HEALTH_LISTEN")]
)
async def test_ipv6_address_on_a_host_without_ipv6_names_the_setting(
    config: MeshConfig, setting: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", SocketWithoutIPv6)
    wanted: Any = {setting: "[::]:0"}

    with pytest.raises(StartError, match=f"cannot listen on .* not supported .* set {variable}$"):
        async with outbox_service(replace(config, **wanted)):
            pass


async def test_policy_with_an_unknown_method_prevents_the_start(
    config: MeshConfig, tmp_path: Path
) -> None:
    broken = tmp_path / "trust.yaml"
    broken.write_text(config.trust_file.read_text().replace("/GetTransaction:", "/GetTransactoin:"))

    with pytest.raises(PolicyError, match="no contract has this method"):
        async with outbox_service(replace(config, trust_file=broken)):
            pass


async def test_missing_policy_file_is_named(config: MeshConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ANYA_TRUST_FILE .*nowhere\.yaml cannot be read"):
        async with outbox_service(replace(config, trust_file=tmp_path / "nowhere.yaml")):
            pass


async def test_sighup_loads_a_valid_policy_only(
    config: MeshConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trust.yaml"
    granting = config.trust_file.read_text()
    path.write_text(granting)

    async with open_runtime(replace(config, trust_file=path)) as runtime:
        first = runtime.policy.current
        path.write_text("version: 1\nprincipals: [")
        signal.raise_signal(signal.SIGHUP)
        await eventually(lambda: "the policy file is invalid and not loaded" in caplog.text)
        assert runtime.policy.current is first

        path.write_text(granting + "# changed\n")
        signal.raise_signal(signal.SIGHUP)
        await eventually(lambda: runtime.policy.current is not first)


async def test_revocation_in_the_policy_file_ends_calls_within_seconds(
    authority: Authority, config: MeshConfig, tmp_path: Path
) -> None:
    path = tmp_path / "trust.yaml"
    granting = config.trust_file.read_text()
    path.write_text(granting)

    async with (
        outbox_service(replace(config, trust_file=path)) as ports,
        orchestrator(authority, config, ports) as caller,
        caller.channel("bitcoin") as channel,
    ):
        await read(channel)
        revoked = "spiffe://anya.internal/ns/anya/sa/orchestrator"
        path.write_text(f'{granting}\nrevoked: {{spiffe_ids: ["{revoked}"]}}\n')

        async def is_refused() -> bool:
            try:
                await read(channel)
            except grpc.aio.AioRpcError as error:
                return reason(error) == "CERTIFICATE_REVOKED"
            return False

        await eventually(is_refused)


async def test_failpoints_off_regtest_prevent_the_start(config: MeshConfig) -> None:
    with pytest.raises(ConfigError, match="regtest only"):
        async with outbox_service(replace(config, failpoints="x=kill", network="main")):
            pass


async def test_renewed_certificate_is_served_to_the_next_client(
    authority: Authority, config: MeshConfig
) -> None:
    async with outbox_service(config) as ports:
        renewed = authority.issue_service("bitcoin")
        before = await certificate_of(ports.port, renewed)
        config.identity.key.write_bytes(renewed.key.read_bytes())
        config.identity.certificate.write_bytes(renewed.certificate.read_bytes())
        after = await certificate_of(ports.port, renewed)

    assert before != after
    assert after == ssl.PEM_cert_to_DER_cert(renewed.certificate.read_text())


async def certificate_of(port: int, caller: Identity) -> bytes:
    """Returns the certificate of a server, in DER."""
    context = ssl.create_default_context(cafile=str(caller.ca))
    context.load_cert_chain(caller.certificate, caller.key)
    _, writer = await asyncio.open_connection("localhost", port, ssl=context, family=AF_INET)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(shown, bytes)
        return shown
    finally:
        writer.transport.abort()
