"""The mesh under test: on SQLite, or on PostgreSQL with two orchestrators that share a database."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import asyncpg
from opentelemetry.trace import NoOpTracer

from cli import endpoints
from cli.connection import connect
from cli.home import SERVICES, Home
from cli.supervisor import control
from cli.supervisor.process import Command
from cli.supervisor.service import Service
from mesh.breaker import Breakers, BreakerSettings
from mesh.clock import SystemClock
from mesh.config import Identity
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from mesh.testing import eventually
from tests.postgres_server import PostgresServer
from tests.scenarios.meshes import environment, up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from cli.connection import Channels

REPLICA = "replica"  # the second orchestrator, beside the supervisor's
SERVER = "postgres"  # the database server of all services
CALL_TIMEOUT_S = 15.0
STARTS_WITHIN_S = 60.0  # after a kill


class Store(StrEnum):
    SQLITE = "sqlite"
    POSTGRES = "postgres"


@dataclass(frozen=True, slots=True)
class Deployment:
    home: Home
    routes: tuple[Channels, ...]  # the channels to all services, once for each orchestrator
    replica: Service | None = None
    server: PostgresServer | None = None

    async def pid(self, service: str) -> int:
        """Returns the process id of a service as soon as the service is ready."""
        found: list[int] = []

        async def serves() -> bool:
            found[:] = filter(None, [(await self._status(service))["pid"]])
            return bool(found)

        await eventually(serves, within=STARTS_WITHIN_S)
        return found[0]

    async def _status(self, service: str) -> dict[str, Any]:
        if service == REPLICA and self.replica is not None:
            return self.replica.status()
        status: dict[str, Any] = await control.request(self.home, "status")
        found: dict[str, Any] = status["services"][service]
        return found


def services_on(store: Store) -> tuple[str, ...]:
    """Returns the processes that faults may hit on this kind of store."""
    return SERVICES if store is Store.SQLITE else (*SERVICES, REPLICA, SERVER)


@asynccontextmanager
async def deploy(
    folder: Path, store: Store, *, mine: str = "auto", extra: Mapping[str, str] | None = None
) -> AsyncIterator[Deployment]:
    """Runs a mesh for the block, with its data in ``folder`` or in a database server of its own."""
    async with AsyncExitStack() as stack:
        server: PostgresServer | None = None
        databases: dict[str, str] = {}
        if store is Store.POSTGRES:
            server, databases = await stack.enter_async_context(_databases())
        stack.enter_context(up(folder, "--mine", mine, extra={**databases, **(extra or {})}))
        home = Home(folder)
        channels = await stack.enter_async_context(connect(home))
        if store is Store.SQLITE:
            yield Deployment(home, (channels,))
            return
        shared = databases["ANYA_DATABASE_ORCHESTRATOR"]
        service, address = await stack.enter_async_context(_replica(home, shared))
        other = await stack.enter_async_context(open_channel(address, _rules(), _operator(home)))
        yield Deployment(home, (channels, {**channels, "orchestrator": other}), service, server)


@asynccontextmanager
async def _databases() -> AsyncIterator[tuple[PostgresServer, dict[str, str]]]:
    """Runs a database server with a database for each service."""
    server = PostgresServer()
    await server.create()
    await server.start()
    try:
        url = server.url("tcp")
        connection = await asyncpg.connect(url)
        for service in SERVICES:
            await connection.execute(f"CREATE DATABASE {service}")
        await connection.close()
        own = url.removesuffix("postgres")
        yield server, {f"ANYA_DATABASE_{name.upper()}": own + name for name in SERVICES}
    finally:
        await server.remove()


@asynccontextmanager
async def _replica(home: Home, database: str) -> AsyncIterator[tuple[Service, str]]:
    """Runs a second orchestrator with its own folder, restarted as by the supervisor."""
    folder = home.path.with_name(f"{home.path.name}-{REPLICA}")
    folder.mkdir()
    (folder / "pki").symlink_to(home.pki)
    peers = endpoints.read(home)
    own = endpoints.choose(Home(folder), port_base=None)["orchestrator"]
    status = await control.request(home, "status")
    command = Command(
        arguments=("-m", "services.orchestrator"),
        environment=environment(
            {
                "ANYA_HOME": str(folder),
                "ANYA_PEERS": ",".join(f"{name}={one.address}" for name, one in peers.items()),
                "ANYA_DATABASE": database,
                "ANYA_LISTEN": own.address,
                "ANYA_HEALTH_LISTEN": own.health,
                "OTEL_EXPORTER_OTLP_ENDPOINT": status["otlp"],
            }
        ),
        log=folder / "service.log",
    )
    service = Service(REPLICA, command, report=lambda _: None)
    life = asyncio.create_task(service.run())
    try:
        async with asyncio.timeout(STARTS_WITHIN_S):
            await service.until_ready()
        yield service, own.address
    finally:
        await service.stop()
        await life


def _rules() -> ClientRules:
    patient = Breakers(SystemClock(), BreakerSettings(window=1000, minimum_calls=1000))
    return ClientRules(
        target="orchestrator", tracer=NoOpTracer(), breakers=patient, timeout=CALL_TIMEOUT_S
    )


def _operator(home: Home) -> Identity:
    return Identity(home.client / "operator.pem", home.client / "operator.key", home.pki / "ca.pem")
