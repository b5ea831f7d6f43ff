"""Work that an actor has performed outside of its turns."""

from __future__ import annotations

import asyncio
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, Final, final

from mesh.actor.envelope import InContext, PipedFailure, PipedResult
from mesh.actor.supervision import failure_of

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextvars import Context

WAITS: Final = 0  # it has not begun
RUNS: Final = 1
CANCELLED: Final = 2  # it has begun, and has not ended yet
ENDED: Final = 3


@final
class Piped:
    """One piece of work. It has ended once its result is sent or it is cancelled."""

    __slots__ = ("_context", "_state", "_work", "_works", "daemon", "name", "task")

    def __init__(
        self,
        works: set[Piped],
        work: Awaitable[Any],
        name: str,
        daemon: bool,
        context: Context | None,
    ) -> None:
        """Adds itself to ``works`` until it has ended."""
        self.name = name
        self.daemon = daemon
        self.task: asyncio.Task[Any] | None = None  # that performs it, once it has begun
        self._works = works
        self._work = work
        self._context = context
        self._state = WAITS
        works.add(self)

    @property
    def done(self) -> bool:
        return self._state == ENDED

    def cancel(self) -> None:
        """Cancels the work, whose result is then never sent; no effect if it has ended."""
        if self._state == RUNS:
            self._state = CANCELLED
            assert self.task is not None  # noqa: S101  (it runs)
            self.task.cancel()
        elif self._state == WAITS:
            self._state = ENDED
            self._works.discard(self)
            if iscoroutine(self._work):
                self._work.close()
            elif isinstance(self._work, asyncio.Future):
                self._work.cancel()

    async def perform(self, task: asyncio.Task[Any]) -> PipedResult | None:
        """Performs the work in the current task, and returns what is to be sent."""
        if self._state == ENDED:
            return None
        self.task, self._state = task, RUNS
        work, context = self._work, self._context
        result = None
        try:
            if context is not None and iscoroutine(work):
                work = InContext(work, context)
            message = await work
            if message is not None:
                result = PipedResult(message, None, context, None)
        except asyncio.CancelledError as error:
            if self._state == RUNS:
                if task.cancelling():
                    raise
                result = PipedFailure(failure_of(error), None, None, None)
        except Exception as error:
            result = PipedFailure(error, None, None, None)
        finally:
            is_cancelled = self._state == CANCELLED
            self.task, self._state = None, ENDED
            self._works.discard(self)
        if is_cancelled:
            await _end_cancellation(task)
            return None
        return result


async def _end_cancellation(task: asyncio.Task[Any]) -> None:
    """Consumes the cancellation of the work, so that it cannot reach the task's next turn."""
    if task.uncancel():
        raise asyncio.CancelledError
    try:
        await asyncio.sleep(0)  # raises if the work ended before it was thrown in
    except asyncio.CancelledError:
        if task.cancelling():
            raise
