"""Where a test may kill an orchestrator: before and behind the commit of these records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh import failpoint
from services.orchestrator.engine.record import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.orchestrator.engine.record import Record

BEFORE = {
    Kind.START: "engine.before_start",
    Kind.STEP_INTENT: "engine.before_intent",
    Kind.STEP_DONE: "engine.before_step_done",
    Kind.SIGNAL: "engine.before_message",
    Kind.FINISH: "engine.before_finish",
}
BEHIND = {
    Kind.START: "engine.after_start",
    Kind.STEP_INTENT: "engine.after_intent",
    Kind.STEP_DONE: "engine.after_step_done",
    Kind.SIGNAL: "engine.after_message",
    Kind.FINISH: "engine.after_finish",
}


def before(run_id: str, records: Sequence[Record]) -> None:
    """They are about to be committed."""
    _reach(BEFORE, run_id, records)


def behind(run_id: str, records: Sequence[Record]) -> None:
    """They were committed, and nobody knows yet."""
    _reach(BEHIND, run_id, records)


def _reach(points: Mapping[Kind, str], run_id: str, records: Sequence[Record]) -> None:
    for record in records if failpoint.is_armed() else ():
        if point := points.get(record.kind):
            failpoint.reach(point, f"{run_id}/{record.path}" if record.path else run_id)
