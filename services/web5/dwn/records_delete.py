"""RecordsDelete: deletes a record; its initial write and this message remain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.dwn import message, timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from services.web5.proof import Signer


def create(record_id: str, signer: Signer, now: datetime, *, prune: bool = False) -> bytes:
    """Returns the signed JSON of a delete; ``prune`` also purges all descendants."""
    descriptor = {
        "interface": "Records",
        "method": "Delete",
        "messageTimestamp": timestamp.write(now),
        "recordId": record_id,
        "prune": prune,
    }
    return message.create(descriptor, signer)
