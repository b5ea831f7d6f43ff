"""Polls the store for what wakes runs, in case a notification was lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mesh.errors import ResourceExhausted, Unavailable
from services.orchestrator.worker.store_retry import sleep_unless_stopping

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from services.orchestrator.store.suspension import Suspensions

POLL_INTERVAL_S = 1.0

log = logging.getLogger(__name__)


async def poll(
    step: Callable[[], Awaitable[float | None]], stopping: asyncio.Event, *, subject: str
) -> None:
    """Calls ``step`` every POLL_INTERVAL_S seconds until ``stopping``.

    If it returns seconds, the next call is due after these, if that is sooner. A store that does
    not answer is logged; the next interval tries again.
    """
    delay_s = POLL_INTERVAL_S
    while not await sleep_unless_stopping(stopping, delay_s):
        delay_s = POLL_INTERVAL_S
        try:
            due_s = await step()
        except (Unavailable, ResourceExhausted) as error:
            log.warning("cannot poll the store for %s: %s", subject, error)
            continue
        if due_s is not None:
            delay_s = min(due_s, POLL_INTERVAL_S)


async def poll_timers(suspensions: Suspensions, notify_due: Callable[[], None]) -> float | None:
    """Calls ``notify_due`` if a suspended run is due.

    Otherwise returns the seconds until the first one is, or None if no run is suspended.
    """
    due_in_s = await suspensions.seconds_until_due()
    if due_in_s is None or due_in_s > 0:
        return due_in_s
    notify_due()
    return None
