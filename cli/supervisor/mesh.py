"""All services of one home together: started at once, watched, drained in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from cli import endpoints, pki
from cli.errors import CommandError
from cli.identities import ensure_policy
from cli.spans.receiver import receiving
from cli.supervisor import control
from cli.supervisor.process import Command
from cli.supervisor.service import Crash, Service
from cli.trace_settings import trace_settings
from mesh.observability.config import GRPC, OTLP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from cli.endpoints import Endpoint
    from cli.home import Home

TRUST_DOMAIN = "ANYA_TRUST_DOMAIN"
DATABASE = "ANYA_DATABASE"
SCHEDULE_DELAY_MS = "200"  # between two exports: short, so that a command finds what it just did
RENEW_CHECK_INTERVAL_S = 600.0  # between two checks of the certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    port_base: int | None = None
    mine: str = "auto"  # or "manual"


@dataclass(frozen=True, slots=True)
class Ready:
    """Every service has said that it serves."""

    endpoints: Mapping[str, Endpoint]
    seconds: float  # since the start


@dataclass(frozen=True, slots=True)
class Stopping:
    """The mesh is stopping, and drains."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something failed that will be tried again; the text says what."""

    what: str


Event: TypeAlias = Ready | Crash | Stopping | Trouble


async def up(home: Home, options: Options, report: Callable[[Event], None]) -> None:
    """Runs the mesh of ``home`` until SIGTERM or SIGINT. Raises CommandError if it cannot."""
    began = time.monotonic()
    home.make()
    with home.lock() as lock:
        _renew(home)
        ensure_policy(home)
        chosen = endpoints.choose(home, port_base=options.port_base)
        endpoints.require_free(chosen)
        endpoints.write(home, chosen)
        async with _collector(home) as collector:
            commands = _commands(home, options, chosen, collector=collector, lock=lock)
            services = {
                name: Service(name, command, report=report) for name, command in commands.items()
            }
            about = {"mine": options.mine, **collector.status}
            mesh = Mesh(services, home=home, about=about, report=report)
            async with control.serving(home, mesh.answer):
                await mesh.run(lambda: report(Ready(chosen, time.monotonic() - began)))


class Mesh:
    """The services of one home while they run."""

    def __init__(
        self,
        services: Mapping[str, Service],
        *,
        home: Home,
        about: Mapping[str, str],
        report: Callable[[Event], None],
    ) -> None:
        self._services = services
        self._home = home
        self._about = about
        self._report = report
        self._stopping = asyncio.Event()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Returns once stopped and drained. Raises CommandError if a service cannot be kept up."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_or_kill)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(life)
                    for life in (
                        *(service.run() for service in self._services.values()),
                        self._announce(on_ready),
                        self._keep_certificates(),
                    )
                ]
                await self._stopping.wait()
                self._report(Stopping())
                await self._drain()
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            await self._drain()

    async def answer(self, asked: dict[str, Any]) -> Any:
        """Returns the answer to a control command. Raises CommandError if it is unknown."""
        match asked:
            case {"command": "status"}:
                return {
                    "pid": os.getpid(),
                    **self._about,
                    "services": {name: one.status() for name, one in self._services.items()},
                }
            case {"command": "restart", "service": str(name), **rest} if name in self._services:
                await self._services[name].restart(failpoints=str(rest.get("failpoints", "")))
                return self._services[name].status()
        raise CommandError("no such command, or no such service", code="INVALID_ARGUMENT")

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        for service in self._services.values():
            await service.until_ready()
        on_ready()

    async def _keep_certificates(self) -> None:
        """Renews certificates past half of their life, and restarts the services that hold them."""
        while True:
            await asyncio.sleep(RENEW_CHECK_INTERVAL_S)
            try:
                renewed = _renew(self._home)
            except OSError as error:  # there is half a life left to try again
                self._report(Trouble(f"the certificates could not be renewed: {error}"))
                continue
            for name in renewed:
                if name in self._services:
                    await self._services[name].restart()

    async def _drain(self) -> None:
        """Stops the orchestrator first, so that its calls in flight still find their targets."""
        await self._services["orchestrator"].stop()
        await asyncio.gather(*(service.stop() for service in self._services.values()))

    def _stop_or_kill(self) -> None:
        """Drains at the first signal, and kills every service at the second."""
        if self._stopping.is_set():
            for service in self._services.values():
                service.kill()
        self._stopping.set()


def _first(failures: BaseException) -> BaseException:
    """Returns the first failure within nested exception groups."""
    while isinstance(failures, BaseExceptionGroup):
        failures = failures.exceptions[0]
    return failures


def _renew(home: Home) -> list[str]:
    domain = os.environ.get(TRUST_DOMAIN, "anya.internal")
    return pki.renew(home, trust_domain=domain, now=datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class _Collector:
    """The collector of this mesh, as its services and the commands know it."""

    status: Mapping[str, str]  # for the commands, which export to the same collector
    environment: Mapping[str, str] = field(default_factory=dict)  # of the services


@asynccontextmanager
async def _collector(home: Home) -> AsyncIterator[_Collector]:
    """Runs a collector for the block, unless the environment says where spans go."""
    config = trace_settings()
    if config.exporters is not None or config.disabled:
        endpoint = config.otlp.endpoint if OTLP in (config.exporters or ()) else ""
        protocol = config.otlp.protocol
        yield _Collector({"otlp": endpoint, "otlp_protocol": protocol, "traces": endpoint})
        return
    async with receiving(home.traces) as endpoint:
        yield _Collector(
            {"otlp": endpoint, "otlp_protocol": GRPC, "traces": str(home.traces)},
            {
                "OTEL_BSP_SCHEDULE_DELAY": SCHEDULE_DELAY_MS,
                **os.environ,
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": GRPC,
            },
        )


def _commands(
    home: Home,
    options: Options,
    chosen: Mapping[str, Endpoint],
    *,
    collector: _Collector,
    lock: int,
) -> dict[str, Command]:
    shared = {
        **os.environ,
        **collector.environment,
        "ANYA_HOME": str(home.path),
        "ANYA_PEERS": ",".join(f"{name}={one.address}" for name, one in chosen.items()),
        "ANYA_MINE": options.mine,
    }
    return {
        name: Command(
            arguments=("-m", f"services.{name}"),
            environment={
                **shared,
                "ANYA_LISTEN": one.address,
                "ANYA_HEALTH_LISTEN": one.health,
                **_database_of(name),
            },
            log=home.log(name),
            inherited=(lock,),
        )
        for name, one in chosen.items()
    }


def _database_of(service: str) -> dict[str, str]:
    """Returns the service's own store setting: ``ANYA_DATABASE_BITCOIN`` for bitcoin."""
    location = os.environ.get(f"{DATABASE}_{service.upper()}")
    return {DATABASE: location} if location else {}
