"""The journal of one of several processes that share the runs of a PostgreSQL database."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh import inbox
from mesh import lease as leases
from mesh.errors import AlreadyExists, FailedPrecondition, MeshError, Reason, Unavailable
from services.orchestrator.journal import statements
from services.orchestrator.journal.commits import Append, Start
from services.orchestrator.journal.definitions import find_definition
from services.orchestrator.journal.runs import (
    LATELY,
    NewRun,
    Runs,
    Started,
    StoredRun,
    must_be_there,
    set_aside,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mesh.database import Database, Transaction
    from mesh.inbox import RequestKey
    from mesh.lease import Lease
    from services.orchestrator.engine.record import Record
    from services.orchestrator.engine.state import RunState
    from services.orchestrator.journal.definitions import StoredDefinition
    from services.orchestrator.journal.writer import Writer

DEFINITIONS = 1024  # known by heart
NEWER_DEFINITIONS = 10  # that may be registered while one run starts


@dataclass(frozen=True, slots=True)
class Taken:
    """What executors left behind whose lease had ended."""

    executors: tuple[str, ...]
    released: int  # runs that wait for somebody now
    ended: tuple[str, ...]  # runs they ended shortly before


class SharedRuns(Runs):
    def __init__(self, database: Database, lease: Lease, writer: Writer) -> None:
        super().__init__(database, lease)
        self._writer = writer
        self._newest: OrderedDict[str, StoredDefinition] = OrderedDict()

    async def start(
        self,
        key: RequestKey,
        workflow_id: str,
        prepare: Callable[[StoredDefinition], NewRun],
        reply: Callable[[NewRun], bytes],
    ) -> Started:
        for _ in range(NEWER_DEFINITIONS):
            try:
                stored = await self._newest_of(workflow_id)
                new = prepare(stored)
            except MeshError:
                first = await self._first_reply(key)
                if first is None:
                    raise
                return Started(first, is_new=False)
            answer = reply(new)
            if await self._writer.commit(Start(new, key, answer, stored.version)):
                return Started(answer, is_new=True)
            if (started := await self._read_back(key, new)) is not None:
                return started
            self._newest.pop(workflow_id, None)
        raise Unavailable(
            f"workflow {workflow_id} is being registered again and again; retry later",
            reason=Reason.NOT_ADMITTED,
        )

    async def append(self, state: RunState, epoch: int, records: Sequence[Record]) -> None:
        if await self._writer.commit(Append(state, epoch, records)):
            return

        async def work(tx: Transaction) -> None:
            await must_be_there(tx, state, epoch)

        await self._database.read(work)

    async def claim(self, limit: int) -> list[StoredRun]:
        lease = self.lease

        async def take(connection: Any) -> list[tuple[str, int]]:
            executor, incarnation = lease.executor, lease.incarnation
            rows = await connection.fetch(statements.CLAIM, executor, incarnation, limit)
            return [(id, epoch) for id, epoch in rows]

        claimed: list[StoredRun] = []
        for id, epoch in await self._writer.alone(take):
            try:
                stored = await self.load(id)
            except FailedPrecondition as damage:
                await self._database.write(
                    partial(set_aside, run_id=id, epoch=epoch, reason=str(damage))
                )
                continue
            # Not the epoch of the row as it is now: it may have been taken from us again.
            claimed.append(replace(stored, row=replace(stored.row, epoch=epoch)))
        return sorted(claimed, key=lambda run: (run.row.created_us, run.row.id))

    async def release_lost(self, held: Collection[str]) -> None:
        async def release(connection: Any) -> None:
            await connection.execute(statements.RELEASE_LOST, self.lease.executor, list(held))

        await self._writer.alone(release)

    async def renew(self) -> float:
        """Keep the lease; in how many seconds the first one of another executor ends."""
        return await self._writer.renew()

    async def take_over(self) -> Taken:
        """Release the runs of every executor whose lease has ended."""

        async def take(connection: Any) -> Taken:
            async with connection.transaction(isolation="read_committed"):
                dead = [
                    row[0] for row in await connection.fetch(leases.RETIRE, self.lease.executor)
                ]
                # What they committed before is visible to this statement, and nothing comes after.
                released = await connection.fetch(statements.RELEASE, dead) if dead else []
                if released:
                    await connection.execute(statements.TELL, statements.WAITING, "")
            ended = await connection.fetch(statements.ENDED_LATELY, dead, LATELY) if dead else []
            return Taken(tuple(dead), len(released), tuple(row[0] for row in ended))

        return await self._writer.alone(take)

    async def retire(self) -> None:
        """Let others have at once what we leave behind."""
        lease = self.lease

        async def leave(connection: Any) -> None:
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(leases.RETIRE_OURSELVES, lease.executor, lease.incarnation)
                await connection.execute(statements.RELEASE, [lease.executor])
                await connection.execute(leases.FORGET, [lease.executor])
                await connection.execute(statements.TELL, statements.WAITING, "")

        await self._writer.alone(leave)

    async def _newest_of(self, workflow_id: str) -> StoredDefinition:
        """As far as we know: the commit knows better."""
        known = self._newest.get(workflow_id)
        if known is None:

            async def work(tx: Transaction) -> StoredDefinition:
                return await find_definition(tx, workflow_id)

            known = await self._database.read(work)
            if known.inner:
                return known  # the commit knows of newer ones of itself, not of those inside it
            self._newest[workflow_id] = known
            if len(self._newest) > DEFINITIONS:
                self._newest.popitem(last=False)
        return known

    async def _first_reply(self, key: RequestKey) -> bytes | None:
        async def work(tx: Transaction) -> bytes | None:
            return await inbox.find(tx, key)

        return await self._database.read(work)

    async def _read_back(self, key: RequestKey, new: NewRun) -> Started | None:
        """Why it was not inserted; None because of its definition alone."""
        run_id = new.state.run_id

        async def work(tx: Transaction) -> Started | None:
            row = await tx.fetch_one("SELECT owner, epoch, sequence FROM run WHERE id = ?", run_id)
            first = await inbox.find(tx, key)
            if first is not None:
                # The answer to a commit was lost, and it had landed: nobody else has this row.
                ours = (self.lease.executor, 0, new.state.sequence)
                return Started(first, is_new=new.owned and row == ours)
            if row is not None:
                raise AlreadyExists(
                    f"run {run_id} exists; choose a new request_id",
                    reason=Reason.REQUEST_ID_REUSED,
                    field="request_id",
                )
            return None

        return await self._database.read(work)
