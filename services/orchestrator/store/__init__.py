"""What the orchestrator must not forget: definitions, runs, and the records of every run."""

from __future__ import annotations

from mesh.data import idempotency, outbox

SCHEMA = (
    idempotency.SCHEMA
    + outbox.SCHEMA
    + """
CREATE TABLE IF NOT EXISTS definition (
    hash          TEXT PRIMARY KEY,  -- SHA-256 of the RFC 8785 form, hex
    workflow_id   TEXT NOT NULL,
    name          TEXT NOT NULL,
    body          TEXT NOT NULL,     -- as registered
    version       INTEGER NOT NULL,  -- of its workflow_id, from 1
    registered_us INTEGER NOT NULL,
    uses          TEXT NOT NULL,     -- ids of the workflows that its steps run, parted by spaces
    UNIQUE (workflow_id, version)
) STRICT;

CREATE TABLE IF NOT EXISTS run (
    id              TEXT PRIMARY KEY,  -- the request_id that started it
    workflow_id     TEXT NOT NULL,
    definition_hash TEXT NOT NULL REFERENCES definition (hash),
    starter         TEXT NOT NULL,     -- SPIFFE ID
    traceparent     TEXT NOT NULL,     -- of what the run is below; empty: untraced
    status          TEXT NOT NULL,
    reason          TEXT NOT NULL,
    sequence        INTEGER NOT NULL,  -- of its last record
    owner           TEXT NOT NULL,     -- the process that drives it; empty: it waits for one
    epoch           INTEGER NOT NULL,  -- grows with every change of hands: the old owner is fenced
    created_us      INTEGER NOT NULL,
    updated_us      INTEGER NOT NULL,
    finished_us     INTEGER            -- NULL while it has something to do
) STRICT;
CREATE INDEX IF NOT EXISTS run_waiting ON run (created_us, id)
    WHERE finished_us IS NULL AND owner = '';
CREATE INDEX IF NOT EXISTS run_by_end ON run (finished_us, id) WHERE finished_us IS NOT NULL;
CREATE INDEX IF NOT EXISTS run_by_age ON run (created_us, id);
CREATE INDEX IF NOT EXISTS run_by_workflow ON run (workflow_id, created_us, id);
CREATE INDEX IF NOT EXISTS run_by_status ON run (status, created_us, id);

-- The payments of runs that make several. A run that makes one has its id.
CREATE TABLE IF NOT EXISTS payment (
    id  TEXT PRIMARY KEY,
    run TEXT NOT NULL
) STRICT;

-- In the order it was written: a commit of many runs touches few pages.
CREATE TABLE IF NOT EXISTS journal (
    run      TEXT NOT NULL,
    sequence INTEGER NOT NULL,  -- from 1, without gaps
    kind     TEXT NOT NULL,
    path     TEXT NOT NULL,     -- of the step; empty for what concerns the run
    attempt  INTEGER NOT NULL,
    at_us    INTEGER NOT NULL,
    payload  BLOB NOT NULL,     -- JSON, see engine/record.py
    PRIMARY KEY (run, sequence)
) STRICT;

CREATE TABLE IF NOT EXISTS event (
    sequence INTEGER PRIMARY KEY,  -- of its row in the outbox, which has the data
    type     TEXT NOT NULL,
    subject  TEXT NOT NULL,
    run      TEXT NOT NULL,        -- that emitted it
    emitted  INTEGER NOT NULL      -- sequence of that run's record
) STRICT;
CREATE INDEX IF NOT EXISTS event_by_type ON event (type, sequence);
CREATE INDEX IF NOT EXISTS event_by_subject ON event (type, subject, sequence);
CREATE INDEX IF NOT EXISTS event_by_run ON event (run, sequence);

CREATE TABLE IF NOT EXISTS message (
    run      TEXT NOT NULL,
    position INTEGER NOT NULL,  -- from 1, in the order they came
    kind     TEXT NOT NULL,     -- SIGNAL or CANCEL
    payload  BLOB NOT NULL,     -- JSON, see journal/messages.py
    sent_ms  INTEGER NOT NULL,
    PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS message_by_time ON message (sent_ms);

-- Runs that nobody drives before they are due, are sent something, or an event comes that they
-- listen to. Who takes one up deletes it. The owner of such a run is ``asleep``.
CREATE TABLE IF NOT EXISTS asleep (
    run     TEXT PRIMARY KEY,
    wake_us INTEGER             -- NULL once it was woken
) STRICT;
CREATE INDEX IF NOT EXISTS asleep_by_time ON asleep (wake_us) WHERE wake_us IS NOT NULL;

-- What those that sleep listen to: whoever emits such an event wakes them in the same commit.
CREATE TABLE IF NOT EXISTS listening (
    type    TEXT NOT NULL,
    subject TEXT NOT NULL,  -- empty: whatever the event is about
    run     TEXT NOT NULL,
    PRIMARY KEY (type, subject, run)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS listening_by_run ON listening (run);

-- Runs that are to be erased, or are being: whoever finds one goes on with it.
CREATE TABLE IF NOT EXISTS erasure (
    run TEXT PRIMARY KEY
) STRICT;

-- How far the erasure of runs by their age has come; one row.
CREATE TABLE IF NOT EXISTS erased_until (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    finished_us INTEGER NOT NULL,
    run         TEXT NOT NULL
) STRICT;

-- What retention deleted. An id is never used again.
CREATE TABLE IF NOT EXISTS deleted_run (
    id         TEXT PRIMARY KEY,
    deleted_us INTEGER NOT NULL,
    emptied    INTEGER NOT NULL  -- 0 while records of it are left
) STRICT;
CREATE INDEX IF NOT EXISTS deleted_run_left ON deleted_run (id) WHERE emptied = 0;

CREATE TABLE IF NOT EXISTS schedule (
    id             TEXT PRIMARY KEY,
    workflow_id    TEXT NOT NULL,
    input          BLOB NOT NULL,     -- JSON
    interval_ms    INTEGER NOT NULL,  -- 0: by cron
    cron           TEXT NOT NULL,
    zone           TEXT NOT NULL,
    start_ms       INTEGER NOT NULL,
    end_ms         INTEGER NOT NULL,
    overlap        TEXT NOT NULL,
    catch_up       TEXT NOT NULL,
    catch_up_limit INTEGER NOT NULL,
    creator        TEXT NOT NULL,     -- SPIFFE ID: the starter of its runs
    ceiling        TEXT NOT NULL,     -- JSON: privileges that its runs may use; null: all
    created_ms     INTEGER NOT NULL,
    paused         INTEGER NOT NULL,
    next_ms        INTEGER,           -- due next; NULL: paused, or nothing is due any more
    firing_ms      INTEGER,           -- due time whose run is being started
    retry_ms       INTEGER,           -- until then, others leave that to who began it
    last_run       TEXT NOT NULL,
    last_ms        INTEGER,           -- due time of that run
    started        INTEGER NOT NULL,
    skipped        INTEGER NOT NULL,
    refused        INTEGER NOT NULL,
    error          TEXT NOT NULL,
    error_ms       INTEGER,           -- due time that it was for
    wake_ms        INTEGER            -- when there is something to do for it
) STRICT;
CREATE INDEX IF NOT EXISTS schedule_by_wake ON schedule (wake_ms) WHERE wake_ms IS NOT NULL;
"""
)
