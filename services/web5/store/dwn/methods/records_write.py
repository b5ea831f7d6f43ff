"""RecordsWrite: checks protocol, permission, order and data of a write, and stores it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.data import outbox
from services.web5.dwn import records_read, rules, values
from services.web5.dwn.errors import Code, DwnError, UnauthorizedError
from services.web5.dwn.records_write import MAX_INLINE_BYTES, RecordsWrite, of
from services.web5.dwn.reply import ACCEPTED, CONFLICT, NO_CONTENT, Reply
from services.web5.store.dwn import messages as store
from services.web5.store.dwn.methods.record_chain import record_chain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.data.database import Transaction
    from services.web5.dwn.protocol import RuleSet
    from services.web5.dwn.records_write import RecordData
    from services.web5.store.dwn.messages import StoredMessage


async def process(
    tx: Transaction, tenant: str, write: RecordsWrite, data: RecordData | None
) -> Reply:
    """Stores an authenticated write. Raises DwnError if it is rejected; nothing is stored then."""
    rule_set = await check_references(tx, tenant, write)
    await _authorize(tx, tenant, write, rule_set)
    kept = await store.record(tx, tenant, write.record_id)
    if not write.is_initial:
        write.check_immutable(_initial(kept))
    newest = max(kept, key=lambda stored: stored.message.recency, default=None)
    if newest is not None and write.message.recency <= newest.message.recency:
        return CONFLICT
    content = await _content(tx, tenant, write, data, newest)
    # An initial write without data is stored, but reads do not find it: a data CID proves no data.
    is_latest = data is not None or not write.is_initial
    await store.insert_write(tx, tenant, write, content, is_latest=is_latest)
    await store.append_event(tx, tenant, write.message.cid)
    if kept:
        await store.supersede(tx, tenant, write.record_id, write.message)
    if not is_latest:
        return NO_CONTENT
    await outbox.append(
        tx, type="web5.record.written", key=write.record_id, data=_event(tenant, write)
    )
    return ACCEPTED


async def check_references(tx: Transaction, tenant: str, write: RecordsWrite) -> RuleSet | None:
    """Returns the rule set of the write's path, or None without a protocol.

    Raises DwnError if the protocol is unknown or the write does not fit the path.
    """
    if write.protocol is None:
        return None
    protocol = await store.protocol(tx, tenant, write.protocol)
    if protocol is None:
        raise DwnError(
            Code.PROTOCOL_NOT_FOUND, f"unable to find protocol definition for {write.protocol}"
        )
    parent = None
    if write.parent_id is not None:
        parent = await store.latest_write(tx, tenant, write.protocol, write.parent_id)
    return rules.check_write(protocol, write, parent)


async def _authorize(
    tx: Transaction, tenant: str, write: RecordsWrite, rule_set: RuleSet | None
) -> None:
    if write.author == tenant:
        return
    if rule_set is None:
        raise UnauthorizedError(
            Code.RECORDS_WRITE_AUTHORIZATION_FAILED, "message failed authorization"
        )
    records_read.check_role(write.message)
    initials = await store.initial_writes(tx, tenant, [write.record_id])
    initial = initials.get(write.record_id)
    actions = ("create",) if write.is_initial else rules.changes("update", write.author, initial)
    # For an initial write, check_references has compared its context with its parent's.
    above = (write.context_id or "").rpartition("/")[0]
    context = above if initial is None else initial.context_id
    chain = await record_chain(tx, tenant, context)
    rules.authorize(rule_set, actions, write.author, chain, kind="RecordsWrite")


def _initial(kept: Iterable[StoredMessage]) -> RecordsWrite:
    for stored in kept:
        if not stored.is_delete and (write := of(stored.message)).is_initial:
            return write
    raise DwnError(Code.RECORDS_WRITE_INITIAL_NOT_FOUND, "Initial write is not found.")


async def _content(
    tx: Transaction,
    tenant: str,
    write: RecordsWrite,
    data: RecordData | None,
    newest: StoredMessage | None,
) -> bytes | None:
    """Returns the data to store with the write; None if there is none or its blob is stored."""
    if newest is not None and newest.is_delete:
        raise DwnError(
            Code.RECORDS_WRITE_NOT_AFTER_DELETE,
            "RecordsWrite is not allowed after a RecordsDelete.",
        )
    if data is not None:
        write.check_data(data.cid, len(data.content))
        return data.content
    if newest is None:
        return None
    before = of(newest.message)
    write.check_data(before.data_cid, before.data_size)
    if newest.data is None and (
        write.data_size <= MAX_INLINE_BYTES
        or await store.blob(tx, tenant, write.record_id, write.data_cid) is None
    ):
        raise DwnError(
            Code.RECORDS_WRITE_MISSING_DATA,
            "No dataStream was provided and unable to get data from previous message",
        )
    return newest.data


def _event(tenant: str, write: RecordsWrite) -> bytes:
    return values.dump(
        {
            "tenant": tenant,
            "record_id": write.record_id,
            "message_cid": write.message.cid,
            "data_cid": write.data_cid,
            "protocol": write.protocol,
            "protocol_path": write.protocol_path,
        }
    )
