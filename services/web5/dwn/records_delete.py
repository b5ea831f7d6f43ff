"""RecordsDelete: the end of a record, which its initial write and this message outlive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.web5.dwn import message, timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from services.web5.proof import Signer


def create(record_id: str, signer: Signer, now: datetime, *, prune: bool = False) -> bytes:
    """The signed JSON of a delete; ``prune`` also purges all records below."""
    descriptor = {
        "interface": "Records",
        "method": "Delete",
        "messageTimestamp": timestamp.write(now),
        "recordId": record_id,
        "prune": prune,
    }
    return message.create(descriptor, signer)
