"""WatchRun: a run as each of its records leaves it, from the first one or behind any other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anya.orchestrator.v1 import workflow_pb2 as pb
from services.orchestrator import notifications
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import RunState
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.servicers import views
from services.orchestrator.store.run_store import require_readable
from services.orchestrator.worker.run_spans import trace_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.orchestrator.engine.records import Record
    from services.orchestrator.notifications import RunNotifier, RunUpdates
    from services.orchestrator.store.run_store import RunStore, StoredRun

LOOK_AGAIN = 1.0  # seconds until a watch looks by itself; it is told earlier

# Behind these steps may be other ones than before, or gone; or there was nothing before.
WHOLE = frozenset({RecordKind.START, RecordKind.REDRIVEN, RecordKind.ERASED})


async def watch_run(
    runs: RunStore, told: RunNotifier, request: pb.WatchRunRequest
) -> AsyncGenerator[pb.WatchRunResponse, None]:
    """InvalidArgument for a view that there is not; NotFound; FailedPrecondition for damage."""
    asked = views.read_view(request.view, watches=True)
    state = RunState(request.run_id)
    with told.watch(request.run_id) as moved:
        stored = await runs.load_after(request.run_id, sequence=0)
        trace_id = trace_id_of(stored.row.traceparent)
        while True:
            for record in stored.records:
                evolve(state, record)
                if record.sequence > request.after_sequence:
                    yield format_update(state, record, trace_id, asked)
            if state.finished:
                return
            require_readable(stored.row, state)
            await notifications.wait(moved, timeout=LOOK_AGAIN)
            moved.clear()
            stored = await _news(runs, stored, state.sequence, moved)


def format_update(
    state: RunState, record: Record, trace_id: str, asked: pb.RunView.ValueType
) -> pb.WatchRunResponse:
    """The run as this record, which is its last so far, has left it."""
    if asked == pb.RUN_VIEW_CHANGES and record.kind not in WHOLE:
        run = views.format_changes(state, trace_id, _changed(record))
        return pb.WatchRunResponse(sequence=record.sequence, run=run, view=asked)
    whole = pb.RUN_VIEW_FULL if asked == pb.RUN_VIEW_CHANGES else asked
    run = views.format_state(state, trace_id, whole)
    return pb.WatchRunResponse(sequence=record.sequence, run=run, view=whole)


def _changed(record: Record) -> Sequence[str]:
    """Paths of the steps that look otherwise since this record."""
    if record.kind is RecordKind.APPROVAL:
        return [record.payload["step"]]
    return [record.path]


async def _news(runs: RunStore, stored: StoredRun, after: int, moved: RunUpdates) -> StoredRun:
    """What the run has journalled since, from who drives it here, or the store."""
    if heard := moved.take(after=after):
        return replace(stored, records=tuple(record.read_again() for record in heard))
    return await runs.load_after(stored.row.id, sequence=after)
