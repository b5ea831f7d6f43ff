"""Who waits for a run to move, and who tells them. Only a hint: what is true is in the store."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Changes:
    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def notify(self, run_id: str) -> None:
        for event in self._waiting.get(run_id, ()):
            event.set()

    def notify_all(self) -> None:
        """What happened meanwhile nobody knows: let everybody look."""
        for run_id in list(self._waiting):
            self.notify(run_id)

    @contextmanager
    def watch(self, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the run moves; clear it before looking."""
        event = asyncio.Event()
        self._waiting[run_id].add(event)
        try:
            yield event
        finally:
            self._waiting[run_id].discard(event)
            if not self._waiting[run_id]:
                del self._waiting[run_id]


async def wait(moved: asyncio.Event, *, at_most: float) -> None:
    """Until the run moves, or for so many seconds."""
    try:
        async with asyncio.timeout(at_most):
            await moved.wait()
    except TimeoutError:
        return
