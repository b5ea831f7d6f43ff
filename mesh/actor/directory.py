"""The cells of a registry by key, and what all of them share."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mesh.actor.actor import ActorPassivatedError
from mesh.actor.cell import Cell
from mesh.actor.idle import IdleTimer
from mesh.actor.ref import ActorRef
from mesh.errors import AlreadyExists, Reason, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mesh.actor.actor import Actor
    from mesh.actor.context import ActorContext
    from mesh.actor.home import Build
    from mesh.actor.supervision import Supervision
    from mesh.clock import Clock

KeyedBuild: TypeAlias = "Callable[[Any, ActorContext[Any]], Awaitable[Actor[Any]]]"
IdleTimeout: TypeAlias = "float | Callable[[Any], float | None] | None"

log = logging.getLogger(__name__)


class Directory:
    """Activates cells, finds them, and forgets them once they have left memory."""

    def __init__(
        self,
        build: KeyedBuild | None,
        *,
        name: str,
        supervision: Supervision,
        idle_timeout_s: IdleTimeout,
        max_active: int | None,
        in_sender_context: bool,
        on_stopped: Callable[[Any, Exception | None], None] | None,
        clock: Clock,
    ) -> None:
        self.cells: dict[Any, Cell] = {}
        self.supervision: Final = supervision
        self.clock: Final = clock
        self.loop: Final = asyncio.get_running_loop()
        self.capture: Final[Callable[[], Context] | None] = (
            copy_context if in_sender_context else None
        )
        self.new_context: Final[Callable[[], Context]] = (
            copy_context().copy if in_sender_context else Context
        )
        self._build = build
        self._name = name
        self._idle_timeout_s = idle_timeout_s
        self._idle_timer = IdleTimer(clock, name=name)
        self._max_active = max_active
        self._on_stopped = on_stopped
        self._is_open = True
        self._emptied: asyncio.Future[None] | None = None

    def name(self, key: Any) -> str:
        """Returns the name of the actor, for logs and errors."""
        return f"{self._name} {key}" if self._name else str(key)

    def ref(self, key: Any) -> ActorRef[Any]:
        """Returns the address of the actor."""
        return ActorRef(self, key)

    def receiver(self, key: Any) -> Cell:
        """Returns the active actor, which is activated if need be.

        Raises ResourceExhausted if too many are active, and ActorPassivatedError if the registry
        cannot build it.
        """
        cell = self.cells.get(key)
        if cell is not None:
            return cell
        build = self.rebuild(key)
        if build is None or not self._is_open:
            raise ActorPassivatedError(f"{self.name(key)} is not active")
        return self._add(key, build)

    def activate(self, key: Any, build: Build) -> None:
        """Starts an actor now. Raises AlreadyExists if it is active, and ResourceExhausted."""
        if key in self.cells:
            raise AlreadyExists(f"{self.name(key)} is active")
        if not self._is_open:
            raise ActorPassivatedError(f"{self.name(key)} cannot start: its registry stops")
        self._add(key, build).start()

    def rebuild(self, key: Any) -> Build | None:
        """Returns how to build the actor for a message, or None if the registry cannot."""
        build = self._build
        if build is None:
            return None
        return lambda context: build(key, context)

    def idle(self, cell: Cell, actor: Actor[Any] | None) -> None:
        """Notes that the cell has nothing to do."""
        timeout_s = self._idle_timeout_s
        if callable(timeout_s):
            timeout_s = timeout_s(actor)
        if timeout_s is not None and self._is_open:
            self._idle_timer.watch(cell, timeout_s)
        elif cell.watched_at is not None:
            self._idle_timer.forget(cell)

    def left(self, cell: Cell, error: Exception | None) -> None:
        """Forgets the cell; reports that its actor has left memory."""
        self._idle_timer.forget(cell)
        del self.cells[cell.key]
        if not self.cells and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
        if self._on_stopped is not None:
            try:
                self._on_stopped(cell.key, error)
            except Exception:
                log.exception("the end of %s could not be reported", self.name(cell.key))

    def close(self) -> None:
        """Activates no more actors, and passivates none."""
        self._is_open = False
        self._idle_timer.close()

    async def emptied(self) -> None:
        """Returns once all actors have left memory."""
        if self.cells:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def _add(self, key: Any, build: Build) -> Cell:
        if self._max_active is not None and len(self.cells) >= self._max_active:
            raise ResourceExhausted(
                f"{self.name(key)} cannot start beside {len(self.cells)} others; retry later",
                reason=Reason.OVERLOADED,
            )
        cell = self.cells[key] = Cell(self, key, build)
        return cell
