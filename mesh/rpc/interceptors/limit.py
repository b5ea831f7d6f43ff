"""A bound on calls in flight: what cannot be served soon is refused at once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mesh.errors import Reason, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.interceptors import ServerCall


class Limiter:
    """Counts what is in flight; all calls of one server share it."""

    def __init__(self, max_in_flight: int) -> None:
        self._free = max_in_flight

    def take(self) -> None:
        """ResourceExhausted (OVERLOADED) if nothing is free."""
        if self._free == 0:
            raise ResourceExhausted(
                "too many calls in flight; retry later", reason=Reason.OVERLOADED, retry_after=0.1
            )
        self._free -= 1

    def give_back(self) -> None:
        self._free += 1


@contextmanager
def admit(call: ServerCall) -> Iterator[None]:
    """Hold one slot for the length of the call."""
    limiter = call.rules.limiter
    limiter.take()
    try:
        yield
    finally:
        limiter.give_back()
