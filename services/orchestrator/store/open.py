"""Opens the orchestrator's store: a SQLite file for one process, or PostgreSQL for several."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.data.database import is_server, open_database
from mesh.data.lease import Lease, sole_owner
from mesh.errors import ResourceExhausted, Unavailable
from services.orchestrator.store import SCHEMA
from services.orchestrator.store.callbacks import AttachedWorker
from services.orchestrator.store.definitions import Definitions
from services.orchestrator.store.sqlite.run_store import SqliteRunStore
from services.orchestrator.store.sqlite.writer import SqliteWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mesh.data.database import Database
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.store.callbacks import WorkerCallbacks
    from services.orchestrator.store.run_store import RunStore


@dataclass(frozen=True, slots=True)
class OrchestratorStore:
    """An open store.

    ``own`` attaches a worker for the duration of a block: it may claim and own runs. The worker
    must have stopped all of them when the block ends.
    """

    database: Database
    definitions: Definitions
    runs: RunStore
    own: Callable[[WorkerCallbacks, RunNotifier], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def open_store(
    location: str, *, lease_seconds: float = 5.0
) -> AsyncIterator[OrchestratorStore]:
    """Opens the store at a path or a ``postgresql://`` URL for the duration of the block.

    Raises FailedPrecondition if another process has the file, or if the store is of another
    version.
    """
    if is_server(location):
        async with _open_postgres(location, Lease(lease_seconds)) as store:
            yield store
    else:
        with sole_owner(Path(location)):
            async with open_database(location, schema=SCHEMA) as database:
                lease, attached = Lease.permanent(), AttachedWorker()
                writer = SqliteWriter(database, lease.replica_id, attached)
                try:
                    runs = SqliteRunStore(database, lease, writer)
                    await runs.release_all()
                    own = partial(_own_sqlite, attached, runs)
                    yield OrchestratorStore(database, Definitions(database), runs, own)
                finally:
                    await asyncio.shield(writer.close())


@asynccontextmanager
async def _own_sqlite(
    attached: AttachedWorker, runs: SqliteRunStore, worker: WorkerCallbacks, notifier: RunNotifier
) -> AsyncIterator[None]:
    with attached.attach(worker):
        worker.re_export_spans(await runs.finished_recently())
        yield
        with suppress(Unavailable, ResourceExhausted):
            # Their spans are exported before this process ends, so the next one skips them.
            await runs.finished_recently()


@asynccontextmanager
async def _open_postgres(url: str, lease: Lease) -> AsyncIterator[OrchestratorStore]:
    # asyncpg is an optional dependency
    from services.orchestrator.store.postgres.lease_keeper import keep_lease
    from services.orchestrator.store.postgres.run_store import PostgresRunStore
    from services.orchestrator.store.postgres.writer import PostgresWriter

    attached = AttachedWorker()
    async with open_database(url, schema=SCHEMA) as database:
        writer = PostgresWriter(url, lease, attached)

        @asynccontextmanager
        async def own(worker: WorkerCallbacks, notifier: RunNotifier) -> AsyncIterator[None]:
            with attached.attach(worker):
                async with keep_lease(url, writer, runs, worker, notifier):
                    yield

        try:
            await writer.open()
            runs = PostgresRunStore(database, lease, writer)
            yield OrchestratorStore(database, Definitions(database), runs, own)
        finally:
            await asyncio.shield(writer.close())
