"""What runs hear of each other: the events of their store that their steps wait for."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from mesh.errors import ResourceExhausted, Unavailable
from services.orchestrator.engine.waits import subscription
from services.orchestrator.worker.store_retry import retry_while_unavailable, sleep_unless_stopping

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping, Sequence

    from services.orchestrator.engine.activations import EventReceived
    from services.orchestrator.store.events import Events
    from services.orchestrator.worker.executor import RunActor

POLL_INTERVAL_S = 1.0  # seconds

log = logging.getLogger(__name__)


class EventSubscriptions:
    def __init__(self, events: Events) -> None:
        self._events = events

    async def position(self, run: RunActor) -> int | None:
        """From where on a step that begins now hears; None if nothing in the run ever does.

        However long the store is away: an event that is emitted after this must not be missed.
        """
        if not run.workflow.awaits_events:
            return None
        return await retry_while_unavailable(self._events.latest_position, run.state.run_id)

    async def waiting(self, run: RunActor) -> list[EventReceived]:
        """What was emitted of what its steps wait for, since it last looked."""
        listens = subscription(run.state, run.heard)
        if listens is None:
            return []
        look = partial(self._events.read_after, listens.since, listens.wanted)
        found, run.heard = await retry_while_unavailable(look, run.state.run_id)
        run.mail |= bool(found)  # there may be more
        return found

    async def look_forever(self, driven: Mapping[str, RunActor], stopping: asyncio.Event) -> None:
        """Tell runs of what other processes emitted: who emits tells at once, but that can be lost.

        Until we are to stop.
        """
        known = 0
        while not await sleep_unless_stopping(stopping, POLL_INTERVAL_S):
            if not any(run.workflow.awaits_events for run in driven.values()):
                continue
            try:
                last = await self._events.latest_position()
            except (Unavailable, ResourceExhausted) as error:
                log.warning("cannot look for events: %s", error)
                continue
            if last > known:
                notify(driven.values())
            known = last


def notify(runs: Iterable[RunActor], told: Sequence[tuple[str, str]] | None = None) -> None:
    """There may be something for those that wait for events.

    ``told``: types and subjects of what was emitted; None if nobody knows.
    """
    for run in runs:
        if run.workflow.awaits_events and (told is None or _wants_any(run, told)):
            run.tell_of_mail()


def _wants_any(run: RunActor, told: Sequence[tuple[str, str]]) -> bool:
    """A step that begins in a turn under way need not be seen here: that turn looks by itself."""
    listens = subscription(run.state)
    return listens is not None and any(listens.wants(type, subject) for type, subject in told)
