"""Streams that outlive who sends them: opened again where they broke off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable

R = TypeVar("R", bound=Any)  # a message with a sequence

TIMEOUT = 300.0  # seconds for one stream; it is opened again until it ends
REDIAL = 0.1  # seconds between two tries to reach a sender that is down
PATIENCE = 60.0  # seconds that it may stay down

BROKEN_OFF = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a sender that drains
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
            if loop.time() - silent_since > PATIENCE:
                raise
            await asyncio.sleep(REDIAL)
        else:
            return
