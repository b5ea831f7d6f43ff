"""Waiting: for a store that is away, as nothing goes on that is not journalled, or for a while."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from mesh.errors import Reason, ResourceExhausted, Unavailable
from mesh.rpc.interceptors import deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

STORE_RETRY_DELAY_S = 0.5  # seconds between two tries to reach a store that does not answer
DEADLINE_SHARE = 0.9  # of the time that the caller gives us

log = logging.getLogger(__name__)


async def retry_while_unavailable(work: Callable[[], Awaitable[T]], run_id: str) -> T:
    """What ``work`` gives, however long the store is away; for a run, which waits meanwhile."""
    while True:
        try:
            return await work()
        except (Unavailable, ResourceExhausted) as error:
            log.warning("run %s waits for the store: %s", run_id, error)
            await asyncio.sleep(STORE_RETRY_DELAY_S)


async def within_deadline(stored: asyncio.Future[T]) -> T:
    """What is stored for a caller. Unavailable just before the deadline of the call."""
    seconds = deadline.remaining(share=DEADLINE_SHARE)
    if seconds is None:
        return await stored
    timer = stored.get_loop().call_later(seconds, _late, stored)
    try:
        return await stored
    finally:
        timer.cancel()


async def sleep_unless_stopping(stopping: asyncio.Event, seconds: float) -> bool:
    """True if we were told to stop meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True


def _late(stored: asyncio.Future[T]) -> None:
    if not stored.done():
        message = "the journal does not answer; retry with the same request_id"
        stored.set_exception(Unavailable(message, reason=Reason.STORE_UNAVAILABLE))
