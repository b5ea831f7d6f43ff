"""One read or write that waits for a connection, and the result that its caller awaits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from mesh.data.database import Transaction

MAX_WAITING_WRITES = 1024  # more are refused
MAX_BATCH = 64  # writes in one commit
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


class RequestQueue(Protocol):
    """The accepted writes, of a thread or of a task; None ends it."""

    def empty(self) -> bool:
        """Returns True if nothing waits."""
        ...

    def get_nowait(self) -> Request | None:
        """Takes the next entry. Raises an error if nothing waits."""
        ...


def take_batch(first: Request, waiting: RequestQueue) -> tuple[list[Request], bool]:
    """Takes off the queue what waits with ``first``, up to MAX_BATCH requests.

    Returns the batch, and True if the queue has ended.
    """
    batch = [first]
    while len(batch) < MAX_BATCH and not waiting.empty():
        request = waiting.get_nowait()
        if request is None:
            return batch, True
        batch.append(request)
    return batch, False
