"""Actors by key: activated by their first message, and passivated when idle."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from mesh.actor.actor import M
from mesh.actor.directory import Directory
from mesh.actor.supervision import Supervision
from mesh.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mesh.actor.actor import Actor
    from mesh.actor.context import ActorContext
    from mesh.actor.ref import ActorRef

K = TypeVar("K")

CELLS_PER_YIELD = 1024


@final
class ActorRegistry(Generic[K, M]):
    """At most one actor for each key. Keys are independent of each other."""

    def __init__(
        self,
        build: Callable[[K, ActorContext[M]], Awaitable[Actor[M]]] | None,
        *,
        name: str,
        supervision: Supervision | None = None,
        idle_timeout_s: float | Callable[[Any], float | None] | None = None,
        max_active: int | None = None,
        in_sender_context: bool = True,
        on_stopped: Callable[[K, Exception | None], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepares the registry; needs a running loop.

        ``build`` loads the state of a key, at its first message and after a failure; without it,
        only ``activate`` brings actors in. ``name`` and the key are the name of an actor in logs
        and errors. ``idle_timeout_s`` may ask the actor, each time that it becomes idle; None: it
        stays. Work that was piped does not keep an actor from being idle. ``max_active`` limits the
        actors in memory. ``in_sender_context``: each turn sees the context variables of its
        sender, so that traces pass through; without it, turns cost less. ``on_stopped`` gets the
        key of each actor that has left memory, and its failure if that stopped it.
        """
        self._directory = Directory(
            build,
            name=name,
            supervision=supervision or Supervision(),
            idle_timeout_s=idle_timeout_s,
            max_active=max_active,
            in_sender_context=in_sender_context,
            on_stopped=on_stopped,
            clock=clock or SystemClock(),
        )

    def ref(self, key: K) -> ActorRef[M]:
        """Returns the address of the key's actor, which need not be active."""
        return self._directory.ref(key)

    def find(self, key: K) -> ActorRef[M] | None:
        """Returns the address of the key's actor, or None if it is not active."""
        return self._directory.ref(key) if key in self._directory.cells else None

    def activate(
        self, key: K, build: Callable[[ActorContext[M]], Awaitable[Actor[M]]]
    ) -> ActorRef[M]:
        """Starts the key's actor without a message, from a state that is at hand.

        After a failure the registry's own ``build`` runs, or this one again if it has none. Raises
        AlreadyExists if the actor is active, and ResourceExhausted if too many are.
        """
        self._directory.activate(key, build)
        return self._directory.ref(key)

    def keys(self) -> tuple[K, ...]:
        """Returns the keys of the active actors."""
        return tuple(self._directory.cells)

    def __len__(self) -> int:
        return len(self._directory.cells)

    async def stop(self, key: K, *, drain: bool = True) -> None:
        """Returns once the key's actor has left memory; it refuses later messages until then.

        ``drain``: it receives the waiting messages and the results of piped work first. Without it,
        turn and work are cancelled at once, and all asks fail. Raises FailedPrecondition
        (ASK_CYCLE) if an actor is to drain itself: it may use ``ActorContext.stop``.
        """
        cell = self._directory.cells.get(key)
        if cell is None:
            return
        if drain:
            cell.require_outside()
            cell.drain()
        else:
            cell.abort()
        await cell.has_left()

    @asynccontextmanager
    async def running(self, *, grace_s: float = 5.0) -> AsyncIterator[ActorRegistry[K, M]]:
        """Keeps the actors for the duration of the block, and refuses messages after it.

        On exit all actors are drained for at most ``grace_s`` seconds, and stopped then.
        """
        try:
            yield self
        finally:
            self._directory.close()
            try:
                await self._drain(grace_s)
            finally:
                for cell in tuple(self._directory.cells.values()):
                    cell.abort()
                await self._directory.emptied()

    async def _drain(self, grace_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                for number, cell in enumerate(tuple(self._directory.cells.values()), 1):
                    cell.drain()
                    if number % CELLS_PER_YIELD == 0:
                        await asyncio.sleep(0)
                await self._directory.emptied()


@asynccontextmanager
async def spawn(
    build: Callable[[], Awaitable[Actor[M]]],
    *,
    name: str,
    supervision: Supervision | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[ActorRef[M]]:
    """Runs the actor that ``build`` returns for the duration of the block.

    ``build`` runs again at each restart, so it must load the actor's state from the store.
    """
    actors: ActorRegistry[str, M] = ActorRegistry(
        None, name="", supervision=supervision, clock=clock
    )
    ref = actors.activate(name, lambda _: build())
    try:
        yield ref
    finally:
        await actors.stop(name, drain=False)
