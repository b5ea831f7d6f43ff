"""The only call of a run that is under way: made by who drives the run, as a task would cost more.

What is sent to the run meanwhile is taken beside the call, by a task that begins only then: it
leads to turns at once, as it does beside calls that have tasks. Who drives goes on when both are
done, so that no two turns of a run meet.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.orchestrator.engine.activations import Activation


class InlineCall:
    """``take_mail`` takes what was sent, and tells if the call is wanted still."""

    __slots__ = ("_beside", "_driver", "_is_left", "_loop", "_take_mail")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, take_mail: Callable[[], Awaitable[bool]]
    ) -> None:
        self._loop = loop
        self._take_mail = take_mail
        self._beside: asyncio.Task[None] | None = None
        self._driver: asyncio.Task[Any] | None = None  # None: the call is not under way
        self._is_left = False

    async def make(self, call: Awaitable[Activation | None]) -> Activation | None:
        """What came of the call; None if it was left: nothing depends on it any more."""
        self._driver = driver = asyncio.current_task(self._loop)
        assert driver is not None  # noqa: S101  (only tasks run coroutines)
        event, has_ended = None, False
        try:
            event = await call
            has_ended = True
        except asyncio.CancelledError:
            has_ended = self._is_left and driver.uncancel() == 0
            if not has_ended:
                raise
        finally:
            self._driver = None
            if self._beside is not None and not has_ended:
                self._beside.cancel()
        if self._beside is not None:
            await self._beside
        return event

    def tell_of_mail(self) -> None:
        if self._beside is None:
            self._beside = self._loop.create_task(
                self._attend(), name="take mail beside a call", context=Context()
            )

    async def _attend(self) -> None:
        is_wanted = False
        try:
            is_wanted = await self._take_mail()
            if is_wanted:
                self._beside = None
        finally:
            if not is_wanted and self._driver is not None:
                self._is_left = True
                self._driver.cancel()
