"""Runs that only wait, and for long: nobody drives them until they are due or are sent something.

All of it is written by ``Database.write``, as messages are: one after the other, so that a run
either has its message before it falls asleep, and does not, or is woken by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.orchestrator.journal.several import lists

if TYPE_CHECKING:
    from mesh.database import Database, Transaction
    from services.orchestrator.engine.state import RunState

ASLEEP = "asleep"  # in place of an owner: no executor is called so

DUE = "SELECT run FROM asleep WHERE wake_us <= ? ORDER BY wake_us LIMIT ?"


class Sleep:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def fall_asleep(self, state: RunState, epoch: int, wake_us: int) -> bool:
        """Let go of the run until ``wake_us``. False if it has mail, or is not ours any more."""

        async def work(tx: Transaction) -> bool:
            return await fall_asleep(tx, state, epoch, wake_us)

        return await self._database.write(work)

    async def due(self) -> float | None:
        """In how many seconds the next one is, by the database's clock; None if none sleeps."""

        async def work(tx: Transaction) -> float | None:
            row = await tx.fetch_one("SELECT MIN(wake_us) FROM asleep")
            if row is None or row[0] is None:
                return None
            return float(row[0] - await tx.now_ms() * 1000) / 1_000_000

        return await self._database.read(work)

    async def wake_due(self, limit: int) -> int:
        """Have up to ``limit`` of those that are due wait for somebody, the longest due first."""

        async def work(tx: Transaction) -> int:
            due = [id for (id,) in await tx.fetch(DUE, await tx.now_ms() * 1000, limit)]
            for listed, given in lists(due):
                await tx.execute(
                    f"UPDATE run SET owner = '' WHERE owner = ? AND id IN {listed}",  # noqa: S608
                    ASLEEP,
                    *given,
                )
                await tx.execute(f"UPDATE asleep SET wake_us = NULL WHERE run IN {listed}", *given)  # noqa: S608
            return len(due)

        return await self._database.write(work)


async def fall_asleep(tx: Transaction, state: RunState, epoch: int, wake_us: int) -> bool:
    let_go = await tx.execute(
        "UPDATE run SET owner = ?, epoch = epoch + 1"
        " WHERE id = ? AND epoch = ? AND sequence = ? AND finished_us IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM message WHERE run = ? AND position > ?)",
        ASLEEP,
        state.run_id,
        epoch,
        state.sequence,
        state.run_id,
        state.taken,
    )
    if let_go:
        await tx.execute("INSERT INTO asleep VALUES (?, ?)", state.run_id, wake_us)
    return let_go > 0


async def wake(tx: Transaction, run_id: str) -> bool:
    """Have it wait for somebody who drives it. False if it was not asleep."""
    woken = await tx.execute("UPDATE run SET owner = '' WHERE id = ? AND owner = ?", run_id, ASLEEP)
    await tx.execute("UPDATE asleep SET wake_us = NULL WHERE run = ?", run_id)
    return woken > 0
