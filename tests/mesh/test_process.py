"""The process of a service: output, exit status, shutdown, and errors at start."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from shutil import copyfile
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from anya.mesh.v1.outbox_pb2 import ReadOutboxRequest
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from mesh.config import TRUST_FILE
from mesh.process import loop_factory
from mesh.settings import ConfigError
from tests.mesh.observability.collectors import PROTOCOLS
from tests.mesh.outbox_service import RELEASE, WAIT
from tests.mesh.service_process import child, credentials, environment_of, ready

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import Authority


@pytest.fixture
def environment(authority: Authority, tmp_path: Path) -> dict[str, str]:
    return environment_of(authority, tmp_path)


@pytest.fixture(params=["asyncio", "uvloop"])
def on_each_loop(request: pytest.FixtureRequest, environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "ANYA_EVENT_LOOP": request.param}


async def test_service_prints_one_ready_line_serves_and_exits_with_0_on_sigterm(
    on_each_loop: dict[str, str],
) -> None:
    async with child(on_each_loop) as process:
        line = await ready(process)
        with socket.create_connection(("127.0.0.1", line["port"])):
            process.send_signal(signal.SIGTERM)
            rest, _ = await process.communicate()

    assert line["service"] == "bitcoin"
    assert line["health_port"]
    assert line["event_loop"] == on_each_loop["ANYA_EVENT_LOOP"]
    assert rest == b""
    assert process.returncode == 0


async def test_port_in_use_is_one_line_and_status_1(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        async with child({**environment, "ANYA_LISTEN": address}) as process:
            out, err = await process.communicate()

    assert out == b""
    assert err.decode().splitlines() == [
        f"bitcoin: cannot listen on {address}: Address already in use; free it or set ANYA_LISTEN"
    ]
    assert process.returncode == 1


async def test_sigterm_ends_health_first_and_completes_calls_in_flight(
    authority: Authority, on_each_loop: dict[str, str]
) -> None:
    async with child({**on_each_loop, "ANYA_DRAIN_SECONDS": "1"}) as process:
        line = await ready(process)
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{line['health_port']}") as health_channel,
            grpc.aio.secure_channel(f"localhost:{line['port']}", credentials(authority)) as channel,
        ):
            health: Any = HealthStub(health_channel)  # its types are those of the synchronous API
            watch = aiter(health.Watch(HealthCheckRequest(), timeout=10))
            stub = OutboxServiceStub(channel)
            lasting = stub.ReadOutbox(ReadOutboxRequest(after_sequence=WAIT), timeout=10)
            serving = await anext(watch)
            await stub.ReadOutbox(ReadOutboxRequest(), timeout=10)

            process.send_signal(signal.SIGTERM)
            leaving = await anext(watch)
            await stub.ReadOutbox(ReadOutboxRequest(after_sequence=RELEASE), timeout=10)
            await lasting
        await process.wait()

    assert serving.status == HealthCheckResponse.SERVING
    assert leaving.status == HealthCheckResponse.NOT_SERVING
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_a_draining_process_at_once(
    on_each_loop: dict[str, str], number: signal.Signals
) -> None:
    async with child({**on_each_loop, "ANYA_DRAIN_SECONDS": "300"}) as process:
        line = await ready(process)
        target = f"127.0.0.1:{line['health_port']}"
        async with grpc.aio.insecure_channel(target) as channel:
            health: Any = HealthStub(channel)
            watch = aiter(health.Watch(HealthCheckRequest(), timeout=10))
            await anext(watch)
            process.send_signal(number)
            leaving = await anext(watch)
            process.send_signal(number)
            async with asyncio.timeout(10):
                await process.wait()

    assert leaving.status == HealthCheckResponse.NOT_SERVING
    assert process.returncode != 0


async def test_sighup_is_answered_and_the_service_keeps_running(
    on_each_loop: dict[str, str], tmp_path: Path
) -> None:
    policy = tmp_path / "trust.yaml"
    copyfile(TRUST_FILE, policy)
    async with child({**on_each_loop, "ANYA_TRUST_FILE": str(policy)}) as process:
        await ready(process)
        policy.write_text("version: 1\nprincipals: [")
        process.send_signal(signal.SIGHUP)
        assert process.stderr
        async with asyncio.timeout(10):
            line = json.loads(await process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        await process.communicate()

    assert "the policy file is invalid and not loaded" in line["message"]
    assert process.returncode == 0


async def test_uvloop_is_used_if_it_is_installed(environment: dict[str, str]) -> None:
    async with child(environment) as process:
        line = await ready(process)
        process.send_signal(signal.SIGTERM)
        await process.communicate()

    assert line["event_loop"] == "uvloop"


def test_asyncio_is_used_without_uvloop_unless_uvloop_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it were not installed

    assert loop_factory({}) is asyncio.new_event_loop
    with pytest.raises(ConfigError, match="not installed: install the extra 'fast'"):
        loop_factory({"ANYA_EVENT_LOOP": "uvloop"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ANYA_EVENT_LOOP", "libuv"),
        ("ANYA_LISTEN", "nowhere"),
        ("ANYA_LISTEN", "127.0.0.1:65536"),
        ("ANYA_PEERS", "web5"),
        ("ANYA_NETWORK", "mainnet"),
        ("OTEL_TRACES_SAMPLER_ARG", "often"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("ANYA_TRUST_FILE", "/nowhere"),
        ("ANYA_FAILPOINTS", "somewhere=explode"),
    ],
)
async def test_invalid_setting_is_one_line_and_status_2(
    environment: dict[str, str], name: str, value: str
) -> None:
    async with child({**environment, name: value}) as process:
        out, err = await process.communicate()

    assert out == b""
    assert process.returncode == 2
    assert len(err.decode().splitlines()) == 1
    assert name in err.decode()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_dead_collector_delays_neither_a_call_nor_the_exit(
    authority: Authority, environment: dict[str, str], protocol: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, and never answers
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
        async with child({**environment, **variables}) as process:
            target = f"localhost:{(await ready(process))['port']}"
            async with grpc.aio.secure_channel(target, credentials(authority)) as channel:
                stub = OutboxServiceStub(channel)
                for _ in range(50):
                    await stub.ReadOutbox(ReadOutboxRequest(), timeout=5)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                _, err = await process.communicate()

    assert process.returncode == 0
    lines = [json.loads(line) for line in err.decode().splitlines()]
    assert len(lines) <= 3  # each of its complaints once
