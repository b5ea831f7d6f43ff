"""Hears from PostgreSQL which runs moved, whichever process moved them. Only hints, some lost."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh.data.database.postgres import LOST
from services.orchestrator.store.messages import decode
from services.orchestrator.store.postgres.statements import EVENT, MAIL, MOVED, WAITING
from services.orchestrator.store.postgres.writer import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.data.lease import Lease
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.store.messages import Message
    from services.orchestrator.store.postgres.writer import PostgresWriter
    from services.orchestrator.store.run_store import WorkerCallbacks

PAUSE = 0.2  # seconds between two tries to reach the server

log = logging.getLogger(__name__)


@asynccontextmanager
async def listening(
    url: str, lease: Lease, writer: PostgresWriter, changes: RunNotifier, driver: WorkerCallbacks
) -> AsyncIterator[None]:
    """Pass on what is heard for the duration of the block."""

    def hear(_: Any, pid: int, channel: str, message: str) -> None:
        if pid == writer.pid:
            return  # our own runs wake whom they must themselves
        if channel == MAIL:
            run_id, sender, *sent = message.split(" ", 4)
            if sender != lease.replica_id:  # who sent it here tells here
                driver.notify_message(run_id, _read(*sent) if sent else None)
            return
        if channel == EVENT:
            driver.notify_events()
        if channel == WAITING:
            driver.notify_claimable()
        for run_id in message.split():
            changes.notify(run_id)

    async def listen_forever() -> None:
        while True:
            try:
                connection = await connect(url, lease)
            except LOST:
                await asyncio.sleep(PAUSE)
                continue
            ended = asyncio.Event()
            connection.add_termination_listener(partial(_set, ended))
            try:
                for channel in (MOVED, WAITING, MAIL, EVENT):
                    await connection.add_listener(channel, hear)
                # What was told while nobody listened.
                changes.notify_all()
                driver.notify_claimable()
                driver.notify_events()
                await ended.wait()
                log.warning("PostgreSQL ended the connection that we listen on")
            except LOST:
                await asyncio.sleep(PAUSE)
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
