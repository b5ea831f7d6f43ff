"""The journal of one process that has its store for itself: a SQLite file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh.errors import FailedPrecondition
from services.orchestrator.journal.runs import (
    LATELY,
    Runs,
    StoredRun,
    load_run,
    set_aside,
)
from services.orchestrator.journal.sleeping import ASLEEP

if TYPE_CHECKING:
    from collections.abc import Collection

    from mesh.database import Transaction


class LocalRuns(Runs):
    async def release_all(self) -> None:
        """Take every unfinished run from whoever had it: this process is the store's only one."""

        async def work(tx: Transaction) -> None:
            await tx.execute(
                "UPDATE run SET owner = '', epoch = epoch + 1"
                " WHERE finished_us IS NULL AND owner NOT IN ('', ?)",
                ASLEEP,
            )

        await self._database.write(work)

    async def release_lost(self, held: Collection[str]) -> None:
        async def work(tx: Transaction) -> None:
            owned = await tx.fetch(
                "SELECT id FROM run WHERE finished_us IS NULL AND owner = ?",
                self.lease.executor,
            )
            for (id,) in owned:
                if id not in held:
                    await tx.execute(
                        "UPDATE run SET owner = '', epoch = epoch + 1 WHERE id = ?", id
                    )

        await self._database.write(work)

    async def claim(self, limit: int) -> list[StoredRun]:
        async def work(tx: Transaction) -> list[StoredRun]:
            waiting = await tx.fetch(
                "SELECT id, epoch FROM run WHERE finished_us IS NULL AND owner = ''"
                " ORDER BY created_us, id LIMIT ?",
                limit,
            )
            claimed: list[StoredRun] = []
            owner = self.lease.executor
            for id, epoch in waiting:
                slept = await tx.execute("DELETE FROM asleep WHERE run = ?", id)
                try:
                    claimed.append(replace(await load_run(tx, id), slept=slept > 0))
                except FailedPrecondition as damage:
                    await set_aside(tx, id, epoch, str(damage))
                else:
                    await tx.execute("UPDATE run SET owner = ? WHERE id = ?", owner, id)
            return claimed

        return await self._database.write(work)

    async def finished_lately(self) -> list[StoredRun]:
        """Runs that ended shortly before the last one did, and can be read; each is given once."""

        async def work(tx: Transaction) -> list[StoredRun]:
            rows = await tx.fetch(
                "SELECT id FROM run WHERE owner <> ''"
                " AND finished_us >= (SELECT MAX(finished_us) FROM run) - ?",
                LATELY,
            )
            found: list[StoredRun] = []
            for (id,) in rows:
                await tx.execute("UPDATE run SET owner = '' WHERE id = ?", id)
                with suppress(FailedPrecondition):
                    found.append(await load_run(tx, id))
            return found

        return await self._database.write(work)
