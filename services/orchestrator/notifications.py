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
    from collections.abc import Iterator, Sequence

    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record

T = TypeVar("T")

MAX_TOLD = 64  # records that wait for one watcher; who is slower reads the store


@dataclass(slots=True, eq=False)
class RunCompletion:
    """What somebody who waits for a run's end hears of it."""

    heard: asyncio.Event = field(default_factory=asyncio.Event)  # clear it before looking
    state: RunState | None = None  # as it ended; None while nobody here knows


class RunUpdates(asyncio.Event):
    """That the run moved, and the records of it, as far as somebody here knows them."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[Record] = []

    def tell(self, records: Sequence[Record]) -> None:
        if len(self._records) > MAX_TOLD:
            self._records.clear()  # who finds this gap reads the store
        self._records.extend(records)
        self.set()

    def take(self, *, after: int) -> list[Record]:
        """Those behind the sequence ``after``; nothing if the first of those is not there."""
        told, self._records = self._records, []
        news = [record for record in told if record.sequence > after]
        sequences = [record.sequence for record in news]
        return news if sequences == list(range(after + 1, after + 1 + len(news))) else []


class RunNotifier:
    def __init__(self) -> None:
        self._watching: defaultdict[str, set[RunUpdates]] = defaultdict(set)
        self._awaiting: defaultdict[str, set[RunCompletion]] = defaultdict(set)

    def moved(self, state: RunState, records: Sequence[Record]) -> None:
        """By who drives the run: these brought it to ``state``, in the store, too."""
        for moved in self._watching.get(state.run_id, ()):
            moved.tell(records)
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
    def watch(self, run_id: str) -> Iterator[RunUpdates]:
        """Is set when the run moves; clear it before looking."""
        with _held(self._watching, run_id, RunUpdates()) as moved:
            yield moved

    @contextmanager
    def await_end(self, run_id: str) -> Iterator[RunCompletion]:
        """Hears when the run ends, or may have."""
        with _held(self._awaiting, run_id, RunCompletion()) as ending:
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
    timer = asyncio.get_running_loop().call_later(at_most, moved.set)
    try:
        await moved.wait()
    finally:
        timer.cancel()
