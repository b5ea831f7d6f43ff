"""Opens the journal: a SQLite file for one process, or PostgreSQL for several."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.database import is_server, open_database
from mesh.errors import ResourceExhausted, Unavailable
from mesh.lease import Lease, eternal, sole_owner
from services.orchestrator.journal import SCHEMA
from services.orchestrator.journal.definitions import Definitions
from services.orchestrator.journal.local import LocalRuns
from services.orchestrator.journal.local_writer import LocalWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mesh.database import Database
    from services.orchestrator.changes import Changes
    from services.orchestrator.journal.runs import Driver, Runs


@dataclass(frozen=True, slots=True)
class Journal:
    database: Database
    definitions: Definitions
    runs: Runs
    # Own runs for the duration of the block: the driver must be done when it ends.
    own: Callable[[Driver, Changes], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def open_journal(location: str, *, lease_seconds: float = 5.0) -> AsyncIterator[Journal]:
    """The journal at a path or ``postgresql://`` URL.

    FailedPrecondition if another process has the file.
    """
    if is_server(location):
        async with _open_shared(location, Lease(lease_seconds)) as journal:
            yield journal
    else:
        with sole_owner(Path(location)):
            async with open_database(location, schema=SCHEMA) as database:
                lease = eternal()
                writer = LocalWriter(database, lease.executor)
                try:
                    runs = LocalRuns(database, lease, writer)
                    await runs.release_all()
                    yield Journal(
                        database, Definitions(database), runs, partial(_own_alone, writer, runs)
                    )
                finally:
                    await asyncio.shield(writer.close())


@asynccontextmanager
async def _own_alone(
    writer: LocalWriter, runs: LocalRuns, driver: Driver, changes: Changes
) -> AsyncIterator[None]:
    writer.on_woken = driver.claim_soon
    driver.redraw(await runs.finished_lately())
    yield
    with suppress(Unavailable, ResourceExhausted):
        await runs.finished_lately()  # drawn, and sent before this process ends


@asynccontextmanager
async def _open_shared(url: str, lease: Lease) -> AsyncIterator[Journal]:
    # asyncpg is an extra
    from services.orchestrator.journal.ownership import own_shared
    from services.orchestrator.journal.shared import SharedRuns
    from services.orchestrator.journal.writer import Writer

    async with open_database(url, schema=SCHEMA) as database:
        writer = Writer(url, lease)
        try:
            await writer.open()
            runs = SharedRuns(database, lease, writer)
            own = partial(own_shared, url, writer, runs)
            yield Journal(database, Definitions(database), runs, own)
        finally:
            await asyncio.shield(writer.close())
