"""The outbox: events stored in the transaction of the effect they announce, in commit order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.data.database import Transaction

# The sequence is a counter in the store's row, which the writer locks until its commit: sequence
# order is commit order, and no number is used twice.
SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    sequence    INTEGER PRIMARY KEY,
    type        TEXT NOT NULL,
    key         TEXT NOT NULL,
    data        BLOB NOT NULL,
    traceparent TEXT NOT NULL,
    recorded_ms INTEGER NOT NULL  -- Unix time by the database's clock
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """An event as stored in the outbox."""

    store_id: str
    sequence: int
    type: str
    key: str
    data: bytes  # JSON, or empty
    traceparent: str  # of the effect, or empty
    recorded_at: datetime

    @property
    def id(self) -> str:
        return f"{self.store_id}/{self.sequence}"


async def append(
    tx: Transaction, *, type: str, key: str, data: bytes = b"", traceparent: str = ""
) -> int:
    """Appends an event and returns its sequence: ``type`` in past tense, ``key`` its subject."""
    row = await tx.fetch_one("UPDATE store SET sequence = sequence + 1 RETURNING sequence")
    assert row is not None  # noqa: S101  (every store has its row)
    sequence: int = row[0]
    await tx.execute(
        "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)",
        sequence,
        type,
        key,
        data,
        traceparent,
        await tx.now_ms(),
    )
    return sequence


async def read(tx: Transaction, *, after: int, limit: int) -> list[OutboxEvent]:
    """Returns the first ``limit`` events with a sequence above ``after``, in order."""
    rows = await tx.fetch(
        "SELECT store.id, outbox.sequence, type, key, data, traceparent, recorded_ms"
        " FROM outbox, store WHERE outbox.sequence > ? ORDER BY outbox.sequence LIMIT ?",
        after,
        limit,
    )
    return [_recorded(*row) for row in rows]


def _recorded(
    store_id: str,
    sequence: int,
    type: str,
    key: str,
    data: bytes,
    traceparent: str,
    recorded_ms: int,
) -> OutboxEvent:
    recorded_at = datetime.fromtimestamp(recorded_ms / 1000, UTC)
    return OutboxEvent(store_id, sequence, type, key, bytes(data), traceparent, recorded_at)
