"""Redrives a run that has ended: one transaction makes it claimable again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.data import idempotency
from mesh.errors import FailedPrecondition, Reason
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.store.deletion import not_found
from services.orchestrator.store.run_store import add_record, announce
from services.orchestrator.store.stored_run import load_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record

REDRIVEN = "orchestrator.run.redriven"


async def redrive(
    database: Database,
    key: IdempotencyKey,
    run_id: str,
    make_record: Callable[[RunState, RunStatus], Record],
) -> None:
    """Appends the record that ``make_record`` returns for the run's state, once per ``key``.

    Raises NotFound if the run is unknown, FailedPrecondition (RUN_NOT_REDRIVABLE) if it has not
    ended, and the errors of ``make_record``, which may be called again. The former owner is fenced.
    """

    async def work(tx: Transaction) -> bytes:
        async def effect() -> bytes:
            await _redrive(tx, run_id, make_record)
            return b""

        return await idempotency.run_once(tx, key, effect)

    await database.write(work)


async def _redrive(
    tx: Transaction, run_id: str, make_record: Callable[[RunState, RunStatus], Record]
) -> None:
    row = await tx.fetch_one("SELECT finished_us FROM run WHERE id = ?", run_id)
    if row is None:
        raise await not_found(tx, run_id)
    if row[0] is None:
        raise FailedPrecondition(
            f"run {run_id} has not ended", reason=Reason.RUN_NOT_REDRIVABLE, field="run_id"
        )
    stored = await load_run(tx, run_id)
    state = stored.state
    record = make_record(state, RunStatus(stored.row.status))
    await tx.execute(
        "UPDATE run SET status = ?, reason = ?, sequence = ?, updated_us = ?, finished_us = NULL,"
        " owner = '', epoch = epoch + 1 WHERE id = ?",
        state.status,
        state.reason,
        state.sequence,
        state.updated_us,
        run_id,
    )
    await add_record(tx, run_id, record)
    await announce(tx, REDRIVEN, run_id, stored.row.traceparent)
