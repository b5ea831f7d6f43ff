"""The journal of one of several processes that share the runs of a PostgreSQL database."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from mesh.data import lease as leases
from mesh.errors import FailedPrecondition
from services.orchestrator.store.messages import Messages, SendResult, encode, insert
from services.orchestrator.store.postgres import statements
from services.orchestrator.store.run_store import (
    RECENT_US,
    RunStore,
    StoredRun,
    load_runs,
    set_aside,
)
from services.orchestrator.store.suspension import ASLEEP, wake

if TYPE_CHECKING:
    from collections.abc import Collection

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from mesh.data.lease import Lease
    from services.orchestrator.store.messages import InboxStatus, Message
    from services.orchestrator.store.postgres.writer import PostgresWriter


@dataclass(frozen=True, slots=True)
class ReleasedRuns:
    """What executors left behind whose lease had ended."""

    executors: tuple[str, ...]
    released: int  # runs that wait for somebody now
    ended: tuple[str, ...]  # runs they ended shortly before


class _AwakeError(Exception):
    """The run does not sleep: whoever sends to it need not hold up all others."""


class PostgresMessages(Messages):
    """A message to a run that is awake is one statement, which holds nothing but that run.

    What that statement does not do is judged, or done, with the store held, as any other write.
    """

    def __init__(self, database: Database, lease: Lease, writer: PostgresWriter) -> None:
        super().__init__(database)
        self._lease = lease
        self._writer = writer

    async def send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes = b""
    ) -> SendResult:
        while True:
            try:
                if await self._writer.alone(partial(self._send, key, run_id, message, reply)):
                    return SendResult(reply, claimable=False)
            except asyncpg.UniqueViolationError:
                pass  # the key, for another run
            try:
                return await super().send(key, run_id, message, reply)
            except _AwakeError:
                await asyncio.sleep(0)  # others sent to it, or it was taken up, just now

    async def _send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes, connection: Any
    ) -> bool:
        kind, payload, most = encode(message)
        told = await connection.fetchrow(
            statements.SEND,
            *(run_id, ASLEEP, kind, payload, most),
            *(key.caller, key.method, key.request_id, key.body, reply),
            self._lease.replica_id,
        )
        return told is not None

    async def _store(
        self, tx: Transaction, run_id: str, status: InboxStatus, message: Message
    ) -> None:
        """Of one that sleeps; from its being woken on, nobody else sends to it."""
        if not (status.suspended and await wake(tx, run_id)):
            raise _AwakeError
        await insert(tx, run_id, status, message)
        await tx.fetch("SELECT pg_notify(?, '')", statements.WAITING)


class PostgresRunStore(RunStore):
    def __init__(self, database: Database, lease: Lease, writer: PostgresWriter) -> None:
        super().__init__(database, lease, writer)
        self.messages = PostgresMessages(database, lease, writer)
        self._writer = writer

    async def claim(self, limit: int) -> list[StoredRun]:
        lease = self.lease

        async def take(connection: Any) -> list[tuple[str, int, bool]]:
            executor, incarnation = lease.replica_id, lease.incarnation
            rows = await connection.fetch(statements.CLAIM, executor, incarnation, limit)
            return [(id, epoch, suspended) for id, epoch, suspended in rows]

        taken = {id: (epoch, suspended) for id, epoch, suspended in await self._writer.alone(take)}
        if not taken:
            return []
        claimed: list[StoredRun] = []
        for id, found in await self._database.read(partial(load_runs, run_ids=list(taken))):
            epoch, suspended = taken[id]
            if isinstance(found, FailedPrecondition):
                await self._database.write(
                    partial(set_aside, run_id=id, epoch=epoch, reason=str(found))
                )
                continue
            # Not the epoch of the row as it is now: it may have been taken from us again.
            row = replace(found.row, epoch=epoch)
            claimed.append(replace(found, row=row, was_suspended=suspended))
        return claimed

    async def release_lost(self, held: Collection[str]) -> None:
        async def release(connection: Any) -> None:
            await connection.execute(statements.RELEASE_LOST, self.lease.replica_id, list(held))

        await self._writer.alone(release)

    async def renew(self) -> float:
        """Keep the lease; in how many seconds the first one of another executor ends."""
        return await self._writer.renew()

    async def take_over(self) -> ReleasedRuns:
        """Release the runs of every executor whose lease has ended."""

        async def take(connection: Any) -> ReleasedRuns:
            async with connection.transaction(isolation="read_committed"):
                dead = [
                    row[0] for row in await connection.fetch(leases.RETIRE, self.lease.replica_id)
                ]
                # What they committed before is visible to this statement, and nothing comes after.
                released = await connection.fetch(statements.RELEASE, dead) if dead else []
                if released:
                    await connection.execute(statements.TELL, statements.WAITING, "")
            ended = await connection.fetch(statements.ENDED_LATELY, dead, RECENT_US) if dead else []
            return ReleasedRuns(tuple(dead), len(released), tuple(row[0] for row in ended))

        return await self._writer.alone(take)

    async def retire(self) -> None:
        """Let others have at once what we leave behind."""
        lease = self.lease

        async def leave(connection: Any) -> None:
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(
                    leases.RETIRE_OURSELVES, lease.replica_id, lease.incarnation
                )
                await connection.execute(statements.RELEASE, [lease.replica_id])
                await connection.execute(leases.FORGET, [lease.replica_id])
                await connection.execute(statements.TELL, statements.WAITING, "")

        await self._writer.alone(leave)
