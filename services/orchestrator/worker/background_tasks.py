"""The background tasks of a service: they outlive the calls that start them."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from services.orchestrator.worker.store_retry import sleep_unless_stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

RESTART_DELAY_S = 1.0

log = logging.getLogger(__name__)


class BackgroundTasks:
    """A set of tasks that is drained when its service stops."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(
        self,
        work: Coroutine[Any, Any, T],
        *,
        name: str,
        then: Callable[[asyncio.Task[T]], None] | None = None,
    ) -> asyncio.Task[T]:
        """Starts a task; calls ``then`` after it has ended, was cancelled or has failed."""

        def end(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if then is not None:
                then(task)

        # A fresh context: the deadline and the span of the starting call are not the task's.
        task = self._loop.create_task(work, name=name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(end)
        return task

    def supervise(
        self, make: Callable[[], Coroutine[Any, Any, None]], stopping: asyncio.Event, *, name: str
    ) -> None:
        """Runs ``make()`` until ``stopping``; logs its failures and restarts it."""
        self.spawn(_restart_until_stopping(make, stopping, name), name=f"supervise: {name}")

    async def drain(self, timeout: float) -> None:
        """Waits up to ``timeout`` seconds for the tasks to end, then cancels the others."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def _restart_until_stopping(
    make: Callable[[], Coroutine[Any, Any, None]], stopping: asyncio.Event, name: str
) -> None:
    while not stopping.is_set():
        work = asyncio.create_task(make(), name=name)
        try:
            await asyncio.wait({work})
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None:
            log.error("the task to %s failed and is restarted", name, exc_info=error)
            await sleep_unless_stopping(stopping, RESTART_DELAY_S)
