"""Lets go of runs that only wait, and looks for what wakes them if nobody tells us."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mesh.errors import ResourceExhausted, Unavailable
from services.orchestrator.worker.executor import wakes_at
from services.orchestrator.worker.store_retry import sleep_unless_stopping

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from services.orchestrator.store.messages import Messages
    from services.orchestrator.store.suspension import Suspensions
    from services.orchestrator.worker.executor import RunActor

INBOX_POLL_INTERVAL_S = 1.0  # seconds; whoever sends tells at once, but what is told can be lost
TIMER_POLL_INTERVAL_S = 1.0  # seconds at most; nothing falls asleep that is due sooner

log = logging.getLogger(__name__)


async def poll_inbox(
    messages: Messages, driven: Mapping[str, RunActor], stopping: asyncio.Event
) -> None:
    """Tell runs of what other processes stored for them, until we are to stop."""
    while not await sleep_unless_stopping(stopping, INBOX_POLL_INTERVAL_S):
        try:
            sent = await messages.recent_positions()
        except (Unavailable, ResourceExhausted) as error:
            log.warning("cannot look for messages: %s", error)
            continue
        for run_id, position in sent.items():
            run = driven.get(run_id)
            if run is not None and run.state.inbox_position < position:
                run.tell_of_mail()


async def poll_timers(
    sleep: Suspensions, are_due: Callable[[], None], stopping: asyncio.Event
) -> None:
    """Tell when runs that sleep are due, until we are to stop."""
    seconds = TIMER_POLL_INTERVAL_S
    while not await sleep_unless_stopping(stopping, seconds):
        seconds = TIMER_POLL_INTERVAL_S
        try:
            due_in = await sleep.seconds_until_due()
        except (Unavailable, ResourceExhausted) as error:
            log.warning("cannot look for runs that are due: %s", error)
            continue
        if due_in is not None and due_in <= 0:
            are_due()
        elif due_in is not None:
            seconds = min(due_in, TIMER_POLL_INTERVAL_S)


async def suspend_if_idle(sleep: Suspensions, run: RunActor) -> bool:
    """Let go of the run until it is due or something comes for it. False if it just did."""
    run.drowsy, run.rests = False, None
    try:
        wake_us = wakes_at(run.under_way)
        if await sleep.suspend(run.state, run.epoch, wake_us, event_cursor=run.heard):
            return True
    except (Unavailable, ResourceExhausted) as error:
        log.warning("run %s stays in memory: %s", run.state.run_id, error)
        return False
    run.tell_of_mail()
    return False
