"""The store of the orchestrator: definitions, runs with their records, messages and schedules."""

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
    body          TEXT NOT NULL,     -- the source text as it was registered
    version       INTEGER NOT NULL,  -- counts the definitions of one workflow_id, from 1
    registered_us INTEGER NOT NULL,
    uses          TEXT NOT NULL,     -- ids of its sub-workflows, separated by spaces
    UNIQUE (workflow_id, version)
) STRICT;

CREATE TABLE IF NOT EXISTS run (
    id              TEXT PRIMARY KEY,  -- the request_id that started it
    workflow_id     TEXT NOT NULL,
    definition_hash TEXT NOT NULL REFERENCES definition (hash),
    started_by      TEXT NOT NULL,     -- SPIFFE ID
    traceparent     TEXT NOT NULL,     -- the parent of the run's root span; empty: not traced
    status          TEXT NOT NULL,
    reason          TEXT NOT NULL,
    sequence        INTEGER NOT NULL,  -- of its last record
    owner           TEXT NOT NULL,     -- the replica that executes it; empty: none
    suspended       INTEGER NOT NULL,  -- 1: no replica claims it until it is resumed
    epoch           INTEGER NOT NULL,  -- grows with every change of owner, which fences the old one
    created_us      INTEGER NOT NULL,
    updated_us      INTEGER NOT NULL,
    finished_us     INTEGER            -- NULL: the run has not ended
) STRICT;
CREATE INDEX IF NOT EXISTS run_claimable ON run (created_us, id)
    WHERE finished_us IS NULL AND owner = '' AND suspended = 0;
CREATE INDEX IF NOT EXISTS run_by_end ON run (finished_us, id) WHERE finished_us IS NOT NULL;
CREATE INDEX IF NOT EXISTS run_by_age ON run (created_us, id);
CREATE INDEX IF NOT EXISTS run_by_workflow ON run (workflow_id, created_us, id);
CREATE INDEX IF NOT EXISTS run_by_status ON run (status, created_us, id);
CREATE INDEX IF NOT EXISTS run_unfinished ON run (started_by) WHERE finished_us IS NULL;

-- The payments of runs that make several. A single payment has the id of its run.
CREATE TABLE IF NOT EXISTS payment (
    id  TEXT PRIMARY KEY,
    run TEXT NOT NULL
) STRICT;

-- Rows lie in the order in which they were written, so a commit of many runs changes few pages.
CREATE TABLE IF NOT EXISTS journal (
    run      TEXT NOT NULL,
    sequence INTEGER NOT NULL,  -- from 1, without gaps
    kind     TEXT NOT NULL,
    path     TEXT NOT NULL,     -- of the step; empty: the record concerns the whole run
    attempt  INTEGER NOT NULL,
    at_us    INTEGER NOT NULL,
    payload  BLOB NOT NULL,     -- JSON, see engine/records.py
    PRIMARY KEY (run, sequence)
) STRICT;

CREATE TABLE IF NOT EXISTS event (
    sequence        INTEGER PRIMARY KEY,  -- of its row in the outbox, which has the data
    type            TEXT NOT NULL,
    subject         TEXT NOT NULL,
    run             TEXT NOT NULL,        -- the run that emitted it
    record_sequence INTEGER NOT NULL      -- of the record of that run that says so
) STRICT;
CREATE INDEX IF NOT EXISTS event_by_type ON event (type, sequence);
CREATE INDEX IF NOT EXISTS event_by_subject ON event (type, subject, sequence);
CREATE INDEX IF NOT EXISTS event_by_run ON event (run, sequence);

CREATE TABLE IF NOT EXISTS message (
    run      TEXT NOT NULL,
    position INTEGER NOT NULL,  -- from 1, in the order of arrival
    kind     TEXT NOT NULL,     -- SIGNAL, APPROVAL or CANCEL
    payload  BLOB NOT NULL,     -- JSON, see store/messages.py
    sent_ms  INTEGER NOT NULL,
    PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS message_by_time ON message (sent_ms);

-- Runs that no replica executes until their timer, a message, or an event that they wait for.
-- The replica that claims a resumed run deletes its row.
CREATE TABLE IF NOT EXISTS suspended_run (
    run     TEXT PRIMARY KEY,
    wake_us INTEGER             -- NULL: resumed, and not yet claimed
) STRICT;
CREATE INDEX IF NOT EXISTS suspended_run_by_time ON suspended_run (wake_us)
    WHERE wake_us IS NOT NULL;

-- The events that suspended runs wait for: a commit that emits one resumes its subscribers.
CREATE TABLE IF NOT EXISTS event_subscription (
    type    TEXT NOT NULL,
    subject TEXT NOT NULL,  -- empty: events of any subject
    run     TEXT NOT NULL,
    PRIMARY KEY (type, subject, run)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS event_subscription_by_run ON event_subscription (run);

-- Runs to be erased, or half erased: any replica continues the erasure.
CREATE TABLE IF NOT EXISTS erasure_task (
    run TEXT PRIMARY KEY
) STRICT;

-- The run up to which erasure by age has enqueued its tasks; one row.
CREATE TABLE IF NOT EXISTS erasure_watermark (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    finished_us INTEGER NOT NULL,
    run         TEXT NOT NULL
) STRICT;

-- Runs that retention deleted. Their ids are never used again.
CREATE TABLE IF NOT EXISTS deleted_run (
    id         TEXT PRIMARY KEY,
    deleted_us INTEGER NOT NULL,
    purged     INTEGER NOT NULL  -- 0: rows of it are left in other tables
) STRICT;
CREATE INDEX IF NOT EXISTS deleted_run_unpurged ON deleted_run (id) WHERE purged = 0;

CREATE TABLE IF NOT EXISTS schedule (
    id                 TEXT PRIMARY KEY,
    workflow_id        TEXT NOT NULL,
    input              BLOB NOT NULL,     -- JSON
    interval_ms        INTEGER NOT NULL,  -- 0: by cron
    cron               TEXT NOT NULL,
    zone               TEXT NOT NULL,
    start_ms           INTEGER NOT NULL,
    end_ms             INTEGER NOT NULL,
    overlap            TEXT NOT NULL,
    catch_up           TEXT NOT NULL,
    catch_up_limit     INTEGER NOT NULL,
    creator            TEXT NOT NULL,     -- SPIFFE ID: its runs are started in this name
    allowed_privileges TEXT NOT NULL,     -- JSON: the privileges that its runs may use; null: all
    created_ms         INTEGER NOT NULL,
    paused             INTEGER NOT NULL,
    next_due_ms        INTEGER,           -- NULL: paused, or no due time is left
    firing_ms          INTEGER,           -- the due time whose run is being started
    retry_ms           INTEGER,           -- when another replica may start that run
    last_run_id        TEXT NOT NULL,
    last_due_ms        INTEGER,           -- the due time of that run
    started            INTEGER NOT NULL,
    skipped            INTEGER NOT NULL,
    refused            INTEGER NOT NULL,
    last_error         TEXT NOT NULL,
    last_error_due_ms  INTEGER,           -- the due time of that error
    action_ms          INTEGER            -- when the scheduler has to act next
) STRICT;
CREATE INDEX IF NOT EXISTS schedule_by_action ON schedule (action_ms) WHERE action_ms IS NOT NULL;
"""
)
