"""Work that an actor has performed outside of its turns."""

from __future__ import annotations

import asyncio
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, final

from mesh.actor.envelope import InContext, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context


@final
class Piped:
    """One piece of work. It has ended once it is cancelled or its result is sent."""

    __slots__ = ("_context", "_forget", "_work", "daemon", "done", "is_cancelled", "name", "task")

    def __init__(
        self,
        work: Awaitable[Any],
        *,
        name: str,
        daemon: bool,
        context: Context | None,
        forget: Callable[[Piped], object],
    ) -> None:
        self._work = work
        self._context = context
        self._forget = forget
        self.name = name
        self.daemon = daemon
        self.done = False
        self.is_cancelled = False
        self.task: asyncio.Task[Any] | None = None  # that performs it, once it has begun

    def cancel(self) -> None:
        """Cancels the work, whose result is then never sent; no effect if it has ended."""
        if self.done or self.is_cancelled:
            return
        self.is_cancelled = True
        if self.task is not None:
            self.task.cancel()
            return
        self.done = True
        self._forget(self)
        if iscoroutine(self._work):
            self._work.close()
        elif isinstance(self._work, asyncio.Future):
            self._work.cancel()

    async def perform(self) -> Outcome | None:
        """Performs the work in the current task, and returns what is to be sent."""
        if self.done:
            return None
        self.task = task = asyncio.current_task()
        assert task is not None  # noqa: S101  (only tasks run coroutines)
        outcome = None
        try:
            message = await self._awaited()
            if message is not None:
                outcome = Outcome(message, self._context, None)
        except asyncio.CancelledError:
            if not self.is_cancelled:
                if task.cancelling():
                    raise
                failure = RuntimeError(f"{self.name} awaited a task that was cancelled")
                outcome = Outcome(None, None, failure)
        except Exception as failure:
            outcome = Outcome(None, None, failure)
        finally:
            self.done = True
            self.task = None
            self._forget(self)
        if self.is_cancelled:
            await _end_cancellation(task)
            return None
        return outcome

    def _awaited(self) -> Awaitable[Any]:
        if self._context is not None and iscoroutine(self._work):
            return InContext(self._work, self._context)
        return self._work


async def _end_cancellation(task: asyncio.Task[Any]) -> None:
    """Consumes the cancellation of the work, so that it cannot reach the task's next turn."""
    if not task.uncancel():
        try:
            await asyncio.sleep(0)  # raises if the work ended before it was thrown in
        except asyncio.CancelledError:
            if task.cancelling():
                raise
