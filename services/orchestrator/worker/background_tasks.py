"""The tasks of a runner: they outlive the calls that began them, and end before it does."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from services.orchestrator.worker.store_retry import sleep_unless_stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

RESTART_DELAY_S = 1.0  # seconds

log = logging.getLogger(__name__)


class BackgroundTasks:
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
        """``then`` is called once it has ended, however it did."""

        def end(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if then is not None:
                then(task)

        # A fresh context: neither the deadline nor the span of the call that started it is its own.
        task = self._loop.create_task(work, name=name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(end)
        return task

    def supervise(
        self, make: Callable[[], Coroutine[Any, Any, None]], stopping: asyncio.Event, *, name: str
    ) -> None:
        """Do what is never to end before we are to stop: a defect of ours is logged, no more."""
        self.spawn(_again_and_again(make, stopping, name), name=f"supervise: {name}")

    async def drain(self, grace: float) -> None:
        """Give them ``grace`` seconds to end, then end what is late."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def _again_and_again(
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
            log.error("what is to %s begins anew", name, exc_info=error)
            await sleep_unless_stopping(stopping, RESTART_DELAY_S)
