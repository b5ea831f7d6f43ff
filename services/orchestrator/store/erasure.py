"""Takes out of ended runs what is about people: on request, or some time after their end.

The record that says so comes first, in the commit that makes it a duty: from then on the run cannot
go on. The records before it are replaced a few at a time. Whoever finds a duty that was begun and
not ended, after a crash, ends it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from mesh.data import idempotency
from mesh.errors import FailedPrecondition, NotFound, Reason
from services.orchestrator.engine.erase import MARK, WORD, erase
from services.orchestrator.engine.outcome import cause
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.store.deletion import not_found
from services.orchestrator.store.events import erase_events, positions_emitted_by
from services.orchestrator.store.run_query import NEED_ATTENTION, ended_long_ago
from services.orchestrator.store.run_store import add_record, load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey

BY_AGE = "ANYA_ERASE_PII_DAYS"
CHUNK = 200  # records, replaced in one commit
PAGE = 50  # runs, made duties in one commit

END_OF_JOURNAL = 2**62
UNREADABLE = (DecodeError, ValueError)  # damage that a record can be folded with


class _ConcurrentUpdateError(Exception):
    """The run is not what it was when it was read."""


@dataclass(frozen=True, slots=True)
class _Erasable:
    """A run as it was read: where it was, and what is left of its records."""

    sequence: int
    erased_us: int  # 0: it was not
    cause: str
    left: Sequence[Record]  # empty for one that cannot be read


class Erasure:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def erase(self, key: IdempotencyKey, run_id: str, reply: Callable[[int], bytes]) -> bytes:
        """Erase a run once per ``key``; ``reply`` is given the time when it was, Unix microseconds.

        NotFound; FailedPrecondition (RUN_NOT_ENDED) for a run that has something to do. It returns
        when nothing is left.
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
        """Make duties of some runs that ended so long ago, each once; none if none are left."""

        async def work(tx: Transaction) -> list[str]:
            at = await tx.fetch_one("SELECT finished_us, run FROM erased_until")
            after = (at[0], at[1]) if at else (0, "")
            rows = await ended_long_ago(tx, days, after=after, limit=PAGE)
            if not rows:
                return []
            await tx.execute(
                "INSERT INTO erased_until VALUES (1, ?, ?) ON CONFLICT (one) DO UPDATE"
                " SET finished_us = excluded.finished_us, run = excluded.run",
                rows[-1][1],
                rows[-1][0],
            )
            # Who has to look at a run needs what it holds: only a request erases it.
            due = [id for id, _, status, _ in rows if status not in NEED_ATTENTION]
            await tx.execute_many(
                "INSERT INTO erasure VALUES (?) ON CONFLICT DO NOTHING", [(id,) for id in due]
            )
            return due

        return await self._database.write(work)

    async def pending_erasures(self) -> list[str]:
        """Runs that somebody began to erase, or was about to."""

        async def work(tx: Transaction) -> list[str]:
            return [id for (id,) in await tx.fetch("SELECT run FROM erasure LIMIT ?", PAGE)]

        return await self._database.read(work)

    async def finish(self, run_id: str) -> None:
        """Do a duty; nothing if there is none."""
        while await self._is_pending(run_id):
            found = await self._read(run_id)
            if found is not None and not found.erased_us:
                try:
                    await self._mark_by_age(run_id, found)
                except _ConcurrentUpdateError:
                    continue
                except FailedPrecondition:
                    await self._drop(run_id)  # somebody had it go on
                    return
                found = await self._read(run_id)
            if found is None or not found.left:
                await self._replace_unread(run_id)
            else:
                await self._replace(run_id, found.left)
            await self._erase_events(run_id)
            await self._end(run_id, found.cause if found else "")

    async def _is_pending(self, run_id: str) -> bool:
        async def work(tx: Transaction) -> bool:
            return await tx.fetch_one("SELECT 1 FROM erasure WHERE run = ?", run_id) is not None

        return await self._database.read(work)

    async def _read(self, run_id: str) -> _Erasable | None:
        """None if there is no such run."""

        async def work(tx: Transaction) -> _Erasable | None:
            try:
                stored = await load_run(tx, run_id)
                state = stored.state
                why = cause(state)
                left = tuple(erase(stored.records, why))
            except NotFound:
                return None
            except (FailedPrecondition, *UNREADABLE):
                row = await tx.fetch_one("SELECT sequence FROM run WHERE id = ?", run_id)
                return _Erasable(int(row[0]), 0, "", ()) if row else None
            return _Erasable(state.sequence, state.erased_us, why, left)

        return await self._database.read(work)

    async def _drop(self, run_id: str) -> None:
        async def work(tx: Transaction) -> None:
            await tx.execute("DELETE FROM erasure WHERE run = ?", run_id)

        await self._database.write(work)

    async def _mark_by_age(self, run_id: str, found: _Erasable) -> None:
        async def work(tx: Transaction) -> None:
            await _mark(tx, run_id, found, BY_AGE)

        await self._database.write(work)

    async def _replace(self, run_id: str, left: Sequence[Record]) -> None:
        for first in range(0, len(left), CHUNK):
            rows = [
                (record.encoded, run_id, record.sequence) for record in left[first : first + CHUNK]
            ]

            async def work(tx: Transaction, rows: list[tuple[bytes, str, int]] = rows) -> None:
                await tx.execute_many(
                    "UPDATE journal SET payload = ? WHERE run = ? AND sequence = ?", rows
                )

            await self._database.write(work)

    async def _replace_unread(self, run_id: str) -> None:
        """Nobody can tell what is in records that cannot be read: nothing of them stays."""
        last = -END_OF_JOURNAL
        while True:

            async def work(tx: Transaction, after: int = last) -> int | None:
                rows = await tx.fetch(
                    "SELECT sequence FROM journal WHERE run = ? AND sequence > ?"
                    " ORDER BY sequence LIMIT ?",
                    run_id,
                    after,
                    CHUNK,
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
        """What the run emitted; who heard it has that in records of its own."""
        last = 0
        while True:

            async def work(tx: Transaction, after: int = last) -> int | None:
                emitted = await positions_emitted_by(tx, run_id, after=after, limit=CHUNK)
                if not emitted:
                    return None
                await erase_events(tx, run_id, emitted[0], emitted[-1])
                return emitted[-1]

            reached = await self._database.write(work)
            if reached is None:
                return
            last = reached

    async def _end(self, run_id: str, why: str) -> None:
        async def work(tx: Transaction) -> None:
            await tx.execute("UPDATE run SET reason = ? WHERE id = ?", why, run_id)
            await _erase_messages(tx, run_id)
            await tx.execute("DELETE FROM erasure WHERE run = ?", run_id)

        await self._database.write(work)


async def _mark(tx: Transaction, run_id: str, found: _Erasable | None, by: str) -> int:
    """Make it a duty, and journal that it is one. When it was; _Moved if it is not as ``found``."""
    row = await tx.fetch_one("SELECT sequence, finished_us FROM run WHERE id = ?", run_id)
    if row is None:
        raise await not_found(tx, run_id)
    sequence, finished_us = row
    if finished_us is None:
        raise FailedPrecondition(
            f"run {run_id} has something to do: cancel it, or wait for its end",
            reason=Reason.RUN_NOT_ENDED,
            field="run_id",
        )
    if found is None or found.sequence != sequence:
        raise _ConcurrentUpdateError
    if found.erased_us:
        return found.erased_us
    now_us = await tx.now_ms() * 1000
    await tx.execute("INSERT INTO erasure VALUES (?) ON CONFLICT DO NOTHING", run_id)
    if not found.left:
        return now_us  # it cannot be read, with or without another record
    payload = {"requester": by, "cause": found.cause}
    end = Record.write(sequence + 1, RecordKind.ERASED, "", 0, now_us, payload)
    moved = await tx.execute(
        "UPDATE run SET sequence = ?, updated_us = ?"
        " WHERE id = ? AND sequence = ? AND finished_us IS NOT NULL",
        end.sequence,
        now_us,
        run_id,
        sequence,
    )
    if not moved:
        raise _ConcurrentUpdateError
    await add_record(tx, run_id, end)
    return now_us


async def _erase_messages(tx: Transaction, run_id: str) -> None:
    """What was sent to the run: that it was, and by whom it was cancelled, stays."""
    rows = await tx.fetch("SELECT position, payload FROM message WHERE run = ?", run_id)
    for position, payload in rows:
        left: dict[str, Any] = dict(MARK)
        with suppress(*UNREADABLE):
            left = _left_of(json.loads(bytes(payload)))
        await tx.execute(
            "UPDATE message SET payload = ? WHERE run = ? AND position = ?",
            json.dumps(left).encode(),
            run_id,
            position,
        )


def _left_of(message: dict[str, Any]) -> dict[str, Any]:
    left: dict[str, Any] = {name: message[name] for name in ("name", "by") if name in message}
    for name in message.keys() - left.keys():
        left[name] = dict(MARK) if isinstance(message[name], dict) else WORD
    return left
