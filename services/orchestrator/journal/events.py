"""The events that runs emitted, in the order of their commits: each is a row of the outbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from services.orchestrator.engine.events import Heard

if TYPE_CHECKING:
    from collections.abc import Collection

    from mesh.database import Database, Transaction

MOST = 500  # read at once, of each type


class Events:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def last(self) -> int:
        """Position of whatever the store announced last: events emitted from now on are behind."""

        async def work(tx: Transaction) -> int:
            return await _last(tx)

        return await self._database.read(work)

    async def after(self, position: int, types: Collection[str]) -> tuple[list[Heard], int]:
        """Events of these types behind a position, in order, and up to where these are all."""

        async def work(tx: Transaction) -> tuple[list[Heard], int]:
            upto = await _last(tx)
            found: list[Heard] = []
            for type in sorted(types):
                rows = await tx.fetch(
                    "SELECT event.sequence, subject, data, run, emitted FROM event"
                    " JOIN outbox ON outbox.sequence = event.sequence"
                    " WHERE event.type = ? AND event.sequence > ?"
                    " ORDER BY event.sequence LIMIT ?",
                    type,
                    position,
                    MOST,
                )
                if len(rows) == MOST:
                    upto = min(upto, rows[-1][0])
                found += [
                    Heard(type, subject, json.loads(bytes(data)), sequence, run, emitted)
                    for sequence, subject, data, run, emitted in rows
                ]
            found.sort(key=lambda heard: heard.position)
            return [heard for heard in found if heard.position <= upto], upto

        return await self._database.read(work)


async def _last(tx: Transaction) -> int:
    row = await tx.fetch_one("SELECT sequence FROM store")
    assert row is not None  # noqa: S101  (every store has its row)
    return int(row[0])
