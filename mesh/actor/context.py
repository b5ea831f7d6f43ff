"""The surroundings of an actor: its address, and work outside of its turns."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Generic, Protocol, final

from mesh.actor.actor import M
from mesh.actor.envelope import current_turn
from mesh.actor.piped import Piped
from mesh.actor.ref import ActorRef
from mesh.errors import Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from mesh.actor.ref import Addresses

log = logging.getLogger(__name__)


class Surroundings(Protocol):
    """The cell of the actor."""

    key: Any

    @property
    def home(self) -> Addresses:
        """The registry of the actor."""
        ...

    def begin(self, piped: Piped) -> None:
        """Performs the work: now, or after the current turn."""
        ...

    def leave(self) -> None:
        """Ends the actor after the current turn."""
        ...


@final
class ActorContext(Generic[M]):
    """The surroundings of an actor, valid until it stops or is restarted."""

    __slots__ = ("_cell", "_home", "_key", "_works")

    def __init__(self, cell: Surroundings) -> None:
        self._home, self._key = cell.home, cell.key
        # None once it is closed: a cell and its context that kept each other, and what built the
        # actor, would stay in memory until the next collection of garbage.
        self._cell: Surroundings | None = cell
        self._works: set[Piped] | None = None

    @property
    def ref(self) -> ActorRef[M]:
        return ActorRef(self._home, self._key)

    def pipe_to_self(self, work: Awaitable[M | None], *, name: str, daemon: bool = False) -> Piped:
        """Performs the work outside of the actor's turns, and sends its result to the actor.

        The first work of a turn, or of the start, begins only after it, so that it must not wait
        for the work. If the work returns None, nothing is sent. An exception is a failure of the
        actor. The work is cancelled when the actor stops or passivates; a drain waits for it unless
        it is a ``daemon``.

        Raises Unavailable (ACTOR_STOPPED) if the actor has stopped or was restarted.
        """
        if self._works is None:
            self._works = set()
        capture, cell = self._home.capture, self._cell
        context = None if capture is None else capture()
        if context is not None:
            context.run(current_turn.set, None)  # the turn does not wait for the work
        piped = Piped(self._works, work, name, daemon, context)
        if cell is None:
            piped.cancel()
            raise Unavailable(f"{self.ref.name} has stopped", reason=Reason.ACTOR_STOPPED)
        cell.begin(piped)
        return piped

    def stop(self) -> None:
        """Makes the actor leave memory after the current turn, without ``passivate``.

        Waiting messages activate it again if the registry can build it, and are rejected if not.
        """
        if self._cell is not None:
            self._cell.leave()

    @property
    def is_closed(self) -> bool:
        return self._cell is None

    def close(self) -> None:
        """Cancels all work, and accepts no more."""
        self._cell = None
        for piped in tuple(self._works or ()):
            piped.cancel()

    async def closed(self, timeout_s: float) -> None:
        """Closes; returns once all work has ended, or after ``timeout_s`` seconds."""
        self.close()
        tasks = [piped.task for piped in self._works or () if piped.task is not None]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=timeout_s)
            for task in pending:
                log.error("%s did not end within %g s of its cancel", task.get_name(), timeout_s)

    def drains(self) -> bool:
        """Cancels daemons, and returns whether other work is in flight."""
        for piped in tuple(self._works or ()):
            if piped.daemon:
                piped.cancel()
        return any(not piped.daemon for piped in self._works or ())

    def performs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Returns whether the task performs work of the actor."""
        return any(piped.task is task for piped in self._works or ())
