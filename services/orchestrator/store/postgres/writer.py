"""The group commit of a PostgreSQL store: one connection, and one statement per batch.

A commit waits for as long as the database does not answer. A batch whose answer was lost is sent
again with the same sequence numbers, so that it is written once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from mesh.data import lease as leases
from mesh.data.database import connection as connections
from mesh.data.database.postgres import CONNECTION_ERRORS, SCHEMA_LOCK
from mesh.errors import Reason, Unavailable
from services.orchestrator.store import commits
from services.orchestrator.store.commits import AppendCommit, rows_of
from services.orchestrator.store.group_commit import GroupCommit, fail
from services.orchestrator.store.postgres.statements import (
    RESUME_SUBSCRIBERS,
    SCHEMA,
    arguments,
    statement,
)
from services.orchestrator.store.run_store import FencedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from mesh.data.lease import Lease
    from services.orchestrator.store.commits import Rows
    from services.orchestrator.store.group_commit import CommitObserver, PendingCommit

T = TypeVar("T")

RECONNECT_DELAY_S, MAX_RECONNECT_DELAY_S = 0.05, 1.0

# One plan for every batch, by index and row by row. Plans are made while the tables may be small: a
# plan that scans a small journal would scan all of it with each commit once it is large.
PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

# A commit that violates a key of one of these came second, and was not applied.
CONFLICT_TABLES = ("idempotency_key", "message", "payment")

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Job:
    """Work between two commits, and its result."""

    work: Callable[[Any], Awaitable[Any]]
    done: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class PostgresWriter(GroupCommit):
    """Writes batches under a lease. Once the lease is lost, the worker drops all its runs."""

    def __init__(self, url: str, lease: Lease, worker: CommitObserver) -> None:
        super().__init__(worker)
        self._url = url
        self._lease = lease
        self._connection: Any = None
        self._jobs: deque[_Job] = deque()

    @property
    def pid(self) -> int:
        """The server process of the connection; 0 without one."""
        return self._connection.get_server_pid() if self._connection else 0

    async def open(self) -> None:
        """Creates the tables and indexes that only PostgreSQL has, and registers the lease.

        Raises Unavailable if the server does not answer.
        """

        async def begin(connection: Any) -> None:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", SCHEMA_LOCK)
                await connection.execute(leases.SCHEMA + SCHEMA)
            await register(connection, self._lease)

        await self.run(begin)

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Runs ``work`` on the connection, between two commits.

        Raises Unavailable if the server does not answer.
        """
        job = _Job(work)
        self._admit(self._jobs)
        self._jobs.append(job)
        result: T = await job.done
        return result

    async def renew(self) -> float:
        """Renews the lease and returns in how many seconds the first other lease ends."""
        return await self.run(self._renew)

    async def close(self) -> None:
        await super().close()
        if self._connection is not None:
            await self._connection.close()

    async def _between(self) -> None:
        while self._jobs:
            await self._run_job(self._jobs.popleft())
            if self._pending:
                return  # jobs and commits take turns

    async def _run_job(self, job: _Job) -> None:
        """Runs the job; an error is raised at its caller. An error boundary."""
        try:
            result = await job.work(await self._connected())
        except CONNECTION_ERRORS as error:
            self._disconnect()
            fail(job.done, _unavailable(error))
        except Exception as error:
            fail(job.done, connections.to_invalid_argument(error))
        else:
            if not job.done.done():
                job.done.set_result(result)

    async def _write(self, batch: list[PendingCommit]) -> None:
        delay_s = RECONNECT_DELAY_S
        while True:
            try:
                await self._commit(batch)
                return
            except (
                ValueError
            ):  # a value that asyncpg cannot send; its class is of CONNECTION_ERRORS as well
                raise
            except asyncpg.UniqueViolationError as error:
                if len(batch) > 1 or error.table_name not in CONFLICT_TABLES:
                    raise
                batch[0].complete(committed=False)
                return
            except CONNECTION_ERRORS as error:
                # The batch may have been committed. Sent again it then changes nothing, and the
                # callers read from the store that it was.
                self._disconnect()
                if self._closing:
                    raise _unavailable(error) from None
                log.warning("waiting for PostgreSQL to commit: %s", type(error).__name__)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, MAX_RECONNECT_DELAY_S)

    async def _commit(self, batch: list[PendingCommit]) -> None:
        connection = await self._connected()
        replica_id = self._lease.replica_id
        rows = rows_of([pending.commit for pending in batch], replica_id)
        held, committed = await self._execute(connection, rows, commits.emitted_keys(rows))
        if not held:
            await self._renew(connection)
            if self._lease.replica_id != replica_id:
                batch = _fence(batch)
            if batch:
                await self._commit(batch)
            return
        ids = set(committed)
        for pending in batch:
            pending.complete(committed=pending.commit.state.run_id in ids)

    async def _execute(
        self, connection: Any, rows: Rows, emitted: list[tuple[str, str]]
    ) -> tuple[bool, Sequence[str]]:
        """Returns whether the lease is held, and the runs that were updated or started."""
        lease = self._lease
        query = statement(rows), lease.replica_id, lease.incarnation, *arguments(rows)
        if not emitted:
            held, committed, _ = await connection.fetchrow(*query)
            return held, committed
        resumed = 0
        async with connection.transaction(isolation="read_committed"):
            held, committed, _ = await connection.fetchrow(*query)
            if committed:
                keys = zip(*emitted, strict=True)
                resumed, _ = await connection.fetchrow(RESUME_SUBSCRIBERS, *keys)
        if resumed:
            self._worker.notify_claimable()
        return held, committed

    async def _renew(self, connection: Any) -> float:
        """Renews the lease; if another replica took it over, registers a new one."""
        lease = self._lease
        asked_at = lease.now()
        renewed, others_end_in, store_now = await connection.fetchrow(
            leases.RENEW, lease.replica_id, lease.incarnation, lease.seconds
        )
        if not renewed:
            log.warning("the lease of replica %s was taken over", lease.replica_id)
            lease.reacquire()
            self._pending = deque(_fence(self._pending))
            self._worker.drop_all_runs()
            await register(connection, lease)
            return 0.0
        lease.renew(asked_at, store_now)
        return float("inf") if others_end_in is None else float(others_end_in)

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url, self._lease)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def connect(url: str, lease: Lease) -> Any:
    """Returns a connection whose idle transactions block others for at most a lease."""
    idle_timeout_ms = f"{int(lease.seconds * 1000)}"
    return await connections.connect(
        url,
        timeout=lease.seconds,
        command_timeout=lease.seconds,
        server_settings={
            "idle_in_transaction_session_timeout": idle_timeout_ms,
            **PLANS,
        },
    )


async def register(connection: Any, lease: Lease) -> None:
    """Inserts the lease under its present replica id."""
    asked_at = lease.now()
    store_now = await connection.fetchval(leases.REGISTER, lease.replica_id, lease.seconds)
    lease.renew(asked_at, store_now)


def _fence(batch: Iterable[PendingCommit]) -> list[PendingCommit]:
    """Fails the commits to runs that were owned under the lost lease, and returns the others."""
    left = []
    for pending in batch:
        if isinstance(pending.commit, AppendCommit):
            pending.fail(FencedError(pending.commit.state.run_id))
        else:
            left.append(pending)
    return left


def _unavailable(error: BaseException) -> Unavailable:
    kind = type(error.__cause__ or error).__name__
    return Unavailable(
        f"the store does not answer ({kind}); check PostgreSQL, then retry",
        reason=Reason.STORE_UNAVAILABLE,
    )
