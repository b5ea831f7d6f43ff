"""The journal of one process that has its store for itself: a SQLite file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh.data.database.sql import in_list
from mesh.errors import FailedPrecondition
from services.orchestrator.store.run_store import (
    RECENT_US,
    RunStore,
    StoredRun,
    load_run,
    load_runs,
    set_aside,
)
from services.orchestrator.store.suspension import ASLEEP

if TYPE_CHECKING:
    from collections.abc import Collection

    from mesh.data.database import Transaction


class SqliteRunStore(RunStore):
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
                self.lease.replica_id,
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
            epochs: dict[str, int] = dict(waiting)
            suspended: set[str] = set()
            for listed, given in in_list(list(epochs)):
                awake = f"DELETE FROM asleep WHERE run IN {listed} RETURNING run"  # noqa: S608
                suspended |= {id for (id,) in await tx.fetch(awake, *given)}
                await tx.execute(f"DELETE FROM listening WHERE run IN {listed}", *given)  # noqa: S608
            claimed: list[StoredRun] = []
            for id, found in await load_runs(tx, list(epochs)):
                if isinstance(found, FailedPrecondition):
                    await set_aside(tx, id, epochs[id], str(found))
                else:
                    claimed.append(replace(found, was_suspended=id in suspended))
            for listed, given in in_list([run.row.id for run in claimed]):
                take = f"UPDATE run SET owner = ? WHERE id IN {listed}"  # noqa: S608
                await tx.execute(take, self.lease.replica_id, *given)
            return claimed

        return await self._database.write(work)

    async def finished_recently(self) -> list[StoredRun]:
        """Runs that ended shortly before the last one did, and can be read; each is given once."""

        async def work(tx: Transaction) -> list[StoredRun]:
            rows = await tx.fetch(
                "SELECT id FROM run WHERE owner <> ''"
                " AND finished_us >= (SELECT MAX(finished_us) FROM run) - ?",
                RECENT_US,
            )
            found: list[StoredRun] = []
            for (id,) in rows:
                await tx.execute("UPDATE run SET owner = '' WHERE id = ?", id)
                with suppress(FailedPrecondition):
                    found.append(await load_run(tx, id))
            return found

        return await self._database.write(work)
