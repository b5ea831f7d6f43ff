"""Fills the store of our engine with finished runs by the thousand."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Each is a copy of a run that the engine made, with an id of its own and an earlier time.
COPIES = """
CREATE TEMP TABLE copy AS
  WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
  SELECT n, lower(hex(randomblob(16))) AS id FROM numbers;
CREATE TEMP TABLE model AS
  SELECT * FROM run WHERE finished_us IS NOT NULL ORDER BY created_us DESC LIMIT 1;
"""
RUNS = """
INSERT INTO run SELECT copy.id, workflow_id, definition_hash, started_by, traceparent, status,
  reason, sequence, owner, suspended, epoch, created_us - n, updated_us - n,
  finished_us - n - 3600000000
  FROM copy, model;
"""
RECORDS = """
INSERT INTO journal SELECT copy.id, journal.sequence, kind, path, attempt, at_us, payload
  FROM copy, journal WHERE run = (SELECT id FROM model) ORDER BY copy.id;
"""
IDEMPOTENCY_KEYS = """
INSERT INTO idempotency_key SELECT caller, method, copy.id, body, CAST(copy.id AS BLOB)
  FROM copy, idempotency_key WHERE request_id = (SELECT id FROM model);
"""
OUTBOX = """
INSERT INTO outbox (sequence, type, key, data, traceparent, recorded_ms)
  SELECT store.sequence + 2 * n - (type = 'orchestrator.run.started'), type, copy.id, data,
    outbox.traceparent, recorded_ms
  FROM copy, outbox, store WHERE key = (SELECT id FROM model);
UPDATE store SET sequence = sequence + 2 * (SELECT COUNT(*) FROM copy);
"""


def fill(path: Path, count: int) -> None:
    """Adds ``count`` finished runs to a store that holds some and that no process has open."""
    with closing(sqlite3.connect(path, isolation_level=None)) as store:
        store.execute("PRAGMA temp_store = MEMORY")
        first, second = COPIES.split(";\n")[:2]
        store.execute(first, {"count": count})
        store.execute(second)
        store.executescript(f"BEGIN; {RUNS} {RECORDS} {IDEMPOTENCY_KEYS} {OUTBOX} COMMIT;")
        store.execute("ANALYZE")
