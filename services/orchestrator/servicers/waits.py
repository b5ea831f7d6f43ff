"""Waiting for a run's end on behalf of who started it, for as long as the call allows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mesh.errors import InvalidArgument
from mesh.rpc.interceptors import deadline
from services.orchestrator import notifications

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from services.orchestrator.engine.model import RunState
    from services.orchestrator.notifications import RunCompletion
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.worker.worker import Worker

LONGEST = 60.0  # seconds
TIME_TO_ANSWER = 0.1  # of what the call has left
LOOK_AGAIN = 1.0  # seconds, at a run that another process drives; it tells earlier


def read_wait(wait: Duration) -> float:
    """Seconds; 0 if the caller does not wait. InvalidArgument if they are negative."""
    seconds = wait.seconds + wait.nanos / 1e9
    if seconds < 0:
        raise InvalidArgument("wait must not be negative", field="wait")
    return min(seconds, LONGEST)


async def end_of(
    run_id: str, ending: RunCompletion, runs: RunStore, runner: Worker, seconds: float
) -> RunState | None:
    """The run as it ended within ``seconds``, and the call's deadline; None if it goes on.

    ``ending`` must hear of it since before the run was started.
    """
    left = deadline.remaining(share=1 - TIME_TO_ANSWER)
    until = time.monotonic() + (seconds if left is None else min(seconds, left))
    while ending.state is None:
        ending.changed.clear()
        if not runner.drives(run_id) and await runs.has_ended(run_id):
            return (await runs.load(run_id)).state
        left = until - time.monotonic()
        if left <= 0:
            return None
        await notifications.wait(ending.changed, timeout=min(left, LOOK_AGAIN))
    return ending.state
