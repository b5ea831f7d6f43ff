"""The resources that the actors of all runs of a process share."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from services.orchestrator.actors.run_messages import Continue
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.record_writer import SLICE_S
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.store.run_store import FencedError
from services.orchestrator.worker.store_retry import retry_while_unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.retry_policy import RetryPolicy
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.worker.executor import CommandExecutor
    from services.orchestrator.worker.subscriptions import EventSubscriptions

# Twice a slice: runs with long turns have half of the process's time, all of them together.
SLICE_PERIOD_S = 2 * SLICE_S

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunResources:
    """The store, the way to other services, and what the worker has decided for all runs."""

    store: RunStore
    executor: CommandExecutor
    notifier: RunNotifier
    subscriptions: EventSubscriptions
    policy: RetryPolicy
    stopping: asyncio.Event  # set: nothing new begins, but what is in flight may end
    idle_timeout_s: Callable[[], float]  # after which a run that only waits is suspended

    _slices: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def next_slice(self) -> Continue:
        """Returns once a run with a long turn may continue: in the order in which they ask."""
        async with self._slices:
            await asyncio.sleep(SLICE_PERIOD_S)
        return Continue()

    async def fail_run(self, state: RunState, epoch: int, reason: str) -> None:
        """Ends a stored run that cannot continue, with the status NEEDS_ATTENTION."""
        payload = {"status": RunStatus.NEEDS_ATTENTION, "reason": reason}
        now_us = self.store.lease.now_us()
        end = Record.write(state.sequence + 1, RecordKind.FINISH, "", 0, now_us, payload)
        evolve(state, end)
        append = partial(self.store.append, state, epoch, [end])
        try:
            await retry_while_unavailable(append, state.run_id)
        except FencedError:
            log.info("run %s is owned by another process now", state.run_id)
            self.notifier.notify(state.run_id)
        else:
            self.notifier.publish(state, [end])
