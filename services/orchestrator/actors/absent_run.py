"""The actor of a run that is not executed after all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.actor import Actor

if TYPE_CHECKING:
    from mesh.actor import ActorContext
    from services.orchestrator.actors.run_messages import RunMessage


class AbsentRun(Actor["RunMessage"]):
    """In place of the actor of a run that this process does not execute after all."""

    def __init__(self, context: ActorContext[RunMessage] | None) -> None:
        self._context = context

    async def receive(self, message: RunMessage) -> bool:
        """Stops: the sender of a ``Deliver`` must store its message."""
        if self._context is not None:
            self._context.stop()
        return False
