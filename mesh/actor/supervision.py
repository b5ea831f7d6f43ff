"""The limits of actors, and the rules of their failures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mesh.errors import MeshError, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")

OUTAGES = (ResourceExhausted, Unavailable)  # of a dependency: not a defect of the actor


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """The limits of an actor: failures before it is stopped, and messages that may wait for it.

    While a dependency of ``build`` is unavailable, ``build`` is retried without limit, with the
    same backoff.
    """

    mailbox_size: int = 1024
    max_restarts: int = 5
    window_s: float = 10.0  # in which the restarts are counted
    backoff_s: float = 0.1  # before the second restart in a row; doubles with each
    max_backoff_s: float = 5.0
    stop_timeout_s: float = 5.0  # for on_stop, and for piped work that was cancelled

    def backoff(self, retries: int) -> float:
        """Returns the seconds to wait before the next try, after so many that waited."""
        return min(self.backoff_s * 2.0**retries, self.max_backoff_s)


class Failures:
    """The failures of one actor, as far as they count."""

    __slots__ = ("_moments",)

    def __init__(self) -> None:
        self._moments: tuple[float, ...] = ()

    def add(self, moment: float, window_s: float) -> int:
        """Returns how many there were within the window that ends now."""
        recent = (known for known in self._moments if moment - known <= window_s)
        self._moments = (*recent, moment)
        return len(self._moments)


def outage_of(error: BaseException) -> MeshError | None:
    """Returns the outage that the error is or was raised from, or None if it is a defect."""
    return next((found for found in (error, error.__cause__) if isinstance(found, OUTAGES)), None)


async def uncancelled(work: Awaitable[T]) -> T:
    """Awaits the work. Raises RuntimeError if something that it awaits was cancelled."""
    try:
        return await work
    except asyncio.CancelledError:
        raise_if_cancelled()
        raise RuntimeError("a task that it awaited was cancelled") from None


def raise_if_cancelled() -> None:
    """Raises the current exception again if the current task itself is to end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise
