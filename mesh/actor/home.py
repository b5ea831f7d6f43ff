"""The registry, as its cells see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from mesh.actor.ref import Addresses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context

    from mesh.actor.actor import Actor
    from mesh.actor.context import ActorContext
    from mesh.actor.supervision import Supervision
    from mesh.clock import Clock

Build: TypeAlias = "Callable[[ActorContext[Any]], Awaitable[Actor[Any]]]"


class Home(Addresses, Protocol):
    """The directory of the cells."""

    @property
    def supervision(self) -> Supervision:
        """The limits of the actors."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock of failures, backoff and idle time."""
        ...

    @property
    def new_context(self) -> Callable[[], Context]:
        """Returns a context for a task of a cell."""
        ...

    def rebuild(self, key: Any) -> Build | None:
        """Returns how to build the actor for a message, or None if the registry cannot."""
        ...

    def idle(self, cell: Any, actor: Actor[Any] | None) -> None:
        """Notes that the cell has nothing to do."""
        ...

    def left(self, cell: Any, error: Exception | None) -> None:
        """Forgets the cell, whose actor has left memory; ``error`` is what stopped it."""
        ...
