"""One read or write that waits for a connection, and the result that its caller awaits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from mesh.data.database import Transaction

MAX_WAITING_WRITES = 1024  # writes; more are refused
READERS = 4  # connections beside the writer's


@dataclass(slots=True)
class Request:
    work: Callable[[Transaction], Awaitable[Any]]
    result: asyncio.Future[Any]
    outcome: Any = None
    error: Exception | None = None

    def settle(self) -> None:
        """Hands outcome or error to the caller, unless the caller was cancelled."""
        if self.result.done():
            return
        if self.error is not None:
            self.result.set_exception(self.error)
            self.result.exception()  # marks it as retrieved: the caller may be gone
        else:
            self.result.set_result(self.outcome)
