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

from mesh import lease as leases
from mesh.database.postgres import SCHEMA_LOCK
from mesh.errors import Reason, ResourceExhausted, Unavailable
from services.orchestrator.journal.commits import Append, Start, arguments
from services.orchestrator.journal.runs import Fenced
from services.orchestrator.journal.statements import COMMIT, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from mesh.lease import Lease
    from services.orchestrator.journal.commits import Commit

T = TypeVar("T")

MAX_BATCH = 512
MAX_WAITING = 4096
BACKOFF, BACKOFF_MOST = 0.05, 1.0  # seconds between tries to reach a server that is away

# One plan for every batch, made while the tables may still be small: by index, row by row. A plan
# that scans what was small reads the whole journal with each commit once it is not.
PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
)

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    commit: Commit
    landed: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(slots=True, eq=False)
class _Alone:
    work: Callable[[Any], Awaitable[Any]]
    done: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Writer:
    """``on_lost`` is called when the lease was: nothing that was ours is."""

    def __init__(self, url: str, lease: Lease) -> None:
        self.on_lost: Callable[[], None] = lambda: None
        self._url = url
        self._lease = lease
        self._connection: Any = None
        self._waiting: deque[_Waiting | _Alone] = deque()
        self._something = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._write_forever(), name="write journal")

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

    async def commit(self, commit: Commit) -> bool:
        """True once it is durable; False if it did not apply.

        Fenced if the run is no longer ours; ResourceExhausted (NOT_ADMITTED) if too many wait.
        """
        waiting = _Waiting(commit)
        self._put(waiting)
        return await waiting.landed

    async def alone(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run ``work`` on the connection, between two commits. Unavailable if it is away."""
        alone = _Alone(work)
        self._put(alone)
        done: T = await alone.done
        return done

    async def renew(self) -> float:
        """Renew the lease; in how many seconds the first one of another executor ends."""
        return await self.alone(self._renew)

    async def close(self) -> None:
        """End the connection, with everything that was accepted on its way or failed."""
        self._closing = True
        self._something.set()
        await self._task
        if self._connection is not None:
            await self._connection.close()

    def _put(self, job: _Waiting | _Alone) -> None:
        if len(self._waiting) >= MAX_WAITING or self._closing:
            raise ResourceExhausted(
                "too many writes are waiting; retry later", reason=Reason.NOT_ADMITTED
            )
        self._waiting.append(job)
        self._something.set()

    async def _write_forever(self) -> None:
        while True:
            while self._waiting:
                if isinstance(job := self._waiting[0], _Alone):
                    self._waiting.popleft()
                    await self._run(job)
                else:
                    await self._commit_all(list(self._batch()))
            if self._closing:
                return
            self._something.clear()
            await self._something.wait()

    def _batch(self) -> Iterator[_Waiting]:
        """What can go together: of one run only one turn."""
        ids: set[str] = set()
        while self._waiting and len(ids) < MAX_BATCH:
            job = self._waiting[0]
            if isinstance(job, _Alone) or job.commit.state.run_id in ids:
                return
            ids.add(job.commit.state.run_id)
            self._waiting.popleft()
            yield job

    async def _run(self, job: _Alone) -> None:
        """The boundary of this connection: what goes wrong is told to who asked."""
        try:
            outcome = await job.work(await self._connected())
        except AWAY as error:
            self._disconnect()
            _settle(job.done, _unavailable(error))
        except Exception as error:
            _settle(job.done, error)
        else:
            if not job.done.done():
                job.done.set_result(outcome)

    async def _commit_all(self, batch: list[_Waiting]) -> None:
        pause = BACKOFF
        while True:
            try:
                await self._commit(batch)
                return
            except ValueError as error:  # asyncpg's for what it cannot send is of AWAY as well
                await self._commit_each(batch, error)
                return
            except AWAY as error:
                # It may have landed. Sent again, it finds that, and who asked reads it back.
                self._disconnect()
                if self._closing:
                    for waiting in batch:
                        _settle(waiting.landed, _unavailable(error))
                    return
                log.warning("the journal waits for PostgreSQL: %s", type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_MOST)
            except Exception as error:
                await self._commit_each(batch, error)
                return

    async def _commit_each(self, batch: list[_Waiting], error: Exception) -> None:
        """What one of them holds cannot be stored: find it, and store the others."""
        if len(batch) == 1:
            _settle(batch[0].landed, error)
            return
        for waiting in batch:
            await self._commit_all([waiting])

    async def _commit(self, batch: list[_Waiting]) -> None:
        connection = await self._connected()
        executor = self._lease.executor
        commits = [waiting.commit for waiting in batch]
        held, landed, _ = await connection.fetchrow(
            COMMIT, executor, self._lease.incarnation, *arguments(commits, executor)
        )
        if not held:
            await self._renew(connection)
            if self._lease.executor != executor:
                self._refuse([waiting for waiting in batch if isinstance(waiting.commit, Append)])
                batch = [waiting for waiting in batch if isinstance(waiting.commit, Start)]
            if batch:
                await self._commit(batch)
            return
        ids = set(landed)
        for waiting in batch:
            if not waiting.landed.done():
                waiting.landed.set_result(waiting.commit.state.run_id in ids)

    async def _renew(self, connection: Any) -> float:
        """Renew the lease, or begin anew without anything if it was taken."""
        lease = self._lease
        asked_at = lease.now()
        renewed, others_end_in = await connection.fetchrow(
            leases.RENEW, lease.executor, lease.incarnation, lease.seconds
        )
        if not renewed:
            log.warning("the lease of executor %s was taken over", lease.executor)
            lease.begin_anew()
            self._refuse([job for job in self._waiting if _is_append(job)])
            self.on_lost()
            await register(connection, lease)
            return 0.0
        lease.renew(asked_at)
        return float("inf") if others_end_in is None else float(others_end_in)

    def _refuse(self, fenced: Sequence[Any]) -> None:
        for waiting in fenced:
            _settle(waiting.landed, Fenced(waiting.commit.state.run_id))
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await connect(self._url, self._lease)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def connect(url: str, lease: Lease) -> Any:
    """A connection that never keeps others waiting for longer than a lease."""
    patience = f"{int(lease.seconds * 1000)}"
    return await asyncpg.connect(
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
    await connection.execute(leases.REGISTER, lease.executor, lease.seconds)
    lease.renew(asked_at)


def _is_append(job: _Waiting | _Alone) -> bool:
    return isinstance(job, _Waiting) and isinstance(job.commit, Append)


def _settle(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # who asked may be gone


def _unavailable(error: BaseException) -> Unavailable:
    return Unavailable(
        f"the journal does not answer ({type(error).__name__}); check PostgreSQL, then retry",
        reason=Reason.STORE_UNAVAILABLE,
    )
