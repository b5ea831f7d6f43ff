"""The parts that every service process has: policy, traces, audit log, port and health."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from mesh import failpoint
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.observability.telemetry import open_traces
from mesh.rpc import contracts
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules, ServerRules, authority
from mesh.rpc.interceptors.limit import Limiter
from mesh.rpc.reflection import add_reflection
from mesh.rpc.server import build_server, credentials
from mesh.security.audit import AuditError, open_audit
from mesh.security.file_state import state_of
from mesh.security.svid import read_authorities, read_svid
from mesh.security.trust import ActivePolicy, PolicyError
from mesh.settings import ConfigError, read_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from opentelemetry.trace import Tracer

    from mesh.config import MeshConfig
    from mesh.observability.telemetry import Traces
    from mesh.rpc.server import GuardedServer
    from mesh.security.audit import AuditLog

REVIEW_INTERVAL_S = 1.0  # within which a changed policy and an ended certificate take effect
DRAIN_TIMEOUT_S = 5.0  # for calls in flight when the process stops

log = logging.getLogger(__name__)


class StartError(RuntimeError):
    """The settings are valid, but the process cannot start; the text names the obstacle."""


@dataclass(frozen=True, slots=True)
class Ports:
    port: int  # mTLS, every RPC
    health_port: int  # plaintext, grpc.health.v1 alone


class Runtime:
    """The parts that all services have in common; made by ``open_runtime``."""

    def __init__(
        self, config: MeshConfig, policy: ActivePolicy, traces: Traces, audit: AuditLog
    ) -> None:
        self.config = config
        self.policy = policy
        self.tracer: Tracer = traces.tracer
        self.span_sink = traces.span_sink
        self._audit = audit
        self._breakers: dict[str, Breakers] = {}
        self._serving: list[ServerRules] = []  # of the servers that run now
        self._policy_state = state_of(config.trust_file)

    @asynccontextmanager
    async def serve(
        self,
        *services: Callable[[grpc.aio.Server], None],
        max_in_flight: int = 256,
        max_message: int = 4 << 20,  # bytes in one request
    ) -> AsyncIterator[Ports]:
        """Serves for the duration of the block, then drains.

        Each of ``services`` adds one servicer: ``partial(add_X_to_server, XServicer())``.
        Raises StartError if a port is taken.
        """
        rules = ServerRules(
            service=self.config.service,
            policy=self.policy,
            trust_domain=self.config.trust_domain,
            tracer=self.tracer,
            limiter=Limiter(max_in_flight),
            audit=self._audit,
        )
        server = build_server(rules, max_message=max_message)
        names = _register(server, services)
        _require_free(self.config.listen, "ANYA_LISTEN")
        port = server.add_secure_port(self.config.listen, credentials(self.config.identity))
        async with _health(self.config, names) as (health_servicer, health_port):
            await server.start()
            self._serving.append(rules)
            try:
                yield Ports(port, health_port)
            finally:
                self._serving.remove(rules)
                await health_servicer.enter_graceful_shutdown()
                await asyncio.sleep(self.config.drain_seconds)
                await server.stop(DRAIN_TIMEOUT_S)

    def channel(self, peer: str, *, timeout: float = 5.0) -> grpc.aio.Channel:
        """Returns a channel to a service, with all interceptors; ``timeout`` in seconds.

        Close it before the loop ends. Raises ConfigError if ANYA_PEERS lacks the peer.
        """
        target = self.config.peers.get(peer)
        if target is None:
            raise ConfigError(f"ANYA_PEERS lacks {peer}: add {peer}=host:port")
        rules = ClientRules(
            source=self.config.service,
            target=peer,
            policy=self.policy,
            tracer=self.tracer,
            breakers=self.breakers(peer),
            timeout=timeout,
        )
        return open_channel(target, rules, self.config.identity)

    def breakers(self, peer: str) -> Breakers:
        """Returns the breakers of one peer, shared by all channels to it."""
        return self._breakers.setdefault(peer, Breakers(SystemClock()))

    def reload_policy(self) -> None:
        """Reads the policy file again, and judges open streams by it.

        An invalid file is logged and changes nothing.
        """
        self._policy_state = state_of(self.config.trust_file)
        try:
            self.policy.replace(read_file("ANYA_TRUST_FILE", self.config.trust_file))
        except (ConfigError, PolicyError) as error:
            log.error("the policy file is invalid and not loaded: %s", error)
        else:
            log.info("the policy %s is loaded", self.policy.current.digest)
        self.review_streams()

    def review_streams(self) -> None:
        """Ends the streams whose caller lost its grant, or whose certificate ended."""
        for rules in self._serving:
            authority.review(rules)

    async def watch_authority(self) -> None:
        """Loads a changed policy file and judges the open streams, every second."""
        while True:
            await asyncio.sleep(REVIEW_INTERVAL_S)
            if state_of(self.config.trust_file) != self._policy_state:
                self.reload_policy()
            else:
                self.review_streams()


def _stop_after_failure(watch: asyncio.Task[None]) -> None:
    """Stops the process, in order, if it can no longer see that authority has ended."""
    if not watch.cancelled() and (error := watch.exception()) is not None:
        log.critical("authority is no longer watched: stopping", exc_info=error)
        signal.raise_signal(signal.SIGTERM)


@asynccontextmanager
async def open_runtime(config: MeshConfig) -> AsyncIterator[Runtime]:
    """Opens all parts but the servicers for the duration of the block; flushes traces at its end.

    The policy is reloaded when its file changes, and at SIGHUP. Raises ConfigError or PolicyError
    if the settings are invalid, and StartError if the audit log cannot be opened.
    """
    if config.failpoints:
        failpoint.arm(config.failpoints, network=config.network)
    read_svid(config.identity)  # checked here: grpc would only fail every handshake
    read_authorities(config.identity.ca)
    policy = ActivePolicy(
        read_file("ANYA_TRUST_FILE", config.trust_file), contracts.all_privileges()
    )
    traces = open_traces(config.service, config.traces)
    try:
        with open_audit(config.audit_file) as audit:
            runtime = Runtime(config, policy, traces, audit)
            if threading.current_thread() is threading.main_thread():
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, runtime.reload_policy)
            watch = asyncio.create_task(runtime.watch_authority(), name="authority")
            watch.add_done_callback(_stop_after_failure)
            try:
                yield runtime
            finally:
                watch.cancel()
                await asyncio.wait([watch])
    except AuditError as error:
        raise StartError(str(error)) from None
    finally:
        await asyncio.to_thread(traces.close)


@asynccontextmanager
async def _health(
    config: MeshConfig, names: Iterable[str]
) -> AsyncIterator[tuple[health.HealthServicer, int]]:
    servicer = health.HealthServicer()
    for name in names:
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    _require_free(config.health_listen, "ANYA_HEALTH_LISTEN")
    port = server.add_insecure_port(config.health_listen)
    await server.start()
    try:
        yield servicer, port
    finally:
        await server.stop(None)


def _register(
    server: GuardedServer, services: Iterable[Callable[[grpc.aio.Server], None]]
) -> list[str]:
    """Adds the services, and reflection over them. Returns their names, without reflection's."""
    for add in services:
        add(server)
    names = list(server.service_names)
    add_reflection(names, server)
    return names


def _require_free(listen: str, variable: str) -> None:
    """Raises StartError, in one line, if the address cannot be listened on."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        # A host without IPv6 refuses the socket itself.
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
            probe.listen()
    except OSError as error:
        raise StartError(
            f"cannot listen on {listen}: {error.strerror or error}; free it or set {variable}"
        ) from None
