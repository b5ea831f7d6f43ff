"""Failpoints of the records of a run: where a test may end the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mesh import failpoint
from services.orchestrator.engine.records import RecordKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.orchestrator.engine.records import Record

# Before and after the commit of a record of this kind.
FAILPOINTS = {
    RecordKind.START: "start",
    RecordKind.STEP_INTENT: "intent",
    RecordKind.STEP_DONE: "step_done",
    RecordKind.SIGNAL: "message",
    RecordKind.FINISH: "finish",
}


def reach_failpoints(
    moment: Literal["before", "after"], run_id: str, records: Sequence[Record]
) -> None:
    """Reaches the failpoints of these records; no notification was sent yet.

    A failpoint is called ``engine.before_start`` and so on; its key is RUN or RUN/PATH.
    """
    for record in records if failpoint.is_armed() else ():
        if name := FAILPOINTS.get(record.kind):
            key = f"{run_id}/{record.path}" if record.path else run_id
            failpoint.reach(f"engine.{moment}_{name}", key)
