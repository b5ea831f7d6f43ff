"""Lets go of what the journal has kept for long enough: whole runs, and what is about people."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.orchestrator.store.deletion import Deletion
from services.orchestrator.store.erasure import Erasure
from services.orchestrator.worker.background_tasks import BackgroundTasks
from services.orchestrator.worker.store_retry import sleep_unless_stopping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mesh.data.database import Database

LOOK_AGAIN = 60.0  # seconds between two looks for what has become old enough
REST = 4.0  # times what a step took: the store is there for those who wait for it
GRACE = 5.0  # seconds for a step under way when we are told to stop

log = logging.getLogger(__name__)


class RetentionWorker:
    """``retain_days`` and ``erase_days`` after a run's end; 0 is never."""

    def __init__(self, database: Database, *, retain_days: float, erase_days: float) -> None:
        self.erasure = Erasure(database)
        self._retention = Deletion(database)
        self._retain_days = retain_days
        self._erase_days = erase_days
        self._tasks = BackgroundTasks()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for what is old enough, for the duration of the block."""
        self._tasks.spawn(self._forever(self._delete_some), name="delete old runs")
        self._tasks.spawn(self._forever(self._erase_some), name="erase old runs")
        try:
            yield
        finally:
            self._stopping.set()
            await self._tasks.drain(GRACE)

    async def _delete_some(self) -> bool:
        return self._retain_days > 0 and await self._retention.delete_some(self._retain_days)

    async def _erase_some(self) -> bool:
        """First what was begun, by whomever; False once nothing is old enough."""
        duties = await self.erasure.pending_erasures()
        if not duties and self._erase_days > 0:
            duties = await self.erasure.enqueue_erasures(self._erase_days)
        for run_id in duties:
            if self._stopping.is_set():
                return False
            await self.erasure.finish(run_id)
        return bool(duties)

    async def _forever(self, step: Callable[[], Awaitable[bool]]) -> None:
        """The boundary of what nobody waits for: a step that fails is tried again later."""
        while not self._stopping.is_set():
            began, more = time.monotonic(), False
            try:
                more = await step()
            except Exception as error:
                log.warning("cannot %s: %s", step.__name__.strip("_"), error, exc_info=True)
            took = time.monotonic() - began
            await sleep_unless_stopping(self._stopping, took * REST if more else LOOK_AGAIN)
