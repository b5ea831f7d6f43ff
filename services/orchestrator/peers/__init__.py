"""Calls from steps to the other services: request bytes in, reply bytes or an error out."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc

from mesh.breaker import BreakerState
from mesh.errors import Reason
from mesh.rpc.status import reason_of, retry_after_s
from services.orchestrator.config import PEERS
from services.orchestrator.engine.model import StepError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mesh.runtime import Runtime


class Peers:
    """Channels to the other services."""

    def __init__(
        self, channels: Mapping[str, grpc.aio.Channel], runtime: Runtime, timeout: float
    ) -> None:
        self._channels = channels
        self._runtime = runtime
        self._timeout = timeout

    async def call(
        self, service: str, method: str, request: bytes, *, timeout: float | None = None
    ) -> bytes | StepError:
        """Makes one attempt. Every attempt of a step sends the same bytes."""
        group = method.lstrip("/").partition("/")[0]
        if self._runtime.breakers(service)[group].state is BreakerState.OPEN:
            message = f"the circuit breaker of {service} is open"
            return StepError("UNAVAILABLE", Reason.BREAKER_OPEN, message)
        call: Any = self._channels[service].unary_unary(method)
        try:
            reply: bytes = await call(request, timeout=timeout or self._timeout)
        except grpc.aio.AioRpcError as error:
            return _error(error)
        return reply


@asynccontextmanager
async def open_peers(runtime: Runtime, *, timeout: float) -> AsyncIterator[Peers]:
    """Opens channels to the services that workflows call. Raises ConfigError if one is unknown."""
    channels = {peer: runtime.channel(peer, timeout=timeout) for peer in PEERS}
    try:
        yield Peers(channels, runtime, timeout)
    finally:
        for channel in channels.values():
            await channel.close()


def _error(error: grpc.aio.AioRpcError) -> StepError:
    return StepError(
        error.code().name,
        reason_of(error),
        error.details() or "",
        retry_after_s=retry_after_s(error),
    )
