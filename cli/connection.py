"""Calls to the services of a home, with the operator's certificate and every client step."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
from opentelemetry.trace import NoOpTracer

from cli import endpoints
from cli.errors import START_THE_MESH, CommandError, from_rpc
from mesh.breaker import Breakers, BreakerSettings
from mesh.client import open_channel
from mesh.clock import SystemClock
from mesh.config import Identity
from mesh.interceptors import ClientRules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from cli.home import Home

R = TypeVar("R")
Channels: TypeAlias = "dict[str, grpc.aio.Channel]"

TIMEOUT = 15.0  # seconds, for calls that name none


@asynccontextmanager
async def connect(home: Home) -> AsyncIterator[Channels]:
    """Channels to the four services, by name. CommandError if no mesh has run on this home."""
    identity = Identity(
        home.client / "operator.pem", home.client / "operator.key", home.pki / "ca.pem"
    )
    known = endpoints.read(home)
    async with AsyncExitStack() as channels:
        try:
            yield {
                name: await channels.enter_async_context(
                    open_channel(endpoint.address, _rules(name), identity)
                )
                for name, endpoint in known.items()
            }
        except FileNotFoundError as error:
            raise CommandError(
                f"{error.filename} is missing",
                code="UNAUTHENTICATED",
                reason="NO_IDENTITY",
                remedy=START_THE_MESH,
            ) from None


def ask(home: Home, work: Callable[[Channels], Awaitable[R]]) -> R:
    """Do ``work`` with the mesh of ``home``, as ``run`` does."""

    async def connected() -> R:
        async with connect(home) as channels:
            return await work(channels)

    return run(connected())


def run(work: Coroutine[Any, Any, R]) -> R:
    """Do ``work`` in a loop of its own; a status that it does not catch is a CommandError."""
    try:
        return asyncio.run(work)
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None


def _rules(service: str) -> ClientRules:
    # No spans of our own: the trace of a run begins where the mesh begins. A breaker that is as
    # good as never open: a person who tries again means it.
    settings = BreakerSettings(window=1000, minimum_calls=1000)
    return ClientRules(
        target=service,
        tracer=NoOpTracer(),
        breakers=Breakers(SystemClock(), settings),
        timeout=TIMEOUT,
    )
