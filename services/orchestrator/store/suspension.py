"""Runs that only wait, and for long: nobody drives them until they are due or something comes.

A run either has its message before it falls asleep, and does not, or is woken by it: who sends to a
run that is awake locks its row, as does who has it fall asleep, before looking for messages; to one
that sleeps is written by ``Database.write``, one after the other. Events are emitted by the writer
of the journal, which holds the store's row from before it counts them until it has woken who
listens: for them the same is true.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mesh.data.database.sql import in_list
from services.orchestrator.engine.waits import ANY, subscription
from services.orchestrator.store.events import any_event_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mesh.data.database import Database, Transaction
    from services.orchestrator.engine.model import RunState

ASLEEP = "asleep"  # in place of an owner: no executor is called so

DUE = "SELECT run FROM asleep WHERE wake_us <= ? ORDER BY wake_us LIMIT ?"


class Suspensions:
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
        """In how many seconds the next one is, by the database's clock; None if none sleeps."""

        async def work(tx: Transaction) -> float | None:
            row = await tx.fetch_one("SELECT MIN(wake_us) FROM asleep")
            if row is None or row[0] is None:
                return None
            return float(row[0] - await tx.now_ms() * 1000) / 1_000_000

        return await self._database.read(work)

    async def resume_due(self, limit: int) -> int:
        """Have up to ``limit`` of those that are due wait for somebody, the longest due first."""

        async def work(tx: Transaction) -> int:
            due = [id for (id,) in await tx.fetch(DUE, await tx.now_ms() * 1000, limit)]
            await _wake_all(tx, due)
            return len(due)

        return await self._database.write(work)


async def suspend(
    tx: Transaction, state: RunState, epoch: int, wake_us: int, *, event_cursor: int = 0
) -> bool:
    listens = subscription(state, event_cursor)
    if listens and await any_event_after(tx, listens.since, listens.wanted):
        return False
    # Whoever sends to it from now on waits; what was sent before, the next statement sees.
    await tx.execute("UPDATE run SET epoch = epoch WHERE id = ?", state.run_id)
    let_go = await tx.execute(
        "UPDATE run SET owner = ?, epoch = epoch + 1"
        " WHERE id = ? AND epoch = ? AND sequence = ? AND finished_us IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM message WHERE run = ? AND position > ?)",
        ASLEEP,
        state.run_id,
        epoch,
        state.sequence,
        state.run_id,
        state.inbox_position,
    )
    if let_go:
        await tx.execute(
            "INSERT INTO asleep VALUES (?, ?)"
            " ON CONFLICT (run) DO UPDATE SET wake_us = excluded.wake_us",
            state.run_id,
            wake_us,
        )
    if let_go and listens:
        await tx.execute_many(
            "INSERT INTO listening VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (type, subject, state.run_id)
                for type, subjects in listens.wanted.items()
                for subject in subjects
            ],
        )
    return let_go > 0


async def wake(tx: Transaction, run_id: str) -> bool:
    """Have it wait for somebody who drives it. False if it was not asleep."""
    woken = await tx.execute("UPDATE run SET owner = '' WHERE id = ? AND owner = ?", run_id, ASLEEP)
    await tx.execute("UPDATE asleep SET wake_us = NULL WHERE run = ?", run_id)
    return woken > 0


async def wake_listeners(tx: Transaction, told: Iterable[tuple[str, str]]) -> int:
    """Have those wait for somebody that listen to events of these types and subjects."""
    subjects: defaultdict[str, set[str]] = defaultdict(lambda: {ANY})
    for type, subject in told:
        subjects[type].add(subject)
    heard: set[str] = set()
    for type in sorted(subjects):
        for listed, given in in_list(sorted(subjects[type])):
            who = f"SELECT run FROM listening WHERE type = ? AND subject IN {listed}"  # noqa: S608
            heard |= {run for (run,) in await tx.fetch(who, type, *given)}
    return await _wake_all(tx, sorted(heard))


async def _wake_all(tx: Transaction, run_ids: Sequence[str]) -> int:
    """How many of them were asleep."""
    woken = 0
    for listed, given in in_list(run_ids):
        woken += await tx.execute(
            f"UPDATE run SET owner = '' WHERE owner = ? AND id IN {listed}",  # noqa: S608
            ASLEEP,
            *given,
        )
        await tx.execute(f"UPDATE asleep SET wake_us = NULL WHERE run IN {listed}", *given)  # noqa: S608
    return woken
