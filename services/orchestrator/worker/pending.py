"""What was sent to a run and is not stored yet, and who waits to hear that it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.orchestrator.store.group_commit import fail

if TYPE_CHECKING:
    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.store.messages import Message


@dataclass(slots=True, eq=False)
class PendingMessage:
    """A message that its run is to store."""

    message: Message
    key: IdempotencyKey
    reply: bytes
    stored: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def settle(self, *, stored: bool) -> None:
        """The first word counts."""
        if not self.stored.done():
            self.stored.set_result(stored)

    def fail(self, error: Exception) -> None:
        fail(self.stored, error)
