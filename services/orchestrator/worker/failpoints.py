"""Where a test may kill an orchestrator: before and behind the commit of these records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh import failpoint
from services.orchestrator.engine.records import RecordKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.orchestrator.engine.records import Record

BEFORE = {
    RecordKind.START: "engine.before_start",
    RecordKind.STEP_INTENT: "engine.before_intent",
    RecordKind.STEP_DONE: "engine.before_step_done",
    RecordKind.SIGNAL: "engine.before_message",
    RecordKind.FINISH: "engine.before_finish",
}
BEHIND = {
    RecordKind.START: "engine.after_start",
    RecordKind.STEP_INTENT: "engine.after_intent",
    RecordKind.STEP_DONE: "engine.after_step_done",
    RecordKind.SIGNAL: "engine.after_message",
    RecordKind.FINISH: "engine.after_finish",
}


def before_commit(run_id: str, records: Sequence[Record]) -> None:
    """They are about to be committed."""
    _reach(BEFORE, run_id, records)


def after_commit(run_id: str, records: Sequence[Record]) -> None:
    """They were committed, and nobody knows yet."""
    _reach(BEHIND, run_id, records)


def _reach(points: Mapping[RecordKind, str], run_id: str, records: Sequence[Record]) -> None:
    for record in records if failpoint.is_armed() else ():
        if point := points.get(record.kind):
            failpoint.reach(point, f"{run_id}/{record.path}" if record.path else run_id)
