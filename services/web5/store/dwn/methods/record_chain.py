"""The records above a record: whose authors and recipients its protocol's rules speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.store.dwn import messages as store

if TYPE_CHECKING:
    from mesh.data.database import Transaction
    from services.web5.dwn.records_write import RecordsWrite


async def record_chain(tx: Transaction, tenant: str, context_id: str | None) -> list[RecordsWrite]:
    """The writes that began the records of a context, root first; none for no context.

    Empty as well if one of them is missing: half a chain must not authorize anybody.
    """
    record_ids = context_id.split("/") if context_id else []
    initials = await store.initial_writes(tx, tenant, record_ids)
    if initials.keys() != set(record_ids):
        return []
    return [initials[record_id] for record_id in record_ids]
