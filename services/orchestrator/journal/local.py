"""The journal of one process that has its store for itself: a SQLite file."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from mesh import inbox, lease
from mesh.errors import AlreadyExists, FailedPrecondition, Reason
from services.orchestrator.journal.definitions import find_definition
from services.orchestrator.journal.runs import (
    FINISHED,
    LATELY,
    STARTED,
    NewRun,
    Runs,
    Started,
    StoredRun,
    announce,
    load_run,
    must_be_there,
    parent_of,
    set_aside,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mesh.database import Database, Transaction
    from mesh.inbox import RequestKey
    from services.orchestrator.engine.record import Record
    from services.orchestrator.engine.state import RunState
    from services.orchestrator.journal.definitions import StoredDefinition


class LocalRuns(Runs):
    def __init__(self, database: Database) -> None:
        super().__init__(database, lease.eternal())

    async def start(
        self,
        key: RequestKey,
        workflow_id: str,
        prepare: Callable[[StoredDefinition], NewRun],
        reply: Callable[[NewRun], bytes],
    ) -> Started:
        async def work(tx: Transaction) -> Started:
            is_new = False

            async def effect() -> bytes:
                nonlocal is_new
                new = prepare(await find_definition(tx, workflow_id))
                await self._insert(tx, new)
                is_new = True
                return reply(new)

            return Started(await inbox.once(tx, key, effect), is_new)

        return await self._database.write(work)

    async def append(self, state: RunState, epoch: int, records: Sequence[Record]) -> None:
        async def work(tx: Transaction) -> None:
            before = records[0].sequence - 1
            changed = await tx.execute(
                "UPDATE run SET status = ?, reason = ?, sequence = ?, updated_us = ?,"
                " finished_us = ? WHERE id = ? AND epoch = ? AND sequence = ?",
                state.status,
                state.reason,
                state.sequence,
                state.updated_us,
                state.finished_us or None,
                state.run_id,
                epoch,
                before,
            )
            if not changed:
                await must_be_there(tx, state, epoch)
                return
            await _insert_records(tx, state.run_id, records)
            if state.finished:
                await announce(tx, FINISHED, state.run_id, await parent_of(tx, state.run_id))

        await self._database.write(work)

    async def release_all(self) -> None:
        """Take every unfinished run from whoever had it: this process is the store's only one."""

        async def work(tx: Transaction) -> None:
            await tx.execute(
                "UPDATE run SET owner = '', epoch = epoch + 1"
                " WHERE finished_us IS NULL AND owner <> ''"
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
                try:
                    claimed.append(await load_run(tx, id))
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

    async def _insert(self, tx: Transaction, new: NewRun) -> None:
        state = new.state
        inserted = await tx.execute(
            "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?) ON CONFLICT DO NOTHING",
            state.run_id,
            state.workflow_id,
            state.definition_hash,
            new.starter,
            new.traceparent,
            state.status,
            state.reason,
            state.sequence,
            self.lease.executor if new.owned else "",
            state.created_us,
            state.updated_us,
            state.finished_us or None,
        )
        if not inserted:
            raise AlreadyExists(
                f"run {state.run_id} exists; choose a new request_id",
                reason=Reason.REQUEST_ID_REUSED,
                field="request_id",
            )
        await _insert_records(tx, state.run_id, new.records)
        await announce(tx, STARTED, state.run_id, new.traceparent)
        if state.finished:
            await announce(tx, FINISHED, state.run_id, new.traceparent)


async def _insert_records(tx: Transaction, run_id: str, records: Sequence[Record]) -> None:
    await tx.execute_many(
        "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                run_id,
                record.sequence,
                record.kind,
                record.path,
                record.attempt,
                record.at_us,
                record.encode(),
            )
            for record in records
        ],
    )
