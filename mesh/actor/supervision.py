"""The limits of actors, and the rules of their failures."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.actor.actor import Actor
from mesh.errors import MeshError, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_DOUBLINGS = 60  # a float cannot hold many more than a thousand
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
        return min(self.backoff_s * 2.0 ** min(retries, MAX_DOUBLINGS), self.max_backoff_s)


class Failures:
    """The failures of one actor, as far as they count."""

    __slots__ = ("_moments",)

    def __init__(self) -> None:
        self._moments: tuple[float, ...] = ()

    def add(self, moment: float, limits: Supervision) -> float | None:
        """Returns the seconds to wait before the restart, or None if there were too many."""
        recent = (known for known in self._moments if moment - known <= limits.window_s)
        self._moments = (*recent, moment)
        if len(self._moments) > limits.max_restarts:
            return None
        return limits.backoff(len(self._moments) - 2) if len(self._moments) > 1 else 0.0


def outage_of(error: BaseException) -> MeshError | None:
    """Returns the outage that the error is or was raised from, or None if it is a defect."""
    return next((found for found in (error, error.__cause__) if isinstance(found, OUTAGES)), None)


def failure_of(error: asyncio.CancelledError) -> RuntimeError:
    """Returns the failure of code that is not to end, but awaited what was cancelled."""
    failure = RuntimeError("a task that it awaited was cancelled")
    failure.__cause__ = error
    return failure


async def stop(actor: Actor[Any], timeout_s: float, name: str) -> None:
    """Calls ``on_stop``, whose failure is logged."""
    if type(actor).on_stop is Actor.on_stop:
        return
    try:
        async with asyncio.timeout(timeout_s):
            await uncancelled(actor.on_stop())
    except Exception:
        log.exception("actor %s did not stop in order", name)


async def uncancelled(work: Awaitable[T]) -> T:
    """Awaits the work. Raises RuntimeError if something that it awaits was cancelled."""
    try:
        return await work
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise failure_of(error) from error


def is_cancelled() -> bool:
    """Returns whether the current task is to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
