"""Receives PostgreSQL notifications of other replicas' commits. They are hints: some are lost."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh.data.database.postgres import CONNECTION_ERRORS
from services.orchestrator.store.messages import decode
from services.orchestrator.store.postgres.statements import (
    EVENT,
    RUN_CLAIMABLE,
    RUN_MESSAGE,
    RUN_UPDATED,
)
from services.orchestrator.store.postgres.writer import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.data.lease import Lease
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.store.callbacks import WorkerCallbacks
    from services.orchestrator.store.messages import Message
    from services.orchestrator.store.postgres.writer import PostgresWriter

RECONNECT_DELAY_S = 0.2

log = logging.getLogger(__name__)


@asynccontextmanager
async def listening(
    url: str,
    lease: Lease,
    writer: PostgresWriter,
    notifier: RunNotifier,
    worker: WorkerCallbacks,
) -> AsyncIterator[None]:
    """Passes notifications on to the worker and to watches for the duration of the block."""

    def receive(_: Any, pid: int, channel: str, payload: str) -> None:
        if pid == writer.pid:
            return  # this process has notified its own worker already
        if channel == RUN_MESSAGE:
            run_id, sender, *message = payload.split(" ", 4)
            if sender != lease.replica_id:  # the inbox of this process has notified the run
                worker.notify_message(run_id, _read(*message) if message else None)
            return
        if channel == EVENT:
            worker.notify_events()
        if channel == RUN_CLAIMABLE:
            worker.notify_claimable()
        for run_id in payload.split():
            notifier.notify(run_id)

    async def listen_forever() -> None:
        while True:
            try:
                connection = await connect(url, lease)
            except CONNECTION_ERRORS:
                await asyncio.sleep(RECONNECT_DELAY_S)
                continue
            ended = asyncio.Event()
            connection.add_termination_listener(partial(_set, ended))
            try:
                for channel in (RUN_UPDATED, RUN_CLAIMABLE, RUN_MESSAGE, EVENT):
                    await connection.add_listener(channel, receive)
                # Notifications before this moment were missed: everything is read again.
                notifier.notify_all()
                worker.notify_claimable()
                worker.notify_events()
                await ended.wait()
                log.warning("PostgreSQL closed the connection that receives notifications")
            except CONNECTION_ERRORS:
                await asyncio.sleep(RECONNECT_DELAY_S)
            finally:
                connection.terminate()

    task = asyncio.create_task(listen_forever(), name="listen")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _read(position: str, kind: str, payload: str) -> Message:
    return decode(int(position), kind, payload.encode())


def _set(ended: asyncio.Event, _: Any) -> None:
    ended.set()
