"""Runs and their records. Each turn of the engine is one commit, fenced by owner and epoch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh import inbox, outbox
from mesh.errors import AlreadyExists, FailedPrecondition, NotFound, Reason
from services.orchestrator.engine.evolve import fold
from services.orchestrator.engine.record import Record, decode
from services.orchestrator.engine.state import RunStatus
from services.orchestrator.journal.definitions import find_definition
from services.orchestrator.run_trace import traceparent_of_run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mesh.database import Database, Row, Transaction
    from mesh.inbox import RequestKey
    from services.orchestrator.engine.state import RunState
    from services.orchestrator.journal.definitions import StoredDefinition

STARTED = "orchestrator.run.started"
FINISHED = "orchestrator.run.finished"

LATELY = 2_000_000  # microseconds: longer than spans take to leave a process

COLUMNS = (
    "id, workflow_id, definition_hash, traceparent, status, reason, epoch, created_us, updated_us"
)


class Fenced(Exception):  # noqa: N818  (a state, as in mesh.errors)
    """Another process took the run over: this one must leave it alone."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run without its records."""

    id: str
    workflow_id: str
    definition_hash: str
    traceparent: str
    status: str
    reason: str
    epoch: int
    created_us: int
    updated_us: int


@dataclass(frozen=True, slots=True)
class StoredRun:
    row: RunRow
    records: tuple[Record, ...]

    @property
    def state(self) -> RunState:
        return fold(self.row.id, self.records)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that was judged and may begin, with its first records."""

    state: RunState
    records: tuple[Record, ...]
    starter: str
    traceparent: str
    owner: str  # empty: it waits until a process has room


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which runs to list; empty strings mean all."""

    status: str = ""
    workflow_id: str = ""


class Runs:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(
        self,
        key: RequestKey,
        workflow_id: str,
        prepare: Callable[[StoredDefinition], NewRun],
        reply: Callable[[NewRun], bytes],
    ) -> bytes:
        """Insert what ``prepare`` makes of the newest definition, once per ``key``.

        NotFound for an unknown workflow; AlreadyExists if another caller has a run of this id, or
        this one sent another body; and whatever ``prepare`` refuses.
        """

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                new = prepare(await find_definition(tx, workflow_id))
                await _insert(tx, new)
                return reply(new)

            return await inbox.once(tx, key, effect)

        return await self._database.write(work)

    async def append(self, state: RunState, epoch: int, records: Sequence[Record]) -> None:
        """Store the records that lead to ``state``. Safe to repeat. Fenced if the run has moved."""

        async def work(tx: Transaction) -> None:
            before = records[0].sequence - 1
            changed = await tx.execute(
                "UPDATE run SET status = ?, reason = ?, sequence = ?, updated_us = ?,"
                " finished_us = ? WHERE id = ? AND epoch = ? AND sequence = ?",
                state.status,
                state.reason,
                state.sequence,
                state.updated_us,
                state.finished_us or None,
                state.run_id,
                epoch,
                before,
            )
            if not changed:
                await _must_be_there(tx, state, epoch)
                return
            await _insert_records(tx, state.run_id, records)
            if state.finished:
                await _announce(tx, FINISHED, state.run_id, await _parent(tx, state.run_id))

        await self._database.write(work)

    async def release_all(self) -> None:
        """Take every unfinished run from whoever had it: this process is the store's only one."""

        async def work(tx: Transaction) -> None:
            await tx.execute(
                "UPDATE run SET owner = '', epoch = epoch + 1"
                " WHERE finished_us IS NULL AND owner <> ''"
            )

        await self._database.write(work)

    async def release_lost(self, owner: str, held: Collection[str]) -> None:
        """Let go of what ``owner`` has in the store but not in its hands.

        A commit whose answer was lost leaves such runs behind.
        """

        async def work(tx: Transaction) -> None:
            owned = await tx.fetch(
                "SELECT id FROM run WHERE finished_us IS NULL AND owner = ?", owner
            )
            for (id,) in owned:
                if id not in held:
                    await tx.execute(
                        "UPDATE run SET owner = '', epoch = epoch + 1 WHERE id = ?", id
                    )

        await self._database.write(work)

    async def claim(self, owner: str, limit: int) -> list[StoredRun]:
        """Take up to ``limit`` runs that wait, oldest first, with their records.

        One that cannot be read is set aside, for somebody to look at, and holds up no other.
        """

        async def work(tx: Transaction) -> list[StoredRun]:
            waiting = await tx.fetch(
                "SELECT id FROM run WHERE finished_us IS NULL AND owner = ''"
                " ORDER BY created_us, id LIMIT ?",
                limit,
            )
            claimed: list[StoredRun] = []
            for (id,) in waiting:
                try:
                    claimed.append(await _load(tx, id))
                except FailedPrecondition as damage:
                    await _set_aside(tx, id, str(damage))
                else:
                    await tx.execute("UPDATE run SET owner = ? WHERE id = ?", owner, id)
            return claimed

        return await self._database.write(work)

    async def finished_lately(self) -> list[StoredRun]:
        """Runs that ended shortly before the last one did, and can be read; each is given once."""

        async def work(tx: Transaction) -> list[StoredRun]:
            rows = await tx.fetch(
                "SELECT id FROM run WHERE owner <> ''"
                " AND finished_us >= (SELECT MAX(finished_us) FROM run) - ?",
                LATELY,
            )
            found: list[StoredRun] = []
            for (id,) in rows:
                await tx.execute("UPDATE run SET owner = '' WHERE id = ?", id)
                with suppress(FailedPrecondition):
                    found.append(await _load(tx, id))
            return found

        return await self._database.write(work)

    async def load(self, run_id: str) -> StoredRun:
        """NotFound if there is no such run, FailedPrecondition if its records are damaged."""

        async def work(tx: Transaction) -> StoredRun:
            return await _load(tx, run_id)

        return await self._database.read(work)

    async def page(
        self, wanted: Filter, *, before: tuple[int, str] | None, limit: int
    ) -> list[RunRow]:
        """Runs, newest first, from behind the one created at ``before``."""
        created_us, id = before or (2**62, "")

        async def work(tx: Transaction) -> list[RunRow]:
            conditions = ["(created_us < ? OR (created_us = ? AND id < ?))"]
            values: list[str | int] = [created_us, created_us, id]
            if wanted.status:
                conditions.append("status = ?")
                values.append(wanted.status)
            if wanted.workflow_id:
                conditions.append("workflow_id = ?")
                values.append(wanted.workflow_id)
            rows = await tx.fetch(
                f"SELECT {COLUMNS} FROM run WHERE {' AND '.join(conditions)}"  # noqa: S608
                " ORDER BY created_us DESC, id DESC LIMIT ?",
                *values,
                limit,
            )
            return [RunRow(*row) for row in rows]

        return await self._database.read(work)


async def _insert(tx: Transaction, new: NewRun) -> None:
    state = new.state
    inserted = await tx.execute(
        "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?) ON CONFLICT DO NOTHING",
        state.run_id,
        state.workflow_id,
        state.definition_hash,
        new.starter,
        new.traceparent,
        state.status,
        state.reason,
        state.sequence,
        new.owner,
        state.created_us,
        state.updated_us,
        state.finished_us or None,
    )
    if not inserted:
        raise AlreadyExists(
            f"run {state.run_id} exists; choose a new request_id",
            reason=Reason.REQUEST_ID_REUSED,
            field="request_id",
        )
    await _insert_records(tx, state.run_id, new.records)
    await _announce(tx, STARTED, state.run_id, new.traceparent)
    if state.finished:
        await _announce(tx, FINISHED, state.run_id, new.traceparent)


async def _announce(tx: Transaction, type: str, run_id: str, parent: str) -> None:
    traceparent = traceparent_of_run(run_id, parent)
    await outbox.append(tx, type=type, key=run_id, traceparent=traceparent)


async def _insert_records(tx: Transaction, run_id: str, records: Sequence[Record]) -> None:
    await tx.execute_many(
        "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                run_id,
                record.sequence,
                record.kind,
                record.path,
                record.attempt,
                record.at_us,
                record.encode(),
            )
            for record in records
        ],
    )


async def _must_be_there(tx: Transaction, state: RunState, epoch: int) -> None:
    """Nothing was updated: because it was stored before, or because the run is not ours."""
    row = await tx.fetch_one("SELECT epoch, sequence FROM run WHERE id = ?", state.run_id)
    if row != (epoch, state.sequence):
        raise Fenced(state.run_id)


async def _load(tx: Transaction, run_id: str) -> StoredRun:
    row = await tx.fetch_one(
        f"SELECT sequence, {COLUMNS} FROM run WHERE id = ?",  # noqa: S608
        run_id,
    )
    if row is None:
        raise NotFound(f"no run {run_id!r}", field="run_id")
    last, *columns = row
    records = await tx.fetch(
        "SELECT sequence, kind, path, attempt, at_us, payload FROM journal WHERE run = ?"
        " ORDER BY sequence",
        run_id,
    )
    try:
        if [sequence for sequence, *_ in records] != list(range(1, last + 1)):
            raise ValueError(f"{last} records were written")
        stored = StoredRun(RunRow(*columns), tuple(_record(record) for record in records))
        fold(run_id, stored.records)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FailedPrecondition(
            f"the records of run {run_id} are damaged or not all there: restore the"
            " orchestrator's database from a backup",
            reason=Reason.STORE_DAMAGED,
        ) from None
    return stored


async def _set_aside(tx: Transaction, run_id: str, reason: str) -> None:
    """End a run that cannot be read as one that somebody must look at; its records stay."""
    await tx.execute(
        "UPDATE run SET status = ?, reason = ?, finished_us = updated_us WHERE id = ?",
        RunStatus.NEEDS_ATTENTION,
        reason,
        run_id,
    )
    traceparent = await _parent(tx, run_id)
    await outbox.append(tx, type=FINISHED, key=run_id, traceparent=traceparent)


async def _parent(tx: Transaction, run_id: str) -> str:
    row = await tx.fetch_one("SELECT traceparent FROM run WHERE id = ?", run_id)
    return str(row[0]) if row else ""


def _record(row: Row) -> Record:
    sequence, kind, path, attempt, at_us, payload = row
    return decode(sequence, kind, path, attempt, at_us, bytes(payload))
