"""A limit of calls in flight: calls beyond it are refused at once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mesh.errors import Reason, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.interceptors import ServerCall


class Limiter:
    """Counts the calls in flight of one server."""

    def __init__(self, max_in_flight: int) -> None:
        self._free = max_in_flight

    def acquire(self) -> None:
        """Takes one slot. Raises ResourceExhausted (OVERLOADED) if all are taken."""
        if self._free == 0:
            raise ResourceExhausted(
                "too many calls in flight; retry later", reason=Reason.OVERLOADED, retry_after=0.1
            )
        self._free -= 1

    def release(self) -> None:
        self._free += 1


@contextmanager
def admit(call: ServerCall) -> Iterator[None]:
    """Holds one slot for the length of the call."""
    limiter = call.rules.limiter
    limiter.acquire()
    try:
        yield
    finally:
        limiter.release()
