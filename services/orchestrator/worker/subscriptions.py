"""The events that runs emit for each other, and the runs of this process that wait for them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from services.orchestrator.engine.waits import subscription
from services.orchestrator.worker.store_retry import retry_while_unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.orchestrator.actors.run import RunActor
    from services.orchestrator.engine.activations import EventReceived
    from services.orchestrator.store.events import Events


class EventSubscriptions:
    """Reads events for runs of this process, and wakes the runs that wait for them."""

    def __init__(self, events: Events, active_runs: Mapping[str, RunActor]) -> None:
        self._events = events
        self._active_runs = active_runs
        self._polled_to = 0  # position

    async def position(self, run: RunActor) -> int | None:
        """Returns the event position that new subscriptions of the run start at.

        Returns None if its workflow waits for no events. Retries while the store does not answer:
        an event that is emitted after this must not be missed.
        """
        if not run.workflow.awaits_events:
            return None
        return await retry_while_unavailable(self._events.latest_position, run.state.run_id)

    async def read_new(self, run: RunActor) -> list[EventReceived]:
        """Returns the events that the run's steps wait for and that it has not read yet."""
        wanted = subscription(run.state, run.event_cursor)
        if wanted is None:
            return []
        read = partial(self._events.read_after, wanted.after, wanted.subjects)
        found, run.event_cursor = await retry_while_unavailable(read, run.state.run_id)
        run.inbox_dirty |= bool(found)  # the store may hold more
        return found

    async def poll(self) -> None:
        """Notifies runs of events of other processes, in case a notification was lost."""
        if not any(run.workflow.awaits_events for run in self._active_runs.values()):
            return
        latest = await self._events.latest_position()
        if latest > self._polled_to:
            self.notify()
        self._polled_to = latest

    def notify(self, emitted: Sequence[tuple[str, str]] | None = None) -> None:
        """Wakes the runs that may wait for what was emitted.

        ``emitted``: types and subjects of the events; None if they are unknown.
        """
        for run in self._active_runs.values():
            if run.workflow.awaits_events and (emitted is None or _wants_any(run, emitted)):
                run.notify_inbox()


def _wants_any(run: RunActor, emitted: Sequence[tuple[str, str]]) -> bool:
    """Checks the steps that wait now. A step that starts later reads from its own position."""
    wanted = subscription(run.state)
    return wanted is not None and any(wanted.matches(type, subject) for type, subject in emitted)
