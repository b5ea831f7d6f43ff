"""What the shared journal says to PostgreSQL: each commit is one statement, and one round trip.

``f`` is the fence, see ``mesh/lease.py``. It is a row lock and not a join: a takeover waits until
this statement is committed, or this statement finds no row and changes nothing.
"""

from __future__ import annotations

SCHEMA = """
CREATE INDEX IF NOT EXISTS run_owned ON run (owner) WHERE finished_us IS NULL;
ALTER TABLE run SET (fillfactor = 80);
"""

MOVED = "anya_run_moved"  # channel: ids of runs, parted by spaces
WAITING = "anya_run_waiting"  # channel: somebody may claim something

# A run is unique by its id, also between replicas that start it at once. The inbox outlives it, and
# a definition that is no longer the newest starts nothing.
COMMIT = """
WITH f AS MATERIALIZED (
    SELECT 1 FROM executor WHERE id = $1 AND incarnation = $2 AND lease_until > now() FOR SHARE),
moved AS (
    UPDATE run SET sequence = u.sequence, status = u.status, reason = u.reason,
        updated_us = u.updated_us, finished_us = u.finished_us
    FROM f, unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
        $9::bigint[], $10::bigint[])
        AS u (id, epoch, before, sequence, status, reason, updated_us, finished_us)
    WHERE run.id = u.id AND run.owner = $1 AND run.epoch = u.epoch AND run.sequence = u.before
    RETURNING run.id, run.traceparent),
asked AS (
    SELECT u.* FROM f, unnest($11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
        $16::text[], $17::text[], $18::bigint[], $19::text[], $20::bigint[], $21::bigint[],
        $22::bigint[], $23::bigint[], $24::text[], $25::text[], $26::text[], $27::bytea[],
        $28::bytea[])
        AS u (id, workflow_id, definition_hash, starter, traceparent, status, reason, sequence,
        owner, created_us, updated_us, finished_us, version, caller, method, request_id, body,
        reply)),
born AS (
    INSERT INTO run
    SELECT id, workflow_id, definition_hash, starter, traceparent, status, reason, sequence, owner,
        0, created_us, updated_us, finished_us
    FROM asked
    WHERE NOT EXISTS (SELECT 1 FROM inbox WHERE caller = asked.caller AND method = asked.method
        AND request_id = asked.request_id)
    AND NOT EXISTS (SELECT 1 FROM definition WHERE workflow_id = asked.workflow_id
        AND version > asked.version)
    ON CONFLICT DO NOTHING RETURNING id, traceparent),
answered AS (
    INSERT INTO inbox SELECT caller, method, request_id, body, reply
    FROM asked JOIN born USING (id)),
landed AS (SELECT * FROM moved UNION ALL SELECT * FROM born),
recorded AS (
    INSERT INTO journal SELECT u.*
    FROM unnest($29::text[], $30::bigint[], $31::text[], $32::text[], $33::bigint[], $34::bigint[],
        $35::bytea[]) AS u (run, sequence, kind, path, attempt, at_us, payload)
    WHERE run IN (SELECT id FROM landed)),
happened AS (
    SELECT u.type, u.run, row_number() OVER (ORDER BY u.place) AS number,
        CASE WHEN landed.traceparent = '' THEN ''
        ELSE overlay(landed.traceparent PLACING u.span FROM 37) END AS traceparent
    FROM unnest($36::text[], $37::text[], $38::text[]) WITH ORDINALITY AS u (type, run, span, place)
    JOIN landed ON landed.id = u.run),
counted AS (
    UPDATE store SET sequence = sequence + (SELECT count(*) FROM happened)
    WHERE EXISTS (SELECT 1 FROM happened) RETURNING sequence),
announced AS (
    INSERT INTO outbox
    SELECT counted.sequence - (SELECT count(*) FROM happened) + number, type, run, ''::bytea,
        traceparent, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint
    FROM happened, counted)
SELECT EXISTS (SELECT 1 FROM f), ARRAY(SELECT id FROM landed),
    ARRAY(SELECT pg_notify(channel, message)::text
        FROM unnest($39::text[], $40::text[]) AS u (channel, message))
"""

# At most the share that leaves something to every other live executor.
CLAIM = """
WITH f AS MATERIALIZED (
    SELECT 1 FROM executor WHERE id = $1 AND incarnation = $2 AND lease_until > now() FOR SHARE),
share AS (
    SELECT ceil(count(*)::float8 / greatest(1,
        (SELECT count(*) FROM executor WHERE lease_until > now())))::bigint AS most
    FROM (SELECT 1 FROM run WHERE finished_us IS NULL AND owner = '' LIMIT $3 * 16) AS waiting),
chosen AS (
    SELECT id FROM run WHERE finished_us IS NULL AND owner = ''
    ORDER BY created_us, id LIMIT (SELECT least($3, most) FROM share)
    FOR UPDATE SKIP LOCKED)
UPDATE run SET owner = $1 FROM f, chosen WHERE run.id = chosen.id RETURNING run.id, run.epoch
"""

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

TELL = "SELECT pg_notify($1, $2)"
