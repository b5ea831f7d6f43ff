"""Runs that have ended, and redrives of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.orchestrator.engine import redrive as rules
from services.orchestrator.engine.activations import Started
from services.orchestrator.engine.fold import fold
from services.orchestrator.engine.records import Record, RecordKind

if TYPE_CHECKING:
    from tests.orchestrator.engine.engine_run import EngineRun


def redrive(run: EngineRun, *, begin: bool = True) -> None:
    record = rules.redrive(
        run.state, run.state.status, reason="mended", requester="spiffe://ops", at_us=run.now_us
    )
    run.journal.append(record)
    if begin:
        run.apply(Started())


def end_by_defect(run: EngineRun) -> None:
    """Ends the run as a worker does if a transition raises."""
    payload = {"status": "NEEDS_ATTENTION", "reason": "internal error 1"}
    end = Record.write(run.state.sequence + 1, RecordKind.FINISH, "", 0, run.now_us, payload)
    run.journal.append(end)
    run.state = fold(run.state.run_id, run.journal)
