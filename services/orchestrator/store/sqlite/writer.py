"""The writer of a process that has its store for itself: a batch is a handful of statements.

SQLite is called from a thread, and every statement there gives up the interpreter and has to win it
back from the event loop: so many rows go into one statement, and a batch is expected to land whole.
If it does not, it is undone, and each of its commits goes alone.
"""

from __future__ import annotations

import asyncio
from functools import cache, partial
from typing import TYPE_CHECKING

from mesh.data.database.sqlite import NOW_MS
from services.orchestrator.store import commits
from services.orchestrator.store.commits import rows_of
from services.orchestrator.store.group_commit import GroupCommit
from services.orchestrator.store.suspension import wake_listeners

if TYPE_CHECKING:
    from mesh.data.database import Database, Transaction
    from services.orchestrator.store.commits import Rows, RowValues
    from services.orchestrator.store.group_commit import PendingCommit

MOST_ROWS = 128  # in one statement: those with fewer are filled up, so that few are compiled

MOVE = """
UPDATE run SET sequence = u.sequence, status = u.status, reason = u.reason,
    updated_us = u.updated_us, finished_us = u.finished_us
FROM {rows} WHERE run.id = u.id AND run.epoch = u.epoch AND run.sequence = u.before
"""

DELIVER = f"""
INSERT INTO message SELECT u.id, u.position, u.kind, u.payload, ({NOW_MS}) FROM {{rows}}
WHERE u.id IS NOT NULL
AND u.position = 1 + (SELECT COALESCE(MAX(position), 0) FROM message WHERE message.run = u.id)
AND u.most > (SELECT COUNT(*) FROM message WHERE message.run = u.id AND message.kind = u.kind)
AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.caller = u.caller AND inbox.method = u.method
    AND inbox.request_id = u.request_id)
"""  # noqa: S608

BEAR = """
INSERT INTO run
SELECT id, workflow_id, definition_hash, starter, traceparent, status, reason, sequence, owner,
    0, created_us, updated_us, finished_us
FROM {rows}
WHERE id IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.caller = u.caller AND inbox.method = u.method
    AND inbox.request_id = u.request_id)
AND NOT EXISTS (SELECT 1 FROM definition WHERE definition.workflow_id = u.workflow_id
    AND definition.version > u.version)
AND NOT EXISTS (SELECT 1 FROM deleted_run WHERE deleted_run.id = u.id)
AND NOT EXISTS (SELECT 1 FROM payment WHERE payment.id = u.id)
ON CONFLICT DO NOTHING
"""

PAY = "INSERT INTO payment SELECT id, run FROM {rows} WHERE id IS NOT NULL ON CONFLICT DO NOTHING"

ANSWER = """
INSERT INTO inbox SELECT caller, method, request_id, body, reply FROM {rows} WHERE id IS NOT NULL
"""

RECORD = "INSERT INTO journal SELECT * FROM {rows} WHERE run IS NOT NULL"

ANNOUNCE = f"""
INSERT INTO outbox
SELECT store.sequence + u.number, u.type, u.subject, u.data, CASE run.traceparent WHEN '' THEN ''
    ELSE substr(run.traceparent, 1, 36) || u.span || substr(run.traceparent, 53) END, ({NOW_MS})
FROM {{rows}} CROSS JOIN run ON run.id = u.run CROSS JOIN store
"""  # noqa: S608
EMIT = """
INSERT INTO event SELECT store.sequence + u.number, u.type, u.subject, u.run, u.emitted
FROM {rows} CROSS JOIN store WHERE u.emitted > 0
"""
COUNT = "UPDATE store SET sequence = sequence + ?"


class PartialCommitError(Exception):
    """One of a batch did not apply."""


class SqliteWriter(GroupCommit):
    def __init__(self, database: Database, owner: str) -> None:
        super().__init__()
        self._database = database
        self._owner = owner

    async def _land(self, batch: list[PendingCommit]) -> None:
        rows = rows_of([pending.commit for pending in batch], self._owner)
        try:
            woken = await self._database.write(partial(_write, rows=rows))
        except PartialCommitError:
            if len(batch) > 1:
                raise
            batch[0].complete(committed=False)
        else:
            for pending in batch:
                pending.complete(committed=True)
            if woken:
                self.on_woken()

    async def _commit_each(self, batch: list[PendingCommit]) -> None:
        await asyncio.gather(*(self._commit_all([pending]) for pending in batch))


async def _write(tx: Transaction, rows: Rows) -> int:
    """How many runs that slept it woke."""
    if await _run(tx, DELIVER, commits.SENT, rows.sent) != len(rows.sent):
        raise PartialCommitError
    if await _run(tx, BEAR, commits.BORN, rows.born) != len(rows.born):
        raise PartialCommitError
    if await _run(tx, PAY, commits.PAID, rows.paid) != len(rows.paid):
        raise PartialCommitError
    if await _run(tx, MOVE, commits.MOVED, rows.moved) != len(rows.moved):
        raise PartialCommitError
    await _run(tx, ANSWER, commits.BORN, rows.born)
    await _run(tx, ANSWER, commits.SENT, rows.sent)
    await _run(tx, RECORD, commits.RECORDED, rows.recorded)
    if not rows.happened:
        return 0
    numbered = [(*row, number) for number, row in enumerate(rows.happened, start=1)]
    await _run(tx, ANNOUNCE, (*commits.HAPPENED, "number"), numbered)
    told = commits.emitted_keys(rows)
    if told:
        await _run(tx, EMIT, (*commits.HAPPENED, "number"), numbered)
    await tx.execute(COUNT, len(numbered))
    return await wake_listeners(tx, told)


async def _run(
    tx: Transaction, statement: str, columns: tuple[str, ...], rows: list[RowValues]
) -> int:
    """How many rows it touched."""
    touched = 0
    for first in range(0, len(rows), MOST_ROWS):
        some = rows[first : first + MOST_ROWS]
        size = 1 << (len(some) - 1).bit_length()
        values = [value for row in some for value in row]
        values += [None] * (len(columns) * (size - len(some)))
        touched += await tx.execute(_statement(statement, columns, size), *values)
    return touched


@cache
def _statement(statement: str, columns: tuple[str, ...], size: int) -> str:
    names = ", ".join(f"column{number} AS {name}" for number, name in enumerate(columns, start=1))
    row = f"({', '.join('?' * len(columns))})"
    values = ", ".join([row] * size)
    return statement.format(rows=f"(SELECT {names} FROM (VALUES {values})) AS u")  # noqa: S608
