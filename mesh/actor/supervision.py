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

    While a dependency is unavailable, the actor is built again without limit, with the same
    backoff.
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
    """The recent failures of one actor, and apart from them those due to an outage."""

    __slots__ = ("_defects", "_outages")

    def __init__(self) -> None:
        self._defects: tuple[float, ...] = ()
        self._outages: tuple[float, ...] = ()

    def add(self, moment: float, limits: Supervision, outage: MeshError | None) -> float | None:
        """Returns the seconds to wait before the restart, or None if there were too many failures.

        ``outage``: what the failure is due to, if that is no defect; any number is waited for.
        """
        known = self._defects if outage is None else self._outages
        recent = (*(one for one in known if moment - one <= limits.window_s), moment)
        if outage is not None:
            self._outages = recent
        else:
            self._defects = recent
            if len(recent) > limits.max_restarts:
                return None
        return limits.backoff(len(recent) - 2) if len(recent) > 1 else 0.0


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
