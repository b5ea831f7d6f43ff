"""Deletes runs some time after their end, a few in each commit, oldest end first.

What stays of a run is its id and those of its payments, which nobody can use again; the replies in
the inbox: a StartRun that is repeated gets its first answer; and in the outbox that it emitted
events, without what they carried. Runs that somebody has to look at are never deleted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mesh.errors import NotFound, Reason
from services.orchestrator.store.events import erase_events
from services.orchestrator.store.run_query import NEED_ATTENTION, ended_long_ago

if TYPE_CHECKING:
    from mesh.data.database import Database, Transaction

PAGE = 20  # runs that one commit deletes
MOST_RECORDS = 500  # that it deletes with them

END_OF_EVENTS = 2**62

# What a run has beside its row, and what numbers it there.
PARTS = (("journal", "sequence"), ("message", "position"), ("event", "sequence"))


class Deletion:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._passed = (0, "")  # by the end of runs: what is behind this stays

    async def delete_some(self, days: float) -> bool:
        """Delete a few runs that ended so long ago. False once none are left."""

        async def work(tx: Transaction) -> tuple[int, str] | None:
            if await self._empty_one(tx):
                return self._passed
            rows = await ended_long_ago(tx, days, after=self._passed, limit=PAGE)
            passed, records = None, 0
            for id, finished_us, status, sequence in rows:
                records += sequence
                if passed is not None and records > MOST_RECORDS:
                    break
                if status not in NEED_ATTENTION:
                    await self._delete(tx, id, finished_us, whole=sequence <= MOST_RECORDS)
                passed = (finished_us, id)
            return passed

        passed = await self._database.write(work)
        self._passed = passed or self._passed
        return passed is not None

    async def _delete(self, tx: Transaction, id: str, finished_us: int, *, whole: bool) -> None:
        gone = await tx.execute("DELETE FROM run WHERE id = ? AND finished_us = ?", id, finished_us)
        if not gone:
            return  # somebody had it go on
        now_us = await tx.now_ms() * 1000
        await tx.execute("INSERT INTO deleted_run VALUES (?, ?, ?)", id, now_us, int(whole))
        await tx.execute("DELETE FROM erasure WHERE run = ?", id)
        if whole:
            await erase_events(tx, id, 0, END_OF_EVENTS)
        for table, _ in PARTS if whole else ():
            await tx.execute(f"DELETE FROM {table} WHERE run = ?", id)  # noqa: S608

    async def _empty_one(self, tx: Transaction) -> bool:
        """Delete a part of what a large run left behind. False if none did."""
        row = await tx.fetch_one("SELECT id FROM deleted_run WHERE emptied = 0 LIMIT 1")
        if row is None:
            return False
        for table, number in PARTS:
            numbers = await tx.fetch(
                f"SELECT {number} FROM {table} WHERE run = ? ORDER BY {number} LIMIT ?",  # noqa: S608
                row[0],
                MOST_RECORDS,
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
        await tx.execute("UPDATE deleted_run SET emptied = 1 WHERE id = ?", row[0])
        return True


async def not_found(tx: Transaction, run_id: str) -> NotFound:
    """What to say of a run that is not there."""
    row = await tx.fetch_one("SELECT deleted_us FROM deleted_run WHERE id = ?", run_id)
    if row is None:
        return NotFound(f"no run {run_id!r}", field="run_id")
    day = datetime.fromtimestamp(row[0] / 1_000_000, UTC).date().isoformat()
    return NotFound(
        f"run {run_id!r} was deleted by retention on {day}: ANYA_RETAIN_DAYS after its end",
        reason=Reason.RUN_DELETED,
        field="run_id",
    )
