"""The tables of the nodes: tenants, messages as received, tags, data, and the event log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.web5.dwn import message, records_write
from services.web5.dwn import protocol as protocols

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.data.database import Transaction, Value
    from services.web5.dwn.message import Message
    from services.web5.dwn.protocol import Protocol
    from services.web5.dwn.records_write import RecordsWrite

SCHEMA = """
CREATE TABLE IF NOT EXISTS dwn_tenant (
    did      TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL  -- of the newest event
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS dwn_message (
    tenant            TEXT NOT NULL REFERENCES dwn_tenant,
    message_cid       TEXT NOT NULL,
    method            TEXT NOT NULL,  -- 'Write', 'Delete' or 'Configure'
    author            TEXT NOT NULL,
    message_timestamp TEXT NOT NULL,
    protocol          TEXT,
    published         INTEGER NOT NULL,
    is_initial        INTEGER NOT NULL,
    is_latest         INTEGER NOT NULL,
    -- of records; a delete has those of its record's initial write
    record_id         TEXT,
    protocol_path     TEXT,
    context_id        TEXT,
    parent_id         TEXT,
    recipient         TEXT,
    schema            TEXT,
    data_format       TEXT,
    data_cid          TEXT,
    data_size         INTEGER,
    date_created      TEXT,
    date_published    TEXT,
    message           BLOB NOT NULL,  -- as received
    data              BLOB,           -- if at most 30,000 bytes; more is in dwn_blob
    PRIMARY KEY (tenant, message_cid)
) STRICT;
CREATE INDEX IF NOT EXISTS dwn_message_record ON dwn_message (tenant, record_id);
CREATE INDEX IF NOT EXISTS dwn_message_configure
    ON dwn_message (tenant, protocol, message_timestamp) WHERE method = 'Configure';
CREATE INDEX IF NOT EXISTS dwn_message_created
    ON dwn_message (tenant, date_created, message_cid) WHERE is_latest = 1;
CREATE INDEX IF NOT EXISTS dwn_message_place
    ON dwn_message (tenant, protocol, protocol_path, date_created, message_cid)
    WHERE is_latest = 1;
CREATE INDEX IF NOT EXISTS dwn_message_recipient
    ON dwn_message (tenant, recipient, date_created, message_cid) WHERE is_latest = 1;
CREATE INDEX IF NOT EXISTS dwn_message_author
    ON dwn_message (tenant, author, date_created, message_cid) WHERE is_latest = 1;

-- One row for each value of a tag; its type decides which of text, number and truth is set.
CREATE TABLE IF NOT EXISTS dwn_tag (
    tenant      TEXT NOT NULL,
    message_cid TEXT NOT NULL,
    name        TEXT NOT NULL,
    position    INTEGER NOT NULL,
    text        TEXT,
    number      REAL,
    truth       INTEGER,
    PRIMARY KEY (tenant, message_cid, name, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS dwn_tag_text
    ON dwn_tag (tenant, name, substr(text, 1, 64)) WHERE text IS NOT NULL;
CREATE INDEX IF NOT EXISTS dwn_tag_number
    ON dwn_tag (tenant, name, number) WHERE number IS NOT NULL;

CREATE TABLE IF NOT EXISTS dwn_blob (
    tenant    TEXT NOT NULL,
    record_id TEXT NOT NULL,
    data_cid  TEXT NOT NULL,
    data      BLOB NOT NULL,
    PRIMARY KEY (tenant, record_id, data_cid)
) STRICT;

-- The event log: a tenant's current messages in the order of their acceptance.
CREATE TABLE IF NOT EXISTS dwn_event (
    tenant      TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    message_cid TEXT NOT NULL,
    PRIMARY KEY (tenant, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dwn_event_message ON dwn_event (tenant, message_cid);
"""

COLUMNS = (
    "tenant",
    "message_cid",
    "method",
    "author",
    "message_timestamp",
    "protocol",
    "published",
    "is_initial",
    "is_latest",
    "record_id",
    "protocol_path",
    "context_id",
    "parent_id",
    "recipient",
    "schema",
    "data_format",
    "data_cid",
    "data_size",
    "date_created",
    "date_published",
    "message",
    "data",
)
INSERT = (
    f"INSERT INTO dwn_message ({', '.join(COLUMNS)})"  # noqa: S608  (our own names)
    f" VALUES ({', '.join('?' * len(COLUMNS))})"
)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message of a record, and its data if that is small."""

    message: Message
    data: bytes | None

    @property
    def is_delete(self) -> bool:
        return self.message.kind == "RecordsDelete"


async def add_tenant(tx: Transaction, did: str) -> None:
    await tx.execute("INSERT INTO dwn_tenant VALUES (?, 0) ON CONFLICT DO NOTHING", did)


async def has_tenant(tx: Transaction, did: str) -> bool:
    return await tx.fetch_one("SELECT 1 FROM dwn_tenant WHERE did = ?", did) is not None


async def protocol(tx: Transaction, tenant: str, url: str) -> Protocol | None:
    """Returns the protocol as the tenant configured it last, or None if it did not."""
    row = await tx.fetch_one(
        "SELECT message FROM dwn_message WHERE tenant = ? AND method = 'Configure'"
        " AND protocol = ? ORDER BY message_timestamp DESC, message_cid DESC LIMIT 1",
        tenant,
        url,
    )
    return None if row is None else protocols.of(bytes(row[0]))


async def configure_messages(
    tx: Transaction, tenant: str, *, url: str | None = None, only_published: bool = False
) -> list[Message]:
    """Returns the ProtocolsConfigure messages of one protocol, or of all if ``url`` is None."""
    rows = await tx.fetch(
        "SELECT message, message_cid FROM dwn_message WHERE tenant = ? AND method = 'Configure'"
        " AND (CAST(? AS TEXT) IS NULL OR protocol = ?) AND published >= ? ORDER BY protocol",
        tenant,
        url,
        url,
        int(only_published),
    )
    return [message.restore(raw, message_cid) for raw, message_cid in rows]


async def record(tx: Transaction, tenant: str, record_id: str) -> list[StoredMessage]:
    """Returns all stored messages of a record."""
    rows = await tx.fetch(
        "SELECT message, message_cid, data FROM dwn_message WHERE tenant = ? AND record_id = ?",
        tenant,
        record_id,
    )
    return [
        StoredMessage(message.restore(raw, message_cid), data) for raw, message_cid, data in rows
    ]


async def initial_writes(
    tx: Transaction, tenant: str, record_ids: Sequence[str]
) -> dict[str, RecordsWrite]:
    """Returns the initial writes of these records, by record id."""
    if not record_ids:
        return {}
    marks = ", ".join("?" * len(record_ids))
    rows = await tx.fetch(
        "SELECT message, message_cid FROM dwn_message WHERE tenant = ? AND is_initial = 1"  # noqa: S608  (only marks)
        f" AND record_id IN ({marks})",
        tenant,
        *record_ids,
    )
    writes = [records_write.of(message.restore(raw, message_cid)) for raw, message_cid in rows]
    return {write.record_id: write for write in writes}


async def latest_write(
    tx: Transaction, tenant: str, protocol: str, record_id: str
) -> RecordsWrite | None:
    """Returns the newest write of a record, or None if it is deleted, unknown or without data."""
    row = await tx.fetch_one(
        "SELECT message, message_cid FROM dwn_message WHERE tenant = ? AND record_id = ?"
        " AND protocol = ? AND is_latest = 1 AND method = 'Write'",
        tenant,
        record_id,
        protocol,
    )
    return None if row is None else records_write.of(message.restore(*row))


async def insert_configure(tx: Transaction, tenant: str, configure: Message) -> None:
    definition = configure.descriptor["definition"]
    await _insert(
        tx,
        tenant,
        configure,
        protocol=definition["protocol"],
        published=int(definition["published"]),
        is_initial=0,
        is_latest=1,
    )


async def insert_write(
    tx: Transaction, tenant: str, write: RecordsWrite, data: bytes | None, *, is_latest: bool
) -> None:
    """Stores a write, with its data unless ``data`` is None: none was sent, or it is stored."""
    if data is not None and len(data) > records_write.MAX_INLINE_BYTES:
        await tx.execute(
            "INSERT INTO dwn_blob VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            tenant,
            write.record_id,
            write.data_cid,
            data,
        )
        data = None
    await _insert(
        tx,
        tenant,
        write.message,
        is_initial=int(write.is_initial),
        is_latest=int(is_latest),
        data=data,
        **_indexes(write),
    )
    await _insert_tags(tx, tenant, write)


async def insert_delete(
    tx: Transaction, tenant: str, delete: Message, initial: RecordsWrite
) -> None:
    indexes = _indexes(initial)
    await _insert(tx, tenant, delete, is_initial=0, is_latest=1, **indexes)


async def supersede(tx: Transaction, tenant: str, record_id: str, newest: Message) -> None:
    """Deletes all messages of a record but ``newest`` and the initial write without its data."""
    older = await tx.fetch(
        "SELECT message_cid, is_initial FROM dwn_message"
        " WHERE tenant = ? AND record_id = ? AND message_cid <> ?",
        tenant,
        record_id,
        newest.cid,
    )
    for message_cid, is_initial in older:
        await tx.execute(
            "DELETE FROM dwn_tag WHERE tenant = ? AND message_cid = ?", tenant, message_cid
        )
        if is_initial:
            await tx.execute(
                "UPDATE dwn_message SET is_latest = 0, data = NULL"
                " WHERE tenant = ? AND message_cid = ?",
                tenant,
                message_cid,
            )
        else:
            await remove(tx, tenant, message_cid)
    await tx.execute(
        "DELETE FROM dwn_blob WHERE tenant = ? AND record_id = ? AND data_cid <> ?",
        tenant,
        record_id,
        newest.descriptor.get("dataCid", ""),
    )


async def remove(tx: Transaction, tenant: str, message_cid: str) -> None:
    for table in ("dwn_tag", "dwn_event", "dwn_message"):
        await tx.execute(
            f"DELETE FROM {table} WHERE tenant = ? AND message_cid = ?",  # noqa: S608
            tenant,
            message_cid,
        )


async def descendants(tx: Transaction, tenant: str, context_id: str) -> list[str]:
    """Returns the ids of all records below a context."""
    prefix = f"{context_id}/"
    rows = await tx.fetch(
        "SELECT DISTINCT record_id FROM dwn_message"
        " WHERE tenant = ? AND substr(context_id, 1, ?) = ?",
        tenant,
        len(prefix),
        prefix,
    )
    return [record_id for (record_id,) in rows]


async def purge_record(tx: Transaction, tenant: str, record_id: str) -> None:
    """Deletes all messages and data of a record."""
    rows = await tx.fetch(
        "SELECT message_cid FROM dwn_message WHERE tenant = ? AND record_id = ?", tenant, record_id
    )
    for (message_cid,) in rows:
        await remove(tx, tenant, message_cid)
    await tx.execute("DELETE FROM dwn_blob WHERE tenant = ? AND record_id = ?", tenant, record_id)


async def append_event(tx: Transaction, tenant: str, message_cid: str) -> None:
    row = await tx.fetch_one(
        "UPDATE dwn_tenant SET sequence = sequence + 1 WHERE did = ? RETURNING sequence", tenant
    )
    assert row is not None  # noqa: S101  (the message refers to its tenant)
    await tx.execute("INSERT INTO dwn_event VALUES (?, ?, ?)", tenant, row[0], message_cid)


async def blob(tx: Transaction, tenant: str, record_id: str, data_cid: str) -> bytes | None:
    row = await tx.fetch_one(
        "SELECT data FROM dwn_blob WHERE tenant = ? AND record_id = ? AND data_cid = ?",
        tenant,
        record_id,
        data_cid,
    )
    return None if row is None else bytes(row[0])


def _indexes(write: RecordsWrite) -> dict[str, Value]:
    descriptor = write.descriptor
    return {
        "record_id": write.record_id,
        "protocol": write.protocol,
        "protocol_path": write.protocol_path or None,
        "context_id": write.context_id,
        "parent_id": write.parent_id,
        "recipient": write.recipient,
        "schema": descriptor.get("schema"),
        "data_format": descriptor["dataFormat"],
        "data_cid": write.data_cid,
        "data_size": write.data_size,
        "published": int(write.published),
        "date_created": descriptor["dateCreated"],
        "date_published": descriptor.get("datePublished"),
    }


async def _insert(tx: Transaction, tenant: str, stored: Message, **columns: Value) -> None:
    row = {
        "tenant": tenant,
        "message_cid": stored.cid,
        "method": stored.descriptor["method"],
        "author": stored.author,
        "message_timestamp": stored.timestamp,
        "message": stored.raw,
        **columns,
    }
    await tx.execute(INSERT, *(row.get(column) for column in COLUMNS))


async def _insert_tags(tx: Transaction, tenant: str, write: RecordsWrite) -> None:
    rows = [
        (tenant, write.message.cid, name, position, *_typed(value))
        for name, tag in write.descriptor.get("tags", {}).items()
        for position, value in enumerate(tag if isinstance(tag, list) else [tag])
    ]
    if rows:
        await tx.execute_many("INSERT INTO dwn_tag VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _typed(value: str | float | bool) -> tuple[str | None, float | None, int | None]:
    if isinstance(value, bool):
        return None, None, int(value)
    if isinstance(value, str):
        return value, None, None
    return None, float(value), None
