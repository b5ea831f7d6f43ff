"""Waits for a run: to its end within a call's deadline, or record by record for a watch."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.errors import InvalidArgument
from mesh.rpc.interceptors import deadline
from services.orchestrator import notifications
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import RunState
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.servicers import views
from services.orchestrator.store.stored_run import require_readable
from services.orchestrator.worker.run_spans import trace_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from google.protobuf.duration_pb2 import Duration

    from services.orchestrator.engine.records import Record
    from services.orchestrator.notifications import RunCompletion, RunNotifier, RunUpdates
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.store.stored_run import RunRecords
    from services.orchestrator.worker.worker import Worker

MAX_WAIT_S = 60.0
RESERVED_SHARE = 0.1  # of the call's remaining time, for the reply
POLL_INTERVAL_S = 1.0  # of a run that another process drives, if its notification is lost

# Records that may remove or replace steps, or have none before them: the watch sends all steps.
WHOLE = frozenset({RecordKind.START, RecordKind.REDRIVEN, RecordKind.ERASED})


def read_wait(wait: Duration) -> float:
    """Returns seconds, at most MAX_WAIT_S. Raises InvalidArgument if they are negative."""
    seconds = wait.seconds + wait.nanos / 1e9
    if seconds < 0:
        raise InvalidArgument("wait must not be negative", field="wait")
    return min(seconds, MAX_WAIT_S)


async def end_of(
    run_id: str, completion: RunCompletion, store: RunStore, worker: Worker, seconds: float
) -> RunState | None:
    """Returns the final state of the run, or None if it does not end in time.

    The wait ends after ``seconds``, or shortly before the call's deadline. ``completion`` must be
    registered before the run is started.
    """
    left = deadline.remaining(share=1 - RESERVED_SHARE)
    until = time.monotonic() + (seconds if left is None else min(seconds, left))
    while completion.state is None:
        completion.changed.clear()
        if not worker.drives(run_id) and await store.has_ended(run_id):
            return (await store.load(run_id)).state
        left = until - time.monotonic()
        if left <= 0:
            return None
        await notifications.wait(completion.changed, timeout=min(left, POLL_INTERVAL_S))
    return completion.state


async def watch_run(
    store: RunStore, notifier: RunNotifier, request: pb.WatchRunRequest
) -> AsyncGenerator[pb.WatchRunResponse, None]:
    """Yields the run after each of its records, from ``request.after_sequence`` on.

    Raises InvalidArgument for an unknown view, NotFound, or FailedPrecondition if the records are
    damaged.
    """
    view = views.read_view(request.view, watches=True)
    state = RunState(request.run_id)
    with notifier.watch(request.run_id) as updates:
        stored = await store.load_after(request.run_id, sequence=0)
        trace_id = trace_id_of(stored.row.traceparent)
        while True:
            for record in stored.records:
                evolve(state, record)
                if record.sequence > request.after_sequence:
                    yield format_update(state, record, trace_id, view)
            if state.finished:
                return
            require_readable(stored.row, state)
            await notifications.wait(updates, timeout=POLL_INTERVAL_S)
            updates.clear()
            stored = await _new_records(store, stored, state.sequence, updates)


def format_update(
    state: RunState, record: Record, trace_id: str, view: pb.RunView.ValueType
) -> pb.WatchRunResponse:
    """Formats the run as ``record``, its last one so far, has left it."""
    if view == pb.RUN_VIEW_CHANGES and record.kind not in WHOLE:
        run = views.format_changes(state, trace_id, _changed_steps(record))
        return pb.WatchRunResponse(sequence=record.sequence, run=run, view=view)
    whole = pb.RUN_VIEW_FULL if view == pb.RUN_VIEW_CHANGES else view
    run = views.format_state(state, trace_id, whole)
    return pb.WatchRunResponse(sequence=record.sequence, run=run, view=whole)


def _changed_steps(record: Record) -> Sequence[str]:
    if record.kind is RecordKind.APPROVAL:
        return [record.payload["step"]]
    return [record.path]


async def _new_records(
    store: RunStore, stored: RunRecords, after: int, updates: RunUpdates
) -> RunRecords:
    """Returns the records after this sequence, as announced here or else from the store."""
    if announced := updates.take(after=after):
        return replace(stored, records=tuple(record.copy() for record in announced))
    return await store.load_after(stored.row.id, sequence=after)
