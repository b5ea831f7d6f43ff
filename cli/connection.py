"""Calls to the services of a home, with the operator's certificate and every client step."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
from opentelemetry import trace
from opentelemetry.context import Context

from cli import endpoints
from cli.errors import START_THE_MESH, CommandError, from_rpc
from cli.supervisor import control
from mesh.breaker import Breakers, BreakerSettings
from mesh.clock import SystemClock
from mesh.config import Identity
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from cli.home import Home

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
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or await _collector(home)
    if not endpoint:
        _tracer.set(trace.NoOpTracer())
        yield _tracer.get()
        return
    from mesh.observability import telemetry

    # A collector that is down loses spans, and is no line among what the command says.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    exporter = telemetry.otlp_exporter(endpoint)
    traces = telemetry.open_traces(SERVICE, sample_ratio=1, exporter=exporter)
    _tracer.set(traces.tracer)
    try:
        with trace.use_span(trace.NonRecordingSpan(_unsampled())):
            yield _tracer.get()
    finally:
        await asyncio.to_thread(telemetry.close, traces, exporter)


async def _collector(home: Home) -> str:
    """Returns the collector of the mesh on this home, or "" if no supervisor runs there."""
    try:
        return str((await control.request(home, "status"))["otlp"])
    except CommandError:
        return ""


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
