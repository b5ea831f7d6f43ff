"""Suspends runs that only wait, and for long: no replica executes them until they are resumed.

A run is not suspended while it has a message that it has not taken, and a message to a suspended
run resumes it. No message can come between the two: both the statement that sends to a run that is
not suspended and the one that suspends it lock the run's row before they look at its messages; a
message to a suspended run is written by ``Database.write``, which takes turns with ``suspend``.
Events are emitted by the group commit, which locks the row of ``store`` from before it numbers the
events until it has resumed their subscribers; the same holds for them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mesh.data.database.sql import in_list
from services.orchestrator.engine.waits import ANY_SUBJECT, subscription
from services.orchestrator.store.events import any_event_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mesh.data.database import Database, Transaction
    from services.orchestrator.engine.model import RunState

DUE = "SELECT run FROM suspended_run WHERE wake_us <= ? ORDER BY wake_us LIMIT ?"


class Suspensions:
    """The suspended runs of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def suspend(
        self, state: RunState, epoch: int, wake_us: int, *, event_cursor: int = 0
    ) -> bool:
        """Releases the run until ``wake_us``, a message, or an event that it waits for.

        Returns False if the run stays: it has a message, or an event after ``event_cursor``, or it
        is no longer owned by this process in ``epoch``.
        """

        async def work(tx: Transaction) -> bool:
            return await suspend(tx, state, epoch, wake_us, event_cursor=event_cursor)

        return await self._database.write(work)

    async def seconds_until_due(self) -> float | None:
        """Returns the time to the next timer by the database's clock, or None without a timer."""

        async def work(tx: Transaction) -> float | None:
            row = await tx.fetch_one("SELECT MIN(wake_us) FROM suspended_run")
            if row is None or row[0] is None:
                return None
            return float(row[0] - await tx.now_ms() * 1000) / 1_000_000

        return await self._database.read(work)

    async def resume_due(self, limit: int) -> int:
        """Resumes up to ``limit`` runs whose timer is due, earliest first; returns how many."""

        async def work(tx: Transaction) -> int:
            due = [id for (id,) in await tx.fetch(DUE, await tx.now_ms() * 1000, limit)]
            await _resume_all(tx, due)
            return len(due)

        return await self._database.write(work)


async def suspend(
    tx: Transaction, state: RunState, epoch: int, wake_us: int, *, event_cursor: int = 0
) -> bool:
    """Suspends the run, see ``Suspensions.suspend``."""
    wanted = subscription(state, event_cursor)
    if wanted and await any_event_after(tx, wanted.after, wanted.subjects):
        return False
    # Locks the row: later senders wait, and the next statement sees the messages of earlier ones.
    await tx.execute("UPDATE run SET epoch = epoch WHERE id = ?", state.run_id)
    released = await tx.execute(
        "UPDATE run SET owner = '', suspended = 1, epoch = epoch + 1"
        " WHERE id = ? AND epoch = ? AND sequence = ? AND finished_us IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM message WHERE run = ? AND position > ?)",
        state.run_id,
        epoch,
        state.sequence,
        state.run_id,
        state.inbox_position,
    )
    if released:
        await tx.execute(
            "INSERT INTO suspended_run VALUES (?, ?)"
            " ON CONFLICT (run) DO UPDATE SET wake_us = excluded.wake_us",
            state.run_id,
            wake_us,
        )
    if released and wanted:
        await tx.execute_many(
            "INSERT INTO event_subscription VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (type, subject, state.run_id)
                for type, subjects in wanted.subjects.items()
                for subject in subjects
            ],
        )
    return released > 0


async def resume(tx: Transaction, run_id: str) -> bool:
    """Makes a suspended run claimable. Returns False if the run is not suspended."""
    resumed = await tx.execute(
        "UPDATE run SET suspended = 0 WHERE id = ? AND suspended = 1", run_id
    )
    await tx.execute("UPDATE suspended_run SET wake_us = NULL WHERE run = ?", run_id)
    return resumed > 0


async def resume_subscribers(tx: Transaction, emitted: Iterable[tuple[str, str]]) -> int:
    """Resumes the runs that wait for events of these types and subjects; returns how many."""
    subjects: defaultdict[str, set[str]] = defaultdict(lambda: {ANY_SUBJECT})
    for type, subject in emitted:
        subjects[type].add(subject)
    subscribers: set[str] = set()
    for type in sorted(subjects):
        for listed, given in in_list(sorted(subjects[type])):
            query = f"SELECT run FROM event_subscription WHERE type = ? AND subject IN {listed}"  # noqa: S608
            subscribers |= {run for (run,) in await tx.fetch(query, type, *given)}
    return await _resume_all(tx, sorted(subscribers))


async def _resume_all(tx: Transaction, run_ids: Sequence[str]) -> int:
    resumed = 0
    for listed, given in in_list(run_ids):
        resumed += await tx.execute(
            f"UPDATE run SET suspended = 0 WHERE suspended = 1 AND id IN {listed}",  # noqa: S608
            *given,
        )
        await tx.execute(
            f"UPDATE suspended_run SET wake_us = NULL WHERE run IN {listed}",  # noqa: S608
            *given,
        )
    return resumed
