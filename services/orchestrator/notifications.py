"""Notifies watchers when a run changes or finishes.

A notification is only a hint: the store has the truth. The process that drives a run also passes on
its records and its final state, so that watchers of the same process need not read the store.
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

MAX_BUFFERED_RECORDS = 64  # per watcher; a slower one reads the store


@dataclass(slots=True, eq=False)
class RunCompletion:
    """The end of a run, for one caller that waits for it."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)  # clear it before a look
    state: RunState | None = None  # final; None until this process announces the end


class RunUpdates(asyncio.Event):
    """An event that is set when the run changes, with the new records as far as they are known."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[Record] = []

    def push(self, records: Sequence[Record]) -> None:
        """Buffers the records and sets the event."""
        if len(self._records) > MAX_BUFFERED_RECORDS:
            self._records.clear()  # ``take`` finds the gap
        self._records.extend(records)
        self.set()

    def take(self, *, after: int) -> list[Record]:
        """Returns the buffered records after this sequence; nothing if there is a gap."""
        buffered, self._records = self._records, []
        new = [record for record in buffered if record.sequence > after]
        sequences = [record.sequence for record in new]
        return new if sequences == list(range(after + 1, after + 1 + len(new))) else []


class RunNotifier:
    """Registers watchers of runs and wakes them."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[RunUpdates]] = defaultdict(set)
        self._completions: defaultdict[str, set[RunCompletion]] = defaultdict(set)

    def publish(self, state: RunState, records: Sequence[Record]) -> None:
        """Passes on what this process has committed: the records, and the state after them."""
        for updates in self._watchers.get(state.run_id, ()):
            updates.push(records)
        if state.finished:
            for completion in self._completions.get(state.run_id, ()):
                completion.state = state
                completion.changed.set()

    def notify(self, run_id: str) -> None:
        """Wakes the watchers of a run that has changed in the store and may have ended."""
        for updates in self._watchers.get(run_id, ()):
            updates.set()
        for completion in self._completions.get(run_id, ()):
            completion.changed.set()

    def notify_all(self) -> None:
        """Wakes every watcher after missed notifications; each re-reads the store."""
        for run_id in self._watchers.keys() | self._completions.keys():
            self.notify(run_id)

    @contextmanager
    def watch(self, run_id: str) -> Iterator[RunUpdates]:
        """Yields an event that is set when the run changes; clear it before each look."""
        with _registered(self._watchers, run_id, RunUpdates()) as updates:
            yield updates

    @contextmanager
    def await_end(self, run_id: str) -> Iterator[RunCompletion]:
        """Yields an object that is notified when the run ends, or may have ended."""
        with _registered(self._completions, run_id, RunCompletion()) as completion:
            yield completion


@contextmanager
def _registered(watchers: defaultdict[str, set[T]], run_id: str, watcher: T) -> Iterator[T]:
    watchers[run_id].add(watcher)
    try:
        yield watcher
    finally:
        watchers[run_id].discard(watcher)
        if not watchers[run_id]:
            del watchers[run_id]


async def wait(changed: asyncio.Event, *, timeout: float) -> None:
    """Waits until the event is set, or for ``timeout`` seconds; sets the event in both cases."""
    timer = asyncio.get_running_loop().call_later(timeout, changed.set)
    try:
        await changed.wait()
    finally:
        timer.cancel()
