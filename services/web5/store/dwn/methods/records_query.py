"""RecordsQuery: one page of records, limited by entries and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats import jose
from services.web5.dwn import values
from services.web5.dwn.reply import OK, Reply, json_array, with_members
from services.web5.store.dwn import search

if TYPE_CHECKING:
    from mesh.data.database import Transaction
    from services.web5.dwn.records_query import RecordsQuery
    from services.web5.store.dwn.search import FoundRecord

MAX_REPLY_BYTES = 2 * 1024 * 1024  # of a page's entries, unless its only entry is larger


async def process(tx: Transaction, tenant: str, query: RecordsQuery, reader: str | None) -> Reply:
    """Replies with a page of the records that ``reader`` may find, and a cursor if there are more.

    ``reader`` is None for an unsigned query.
    """
    found = await search.page(tx, tenant, query, reader)
    updated = [record.record_id for record in found if not record.is_initial]
    initials = await search.initial_raws(tx, tenant, updated)
    entries: list[bytes] = []
    size = 0
    for record in found[: query.limit]:
        entry = _entry(record, initials)
        size += len(entry)
        if entries and size > MAX_REPLY_BYTES:
            break
        entries.append(entry)
    members = {"entries": json_array(entries)}
    if len(entries) < len(found):
        last = found[len(entries) - 1]
        cursor = {"messageCid": last.message_cid, "value": last.sort_value}
        members["cursor"] = values.dump(cursor)
    return Reply(OK, "OK", members)


def _entry(record: FoundRecord, initials: dict[str, bytes]) -> bytes:
    members = {}
    if record.data is not None:
        members["encodedData"] = b'"%s"' % jose.encode(record.data).encode()
    if not record.is_initial:
        members["initialWrite"] = initials[record.record_id]
    return with_members(record.raw, members)
