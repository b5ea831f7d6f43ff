"""Retries against a store that does not answer, and waits that end when the service stops."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from mesh.errors import Reason, ResourceExhausted, Unavailable
from mesh.rpc.interceptors import deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

STORE_RETRY_DELAY_S = 0.5
DEADLINE_SHARE = 0.9  # of the time that the caller allows

log = logging.getLogger(__name__)


async def retry_while_unavailable(work: Callable[[], Awaitable[T]], run_id: str) -> T:
    """Calls ``work`` until the store answers, and returns its result. The run waits until then."""
    while True:
        try:
            return await work()
        except (Unavailable, ResourceExhausted) as error:
            log.warning("run %s waits for the store: %s", run_id, error)
            await asyncio.sleep(STORE_RETRY_DELAY_S)


async def within_deadline(stored: asyncio.Future[T]) -> T:
    """Returns the result of ``stored``. Raises Unavailable shortly before the call's deadline."""
    seconds = deadline.remaining(share=DEADLINE_SHARE)
    if seconds is None:
        return await stored
    timer = stored.get_loop().call_later(seconds, _expire, stored)
    try:
        return await stored
    finally:
        timer.cancel()


async def sleep_unless_stopping(stopping: asyncio.Event, seconds: float) -> bool:
    """Sleeps for ``seconds``. Returns True, at once, if the service stops."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True


def _expire(stored: asyncio.Future[T]) -> None:
    if not stored.done():
        message = "the store does not answer; retry with the same request_id"
        stored.set_exception(Unavailable(message, reason=Reason.STORE_UNAVAILABLE))
