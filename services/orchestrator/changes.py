"""Who waits for a run to move or to end, and who tells them.

Only a hint, what is true is in the store; but whoever drives a run knows its end, and hands it on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.orchestrator.engine.state import RunState

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Ending:
    """What somebody who waits for a run's end hears of it."""

    heard: asyncio.Event = field(default_factory=asyncio.Event)  # clear it before looking
    state: RunState | None = None  # as it ended; None while nobody here knows


class Changes:
    def __init__(self) -> None:
        self._watching: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._awaiting: defaultdict[str, set[Ending]] = defaultdict(set)

    def moved(self, state: RunState) -> None:
        """By who drives the run: it is as ``state`` now, in the store, too."""
        self._wake_watchers(state.run_id)
        if state.finished:
            for ending in self._awaiting.get(state.run_id, ()):
                ending.state = state
                ending.heard.set()

    def notify(self, run_id: str) -> None:
        """It moved, and may have ended."""
        self._wake_watchers(run_id)
        for ending in self._awaiting.get(run_id, ()):
            ending.heard.set()

    def notify_all(self) -> None:
        """What happened meanwhile nobody knows: let everybody look."""
        for run_id in self._watching.keys() | self._awaiting.keys():
            self.notify(run_id)

    @contextmanager
    def watch(self, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the run moves; clear it before looking."""
        with _held(self._watching, run_id, asyncio.Event()) as event:
            yield event

    @contextmanager
    def await_end(self, run_id: str) -> Iterator[Ending]:
        """Hears when the run ends, or may have."""
        with _held(self._awaiting, run_id, Ending()) as ending:
            yield ending

    def _wake_watchers(self, run_id: str) -> None:
        for event in self._watching.get(run_id, ()):
            event.set()


@contextmanager
def _held(waiting: defaultdict[str, set[T]], run_id: str, one: T) -> Iterator[T]:
    waiting[run_id].add(one)
    try:
        yield one
    finally:
        waiting[run_id].discard(one)
        if not waiting[run_id]:
            del waiting[run_id]


async def wait(moved: asyncio.Event, *, at_most: float) -> None:
    """Until the run moves, or for so many seconds."""
    try:
        async with asyncio.timeout(at_most):
            await moved.wait()
    except TimeoutError:
        return
