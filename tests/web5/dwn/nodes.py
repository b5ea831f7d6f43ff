"""The node of one DID, with helpers that write its messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services.web5.dwn import protocols, records_read, records_write

if TYPE_CHECKING:
    from mesh.clock import ManualClock
    from mesh.data.database import Database
    from services.web5.dwn.reply import Reply
    from services.web5.proof import Signer
    from services.web5.store.dwn.node import Dwn

START = datetime(2026, 1, 31, 12, tzinfo=UTC)

NOTES = "http://notes.example/protocol"


@dataclass(frozen=True)
class Node:
    """The node of one tenant, its database and its clock."""

    owner: Signer
    records: Dwn
    database: Database
    clock: ManualClock

    @property
    def now(self) -> datetime:
        """The clock's time, later on each access."""
        self.clock.advance(0.001)
        return datetime.fromtimestamp(self.clock.wall(), UTC)

    async def process(self, message: bytes, data: bytes | None = None) -> Reply:
        return await self.records.process_message(self.owner.did, message, data)

    async def configure(self, structure: Any, **types: Any) -> Reply:
        """Configures the protocol NOTES as the owner; the keyword arguments are its types."""
        definition = {
            "protocol": NOTES,
            "published": True,
            "types": types,
            "structure": structure,
        }
        return await self.process(protocols.configure(definition, self.owner, self.now))

    def note(self, author: Signer, data: bytes = b"note", **properties: Any) -> bytes:
        """Returns an initial write by ``author``, of the protocol NOTES if it has a path."""
        if "protocolPath" in properties:
            properties.setdefault("protocol", NOTES)
        return records_write.create(data, author, self.now, data_format="text/plain", **properties)

    async def read(self, record_id: str, reader: Signer | None) -> Reply:
        return await self.process(records_read.create({"recordId": record_id}, self.now, reader))


def record_id(message: bytes) -> str:
    identity: str = json.loads(message)["recordId"]
    return identity


def context_id(message: bytes) -> str:
    identity: str = json.loads(message)["contextId"]
    return identity


def members(reply: Reply) -> Any:
    """Returns the reply as a client parses it."""
    return json.loads(reply.json())


def verdict(reply: Reply) -> tuple[int, str]:
    """Returns the status code and the profile's code before the text."""
    return reply.code, reply.detail.partition(":")[0]
