"""Streams that survive a restart of their server: reopened where they broke off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable

R = TypeVar("R", bound=Any)  # a message with a sequence

STREAM_TIMEOUT_S = 300.0  # of one stream; it is opened again until it ends
REDIAL_INTERVAL_S = 0.1  # between two attempts to reach a server that is down
MAX_SILENCE_S = 60.0  # that a server may stay down

BROKEN_OFF = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a server that drains
)


async def resumed(open_after: Callable[[int], AsyncIterable[R]]) -> AsyncIterator[R]:
    """Yields what ``open_after(sequence)`` streams, reopening it until it ends by itself."""
    seen = 0
    silent_since = None
    loop = asyncio.get_running_loop()
    while True:
        try:
            async for reply in open_after(seen):
                seen, silent_since = reply.sequence, None
                yield reply
        except grpc.aio.AioRpcError as error:
            if error.code() not in BROKEN_OFF:
                raise
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                silent_since = None  # the stream had nothing to send in all its time
                continue
            silent_since = silent_since or loop.time()
            if loop.time() - silent_since > MAX_SILENCE_S:
                raise
            await asyncio.sleep(REDIAL_INTERVAL_S)
        else:
            return
