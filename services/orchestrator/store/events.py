"""The events that runs emitted, in the order of their commits. Each has a row in the outbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mesh.data.database import sql
from services.orchestrator.engine.activations import EventReceived
from services.orchestrator.engine.erase import MARK, TEXT_MARK
from services.orchestrator.engine.waits import ANY_SUBJECT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from mesh.data.database import Database, Transaction, Value

ERASED = json.dumps(MARK).encode()  # replaces the data of an event
MAX_EVENTS_PER_READ = 500  # of each type, for each list of subjects


class Events:
    """Emitted events by position: the sequence of their row in the outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest_position(self) -> int:
        """Returns the position of the last row in the outbox; later events come after it."""

        async def work(tx: Transaction) -> int:
            return await _latest_position(tx)

        return await self._database.read(work)

    async def read_after(
        self, position: int, wanted: Mapping[str, Collection[str]]
    ) -> tuple[list[EventReceived], int]:
        """Returns events after ``position`` in order, and the position up to which they are all.

        ``wanted`` has the subjects by event type; ANY_SUBJECT among them stands for all subjects.
        """

        async def work(tx: Transaction) -> tuple[list[EventReceived], int]:
            upto = await _latest_position(tx)
            found: list[EventReceived] = []
            for type, where, given in _conditions(position, wanted):
                rows = await tx.fetch(
                    "SELECT event.sequence, subject, data, run, record_sequence FROM event"  # noqa: S608
                    " JOIN outbox ON outbox.sequence = event.sequence"
                    f" WHERE {where} ORDER BY event.sequence LIMIT ?",
                    *given,
                    MAX_EVENTS_PER_READ,
                )
                if len(rows) == MAX_EVENTS_PER_READ:
                    upto = min(upto, rows[-1][0])
                found += [
                    EventReceived(
                        type, subject, json.loads(bytes(data)), sequence, run, record_sequence
                    )
                    for sequence, subject, data, run, record_sequence in rows
                ]
            found.sort(key=lambda event: event.position)
            return [event for event in found if event.position <= upto], upto

        return await self._database.read(work)


async def any_event_after(
    tx: Transaction, position: int, wanted: Mapping[str, Collection[str]]
) -> bool:
    """Reports whether an event of these types and subjects comes after ``position``."""
    for _, where, given in _conditions(position, wanted):
        if await tx.fetch_one(f"SELECT 1 FROM event WHERE {where} LIMIT 1", *given):  # noqa: S608
            return True
    return False


async def positions_emitted_by(
    tx: Transaction, run_id: str, *, after: int, limit: int
) -> list[int]:
    """Returns up to ``limit`` positions of the run's events after ``after``, in order."""
    rows = await tx.fetch(
        "SELECT sequence FROM event WHERE run = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        run_id,
        after,
        limit,
    )
    return [sequence for (sequence,) in rows]


async def erase_events(tx: Transaction, run_id: str, first: int, last: int) -> None:
    """Erases personal data from the run's events at positions ``first`` to ``last``.

    Erases the data, and the subject unless that is the run. The events themselves stay.
    """
    await tx.execute(
        "UPDATE outbox SET data = ?, key = CASE WHEN key = ? THEN key ELSE ? END WHERE sequence IN"
        " (SELECT sequence FROM event WHERE run = ? AND sequence BETWEEN ? AND ?)",
        ERASED,
        run_id,
        TEXT_MARK,
        run_id,
        first,
        last,
    )
    await tx.execute(
        "UPDATE event SET subject = ? WHERE run = ? AND sequence BETWEEN ? AND ? AND subject <> ?",
        TEXT_MARK,
        run_id,
        first,
        last,
        run_id,
    )


def _conditions(
    position: int, wanted: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str, list[Value]]]:
    """Yields for each type, and each list of its subjects, a condition and its arguments."""
    where = "event.type = ? AND event.sequence > ?"
    for type in sorted(wanted):
        if ANY_SUBJECT in wanted[type]:
            yield type, where, [type, position]
            continue
        for listed, subjects in sql.in_list(sorted(wanted[type])):
            yield type, f"{where} AND event.subject IN {listed}", [type, position, *subjects]


async def _latest_position(tx: Transaction) -> int:
    row = await tx.fetch_one("SELECT sequence FROM store")
    assert row is not None  # noqa: S101  (the table always has its one row)
    return int(row[0])
