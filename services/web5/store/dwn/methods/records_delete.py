"""RecordsDelete: deletes data and later writes; the initial write and the delete remain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.data import outbox
from services.web5.dwn import records_read, rules, values
from services.web5.dwn.errors import Code, UnauthorizedError
from services.web5.dwn.reply import ACCEPTED, CONFLICT, NOT_FOUND, Reply
from services.web5.store.dwn import messages as store
from services.web5.store.dwn.methods.record_chain import record_chain

if TYPE_CHECKING:
    from mesh.data.database import Transaction
    from services.web5.dwn.message import Message
    from services.web5.dwn.records_write import RecordsWrite


async def process(tx: Transaction, tenant: str, delete: Message) -> Reply:
    """Stores an authenticated delete. Raises UnauthorizedError if its author may not delete."""
    record_id = delete.descriptor["recordId"]
    prune = delete.descriptor["prune"]
    kept = await store.record(tx, tenant, record_id)
    newest = max(kept, key=lambda stored: stored.message.recency, default=None)
    if newest is None or (
        newest.is_delete and not (prune and not newest.message.descriptor["prune"])
    ):
        return NOT_FOUND
    if delete.recency <= newest.message.recency:
        return CONFLICT
    initial = (await store.initial_writes(tx, tenant, [record_id]))[record_id]
    await _authorize(tx, tenant, delete, initial)
    await store.insert_delete(tx, tenant, delete, initial)
    await store.append_event(tx, tenant, delete.cid)
    await store.supersede(tx, tenant, record_id, delete)
    if prune and initial.context_id is not None:
        for descendant in await store.descendants(tx, tenant, initial.context_id):
            await store.purge_record(tx, tenant, descendant)
    event = {"tenant": tenant, "record_id": record_id, "message_cid": delete.cid}
    await outbox.append(tx, type="web5.record.deleted", key=record_id, data=values.dump(event))
    return ACCEPTED


async def _authorize(tx: Transaction, tenant: str, delete: Message, initial: RecordsWrite) -> None:
    if delete.author == tenant:
        return
    protocol = initial.protocol and await store.protocol(tx, tenant, initial.protocol)
    rule_set = protocol and protocol.rule_sets.get(initial.protocol_path)
    if not rule_set:
        raise UnauthorizedError(
            Code.RECORDS_DELETE_AUTHORIZATION_FAILED, "message failed authorization"
        )
    records_read.check_role(delete)
    action = "prune" if delete.descriptor["prune"] else "delete"
    actions = rules.changes(action, delete.author, initial)
    chain = await record_chain(tx, tenant, initial.context_id)
    rules.authorize(rule_set, actions, delete.author, chain, kind="RecordsDelete")
