"""Deletes runs some time after their end, a few in each commit, earliest end first.

The ids of a run and of its payments stay, so that no other run can use them. The reply to
its StartRun stays, so that a repeated StartRun gets its first reply. Its events stay in the outbox,
without their data. Runs that need an operator are never deleted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mesh.errors import NotFound, Reason
from services.orchestrator.store.events import erase_events
from services.orchestrator.store.run_query import NEED_ATTENTION, ended_long_ago

if TYPE_CHECKING:
    from mesh.data.database import Database, Transaction

DELETE_BATCH_SIZE = 20  # runs that one commit deletes
MAX_RECORDS = 500  # that it deletes with them

MAX_POSITION = 2**62

# The tables with rows of a run, and the column that numbers those rows.
PARTS = (("journal", "sequence"), ("message", "position"), ("event", "sequence"))


class Deletion:
    """Retention: deletes whole runs by their age."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._passed = (0, "")  # end time and id of the last run that was examined

    async def delete_some(self, days: float) -> bool:
        """Deletes a few runs that ended more than ``days`` ago. Returns False if none is left."""

        async def work(tx: Transaction) -> tuple[int, str] | None:
            if await self._purge_one(tx):
                return self._passed
            rows = await ended_long_ago(tx, days, after=self._passed, limit=DELETE_BATCH_SIZE)
            passed, records = None, 0
            for id, finished_us, status, sequence in rows:
                records += sequence
                if passed is not None and records > MAX_RECORDS:
                    break
                if status not in NEED_ATTENTION:
                    await self._delete(tx, id, finished_us, whole=sequence <= MAX_RECORDS)
                passed = (finished_us, id)
            return passed

        passed = await self._database.write(work)
        self._passed = passed or self._passed
        return passed is not None

    async def _delete(self, tx: Transaction, id: str, finished_us: int, *, whole: bool) -> None:
        gone = await tx.execute("DELETE FROM run WHERE id = ? AND finished_us = ?", id, finished_us)
        if not gone:
            return  # it was redriven
        now_us = await tx.now_ms() * 1000
        await tx.execute("INSERT INTO deleted_run VALUES (?, ?, ?)", id, now_us, int(whole))
        await tx.execute("DELETE FROM erasure_task WHERE run = ?", id)
        if whole:
            await erase_events(tx, id, 0, MAX_POSITION)
        for table, _ in PARTS if whole else ():
            await tx.execute(f"DELETE FROM {table} WHERE run = ?", id)  # noqa: S608

    async def _purge_one(self, tx: Transaction) -> bool:
        """Deletes some rows of a deleted large run. Returns False if no such run is left."""
        row = await tx.fetch_one("SELECT id FROM deleted_run WHERE purged = 0 LIMIT 1")
        if row is None:
            return False
        for table, number in PARTS:
            numbers = await tx.fetch(
                f"SELECT {number} FROM {table} WHERE run = ? ORDER BY {number} LIMIT ?",  # noqa: S608
                row[0],
                MAX_RECORDS,
            )
            if numbers:
                if table == "event":
                    await erase_events(tx, row[0], 0, numbers[-1][0])
                await tx.execute(
                    f"DELETE FROM {table} WHERE run = ? AND {number} <= ?",  # noqa: S608
                    row[0],
                    numbers[-1][0],
                )
                return True
        await tx.execute("UPDATE deleted_run SET purged = 1 WHERE id = ?", row[0])
        return True


async def not_found(tx: Transaction, run_id: str) -> NotFound:
    """Returns the error for a run that is unknown, or that retention has deleted."""
    row = await tx.fetch_one("SELECT deleted_us FROM deleted_run WHERE id = ?", run_id)
    if row is None:
        return NotFound(f"no run {run_id!r}", field="run_id")
    day = datetime.fromtimestamp(row[0] / 1_000_000, UTC).date().isoformat()
    return NotFound(
        f"run {run_id!r} was deleted by retention on {day}: ANYA_RETAIN_DAYS after its end",
        reason=Reason.RUN_DELETED,
        field="run_id",
    )
