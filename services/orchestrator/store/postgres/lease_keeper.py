"""Renews the lease of this replica and takes over the runs of replicas whose lease has ended."""

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
    from services.orchestrator.store.callbacks import WorkerCallbacks
    from services.orchestrator.store.postgres.run_store import PostgresRunStore
    from services.orchestrator.store.postgres.writer import PostgresWriter

POLL_INTERVAL_S = 1.0  # also between claims of the worker, as notifications may be lost
TAKEOVER_DELAY_S = 0.02  # after the end of a lease, when it has ended by the server's clock too

log = logging.getLogger(__name__)


@asynccontextmanager
async def keep_lease(
    url: str,
    writer: PostgresWriter,
    runs: PostgresRunStore,
    worker: WorkerCallbacks,
    notifier: RunNotifier,
) -> AsyncIterator[None]:
    """Keeps the lease for the duration of the block, then gives it up at once."""
    async with listening(url, runs.lease, writer, notifier, worker):
        task = asyncio.create_task(_keep_forever(runs, worker), name="keep lease")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                await runs.retire()
            except MeshError as error:
                log.warning("other replicas take over when the lease ends: %s", error)


async def _keep_forever(runs: PostgresRunStore, worker: WorkerCallbacks) -> None:
    while True:
        delay_s = POLL_INTERVAL_S
        try:
            others_end_in = await runs.renew()
            if others_end_in <= 0:
                await _take_over(runs, worker)
            else:
                delay_s = others_end_in + TAKEOVER_DELAY_S
        except (MeshError, asyncpg.PostgresError) as error:
            log.warning("cannot keep the lease: %s", error)
        worker.notify_claimable()
        await asyncio.sleep(min(delay_s, runs.lease.seconds / 3, POLL_INTERVAL_S))


async def _take_over(runs: PostgresRunStore, worker: WorkerCallbacks) -> None:
    taken = await runs.take_over()
    if taken.replicas:
        log.info("released %d runs of %s", taken.released, ", ".join(taken.replicas))
    for run_id in taken.ended:
        with suppress(FailedPrecondition):
            worker.re_export_spans([await runs.load(run_id)])
