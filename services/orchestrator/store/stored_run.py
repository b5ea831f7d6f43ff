"""A run as it is read from the store: its row, its records, and the state that they fold to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.data.database.sql import in_list
from mesh.errors import FailedPrecondition, Reason
from services.orchestrator.engine.fold import fold
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.records import Record, decode
from services.orchestrator.store.deletion import not_found
from services.orchestrator.store.run_query import COLUMNS, RunRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.data.database import Row, Transaction
    from services.orchestrator.engine.model import RunState

RECORD = "sequence, kind, path, attempt, at_us, payload"
DAMAGE = (ValueError, KeyError, TypeError, AttributeError)  # of records, as folding finds it


@dataclass(frozen=True, slots=True)
class RunRecords:
    """The row of a run, and its records after some sequence."""

    row: RunRow
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run with all of its records, and the state that they fold to."""

    row: RunRow
    records: tuple[Record, ...]
    state: RunState  # the end of a run that was set aside is in its row
    was_suspended: bool = False  # until this claim: no call of it was in flight


async def load_run(tx: Transaction, run_id: str) -> StoredRun:
    """Returns the run with all records. Raises as ``RunStore.load``."""
    row, records = await _read_run(tx, run_id, 0)
    return _stored(row, records)


async def load_records(tx: Transaction, run_id: str, *, after: int) -> RunRecords:
    """Returns the run with the records after sequence ``after``. Raises as ``RunStore.load``."""
    row, records = await _read_run(tx, run_id, after)
    if not after:
        stored = _stored(row, records)
        return RunRecords(stored.row, stored.records)
    try:
        return _decoded(row, records, after)
    except DAMAGE:
        raise _damaged(row) from None


async def load_runs(
    tx: Transaction, run_ids: Sequence[str]
) -> list[tuple[str, StoredRun | FailedPrecondition]]:
    """Returns the known ones of these runs with all records, or the error if one is damaged."""
    loaded: list[tuple[str, StoredRun | FailedPrecondition]] = []
    for listed, given in in_list(run_ids):
        rows = await tx.fetch(
            f"SELECT sequence, {COLUMNS} FROM run WHERE id IN {listed} ORDER BY created_us, id",  # noqa: S608
            *given,
        )
        written: defaultdict[str, list[Row]] = defaultdict(list)
        for run_id, *record in await tx.fetch(
            f"SELECT run, {RECORD} FROM journal WHERE run IN {listed} ORDER BY run, sequence",  # noqa: S608
            *given,
        ):
            written[run_id].append(tuple(record))
        for row in rows:
            run_id = str(row[1])
            try:
                loaded.append((run_id, _stored(row, written[run_id])))
            except FailedPrecondition as damage:
                loaded.append((run_id, damage))
    return loaded


def require_readable(row: RunRow, state: RunState) -> None:
    """Raises FailedPrecondition (STORE_DAMAGED) if the run was set aside: it gets no more records.

    ``state`` is folded from the records that were read with the row.
    """
    if row.finished_us is not None and not state.finished:
        raise FailedPrecondition(
            f"{row.reason}; the run was set aside: redrive it once they can be read",
            reason=Reason.STORE_DAMAGED,
        )


async def _read_run(tx: Transaction, run_id: str, after: int) -> tuple[Row, Sequence[Row]]:
    row = await tx.fetch_one(
        f"SELECT sequence, {COLUMNS} FROM run WHERE id = ?",  # noqa: S608
        run_id,
    )
    if row is None:
        raise await not_found(tx, run_id)
    records = await tx.fetch(
        f"SELECT {RECORD} FROM journal WHERE run = ? AND sequence > ? ORDER BY sequence",  # noqa: S608
        run_id,
        after,
    )
    return row, records


def _stored(row: Row, records: Sequence[Row]) -> StoredRun:
    try:
        read = _decoded(row, records, 0)
        state = fold(read.row.id, read.records)
    except DAMAGE:
        raise _damaged(row) from None
    if read.row.finished_us is not None and not state.finished:
        state.status, state.reason = RunStatus(read.row.status), read.row.reason
        state.finished_us = read.row.finished_us
    return StoredRun(read.row, read.records, state)


def _decoded(row: Row, records: Sequence[Row], after: int) -> RunRecords:
    last, *columns = row
    if [sequence for sequence, *_ in records] != list(range(after + 1, last + 1)):
        raise ValueError(f"{last} records expected")
    return RunRecords(RunRow(*columns), tuple(map(_record, records)))


def _damaged(row: Row) -> FailedPrecondition:
    return FailedPrecondition(
        f"the records of run {row[1]} are damaged or incomplete: restore the orchestrator's"
        " database from a backup",
        reason=Reason.STORE_DAMAGED,
    )


def _record(row: Row) -> Record:
    """Returns the record of a row with the columns RECORD."""
    sequence, kind, path, attempt, at_us, payload = row
    return decode(sequence, kind, path, attempt, at_us, bytes(payload))
