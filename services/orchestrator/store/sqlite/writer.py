"""The group commit of a SQLite store: a batch is a handful of statements.

SQLite is called from a thread, and each statement there releases the interpreter lock and has to
get it back from the event loop. So one statement takes many rows, and a batch is expected to apply
whole. If it does not, it is rolled back, and each of its commits is written alone.
"""

from __future__ import annotations

import asyncio
from functools import cache, partial
from typing import TYPE_CHECKING

from mesh.data.database.sqlite import NOW_MS
from services.orchestrator.store import commits
from services.orchestrator.store.commits import rows_of
from services.orchestrator.store.group_commit import GroupCommit
from services.orchestrator.store.suspension import resume_subscribers

if TYPE_CHECKING:
    from mesh.data.database import Database, Transaction
    from services.orchestrator.store.commits import Rows, RowValues
    from services.orchestrator.store.group_commit import CommitObserver, PendingCommit

# In one statement. A shorter one is padded with NULL to a power of two rows, so that few different
# statements are compiled.
MAX_ROWS = 128

UPDATE_RUN = """
UPDATE run SET sequence = u.sequence, status = u.status, reason = u.reason,
    updated_us = u.updated_us, finished_us = u.finished_us
FROM {rows} WHERE run.id = u.id AND run.epoch = u.epoch AND run.sequence = u.before
"""

INSERT_MESSAGE = f"""
INSERT INTO message SELECT u.id, u.position, u.kind, u.payload, ({NOW_MS}) FROM {{rows}}
WHERE u.id IS NOT NULL
AND u.position = 1 + (SELECT COALESCE(MAX(position), 0) FROM message WHERE message.run = u.id)
AND u.most > (SELECT COUNT(*) FROM message WHERE message.run = u.id AND message.kind = u.kind)
AND NOT EXISTS (SELECT 1 FROM idempotency_key AS k WHERE k.caller = u.caller
    AND k.method = u.method AND k.request_id = u.request_id)
"""  # noqa: S608

INSERT_RUN = """
INSERT INTO run
SELECT id, workflow_id, definition_hash, started_by, traceparent, status, reason, sequence, owner,
    0, 0, created_us, updated_us, finished_us
FROM {rows}
WHERE id IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM idempotency_key AS k WHERE k.caller = u.caller
    AND k.method = u.method AND k.request_id = u.request_id)
AND NOT EXISTS (SELECT 1 FROM definition WHERE definition.workflow_id = u.workflow_id
    AND definition.version > u.version)
AND NOT EXISTS (SELECT 1 FROM deleted_run WHERE deleted_run.id = u.id)
AND NOT EXISTS (SELECT 1 FROM payment WHERE payment.id = u.id)
ON CONFLICT DO NOTHING
"""

INSERT_PAYMENT = """
INSERT INTO payment SELECT id, run FROM {rows} WHERE id IS NOT NULL ON CONFLICT DO NOTHING
"""

INSERT_REPLY = """
INSERT INTO idempotency_key
  SELECT caller, method, request_id, body, reply FROM {rows} WHERE id IS NOT NULL
"""

INSERT_RECORDS = "INSERT INTO journal SELECT * FROM {rows} WHERE run IS NOT NULL"

INSERT_OUTBOX = f"""
INSERT INTO outbox
SELECT store.sequence + u.number, u.type, u.subject, u.data, CASE run.traceparent WHEN '' THEN ''
    ELSE substr(run.traceparent, 1, 36) || u.span || substr(run.traceparent, 53) END, ({NOW_MS})
FROM {{rows}} CROSS JOIN run ON run.id = u.run CROSS JOIN store
"""  # noqa: S608
INSERT_EVENTS = """
INSERT INTO event SELECT store.sequence + u.number, u.type, u.subject, u.run, u.record_sequence
FROM {rows} CROSS JOIN store WHERE u.record_sequence > 0
"""
ADVANCE_SEQUENCE = "UPDATE store SET sequence = sequence + ?"


class PartialCommitError(Exception):
    """A commit of the batch did not apply."""


class SqliteWriter(GroupCommit):
    """Writes batches of commits in transactions of the database."""

    def __init__(self, database: Database, owner: str, worker: CommitObserver) -> None:
        super().__init__(worker)
        self._database = database
        self._owner = owner

    async def _write(self, batch: list[PendingCommit]) -> None:
        rows = rows_of([pending.commit for pending in batch], self._owner)
        try:
            resumed = await self._database.write(partial(_write_rows, rows=rows))
        except PartialCommitError:
            if len(batch) > 1:
                raise
            batch[0].complete(committed=False)
        else:
            for pending in batch:
                pending.complete(committed=True)
            if resumed:
                self._worker.notify_claimable()

    async def _write_each(self, batch: list[PendingCommit]) -> None:
        await asyncio.gather(*(self._write_batch([pending]) for pending in batch))


async def _write_rows(tx: Transaction, rows: Rows) -> int:
    """Writes the rows and returns how many suspended runs their events resumed.

    Raises PartialCommitError if a row that its commit depends on did not apply.
    """
    if await _run(tx, INSERT_MESSAGE, commits.MESSAGE_COLUMNS, rows.messages) != len(rows.messages):
        raise PartialCommitError
    if await _run(tx, INSERT_RUN, commits.STARTED_COLUMNS, rows.started) != len(rows.started):
        raise PartialCommitError
    if await _run(tx, INSERT_PAYMENT, commits.PAYMENT_COLUMNS, rows.payments) != len(rows.payments):
        raise PartialCommitError
    if await _run(tx, UPDATE_RUN, commits.UPDATED_COLUMNS, rows.updated) != len(rows.updated):
        raise PartialCommitError
    await _run(tx, INSERT_REPLY, commits.STARTED_COLUMNS, rows.started)
    await _run(tx, INSERT_REPLY, commits.MESSAGE_COLUMNS, rows.messages)
    await _run(tx, INSERT_RECORDS, commits.RECORD_COLUMNS, rows.records)
    if not rows.outbox:
        return 0
    numbered = [(*row, number) for number, row in enumerate(rows.outbox, start=1)]
    columns = (*commits.OUTBOX_COLUMNS, "number")
    await _run(tx, INSERT_OUTBOX, columns, numbered)
    keys = commits.emitted_keys(rows)
    if keys:
        await _run(tx, INSERT_EVENTS, columns, numbered)
    await tx.execute(ADVANCE_SEQUENCE, len(numbered))
    return await resume_subscribers(tx, keys)


async def _run(
    tx: Transaction, statement: str, columns: tuple[str, ...], rows: list[RowValues]
) -> int:
    """Executes the statement for all rows and returns how many rows it changed."""
    changed = 0
    for first in range(0, len(rows), MAX_ROWS):
        some = rows[first : first + MAX_ROWS]
        size = 1 << (len(some) - 1).bit_length()
        values = [value for row in some for value in row]
        values += [None] * (len(columns) * (size - len(some)))
        changed += await tx.execute(_statement(statement, columns, size), *values)
    return changed


@cache
def _statement(statement: str, columns: tuple[str, ...], size: int) -> str:
    names = ", ".join(f"column{number} AS {name}" for number, name in enumerate(columns, start=1))
    row = f"({', '.join('?' * len(columns))})"
    values = ", ".join([row] * size)
    return statement.format(rows=f"(SELECT {names} FROM (VALUES {values})) AS u")  # noqa: S608
