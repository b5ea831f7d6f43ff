"""Keeps the lease under which this process drives runs, and takes over what others left."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg

from mesh.errors import FailedPrecondition, MeshError
from services.orchestrator.store.postgres.listener import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.store.postgres.run_store import PostgresRunStore
    from services.orchestrator.store.postgres.writer import PostgresWriter
    from services.orchestrator.store.run_store import WorkerCallbacks

LOOK_AGAIN = 1.0  # seconds: nobody has to be told that a run waits
AFTER_THE_END = 0.02  # seconds: at the end of a lease it is not over yet

log = logging.getLogger(__name__)


@asynccontextmanager
async def keep_lease(
    url: str,
    writer: PostgresWriter,
    runs: PostgresRunStore,
    driver: WorkerCallbacks,
    changes: RunNotifier,
) -> AsyncIterator[None]:
    """Renew, and look for what others left, for the duration of the block; then leave at once."""
    writer.on_lost, writer.on_woken = driver.drop_all_runs, driver.notify_claimable
    async with listening(url, runs.lease, writer, changes, driver):
        task = asyncio.create_task(_own_forever(runs, driver), name="own")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                await runs.retire()
            except MeshError as error:
                log.warning("others take over when our lease ends: %s", error)


async def _own_forever(runs: PostgresRunStore, driver: WorkerCallbacks) -> None:
    while True:
        soonest = LOOK_AGAIN
        try:
            others_end_in = await runs.renew()
            if others_end_in <= 0:
                await _take_over(runs, driver)
            else:
                soonest = others_end_in + AFTER_THE_END
        except (MeshError, asyncpg.PostgresError) as error:
            log.warning("cannot keep the lease: %s", error)
        driver.notify_claimable()
        await asyncio.sleep(min(soonest, runs.lease.seconds / 3, LOOK_AGAIN))


async def _take_over(runs: PostgresRunStore, driver: WorkerCallbacks) -> None:
    taken = await runs.take_over()
    if taken.executors:
        log.info("released %d runs of %s", taken.released, ", ".join(taken.executors))
    for run_id in taken.ended:
        with suppress(FailedPrecondition):
            driver.re_export_spans([await runs.load(run_id)])
