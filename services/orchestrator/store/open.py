"""Opens the journal: a SQLite file for one process, or PostgreSQL for several."""

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
from services.orchestrator.store.definitions import Definitions
from services.orchestrator.store.sqlite.run_store import SqliteRunStore
from services.orchestrator.store.sqlite.writer import SqliteWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mesh.data.database import Database
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.store.run_store import RunStore, WorkerCallbacks


@dataclass(frozen=True, slots=True)
class OrchestratorStore:
    database: Database
    definitions: Definitions
    runs: RunStore
    # Own runs for the duration of the block: the driver must be done when it ends.
    own: Callable[[WorkerCallbacks, RunNotifier], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def open_store(
    location: str, *, lease_seconds: float = 5.0
) -> AsyncIterator[OrchestratorStore]:
    """The journal at a path or ``postgresql://`` URL.

    FailedPrecondition if another process has the file.
    """
    if is_server(location):
        async with _open_postgres(location, Lease(lease_seconds)) as store:
            yield store
    else:
        with sole_owner(Path(location)):
            async with open_database(location, schema=SCHEMA) as database:
                lease = Lease.permanent()
                writer = SqliteWriter(database, lease.replica_id)
                try:
                    runs = SqliteRunStore(database, lease, writer)
                    await runs.release_all()
                    yield OrchestratorStore(
                        database, Definitions(database), runs, partial(_own_sqlite, writer, runs)
                    )
                finally:
                    await asyncio.shield(writer.close())


@asynccontextmanager
async def _own_sqlite(
    writer: SqliteWriter, runs: SqliteRunStore, driver: WorkerCallbacks, changes: RunNotifier
) -> AsyncIterator[None]:
    writer.on_woken = driver.notify_claimable
    driver.re_export_spans(await runs.finished_recently())
    yield
    with suppress(Unavailable, ResourceExhausted):
        await runs.finished_recently()  # drawn, and sent before this process ends


@asynccontextmanager
async def _open_postgres(url: str, lease: Lease) -> AsyncIterator[OrchestratorStore]:
    # asyncpg is an extra
    from services.orchestrator.store.postgres.lease_keeper import keep_lease
    from services.orchestrator.store.postgres.run_store import PostgresRunStore
    from services.orchestrator.store.postgres.writer import PostgresWriter

    async with open_database(url, schema=SCHEMA) as database:
        writer = PostgresWriter(url, lease)
        try:
            await writer.open()
            runs = PostgresRunStore(database, lease, writer)
            own = partial(keep_lease, url, writer, runs)
            yield OrchestratorStore(database, Definitions(database), runs, own)
        finally:
            await asyncio.shield(writer.close())
