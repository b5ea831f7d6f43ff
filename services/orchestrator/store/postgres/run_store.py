"""The run store of replicas that share a PostgreSQL database."""

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
from services.orchestrator.store.run_store import RunStore, set_aside
from services.orchestrator.store.stored_run import StoredRun, load_runs
from services.orchestrator.store.suspension import resume
from services.orchestrator.worker.run_spans import RECENT_US

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from mesh.data.lease import Lease
    from services.orchestrator.store.messages import InboxStatus, Message
    from services.orchestrator.store.postgres.writer import PostgresWriter


@dataclass(frozen=True, slots=True)
class ReleasedRuns:
    """The runs of replicas whose lease had ended."""

    replicas: tuple[str, ...]
    released: int  # runs that now wait for a claim
    ended: tuple[str, ...]  # runs that these replicas finished shortly before


class _AwakeError(Exception):
    """The run is not suspended: a message to it must not lock the whole store."""


class PostgresMessages(Messages):
    """Stores a message to a run that is not suspended in one statement, which locks only that run.

    Whatever that statement does not store goes through ``Messages.send``, which locks the store.
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
                if await self._writer.run(partial(self._send, key, run_id, message, reply)):
                    return SendResult(reply, claimable=False)
            except asyncpg.UniqueViolationError:
                pass  # the key was used for another run at the same moment
            try:
                return await super().send(key, run_id, message, reply)
            except _AwakeError:
                # Another message was stored, or the run was claimed, between the two attempts.
                await asyncio.sleep(0)

    async def _send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes, connection: Any
    ) -> bool:
        kind, payload, most = encode(message)
        row = await connection.fetchrow(
            statements.SEND,
            *(run_id, kind, payload, most),
            *(key.caller, key.method, key.request_id, key.body, reply),
            self._lease.replica_id,
        )
        return row is not None

    async def _store(
        self, tx: Transaction, run_id: str, status: InboxStatus, message: Message
    ) -> None:
        """Stores a message to a suspended run. Resuming it first locks out other senders."""
        if not (status.suspended and await resume(tx, run_id)):
            raise _AwakeError
        await insert(tx, run_id, status, message)
        await tx.fetch("SELECT pg_notify(?, '')", statements.RUN_CLAIMABLE)


class PostgresRunStore(RunStore):
    """Runs of one replica, which owns them under its lease."""

    def __init__(self, database: Database, lease: Lease, writer: PostgresWriter) -> None:
        super().__init__(database, lease, writer)
        self.messages = PostgresMessages(database, lease, writer)
        self._writer = writer

    async def claim(self, limit: int) -> list[StoredRun]:
        lease = self.lease

        async def take(connection: Any) -> list[tuple[str, int, bool]]:
            rows = await connection.fetch(
                statements.CLAIM, lease.replica_id, lease.incarnation, limit
            )
            return [(id, epoch, suspended) for id, epoch, suspended in rows]

        taken = {id: (epoch, suspended) for id, epoch, suspended in await self._writer.run(take)}
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
            # The epoch of the claim: another replica may have taken the run over since.
            row = replace(found.row, epoch=epoch)
            claimed.append(replace(found, row=row, was_suspended=suspended))
        return claimed

    async def release_lost(self, held: Callable[[], Collection[str]]) -> None:
        async def release(connection: Any) -> None:
            await connection.execute(statements.RELEASE_LOST, self.lease.replica_id, list(held()))

        await self._writer.run(release)

    async def renew(self) -> float:
        """Renews the lease and returns in how many seconds the first other lease ends."""
        return await self._writer.renew()

    async def take_over(self) -> ReleasedRuns:
        """Releases the runs of every replica whose lease has ended."""

        async def take(connection: Any) -> ReleasedRuns:
            async with connection.transaction(isolation="read_committed"):
                dead = [
                    row[0] for row in await connection.fetch(leases.RETIRE, self.lease.replica_id)
                ]
                # This statement sees all that they committed, and they commit nothing after it.
                released = await connection.fetch(statements.RELEASE, dead) if dead else []
                if released:
                    await connection.execute(statements.NOTIFY, statements.RUN_CLAIMABLE, "")
            ended = (
                await connection.fetch(statements.ENDED_RECENTLY, dead, RECENT_US) if dead else []
            )
            return ReleasedRuns(tuple(dead), len(released), tuple(row[0] for row in ended))

        return await self._writer.run(take)

    async def retire(self) -> None:
        """Gives up the lease, so that other replicas can claim its runs at once."""
        lease = self.lease

        async def leave(connection: Any) -> None:
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(leases.RETIRE_SELF, lease.replica_id, lease.incarnation)
                await connection.execute(statements.RELEASE, [lease.replica_id])
                await connection.execute(leases.FORGET, [lease.replica_id])
                await connection.execute(statements.NOTIFY, statements.RUN_CLAIMABLE, "")

        await self._writer.run(leave)
