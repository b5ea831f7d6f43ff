"""The run store of a single process, on a SQLite file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh.data.database.sql import in_list
from mesh.errors import FailedPrecondition
from services.orchestrator.store.run_store import RunStore, set_aside
from services.orchestrator.store.stored_run import StoredRun, load_run, load_runs
from services.orchestrator.worker.run_spans import RECENT_US

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mesh.data.database import Transaction


class SqliteRunStore(RunStore):
    """Runs of the only process that has the file."""

    async def release_all(self) -> None:
        """Releases every unfinished run: its owner, an earlier process on this file, is gone."""

        async def work(tx: Transaction) -> None:
            await tx.execute(
                "UPDATE run SET owner = '', epoch = epoch + 1"
                " WHERE finished_us IS NULL AND owner <> ''"
            )

        await self._database.write(work)

    async def release_lost(self, held: Callable[[], Collection[str]]) -> None:
        async def work(tx: Transaction) -> None:
            owned = await tx.fetch(
                "SELECT id FROM run WHERE finished_us IS NULL AND owner = ?",
                self.lease.replica_id,
            )
            kept = held()
            for (id,) in owned:
                if id not in kept:
                    await tx.execute(
                        "UPDATE run SET owner = '', epoch = epoch + 1 WHERE id = ?", id
                    )

        await self._database.write(work)

    async def claim(self, limit: int) -> list[StoredRun]:
        async def work(tx: Transaction) -> list[StoredRun]:
            claimable = await tx.fetch(
                "SELECT id, epoch FROM run"
                " WHERE finished_us IS NULL AND owner = '' AND suspended = 0"
                " ORDER BY created_us, id LIMIT ?",
                limit,
            )
            epochs: dict[str, int] = dict(claimable)
            resumed: set[str] = set()
            for listed, given in in_list(list(epochs)):
                taken = await tx.fetch(
                    f"DELETE FROM suspended_run WHERE run IN {listed} RETURNING run",  # noqa: S608
                    *given,
                )
                resumed |= {id for (id,) in taken}
                await tx.execute(f"DELETE FROM event_subscription WHERE run IN {listed}", *given)  # noqa: S608
            claimed: list[StoredRun] = []
            for id, found in await load_runs(tx, list(epochs)):
                if isinstance(found, FailedPrecondition):
                    await set_aside(tx, id, epochs[id], str(found))
                else:
                    claimed.append(replace(found, was_suspended=id in resumed))
            for listed, given in in_list([run.row.id for run in claimed]):
                take = f"UPDATE run SET owner = ? WHERE id IN {listed}"  # noqa: S608
                await tx.execute(take, self.lease.replica_id, *given)
            return claimed

        return await self._database.write(work)

    async def finished_recently(self) -> list[StoredRun]:
        """Returns readable runs that ended at most RECENT_US before the last one, each once."""

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
