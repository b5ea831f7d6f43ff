"""The PostgreSQL statements of the run store: each commit is one statement, and one round trip.

``fence`` is the row of this replica's lease, see ``mesh/data/lease.py``. It is locked rather than
joined: a takeover waits until the statement has committed, or the statement finds no row and
changes nothing.
"""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any

from services.orchestrator.engine.waits import ANY_SUBJECT
from services.orchestrator.store import commits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.orchestrator.store.commits import Rows

# A notification holds 8,000 bytes.
MAX_IDS_PER_NOTIFY = 100
MAX_NOTIFY_BYTES = 7000  # of a message
SCHEMA = """
CREATE INDEX IF NOT EXISTS run_owned ON run (owner) WHERE finished_us IS NULL;
ALTER TABLE run SET (fillfactor = 80);
"""

_NOW_MS = "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint"

# The channels of notifications, and the contents of their messages.
RUN_UPDATED = "anya_run_updated"  # ids of runs, separated by spaces
RUN_MESSAGE = "anya_run_message"  # the run, the replica that stored the message, and the message
RUN_CLAIMABLE = "anya_run_claimable"  # nothing: a run may wait for a claim
EVENT = "anya_event"  # nothing: a run emitted an event

# Nothing below it is committed unless this replica holds its lease.
_FENCE = """fence AS MATERIALIZED (
    SELECT 1 FROM replica WHERE id = $1 AND incarnation = $2 AND lease_until > now() FOR SHARE)"""

UPDATE_RUN = """updated AS (
    UPDATE run SET sequence = u.sequence, status = u.status, reason = u.reason,
        updated_us = u.updated_us, finished_us = u.finished_us
    FROM fence, {updated}
    WHERE run.id = u.id AND run.owner = $1 AND run.epoch = u.epoch
        AND run.sequence = u.before{deliverable}
    RETURNING run.id)"""

# A message that is stored with the transition it caused. If another replica stores a message to the
# same run at the same moment, one of the two violates a key, and its commit changes nothing.
_ENVELOPE = """envelope AS MATERIALIZED (SELECT u.* FROM {messages}),
deliverable AS MATERIALIZED (
    SELECT id FROM envelope
    WHERE position = 1 + (
        SELECT coalesce(max(message.position), 0) FROM message WHERE run = envelope.id)
    AND most > (
        SELECT count(*) FROM message WHERE run = envelope.id AND message.kind = envelope.kind)
    AND NOT EXISTS (SELECT 1 FROM idempotency_key WHERE caller = envelope.caller
        AND method = envelope.method AND request_id = envelope.request_id))"""
_IS_DELIVERABLE = """
        AND (u.id IN (SELECT id FROM envelope)) = (u.id IN (SELECT id FROM deliverable))"""
INSERT_MESSAGE = """stored AS (
    INSERT INTO message SELECT id, position, kind, payload, {now}
    FROM envelope WHERE (id IN (SELECT id FROM committed)) IS TRUE),
replied AS (
    INSERT INTO idempotency_key SELECT caller, method, request_id, body, reply
    FROM envelope WHERE (id IN (SELECT id FROM committed)) IS TRUE)"""

# Replicas that start the same run at once conflict on its id. The idempotency key is checked as
# well, as it outlives the run. A definition that is no longer the newest starts no run.
INSERT_RUN = """requested AS (SELECT u.* FROM fence, {started}),
started AS (
    INSERT INTO run
    SELECT id, workflow_id, definition_hash, started_by, traceparent, status, reason, sequence,
        owner, 0, 0, created_us, updated_us, finished_us
    FROM requested
    WHERE NOT EXISTS (SELECT 1 FROM idempotency_key WHERE caller = requested.caller
        AND method = requested.method AND request_id = requested.request_id)
    AND NOT EXISTS (SELECT 1 FROM definition WHERE workflow_id = requested.workflow_id
        AND version > requested.version)
    AND NOT EXISTS (SELECT 1 FROM deleted_run WHERE id = requested.id)
    AND NOT EXISTS (SELECT 1 FROM payment WHERE id = requested.id)
    ON CONFLICT DO NOTHING RETURNING id)"""
INSERT_REPLY = """answered AS (
    INSERT INTO idempotency_key SELECT caller, method, request_id, body, reply
    FROM requested WHERE (id IN (SELECT id FROM started)) IS TRUE)"""

# A payment id that another run has violates the key: the statement changes nothing.
INSERT_PAYMENT = """paid AS (
    INSERT INTO payment SELECT u.id, u.run FROM {payments}
    WHERE (u.run IN (SELECT id FROM started)) IS TRUE)"""

# ``IS TRUE`` makes the plan probe a hash table instead of joining.
INSERT_RECORDS = """committed AS ({committed}),
recorded AS (
    INSERT INTO journal SELECT u.* FROM {records}
    WHERE (u.run IN (SELECT id FROM committed)) IS TRUE)"""

_ANNOUNCED = """announced AS (
    SELECT u.type, u.run, row_number() OVER () AS number, u.span, u.subject, u.data,
        u.record_sequence,
        coalesce(u.parent, (SELECT traceparent FROM run WHERE id = u.run)) AS parent
    FROM {outbox} WHERE (u.run IN (SELECT id FROM committed)) IS TRUE)"""
ADVANCE_SEQUENCE = """advanced AS (
    UPDATE store SET sequence = sequence + (SELECT count(*) FROM announced)
    WHERE EXISTS (SELECT 1 FROM announced) RETURNING sequence)"""
INSERT_OUTBOX = """published AS (
    INSERT INTO outbox
    SELECT advanced.sequence - (SELECT count(*) FROM announced) + number, type, subject, data,
        CASE WHEN parent = '' THEN '' ELSE overlay(parent PLACING span FROM 37) END, {now}
    FROM announced, advanced)"""
INSERT_EVENTS = """emitted AS (
    INSERT INTO event
    SELECT advanced.sequence - (SELECT count(*) FROM announced) + number, type, subject, run,
        record_sequence
    FROM announced, advanced WHERE record_sequence > 0)"""

# Without another live replica, no notification is sent.
_RESULT = """SELECT EXISTS (SELECT 1 FROM fence), ARRAY(SELECT id FROM committed),
    ARRAY(SELECT pg_notify(u.channel, u.message)::text FROM {notifications}
        WHERE EXISTS (SELECT 1 FROM replica WHERE id <> $1 AND lease_until > now()))"""

NOTIFICATION_COLUMNS = ("channel", "message")
_OWNER = commits.STARTED_COLUMNS.index("owner")
_BYTES = {"body", "reply", "payload", "data"}
_LISTS = _BYTES | {"parent"}  # sent as lists, whose elements may be NULL
_NUMBERS = {
    *("epoch", "before", "sequence", "version", "attempt", "record_sequence", "position", "most"),
    *("at_us", "created_us", "updated_us", "finished_us"),
}


def statement(rows: Rows) -> str:
    """Returns the statement that commits ``rows``.

    Its parameters are the replica's id ($1), its incarnation ($2), and ``arguments(rows)``. Its one
    row says whether the replica holds its lease, and which runs it updated or started.
    """
    return _statement(
        bool(rows.messages),
        bool(rows.updated),
        bool(rows.started),
        bool(rows.payments),
        bool(rows.outbox),
        rows.has_events,
    )


@cache
def _statement(
    delivers: bool, updates: bool, starts: bool, pays: bool, announces: bool, emits: bool
) -> str:
    columns: dict[str, Sequence[str]] = {}
    parts, committed = [_FENCE], []
    if delivers:
        columns["messages"] = commits.MESSAGE_COLUMNS
        parts.append(_ENVELOPE)
    if updates:
        columns["updated"] = commits.UPDATED_COLUMNS
        parts.append(UPDATE_RUN)
        committed.append("SELECT id FROM updated")
    if starts:
        columns["started"] = commits.STARTED_COLUMNS
        parts += [INSERT_RUN, INSERT_REPLY]
        committed.append("SELECT id FROM started")
    if pays:
        columns["payments"] = commits.PAYMENT_COLUMNS
        parts.append(INSERT_PAYMENT)
    columns["records"] = commits.RECORD_COLUMNS
    parts.append(INSERT_RECORDS)
    if delivers:
        parts.append(INSERT_MESSAGE)
    if announces:
        columns["outbox"] = commits.OUTBOX_COLUMNS
        parts += [_ANNOUNCED, ADVANCE_SEQUENCE, INSERT_OUTBOX]
    if emits:
        parts.append(INSERT_EVENTS)
    columns["notifications"] = NOTIFICATION_COLUMNS
    number = count(3)
    tables = {name: _unnested(names, number) for name, names in columns.items()}
    text = ",\n".join(parts) + "\n" + _RESULT
    return "WITH " + text.format(
        committed=" UNION ALL ".join(committed),
        deliverable=_IS_DELIVERABLE if delivers else "",
        now=_NOW_MS,
        **tables,
    )


def _unnested(columns: Sequence[str], number: Iterator[int]) -> str:
    arrays = ", ".join(f"${next(number)}::{_type(name)}" for name in columns)
    return f"unnest({arrays}) AS u ({', '.join(columns)})"


def _type(column: str) -> str:
    if column in _LISTS:
        return "bytea[]" if column in _BYTES else "text[]"
    return "text::bigint[]" if column in _NUMBERS else "text::text[]"


def arguments(rows: Rows) -> list[Any]:
    """Returns the columns of the tables of ``rows`` that have rows, and of the notifications.

    Raises ValueError if a text has a zero byte.
    """
    tables = (
        (commits.MESSAGE_COLUMNS, rows.messages),
        (commits.UPDATED_COLUMNS, rows.updated),
        (commits.STARTED_COLUMNS, rows.started),
        (commits.PAYMENT_COLUMNS, rows.payments),
        (commits.RECORD_COLUMNS, rows.records),
        (commits.OUTBOX_COLUMNS, rows.outbox),
        (NOTIFICATION_COLUMNS, list(_notifications(rows))),
    )
    return [
        _argument(name, column)
        for names, table in tables
        if table
        for name, column in zip(names, zip(*table, strict=True), strict=True)
    ]


def _argument(name: str, column: Sequence[Any]) -> Any:
    """Returns the column as PostgreSQL writes an array, if it can have no NULL.

    As a list it would cost more: asyncpg inspects the type of each element.
    """
    if name in _LISTS:
        return column
    if name in _NUMBERS:
        return "{" + str(list(column))[1:-1].replace("None", "NULL") + "}"
    joined = "\0".join(column)
    if joined.count("\0") >= len(column):
        raise ValueError(f"a {name} has a zero byte, which PostgreSQL does not store")
    escaped = joined.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return f'{{"{escaped}"}}'


def _notifications(rows: Rows) -> Iterator[tuple[str, str]]:
    ids = [row[0] for row in (*rows.updated, *rows.started)]
    for first in range(0, len(ids), MAX_IDS_PER_NOTIFY):
        yield RUN_UPDATED, " ".join(ids[first : first + MAX_IDS_PER_NOTIFY])
    if any(not row[_OWNER] for row in rows.started):
        yield RUN_CLAIMABLE, ""
    if rows.has_events:
        yield EVENT, ""


# A replica takes at most its share of the runs that wait, so that every live replica gets some.
CLAIM = """
WITH fence AS MATERIALIZED (
    SELECT 1 FROM replica WHERE id = $1 AND incarnation = $2 AND lease_until > now() FOR SHARE),
share AS (
    SELECT ceil(count(*)::float8 / greatest(1,
        (SELECT count(*) FROM replica WHERE lease_until > now())))::bigint AS most
    FROM (SELECT 1 FROM run WHERE finished_us IS NULL AND owner = '' AND suspended = 0
        LIMIT $3 * 16) AS waiting),
chosen AS (
    SELECT id FROM run WHERE finished_us IS NULL AND owner = '' AND suspended = 0
    ORDER BY created_us, id LIMIT (SELECT least($3, most) FROM share)
    FOR UPDATE SKIP LOCKED),
resumed AS (
    DELETE FROM suspended_run USING fence, chosen WHERE suspended_run.run = chosen.id
    RETURNING suspended_run.run),
unsubscribed AS (
    DELETE FROM event_subscription USING fence, chosen WHERE event_subscription.run = chosen.id)
UPDATE run SET owner = $1 FROM fence, chosen WHERE run.id = chosen.id
RETURNING run.id, run.epoch, run.id IN (SELECT resumed.run FROM resumed)
"""

# Resumes the suspended runs that wait for the events just emitted, by their types and subjects. It
# follows the statement that inserts the events, in the same transaction: that statement may have
# waited for the row of ``store`` while such a run was suspended, and then does not see it.
RESUME_SUBSCRIBERS = f"""
WITH subscriber AS MATERIALIZED (
    SELECT DISTINCT event_subscription.run
    FROM unnest($1::text[], $2::text[]) AS u (type, subject)
    JOIN event_subscription ON event_subscription.type = u.type
        AND event_subscription.subject IN (u.subject, '{ANY_SUBJECT}')),
resumed AS (
    UPDATE run SET suspended = 0 FROM subscriber
    WHERE run.id = subscriber.run AND run.suspended = 1
    RETURNING run.id),
timers AS (
    UPDATE suspended_run SET wake_us = NULL FROM resumed WHERE suspended_run.run = resumed.id)
SELECT count(*), CASE WHEN count(*) > 0 THEN pg_notify('{RUN_CLAIMABLE}', '')::text END
FROM resumed
"""  # noqa: S608

RELEASE = """
UPDATE run SET owner = '', epoch = epoch + 1
WHERE owner = ANY($1::text[]) AND finished_us IS NULL RETURNING id
"""

RELEASE_LOST = """
UPDATE run SET owner = '', epoch = epoch + 1
WHERE owner = $1 AND finished_us IS NULL AND id <> ALL($2::text[])
"""

# The runs of dead replicas whose last spans may not have been exported.
ENDED_RECENTLY = """
WITH last AS (
    SELECT id, owner, finished_us FROM run WHERE finished_us IS NOT NULL
    ORDER BY finished_us DESC LIMIT 1000)
SELECT id FROM last WHERE owner = ANY($1::text[])
AND finished_us >= (SELECT max(finished_us) FROM last WHERE owner = ANY($1::text[])) - $2
"""

# Stores a message to a run that has not ended and is not suspended, if its key is new and the run
# has room for it. In every other case, and if another message to the run is stored at the same
# moment, it does nothing. A commit that would end or suspend the run waits for this statement, or
# this statement finds no row. ``coalesce`` instead of ``finished_us IS NULL`` keeps the plan away
# from the partial index of all open runs.
SEND = f"""
WITH receiver AS MATERIALIZED (
    SELECT 1 FROM run WHERE id = $1 AND coalesce(finished_us, 0) = 0 AND suspended = 0
    FOR NO KEY UPDATE),
received AS (
    SELECT count(*) FILTER (WHERE kind = $2) AS same, coalesce(max(position), 0) AS last
    FROM message WHERE run = $1),
stored AS (
    INSERT INTO message SELECT $1, last + 1, $2, $3, {_NOW_MS} FROM receiver, received
    WHERE same < $4 AND NOT EXISTS (
        SELECT 1 FROM idempotency_key WHERE caller = $5 AND method = $6 AND request_id = $7)
    ON CONFLICT DO NOTHING RETURNING position),
answered AS (INSERT INTO idempotency_key SELECT $5, $6, $7, $8, $9 FROM stored)
SELECT CASE WHEN EXISTS (SELECT 1 FROM replica WHERE id <> $10 AND lease_until > now()) THEN
    pg_notify('{RUN_MESSAGE}', concat_ws(' ', $1::text, $10::text,
        CASE WHEN octet_length($3) <= {MAX_NOTIFY_BYTES} THEN
            concat_ws(' ', position, $2::text, convert_from($3, 'UTF8')) END))::text END
FROM stored
"""  # noqa: S608

NOTIFY = "SELECT pg_notify($1, $2)"
