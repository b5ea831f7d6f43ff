"""A run's single in-flight call, awaited in the run's own task: a second task would cost more.

Messages that reach the run during the call are read by a task that starts only then, so that they
take effect at once, as beside calls that have their own tasks. The run's task continues after both
have ended: two transitions of one run never overlap.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.orchestrator.engine.activations import Activation


class InlineCall:
    """``drain_inbox`` processes the run's messages and returns whether the call is still wanted."""

    __slots__ = ("_drain_inbox", "_is_abandoned", "_loop", "_reader", "_run_task")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, drain_inbox: Callable[[], Awaitable[bool]]
    ) -> None:
        self._loop = loop
        self._drain_inbox = drain_inbox
        self._reader: asyncio.Task[None] | None = None
        self._run_task: asyncio.Task[Any] | None = None  # None while the call is not in flight
        self._is_abandoned = False

    async def result(self, call: Awaitable[Activation | None]) -> Activation | None:
        """Returns the result of ``call``, or None if a message made it unwanted."""
        self._run_task = run_task = asyncio.current_task(self._loop)
        assert run_task is not None  # noqa: S101  (only tasks run coroutines)
        activation, has_ended = None, False
        try:
            activation = await call
            has_ended = True
        except asyncio.CancelledError:
            has_ended = self._is_abandoned and run_task.uncancel() == 0
            if not has_ended:
                raise
        finally:
            self._run_task = None
            if self._reader is not None and not has_ended:
                self._reader.cancel()
        if self._reader is not None:
            await self._reader
        return activation

    def notify_inbox(self) -> None:
        """Starts the task that reads the run's messages, unless it runs already."""
        if self._reader is None:
            self._reader = self._loop.create_task(
                self._read_inbox(), name="read messages beside a call", context=Context()
            )

    async def _read_inbox(self) -> None:
        is_wanted = False
        try:
            is_wanted = await self._drain_inbox()
            if is_wanted:
                self._reader = None
        finally:
            if not is_wanted and self._run_task is not None:
                self._is_abandoned = True
                self._run_task.cancel()
