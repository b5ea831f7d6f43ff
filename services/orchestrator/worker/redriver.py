"""Has ended runs go on, and whoever may drive or watch them know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh import failpoint
from services.orchestrator.engine import redrive as rules
from services.orchestrator.store import redrives as journal

if TYPE_CHECKING:
    from mesh.data.database import Database
    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.engine.model import RunState, RunStatus
    from services.orchestrator.engine.records import Record
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.worker.worker import Worker


class Redriver:
    def __init__(self, database: Database, runner: Worker, changes: RunNotifier) -> None:
        self._database = database
        self._runner = runner
        self._changes = changes

    async def redrive(self, key: IdempotencyKey, run_id: str, reason: str) -> None:
        """Once per ``key``: the run goes on as soon as some process has room for it.

        NotFound; FailedPrecondition (RUN_NOT_REDRIVABLE) for a run that cannot go on.
        """

        def judge(state: RunState, ended: RunStatus) -> Record:
            now_us = self._runner.now_us()
            return rules.redrive(state, ended, reason=reason, requester=key.caller, at_us=now_us)

        failpoint.reach("engine.before_redriven", run_id)
        await journal.redrive(self._database, key, run_id, judge)
        failpoint.reach("engine.after_redriven", run_id)
        self._changes.notify(run_id)
        self._runner.notify_claimable()
