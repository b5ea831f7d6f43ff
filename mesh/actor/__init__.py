"""Actors: private state behind a bounded mailbox, one message at a time, restarted after a failure.

``ActorRegistry`` keeps an actor for each key while messages come for it; ``spawn`` runs a single
one. Both are made of the same ``Cell``: mailbox, turns and supervision.

* A turn is one call of ``receive``. Turns of one actor never overlap; those of others do.
* Work that must not delay the mailbox is piped: ``ActorContext.pipe_to_self`` performs it outside
  of the turns, and its result arrives as a message.
* A failure counts against the actor unless a dependency was unavailable: then the actor waits for
  the dependency.
* An idle actor has no task. It leaves memory after ``idle_timeout_s`` if ``passivate`` allows.
"""

from mesh.actor.actor import Actor, ActorPassivatedError, Message
from mesh.actor.context import ActorContext
from mesh.actor.piped import Piped
from mesh.actor.ref import ActorRef
from mesh.actor.registry import ActorRegistry, spawn
from mesh.actor.supervision import Supervision

__all__ = [
    "Actor",
    "ActorContext",
    "ActorPassivatedError",
    "ActorRef",
    "ActorRegistry",
    "Message",
    "Piped",
    "Supervision",
    "spawn",
]
