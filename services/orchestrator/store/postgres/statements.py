"""What the shared journal says to PostgreSQL: each commit is one statement, and one round trip.

``f`` is the fence, see ``mesh/data/lease.py``. It is a row lock and not a join: a takeover waits
until this statement is committed, or this statement finds no row and changes nothing.
"""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any

from services.orchestrator.engine.waits import ANY
from services.orchestrator.store import commits
from services.orchestrator.store.suspension import ASLEEP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.orchestrator.store.commits import Rows

# A notification holds 8,000 bytes.
IDS_TOLD_AT_ONCE = 100
MOST_TOLD = 7000  # bytes of a message
SCHEMA = """
CREATE INDEX IF NOT EXISTS run_owned ON run (owner) WHERE finished_us IS NULL;
ALTER TABLE run SET (fillfactor = 80);
"""

_NOW_MS = "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint"

MOVED = "anya_run_moved"  # channel: ids of runs, parted by spaces
MAIL = "anya_run_mail"  # channel: id of a run that was sent something, who sent it, and what
EVENT = "anya_event"  # channel: a run emitted something
WAITING = "anya_run_waiting"  # channel: somebody may claim something

# The fence: nothing below it happens unless we hold our lease.
_FENCE = """f AS MATERIALIZED (
    SELECT 1 FROM replica WHERE id = $1 AND incarnation = $2 AND lease_until > now() FOR SHARE)"""

_MOVED = """moved AS (
    UPDATE run SET sequence = u.sequence, status = u.status, reason = u.reason,
        updated_us = u.updated_us, finished_us = u.finished_us
    FROM f, {moved}
    WHERE run.id = u.id AND run.owner = $1 AND run.epoch = u.epoch AND run.sequence = u.before{fits}
    RETURNING run.id)"""

# What led to a turn and is stored with it. What others store for the run meanwhile breaks the key
# of one of them: then nothing of this commit happened.
_LETTER = """letter AS MATERIALIZED (SELECT u.* FROM {sent}),
fit AS MATERIALIZED (
    SELECT id FROM letter
    WHERE position = 1 + (
        SELECT coalesce(max(message.position), 0) FROM message WHERE run = letter.id)
    AND most > (SELECT count(*) FROM message WHERE run = letter.id AND message.kind = letter.kind)
    AND NOT EXISTS (SELECT 1 FROM inbox WHERE caller = letter.caller AND method = letter.method
        AND request_id = letter.request_id))"""
_FITS = """
    AND (u.id IN (SELECT id FROM letter)) = (u.id IN (SELECT id FROM fit))"""
_SENT = """sent AS (
    INSERT INTO message SELECT id, position, kind, payload, {now}
    FROM letter WHERE (id IN (SELECT id FROM landed)) IS TRUE),
replied AS (
    INSERT INTO inbox SELECT caller, method, request_id, body, reply
    FROM letter WHERE (id IN (SELECT id FROM landed)) IS TRUE)"""

# A run is unique by its id, also between replicas that start it at once. The inbox outlives it, and
# a definition that is no longer the newest starts nothing.
_BORN = """asked AS (SELECT u.* FROM f, {born}),
born AS (
    INSERT INTO run
    SELECT id, workflow_id, definition_hash, starter, traceparent, status, reason, sequence, owner,
        0, created_us, updated_us, finished_us
    FROM asked
    WHERE NOT EXISTS (SELECT 1 FROM inbox WHERE caller = asked.caller AND method = asked.method
        AND request_id = asked.request_id)
    AND NOT EXISTS (SELECT 1 FROM definition WHERE workflow_id = asked.workflow_id
        AND version > asked.version)
    AND NOT EXISTS (SELECT 1 FROM deleted_run WHERE id = asked.id)
    AND NOT EXISTS (SELECT 1 FROM payment WHERE id = asked.id)
    ON CONFLICT DO NOTHING RETURNING id),
answered AS (
    INSERT INTO inbox SELECT caller, method, request_id, body, reply
    FROM asked WHERE (id IN (SELECT id FROM born)) IS TRUE)"""

# A payment that some run has breaks the statement: nothing of it lands.
_PAID = """paid AS (
    INSERT INTO payment SELECT u.id, u.run FROM {paid}
    WHERE (u.run IN (SELECT id FROM born)) IS TRUE)"""

# ``IS TRUE`` keeps what is one look into a hash table from becoming a join.
_RECORDED = """landed AS ({landed}),
recorded AS (
    INSERT INTO journal SELECT u.* FROM {recorded}
    WHERE (u.run IN (SELECT id FROM landed)) IS TRUE)"""

_HAPPENED = """happened AS (
    SELECT u.type, u.run, row_number() OVER () AS number, u.span, u.subject, u.data, u.emitted,
        coalesce(u.parent, (SELECT traceparent FROM run WHERE id = u.run)) AS parent
    FROM {happened} WHERE (u.run IN (SELECT id FROM landed)) IS TRUE),
counted AS (
    UPDATE store SET sequence = sequence + (SELECT count(*) FROM happened)
    WHERE EXISTS (SELECT 1 FROM happened) RETURNING sequence),
announced AS (
    INSERT INTO outbox
    SELECT counted.sequence - (SELECT count(*) FROM happened) + number, type, subject, data,
        CASE WHEN parent = '' THEN '' ELSE overlay(parent PLACING span FROM 37) END, {now}
    FROM happened, counted)"""
_EMITTED = """emitted AS (
    INSERT INTO event
    SELECT counted.sequence - (SELECT count(*) FROM happened) + number, type, subject, run, emitted
    FROM happened, counted WHERE emitted > 0)"""

# Who is alone need not tell anybody.
_ANSWER = """SELECT EXISTS (SELECT 1 FROM f), ARRAY(SELECT id FROM landed),
    ARRAY(SELECT pg_notify(u.channel, u.message)::text FROM {told}
        WHERE EXISTS (SELECT 1 FROM replica WHERE id <> $1 AND lease_until > now()))"""

_TOLD = ["channel", "message"]
_OWNER = commits.BORN.index("owner")
_BYTES = {"body", "reply", "payload", "data"}
_LISTS = _BYTES | {"parent"}  # which may be NULL
_NUMBERS = {
    *("epoch", "before", "sequence", "version", "attempt", "emitted", "position", "most"),
    *("at_us", "created_us", "updated_us", "finished_us"),
}


def statement(rows: Rows) -> str:
    """What commits ``rows``: $1 is who we are, $2 our incarnation, then come ``arguments``.

    It answers whether we hold our lease, and the ids of the runs that it moved or started.
    """
    return _statement(
        bool(rows.sent),
        bool(rows.moved),
        bool(rows.born),
        bool(rows.paid),
        bool(rows.happened),
        _emits(rows),
    )


@cache
def _statement(
    delivers: bool, moves: bool, starts: bool, pays: bool, announces: bool, emits: bool
) -> str:
    columns: dict[str, Sequence[str]] = {}
    parts, landed = [_FENCE], []
    if delivers:
        columns["sent"] = commits.SENT
        parts.append(_LETTER)
    if moves:
        columns["moved"] = commits.MOVED
        parts.append(_MOVED)
        landed.append("SELECT id FROM moved")
    if starts:
        columns["born"] = commits.BORN
        parts.append(_BORN)
        landed.append("SELECT id FROM born")
    if pays:
        columns["paid"] = commits.PAID
        parts.append(_PAID)
    columns["recorded"] = commits.RECORDED
    parts.append(_RECORDED)
    if delivers:
        parts.append(_SENT)
    if announces:
        columns["happened"] = commits.HAPPENED
        parts.append(_HAPPENED)
    if emits:
        parts.append(_EMITTED)
    columns["told"] = _TOLD
    number = count(3)
    tables = {name: _unnested(names, number) for name, names in columns.items()}
    text = ",\n".join(parts) + "\n" + _ANSWER
    fits = _FITS if delivers else ""
    born_or_moved = " UNION ALL ".join(landed)
    return "WITH " + text.format(landed=born_or_moved, fits=fits, now=_NOW_MS, **tables)


def _unnested(columns: Sequence[str], number: Iterator[int]) -> str:
    arrays = ", ".join(f"${next(number)}::{_type(name)}" for name in columns)
    return f"unnest({arrays}) AS u ({', '.join(columns)})"


def _type(column: str) -> str:
    if column in _LISTS:
        return "bytea[]" if column in _BYTES else "text[]"
    return "text::bigint[]" if column in _NUMBERS else "text::text[]"


def arguments(rows: Rows) -> list[Any]:
    """The columns of ``rows``, as far as there are any. ValueError for a text with a zero byte."""
    tables = (
        *((commits.SENT, rows.sent), (commits.MOVED, rows.moved), (commits.BORN, rows.born)),
        *((commits.PAID, rows.paid), (commits.RECORDED, rows.recorded)),
        *((commits.HAPPENED, rows.happened), (_TOLD, list(_told(rows)))),
    )
    return [
        _argument(name, column)
        for names, table in tables
        if table
        for name, column in zip(names, zip(*table, strict=True), strict=True)
    ]


def _argument(name: str, column: Sequence[Any]) -> Any:
    """An array as PostgreSQL writes it: asyncpg asks of each element of a list what it is."""
    if name in _LISTS:
        return column
    if name in _NUMBERS:
        return "{" + str(list(column))[1:-1].replace("None", "NULL") + "}"
    joined = "\0".join(column)
    if joined.count("\0") >= len(column):
        raise ValueError(f"a {name} has a zero byte, which PostgreSQL does not store")
    escaped = joined.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return f'{{"{escaped}"}}'


def _told(rows: Rows) -> Iterator[tuple[str, str]]:
    ids = [row[0] for row in (*rows.moved, *rows.born)]
    for first in range(0, len(ids), IDS_TOLD_AT_ONCE):
        yield MOVED, " ".join(ids[first : first + IDS_TOLD_AT_ONCE])
    if any(not row[_OWNER] for row in rows.born):
        yield WAITING, ""
    if _emits(rows):
        yield EVENT, ""


def _emits(rows: Rows) -> bool:
    return any(row[commits.EMITTED] for row in rows.happened)


# At most the share that leaves something to every other live executor.
CLAIM = """
WITH f AS MATERIALIZED (
    SELECT 1 FROM replica WHERE id = $1 AND incarnation = $2 AND lease_until > now() FOR SHARE),
share AS (
    SELECT ceil(count(*)::float8 / greatest(1,
        (SELECT count(*) FROM replica WHERE lease_until > now())))::bigint AS most
    FROM (SELECT 1 FROM run WHERE finished_us IS NULL AND owner = '' LIMIT $3 * 16) AS waiting),
chosen AS (
    SELECT id FROM run WHERE finished_us IS NULL AND owner = ''
    ORDER BY created_us, id LIMIT (SELECT least($3, most) FROM share)
    FOR UPDATE SKIP LOCKED),
woken AS (DELETE FROM asleep USING f, chosen WHERE asleep.run = chosen.id RETURNING asleep.run),
heard AS (DELETE FROM listening USING f, chosen WHERE listening.run = chosen.id)
UPDATE run SET owner = $1 FROM f, chosen WHERE run.id = chosen.id
RETURNING run.id, run.epoch, run.id IN (SELECT woken.run FROM woken)
"""

# Those that listen to what was just emitted: types and subjects. Behind the statement that counted
# the events, in its transaction. That statement may have waited for the store's row while one of
# these fell asleep, and does not see it then; this one does.
WAKE = f"""
WITH heard AS MATERIALIZED (
    SELECT DISTINCT listening.run FROM unnest($1::text[], $2::text[]) AS u (type, subject)
    JOIN listening ON listening.type = u.type AND listening.subject IN (u.subject, '{ANY}')),
woken AS (
    UPDATE run SET owner = '' FROM heard WHERE run.id = heard.run AND run.owner = '{ASLEEP}'
    RETURNING run.id),
due AS (UPDATE asleep SET wake_us = NULL FROM woken WHERE asleep.run = woken.id)
SELECT count(*), CASE WHEN count(*) > 0 THEN pg_notify('{WAITING}', '')::text END FROM woken
"""  # noqa: S608

RELEASE = """
UPDATE run SET owner = '', epoch = epoch + 1
WHERE owner = ANY($1::text[]) AND finished_us IS NULL RETURNING id
"""

RELEASE_LOST = """
UPDATE run SET owner = '', epoch = epoch + 1
WHERE owner = $1 AND finished_us IS NULL AND id <> ALL($2::text[])
"""

# Whether the last spans of these left a process that was killed, nobody knows.
ENDED_LATELY = """
WITH last AS (
    SELECT id, owner, finished_us FROM run WHERE finished_us IS NOT NULL
    ORDER BY finished_us DESC LIMIT 1000)
SELECT id FROM last WHERE owner = ANY($1::text[])
AND finished_us >= (SELECT max(finished_us) FROM last WHERE owner = ANY($1::text[])) - $2
"""

# What is sent to a run that is awake and open, under a key of its own, if it was not sent too much;
# nothing in every other case, and where others send to it at the same moment. Whoever would end the
# run, or have it fall asleep, waits for this statement, or this statement finds no row. For
# ``finished_us IS NULL`` a plan may go through the index of all open runs: not for ``coalesce``.
SEND = f"""
WITH awake AS MATERIALIZED (
    SELECT 1 FROM run WHERE id = $1 AND coalesce(finished_us, 0) = 0 AND owner <> $2
    FOR NO KEY UPDATE),
held AS (
    SELECT count(*) FILTER (WHERE kind = $3) AS same, coalesce(max(position), 0) AS last
    FROM message WHERE run = $1),
sent AS (
    INSERT INTO message SELECT $1, last + 1, $3, $4, {_NOW_MS} FROM awake, held
    WHERE same < $5 AND NOT EXISTS (
        SELECT 1 FROM inbox WHERE caller = $6 AND method = $7 AND request_id = $8)
    ON CONFLICT DO NOTHING RETURNING position),
answered AS (INSERT INTO inbox SELECT $6, $7, $8, $9, $10 FROM sent)
SELECT CASE WHEN EXISTS (SELECT 1 FROM replica WHERE id <> $11 AND lease_until > now()) THEN
    pg_notify('{MAIL}', concat_ws(' ', $1::text, $11::text,
        CASE WHEN octet_length($4) <= {MOST_TOLD} THEN
            concat_ws(' ', position, $3::text, convert_from($4, 'UTF8')) END))::text END
FROM sent
"""  # noqa: S608

TELL = "SELECT pg_notify($1, $2)"
