"""The writer of a process: what all its runs want to commit goes to PostgreSQL together.

One connection and one statement at a time. Who waits for a commit waits for as long as the database
is away: what was not answered was not lost, and is sent again under the same sequence numbers.
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
from mesh.data.database.postgres import LOST, SCHEMA_LOCK
from mesh.errors import Reason, Unavailable
from services.orchestrator.store import commits
from services.orchestrator.store.commits import AppendCommit, rows_of
from services.orchestrator.store.group_commit import GroupCommit, fail
from services.orchestrator.store.postgres.statements import SCHEMA, WAKE, arguments, statement
from services.orchestrator.store.run_store import FencedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from mesh.data.lease import Lease
    from services.orchestrator.store.commits import Rows
    from services.orchestrator.store.group_commit import PendingCommit

T = TypeVar("T")

BACKOFF, BACKOFF_MOST = 0.05, 1.0  # seconds between tries to reach a server that is away

# One plan for every batch, made while the tables may still be small: by index, row by row. A plan
# that scans what was small reads the whole journal with each commit once it is not.
PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

# Who comes second to a row of these has not landed.
FIRST_COME = ("inbox", "message", "payment")

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _SingleStatement:
    work: Callable[[Any], Awaitable[Any]]
    done: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class PostgresWriter(GroupCommit):
    """``on_lost`` is called when the lease was: nothing that was ours is."""

    def __init__(self, url: str, lease: Lease) -> None:
        super().__init__()
        self.on_lost: Callable[[], None] = lambda: None
        self._url = url
        self._lease = lease
        self._connection: Any = None
        self._alone: deque[_SingleStatement] = deque()

    @property
    def pid(self) -> int:
        """The process of the server that serves us; 0 while there is none."""
        return self._connection.get_server_pid() if self._connection else 0

    async def open(self) -> None:
        """Begin to hold the lease. Unavailable."""

        async def begin(connection: Any) -> None:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", SCHEMA_LOCK)
                await connection.execute(leases.SCHEMA + SCHEMA)
            await register(connection, self._lease)

        await self.alone(begin)

    async def alone(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run ``work`` on the connection, between two commits. Unavailable if it is away."""
        alone = _SingleStatement(work)
        self._admit(self._alone)
        self._alone.append(alone)
        done: T = await alone.done
        return done

    async def renew(self) -> float:
        """Renew the lease; in how many seconds the first one of another executor ends."""
        return await self.alone(self._renew)

    async def close(self) -> None:
        await super().close()
        if self._connection is not None:
            await self._connection.close()

    async def _between(self) -> None:
        while self._alone:
            await self._run(self._alone.popleft())
            if self._pending:
                return  # in turn

    async def _run(self, job: _SingleStatement) -> None:
        """The boundary of this connection: what goes wrong is told to who asked."""
        try:
            outcome = await job.work(await self._connected())
        except LOST as error:
            self._disconnect()
            fail(job.done, _unavailable(error))
        except Exception as error:
            fail(job.done, connections.unfit(error))
        else:
            if not job.done.done():
                job.done.set_result(outcome)

    async def _land(self, batch: list[PendingCommit]) -> None:
        pause = BACKOFF
        while True:
            try:
                await self._commit(batch)
                return
            except ValueError:  # asyncpg's for what it cannot send is of LOST as well
                raise
            except asyncpg.UniqueViolationError as error:
                if len(batch) > 1 or error.table_name not in FIRST_COME:
                    raise
                batch[0].complete(committed=False)
                return
            except LOST as error:
                # It may have landed. Sent again, it finds that, and who asked reads it back.
                self._disconnect()
                if self._closing:
                    raise _unavailable(error) from None
                log.warning("the journal waits for PostgreSQL: %s", type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_MOST)

    async def _commit(self, batch: list[PendingCommit]) -> None:
        connection = await self._connected()
        executor = self._lease.replica_id
        rows = rows_of([pending.commit for pending in batch], executor)
        held, landed = await self._execute(connection, rows, commits.emitted_keys(rows))
        if not held:
            await self._renew(connection)
            if self._lease.replica_id != executor:
                batch = _refuse(batch)
            if batch:
                await self._commit(batch)
            return
        ids = set(landed)
        for pending in batch:
            pending.complete(committed=pending.commit.state.run_id in ids)

    async def _execute(
        self, connection: Any, rows: Rows, told: list[tuple[str, str]]
    ) -> tuple[bool, Sequence[str]]:
        """Whether we hold our lease, and the runs that were moved or started."""
        lease = self._lease
        asked = statement(rows), lease.replica_id, lease.incarnation, *arguments(rows)
        if not told:
            held, landed, _ = await connection.fetchrow(*asked)
            return held, landed
        woken = 0
        async with connection.transaction(isolation="read_committed"):
            held, landed, _ = await connection.fetchrow(*asked)
            if landed:
                woken, _ = await connection.fetchrow(WAKE, *zip(*told, strict=True))
        if woken:
            self.on_woken()
        return held, landed

    async def _renew(self, connection: Any) -> float:
        """Renew the lease, or begin anew without anything if it was taken."""
        lease = self._lease
        asked_at = lease.now()
        renewed, others_end_in, store_now = await connection.fetchrow(
            leases.RENEW, lease.replica_id, lease.incarnation, lease.seconds
        )
        if not renewed:
            log.warning("the lease of executor %s was taken over", lease.replica_id)
            lease.reacquire()
            self._pending = deque(_refuse(self._pending))
            self.on_lost()
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
    """A connection that never keeps others waiting for longer than a lease."""
    patience = f"{int(lease.seconds * 1000)}"
    return await connections.connect(
        url,
        timeout=lease.seconds,
        command_timeout=lease.seconds,
        server_settings={
            "idle_in_transaction_session_timeout": patience,
            **PLANS,
        },
    )


async def register(connection: Any, lease: Lease) -> None:
    """Begin to hold the lease under its present id."""
    asked_at = lease.now()
    store_now = await connection.fetchval(leases.REGISTER, lease.replica_id, lease.seconds)
    lease.renew(asked_at, store_now)


def _refuse(batch: Iterable[PendingCommit]) -> list[PendingCommit]:
    """Nothing can be added any more to the runs that were ours; what starts others is left."""
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
        f"the journal does not answer ({kind}); check PostgreSQL, then retry",
        reason=Reason.STORE_UNAVAILABLE,
    )
