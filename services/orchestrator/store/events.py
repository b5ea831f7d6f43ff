"""The events that runs emitted, in the order of their commits: each is a row of the outbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mesh.data.database import sql
from services.orchestrator.engine.activations import EventReceived
from services.orchestrator.engine.erase import MARK, WORD
from services.orchestrator.engine.waits import ANY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from mesh.data.database import Database, Transaction, Value

ERASED = json.dumps(MARK).encode()  # in place of what an event carries
MOST = 500  # read at once, of each type and some of its subjects


class Events:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest_position(self) -> int:
        """Position of whatever the store announced last: events emitted from now on are behind."""

        async def work(tx: Transaction) -> int:
            return await _last(tx)

        return await self._database.read(work)

    async def read_after(
        self, position: int, wanted: Mapping[str, Collection[str]]
    ) -> tuple[list[EventReceived], int]:
        """Events behind a position, in order, and up to where these are all.

        Those of these types that are about these subjects, for each of them.
        """

        async def work(tx: Transaction) -> tuple[list[EventReceived], int]:
            upto = await _last(tx)
            found: list[EventReceived] = []
            for type, where, given in _stretches(position, wanted):
                rows = await tx.fetch(
                    "SELECT event.sequence, subject, data, run, emitted FROM event"  # noqa: S608
                    " JOIN outbox ON outbox.sequence = event.sequence"
                    f" WHERE {where} ORDER BY event.sequence LIMIT ?",
                    *given,
                    MOST,
                )
                if len(rows) == MOST:
                    upto = min(upto, rows[-1][0])
                found += [
                    EventReceived(type, subject, json.loads(bytes(data)), sequence, run, emitted)
                    for sequence, subject, data, run, emitted in rows
                ]
            found.sort(key=lambda heard: heard.position)
            return [heard for heard in found if heard.position <= upto], upto

        return await self._database.read(work)


async def any_event_after(
    tx: Transaction, position: int, wanted: Mapping[str, Collection[str]]
) -> bool:
    """Is there one of these types and subjects behind the position?"""
    for _, where, given in _stretches(position, wanted):
        if await tx.fetch_one(f"SELECT 1 FROM event WHERE {where} LIMIT 1", *given):  # noqa: S608
            return True
    return False


async def positions_emitted_by(
    tx: Transaction, run_id: str, *, after: int, limit: int
) -> list[int]:
    """Positions of some events of the run, in order, from behind ``after``."""
    rows = await tx.fetch(
        "SELECT sequence FROM event WHERE run = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        run_id,
        after,
        limit,
    )
    return [sequence for (sequence,) in rows]


async def erase_events(tx: Transaction, run_id: str, first: int, last: int) -> None:
    """Take out of events of the run, from one position to another, what is about people.

    What they carry, and what they are about, unless that is the run. That they were stays.
    """
    await tx.execute(
        "UPDATE outbox SET data = ?, key = CASE WHEN key = ? THEN key ELSE ? END WHERE sequence IN"
        " (SELECT sequence FROM event WHERE run = ? AND sequence BETWEEN ? AND ?)",
        ERASED,
        run_id,
        WORD,
        run_id,
        first,
        last,
    )
    await tx.execute(
        "UPDATE event SET subject = ? WHERE run = ? AND sequence BETWEEN ? AND ? AND subject <> ?",
        WORD,
        run_id,
        first,
        last,
        run_id,
    )


def _stretches(
    position: int, wanted: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str, list[Value]]]:
    """Of the events of each type those that are asked for: a condition, and its arguments."""
    where = "event.type = ? AND event.sequence > ?"
    for type in sorted(wanted):
        if ANY in wanted[type]:
            yield type, where, [type, position]
            continue
        for listed, subjects in sql.in_list(sorted(wanted[type])):
            yield type, f"{where} AND event.subject IN {listed}", [type, position, *subjects]


async def _last(tx: Transaction) -> int:
    row = await tx.fetch_one("SELECT sequence FROM store")
    assert row is not None  # noqa: S101  (every store has its row)
    return int(row[0])
