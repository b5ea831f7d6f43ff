"""Lets go of runs that only wait, and looks for what wakes them if nobody tells us."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mesh.errors import ResourceExhausted, Unavailable
from services.orchestrator.driving.patience import pause
from services.orchestrator.driving.performing import wakes_at

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from services.orchestrator.driving.performing import Active
    from services.orchestrator.journal.messages import Messages
    from services.orchestrator.journal.sleeping import Sleep

LOOK_FOR_MAIL = 1.0  # seconds; whoever sends tells at once, but what is told can be lost
LOOK_FOR_DUE = 1.0  # seconds at most; nothing falls asleep that is due sooner

log = logging.getLogger(__name__)


async def for_mail(
    messages: Messages, driven: Mapping[str, Active], stopping: asyncio.Event
) -> None:
    """Tell runs of what other processes stored for them, until we are to stop."""
    while not await pause(stopping, LOOK_FOR_MAIL):
        try:
            sent = await messages.lately()
        except (Unavailable, ResourceExhausted) as error:
            log.warning("cannot look for messages: %s", error)
            continue
        for run_id, position in sent.items():
            run = driven.get(run_id)
            if run is not None and run.state.taken < position:
                run.tell_of_mail()


async def for_due(sleep: Sleep, are_due: Callable[[], None], stopping: asyncio.Event) -> None:
    """Tell when runs that sleep are due, until we are to stop."""
    seconds = LOOK_FOR_DUE
    while not await pause(stopping, seconds):
        seconds = LOOK_FOR_DUE
        try:
            due_in = await sleep.due()
        except (Unavailable, ResourceExhausted) as error:
            log.warning("cannot look for runs that are due: %s", error)
            continue
        if due_in is not None and due_in <= 0:
            are_due()
        elif due_in is not None:
            seconds = min(due_in, LOOK_FOR_DUE)


async def falls_asleep(sleep: Sleep, run: Active) -> bool:
    """Let go of the run until it is due or something comes for it. False if it just did."""
    run.drowsy, run.rests = False, None
    try:
        wake_us = wakes_at(run.under_way)
        if await sleep.fall_asleep(run.state, run.epoch, wake_us, heard=run.heard):
            return True
    except (Unavailable, ResourceExhausted) as error:
        log.warning("run %s stays in memory: %s", run.state.run_id, error)
        return False
    run.tell_of_mail()
    return False
