"""RecordsRead: one record with its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.dwn import records_read, records_write, rules
from services.web5.dwn.errors import Code, DwnError, UnauthorizedError
from services.web5.dwn.reply import NOT_FOUND, OK, Reply, json_object
from services.web5.store.dwn import messages as store
from services.web5.store.dwn import search
from services.web5.store.dwn.methods.record_chain import record_chain

if TYPE_CHECKING:
    from mesh.data.database import Transaction
    from services.web5.dwn.message import Message
    from services.web5.dwn.records_write import RecordsWrite
    from services.web5.store.dwn.messages import StoredMessage


async def process(tx: Transaction, tenant: str, request: Message) -> Reply:
    """Replies with the one record that the filter matches.

    Raises DwnError if several match, and UnauthorizedError if the author of the request may not
    read it.
    """
    found = await search.matching(tx, tenant, request.descriptor["filter"])
    if not found:
        return NOT_FOUND
    if len(found) > 1:
        raise DwnError(
            Code.RECORDS_READ_RETURNED_MULTIPLE,
            "Multiple records exist for the RecordsRead filter",
        )
    if found[0].is_delete:
        return await _deleted(tx, tenant, request, found[0].message)
    return await _written(tx, tenant, request, found[0])


async def _written(tx: Transaction, tenant: str, request: Message, newest: StoredMessage) -> Reply:
    write = records_write.of(newest.message)
    await _authorize(tx, tenant, request, write)
    data = newest.data
    if data is None:
        data = await store.blob(tx, tenant, write.record_id, write.data_cid)
    if data is None:
        return NOT_FOUND
    members = {"recordsWrite": newest.message.raw}
    if not write.is_initial:
        initials = await store.initial_writes(tx, tenant, [write.record_id])
        members["initialWrite"] = initials[write.record_id].message.raw
    return Reply(OK, "OK", {"entry": json_object(members)}, data)


async def _deleted(tx: Transaction, tenant: str, request: Message, delete: Message) -> Reply:
    """Replies "Not Found" with the delete and the initial write as proof."""
    record_id = delete.descriptor["recordId"]
    initial = (await store.initial_writes(tx, tenant, [record_id]))[record_id]
    await _authorize(tx, tenant, request, initial)
    members = {"recordsDelete": delete.raw, "initialWrite": initial.message.raw}
    return Reply(NOT_FOUND.code, NOT_FOUND.detail, {"entry": json_object(members)})


async def _authorize(tx: Transaction, tenant: str, request: Message, write: RecordsWrite) -> None:
    """Raises UnauthorizedError unless the reader may read the record.

    Tenant, author and recipient may always read. Published records are public.
    """
    reader = request.author
    if write.published or (
        reader is not None and reader in {tenant, write.author, write.recipient}
    ):
        return
    protocol = write.protocol and await store.protocol(tx, tenant, write.protocol)
    if not protocol:
        raise UnauthorizedError(
            Code.RECORDS_READ_AUTHORIZATION_FAILED, "message failed authorization"
        )
    records_read.check_role(request)
    rule_set = protocol.rule_sets.get(write.protocol_path)
    if rule_set is None:
        raise UnauthorizedError(
            Code.PROTOCOL_MISSING_RULE_SET,
            f"No rule set defined for protocolPath {write.protocol_path}",
        )
    chain = await record_chain(tx, tenant, write.context_id)
    rules.authorize(rule_set, ("read",), reader, chain, kind="RecordsRead")
