"""Deletes old runs, and erases personal data from them, in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.orchestrator.worker.background_tasks import BackgroundTasks
from services.orchestrator.worker.store_retry import sleep_unless_stopping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from services.orchestrator.store.deletion import Deletion
    from services.orchestrator.store.erasure import Erasure

POLL_INTERVAL_S = 60.0
REST_FACTOR = 4.0  # the pause after a step, in durations of the step: others need the store, too
DRAIN_TIMEOUT_S = 5.0  # for a step in progress when the service stops

log = logging.getLogger(__name__)


class RetentionWorker:
    """Deletes runs ``retain_days`` after their end, erases them ``erase_days`` after; 0: never."""

    def __init__(
        self, deletion: Deletion, erasure: Erasure, *, retain_days: float, erase_days: float
    ) -> None:
        self._deletion = deletion
        self._erasure = erasure
        self._retain_days = retain_days
        self._erase_days = erase_days
        self._tasks = BackgroundTasks()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deletes and erases old runs for the duration of the block."""
        self._tasks.spawn(
            self._repeat(self._delete_some, "delete old runs"), name="delete old runs"
        )
        self._tasks.spawn(self._repeat(self._erase_some, "erase old runs"), name="erase old runs")
        try:
            yield
        finally:
            self._stopping.set()
            await self._tasks.drain(DRAIN_TIMEOUT_S)

    async def _delete_some(self) -> bool:
        return self._retain_days > 0 and await self._deletion.delete_some(self._retain_days)

    async def _erase_some(self) -> bool:
        """Completes pending erasures, then those that are due by age. Returns False if none is."""
        pending = await self._erasure.pending_erasures()
        if not pending and self._erase_days > 0:
            pending = await self._erasure.enqueue_erasures(self._erase_days)
        for run_id in pending:
            if self._stopping.is_set():
                return False
            await self._erasure.finish(run_id)
        return bool(pending)

    async def _repeat(self, step: Callable[[], Awaitable[bool]], purpose: str) -> None:
        """Repeats ``step`` until the service stops; after an error later. An error boundary."""
        while not self._stopping.is_set():
            started, more = time.monotonic(), False
            try:
                more = await step()
            except Exception as error:
                log.warning("cannot %s: %s", purpose, error, exc_info=True)
            took_s = time.monotonic() - started
            delay_s = took_s * REST_FACTOR if more else POLL_INTERVAL_S
            await sleep_unless_stopping(self._stopping, delay_s)
