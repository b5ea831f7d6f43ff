"""Erases personal data from runs that have ended: on request, or some time after their end.

The record of the erasure comes first, in the commit that enqueues the erasure task: from then on
the run cannot be redriven. The records before it are replaced a few at a time. A task that a crash
interrupted is continued by the next replica that reads the queue.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from mesh.data import idempotency
from mesh.errors import FailedPrecondition, NotFound, Reason
from services.orchestrator.engine.erase import MARK, TEXT_MARK, erase
from services.orchestrator.engine.outcome import public_reason
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.store.deletion import not_found
from services.orchestrator.store.events import erase_events, positions_emitted_by
from services.orchestrator.store.run_query import NEED_ATTENTION, ended_long_ago
from services.orchestrator.store.run_store import add_record
from services.orchestrator.store.stored_run import load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey

BY_AGE = "ANYA_ERASE_PII_DAYS"
ERASE_BATCH_SIZE = 200  # records that one commit replaces
ENQUEUE_BATCH_SIZE = 50  # runs that one commit enqueues

MAX_SEQUENCE = 2**62
UNREADABLE = (DecodeError, ValueError)  # damage that ``fold`` does not detect


class _ConcurrentUpdateError(Exception):
    """The run has changed since it was read."""


@dataclass(frozen=True, slots=True)
class _Erasable:
    """A run as it was read, and the records that replace its own."""

    sequence: int
    erased_us: int  # 0: not erased
    public_reason: str
    replacements: Sequence[Record]  # empty if the records cannot be read


class Erasure:
    """The queue of erasure tasks, and their execution."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def erase(self, key: IdempotencyKey, run_id: str, reply: Callable[[int], bytes]) -> bytes:
        """Erases a run once per ``key``, and returns once nothing personal is left.

        ``reply`` gets the time of the erasure, Unix microseconds. Raises NotFound if the run is
        unknown, FailedPrecondition (RUN_NOT_ENDED) if it has not ended.
        """
        while True:
            found = await self._read(run_id)

            async def work(tx: Transaction, found: _Erasable | None = found) -> bytes:
                async def effect() -> bytes:
                    return reply(await _mark(tx, run_id, found, key.caller))

                return await idempotency.run_once(tx, key, effect)

            try:
                answer = await self._database.write(work)
            except _ConcurrentUpdateError:
                continue
            await self.finish(run_id)
            return answer

    async def enqueue_erasures(self, days: float) -> list[str]:
        """Enqueues some runs that ended more than ``days`` ago, each once, and returns them.

        Runs that need an operator are left out. Returns an empty list if no run is left.
        """

        async def work(tx: Transaction) -> list[str]:
            at = await tx.fetch_one("SELECT finished_us, run FROM erasure_watermark")
            after = (at[0], at[1]) if at else (0, "")
            rows = await ended_long_ago(tx, days, after=after, limit=ENQUEUE_BATCH_SIZE)
            if not rows:
                return []
            await tx.execute(
                "INSERT INTO erasure_watermark VALUES (1, ?, ?) ON CONFLICT (one) DO UPDATE"
                " SET finished_us = excluded.finished_us, run = excluded.run",
                rows[-1][1],
                rows[-1][0],
            )
            due = [id for id, _, status, _ in rows if status not in NEED_ATTENTION]
            await tx.execute_many(
                "INSERT INTO erasure_task VALUES (?) ON CONFLICT DO NOTHING", [(id,) for id in due]
            )
            return due

        return await self._database.write(work)

    async def pending_erasures(self) -> list[str]:
        """Returns some runs whose erasure was enqueued and is not complete."""

        async def work(tx: Transaction) -> list[str]:
            rows = await tx.fetch("SELECT run FROM erasure_task LIMIT ?", ENQUEUE_BATCH_SIZE)
            return [id for (id,) in rows]

        return await self._database.read(work)

    async def finish(self, run_id: str) -> None:
        """Completes the erasure of a run; without a task it does nothing."""
        while await self._is_pending(run_id):
            found = await self._read(run_id)
            if found is not None and not found.erased_us:
                try:
                    await self._mark_by_age(run_id, found)
                except _ConcurrentUpdateError:
                    continue
                except FailedPrecondition:
                    await self._drop_task(run_id)  # the run was redriven
                    return
                found = await self._read(run_id)
            if found is None or not found.replacements:
                await self._replace_all(run_id)
            else:
                await self._replace(run_id, found.replacements)
            await self._erase_events(run_id)
            await self._complete(run_id, found.public_reason if found else "")

    async def _is_pending(self, run_id: str) -> bool:
        async def work(tx: Transaction) -> bool:
            return (
                await tx.fetch_one("SELECT 1 FROM erasure_task WHERE run = ?", run_id) is not None
            )

        return await self._database.read(work)

    async def _read(self, run_id: str) -> _Erasable | None:
        """Returns the run, or None if it is unknown."""

        async def work(tx: Transaction) -> _Erasable | None:
            try:
                stored = await load_run(tx, run_id)
                state = stored.state
                reason = public_reason(state)
                replacements = tuple(erase(stored.records, reason))
            except NotFound:
                return None
            except (FailedPrecondition, *UNREADABLE):
                row = await tx.fetch_one("SELECT sequence FROM run WHERE id = ?", run_id)
                return _Erasable(int(row[0]), 0, "", ()) if row else None
            return _Erasable(state.sequence, state.erased_us, reason, replacements)

        return await self._database.read(work)

    async def _drop_task(self, run_id: str) -> None:
        async def work(tx: Transaction) -> None:
            await tx.execute("DELETE FROM erasure_task WHERE run = ?", run_id)

        await self._database.write(work)

    async def _mark_by_age(self, run_id: str, found: _Erasable) -> None:
        async def work(tx: Transaction) -> None:
            await _mark(tx, run_id, found, BY_AGE)

        await self._database.write(work)

    async def _replace(self, run_id: str, replacements: Sequence[Record]) -> None:
        for first in range(0, len(replacements), ERASE_BATCH_SIZE):
            rows = [
                (record.encoded, run_id, record.sequence)
                for record in replacements[first : first + ERASE_BATCH_SIZE]
            ]

            async def work(tx: Transaction, rows: list[tuple[bytes, str, int]] = rows) -> None:
                await tx.execute_many(
                    "UPDATE journal SET payload = ? WHERE run = ? AND sequence = ?", rows
                )

            await self._database.write(work)

    async def _replace_all(self, run_id: str) -> None:
        """Replaces the payload of every record, of a run whose records cannot be read."""
        last = -MAX_SEQUENCE
        while True:

            async def work(tx: Transaction, after: int = last) -> int | None:
                rows = await tx.fetch(
                    "SELECT sequence FROM journal WHERE run = ? AND sequence > ?"
                    " ORDER BY sequence LIMIT ?",
                    run_id,
                    after,
                    ERASE_BATCH_SIZE,
                )
                if not rows:
                    return None
                await tx.execute(
                    "UPDATE journal SET payload = ? WHERE run = ? AND sequence > ?"
                    " AND sequence <= ?",
                    json.dumps(MARK).encode(),
                    run_id,
                    after,
                    rows[-1][0],
                )
                return int(rows[-1][0])

            reached = await self._database.write(work)
            if reached is None:
                return
            last = reached

    async def _erase_events(self, run_id: str) -> None:
        """Erases the events that the run emitted. Receivers keep copies in their records."""
        last = 0
        while True:

            async def work(tx: Transaction, after: int = last) -> int | None:
                emitted = await positions_emitted_by(
                    tx, run_id, after=after, limit=ERASE_BATCH_SIZE
                )
                if not emitted:
                    return None
                await erase_events(tx, run_id, emitted[0], emitted[-1])
                return emitted[-1]

            reached = await self._database.write(work)
            if reached is None:
                return
            last = reached

    async def _complete(self, run_id: str, reason: str) -> None:
        async def work(tx: Transaction) -> None:
            await tx.execute("UPDATE run SET reason = ? WHERE id = ?", reason, run_id)
            await _erase_messages(tx, run_id)
            await tx.execute("DELETE FROM erasure_task WHERE run = ?", run_id)

        await self._database.write(work)


async def _mark(tx: Transaction, run_id: str, found: _Erasable | None, requester: str) -> int:
    """Enqueues the erasure, appends its record, and returns its time, Unix microseconds.

    An erased run is not changed. Raises _ConcurrentUpdateError if the run has changed since
    ``found`` was read.
    """
    row = await tx.fetch_one("SELECT sequence, finished_us FROM run WHERE id = ?", run_id)
    if row is None:
        raise await not_found(tx, run_id)
    sequence, finished_us = row
    if finished_us is None:
        raise FailedPrecondition(
            f"run {run_id} has not ended: cancel it, or wait for its end",
            reason=Reason.RUN_NOT_ENDED,
            field="run_id",
        )
    if found is None or found.sequence != sequence:
        raise _ConcurrentUpdateError
    if found.erased_us:
        return found.erased_us
    now_us = await tx.now_ms() * 1000
    await tx.execute("INSERT INTO erasure_task VALUES (?) ON CONFLICT DO NOTHING", run_id)
    if not found.replacements:
        return now_us  # another record would not make the run readable
    payload = {"requester": requester, "public_reason": found.public_reason}
    end = Record.write(sequence + 1, RecordKind.ERASED, "", 0, now_us, payload)
    updated = await tx.execute(
        "UPDATE run SET sequence = ?, updated_us = ?"
        " WHERE id = ? AND sequence = ? AND finished_us IS NOT NULL",
        end.sequence,
        now_us,
        run_id,
        sequence,
    )
    if not updated:
        raise _ConcurrentUpdateError
    await add_record(tx, run_id, end)
    return now_us


async def _erase_messages(tx: Transaction, run_id: str) -> None:
    """Erases the payloads of messages to the run, except names and the cancelling caller."""
    rows = await tx.fetch("SELECT position, payload FROM message WHERE run = ?", run_id)
    for position, payload in rows:
        erased: dict[str, Any] = dict(MARK)
        with suppress(*UNREADABLE):
            erased = _erase_message(json.loads(bytes(payload)))
        await tx.execute(
            "UPDATE message SET payload = ? WHERE run = ? AND position = ?",
            json.dumps(erased).encode(),
            run_id,
            position,
        )


def _erase_message(message: dict[str, Any]) -> dict[str, Any]:
    erased: dict[str, Any] = {
        name: message[name] for name in ("name", "requester") if name in message
    }
    for name in message.keys() - erased.keys():
        erased[name] = dict(MARK) if isinstance(message[name], dict) else TEXT_MARK
    return erased
