"""Long functions off the event loop, one at a time, in turn for each caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.errors import Reason, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_WAITING = 16  # functions of one caller


class FairOffload:
    """Calls functions in a thread. Each caller has at most one in the queue for the thread.

    One thread, as the functions hold the interpreter: with more of them the event loop would wait
    for each in turn.
    """

    def __init__(self) -> None:
        self._thread = asyncio.Lock()
        self._callers: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()

    async def __call__(self, caller: str, work: Callable[..., T], /, *args: Any) -> T:
        """Returns the result. Raises ResourceExhausted if the caller has too many waiting."""
        if self._waiting[caller] >= MAX_WAITING:
            raise ResourceExhausted(
                f"{MAX_WAITING} registrations of this client wait already; retry later",
                reason=Reason.OVERLOADED,
            )
        self._waiting[caller] += 1
        turn = self._callers.setdefault(caller, asyncio.Lock())
        try:
            async with turn, self._thread:
                return await asyncio.to_thread(work, *args)
        finally:
            self._waiting[caller] -= 1
            if not self._waiting[caller]:
                del self._waiting[caller], self._callers[caller]
