"""What runs hear of each other: the events of their store that their steps wait for."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from mesh.errors import ResourceExhausted, Unavailable
from services.orchestrator.driving.patience import pause, until_it_answers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from services.orchestrator.driving.performing import Active
    from services.orchestrator.engine.events import Heard
    from services.orchestrator.journal.events import Events

LOOK_FOR_EVENTS = 1.0  # seconds

log = logging.getLogger(__name__)


class Hearing:
    def __init__(self, events: Events) -> None:
        self._events = events

    async def position(self, run: Active) -> int | None:
        """From where on a step that begins now hears; None if nothing in the run ever does.

        However long the store is away: an event that is emitted after this must not be missed.
        """
        if not run.workflow.hears_events:
            return None
        return await until_it_answers(self._events.last, run.state.run_id)

    async def waiting(self, run: Active) -> list[Heard]:
        """What was emitted of the types that its steps wait for, since it last looked."""
        listening = [step for step in run.state.in_flight if step.input.get("events")]
        if not listening:
            return []
        types = {type for step in listening for type in step.input["events"]}
        since = max(run.heard, min(step.heard_to for step in listening))
        look = partial(self._events.after, since, types)
        found, run.heard = await until_it_answers(look, run.state.run_id)
        run.mail |= bool(found)  # there may be more
        return found

    async def look_forever(self, driven: Mapping[str, Active], stopping: asyncio.Event) -> None:
        """Tell runs of what other processes emitted: who emits tells at once, but that can be lost.

        Until we are to stop.
        """
        known = 0
        while not await pause(stopping, LOOK_FOR_EVENTS):
            if not any(run.workflow.hears_events for run in driven.values()):
                continue
            try:
                last = await self._events.last()
            except (Unavailable, ResourceExhausted) as error:
                log.warning("cannot look for events: %s", error)
                continue
            if last > known:
                tell(driven.values())
            known = last


def tell(runs: Iterable[Active]) -> None:
    """There may be something for those that wait for events."""
    for run in runs:
        if run.workflow.hears_events:
            run.tell_of_mail()
