"""The ancestors of a record, to whose authors and recipients the rules of its protocol refer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.store.dwn import messages as store

if TYPE_CHECKING:
    from mesh.data.database import Transaction
    from services.web5.dwn.records_write import RecordsWrite


async def record_chain(tx: Transaction, tenant: str, context_id: str | None) -> list[RecordsWrite]:
    """Returns the initial writes of the records of a context, root first.

    Returns an empty list without a context, and if one of the writes is missing, because an
    incomplete chain must not authorize an action.
    """
    record_ids = context_id.split("/") if context_id else []
    initials = await store.initial_writes(tx, tenant, record_ids)
    if initials.keys() != set(record_ids):
        return []
    return [initials[record_id] for record_id in record_ids]
