"""The runs of this process that wait for events, by what they wait for."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mesh.errors import ResourceExhausted, Unavailable
from services.orchestrator.actors.run_messages import EventsEmitted
from services.orchestrator.engine.waits import ANY_SUBJECT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mesh.actor import ActorRef
    from services.orchestrator.actors.run_messages import RunMessage
    from services.orchestrator.engine.waits import Subscription
    from services.orchestrator.store.events import Events


class EventSubscriptions:
    """Notifies the actors of runs of the events that they wait for."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._keys: dict[ActorRef[RunMessage], list[tuple[str, str]]] = {}  # by subscriber
        self._subscribers: defaultdict[tuple[str, str], set[ActorRef[RunMessage]]]
        self._subscribers = defaultdict(set)  # by type and subject
        self._notified: set[ActorRef[RunMessage]] = set()  # and not yet about to read the events
        self._polled_to = 0  # position

    def __bool__(self) -> bool:
        return bool(self._keys)

    def replace(self, run: ActorRef[RunMessage], wanted: Subscription | None) -> None:
        """Notifies the run of these events from now on, and of no others; None: of none.

        It must read the events that precede this call itself.
        """
        self._notified.discard(run)
        for key in self._keys.pop(run, ()):
            self._subscribers[key].discard(run)
            if not self._subscribers[key]:
                del self._subscribers[key]
        if wanted is None:
            return
        self._keys[run] = [
            (type, subject) for type, subjects in wanted.subjects.items() for subject in subjects
        ]
        for key in self._keys[run]:
            self._subscribers[key].add(run)

    def notify(self, emitted: Sequence[tuple[str, str]] | None = None) -> None:
        """Notifies the runs that wait for what was emitted.

        ``emitted``: types and subjects of the events; None if they are unknown.
        """
        if emitted is None:
            self._tell(list(self._keys))
        else:
            keys = {(type, one) for type, subject in emitted for one in (subject, ANY_SUBJECT)}
            self._tell({run for key in keys for run in self._subscribers.get(key, ())})

    async def poll(self) -> None:
        """Notifies runs of events of other processes, in case a notification was lost."""
        if not self._keys:
            return
        latest = await self._events.latest_position()
        if latest > self._polled_to:
            self._polled_to = latest
            self.notify()

    def _tell(self, runs: Iterable[ActorRef[RunMessage]]) -> None:
        for run in runs:
            if run in self._notified:
                continue
            try:
                run.tell(EventsEmitted())
                self._notified.add(run)
            except ResourceExhausted:
                self._polled_to = 0  # the next poll notifies it again
            except Unavailable:
                self.replace(run, None)  # it has ended, or its suspension reads the events
