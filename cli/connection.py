"""Calls to the services of a home, with the operator's certificate and every client step."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
from opentelemetry import trace
from opentelemetry.context import Context

from cli import endpoints
from cli.errors import START_THE_MESH, CommandError, from_rpc
from cli.supervisor import control
from cli.trace_settings import trace_settings
from mesh.breaker import Breakers, BreakerSettings
from mesh.clock import SystemClock
from mesh.config import Identity
from mesh.observability.config import OTLP, OtlpConfig
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from cli.home import Home
    from mesh.observability.config import TraceConfig

R = TypeVar("R")
Channels: TypeAlias = "dict[str, grpc.aio.Channel]"

DEFAULT_TIMEOUT_S = 15.0  # of calls that name none
SERVICE = "client"  # the command line's name in traces and in trust.yaml

_tracer: ContextVar[trace.Tracer] = ContextVar("tracer")


@asynccontextmanager
async def connect(home: Home) -> AsyncIterator[Channels]:
    """Opens channels to the four services. Raises CommandError if the home has no mesh."""
    identity = Identity(
        home.client / "operator.pem", home.client / "operator.key", home.pki / "ca.pem"
    )
    known = endpoints.read(home)
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(_tracing(home))
        try:
            channels = {
                name: open_channel(endpoint.address, _rules(name, tracer), identity)
                for name, endpoint in known.items()
            }
        except OSError as error:
            raise CommandError(
                f"{error.filename} cannot be read: {error.strerror}",
                code="UNAUTHENTICATED",
                reason="IDENTITY_MISSING",
                remedy=START_THE_MESH,
            ) from None
        for channel in channels.values():
            await stack.enter_async_context(channel)
        yield channels


def ask(home: Home, work: Callable[[Channels], Awaitable[R]]) -> R:
    """Runs ``work`` with channels to the mesh of ``home``, and returns its result."""

    async def connected() -> R:
        async with connect(home) as channels:
            return await work(channels)

    return run(connected())


def run(work: Coroutine[Any, Any, R]) -> R:
    """Runs ``work`` in an event loop. Raises CommandError for an uncaught gRPC status."""
    try:
        return asyncio.run(work)
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None


@contextmanager
def traced(name: str) -> Iterator[None]:
    """Makes the calls in the block, and the runs they start, one trace with its root here.

    A service may be killed before it has sent its spans. The command sends its own, so that the
    spans that arrive have a parent.
    """
    with _tracer.get().start_as_current_span(name, context=Context()):
        yield


@asynccontextmanager
async def _tracing(home: Home) -> AsyncIterator[trace.Tracer]:
    """Opens a tracer that exports where the mesh does. Calls outside ``traced`` are not sampled."""
    config = await _trace_config(home)
    if config.disabled or not config.exporters:
        _tracer.set(trace.NoOpTracer())
        yield _tracer.get()
        return
    from mesh.observability.telemetry import open_traces

    # A collector that is down loses spans, and is no line among what the command says.
    for name in ("opentelemetry", "mesh.observability"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    traces = open_traces(SERVICE, config, console=sys.stderr)
    _tracer.set(traces.tracer)
    try:
        with trace.use_span(trace.NonRecordingSpan(_unsampled())):
            yield _tracer.get()
    finally:
        await asyncio.to_thread(traces.close)


async def _trace_config(home: Home) -> TraceConfig:
    """Returns the settings of the environment; without an exporter, those of the home's mesh."""
    config = trace_settings()
    if config.exporters is not None or config.disabled:
        return config
    try:
        status = await control.request(home, "status")
    except CommandError:  # no supervisor runs there
        return config
    if not status["otlp"]:
        return config
    otlp = OtlpConfig(endpoint=status["otlp"], protocol=status["otlp_protocol"])
    return replace(config, exporters=(OTLP,), otlp=otlp)


def _unsampled() -> trace.SpanContext:
    """Returns the context of a trace that is not sampled."""
    return trace.SpanContext(secrets.randbits(128) | 1, secrets.randbits(64) | 1, is_remote=False)


def _rules(service: str, tracer: trace.Tracer) -> ClientRules:
    # Almost never opens: a person decides when to retry.
    settings = BreakerSettings(window=1000, minimum_calls=1000)
    return ClientRules(
        target=service,
        tracer=tracer,
        breakers=Breakers(SystemClock(), settings),
        timeout=DEFAULT_TIMEOUT_S,
    )
