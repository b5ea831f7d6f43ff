"""The parts that a service writes: its actors, and their messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from mesh.errors import Reason, Unavailable

M = TypeVar("M", bound="Message[Any]")
R = TypeVar("R")


class ActorPassivatedError(Unavailable):
    """The actor was not in memory, or left it before it received the message.

    The message had no effect, and the sender may take another way.
    """

    default_reason = Reason.ACTOR_STOPPED


class Message(Generic[R]):
    """A request to an actor. ``R`` is the type of its reply."""


class Actor(ABC, Generic[M]):
    """State and behaviour. ``M`` is the union of the messages that it accepts.

    No two of its methods run at the same time.
    """

    @abstractmethod
    async def receive(self, message: M) -> object:
        """Answers one message.

        A MeshError refuses the message and keeps the actor. Any other exception means that the
        state can no longer be trusted: the actor is restarted. An exception that was raised from
        Unavailable or ResourceExhausted does not count as a failure.
        """

    async def on_start(self) -> None:
        """Prepares the actor before its first message; an exception is one of ``build``."""

    async def on_stop(self) -> None:
        """Releases what the actor holds; called once after ``on_start``, also after a failure.

        The state may not be trusted then: ``passivate`` stores it, not this. An exception is
        logged. A call that lasts longer than ``Supervision.stop_timeout_s`` is cancelled.
        """

    async def passivate(self) -> bool:
        """Returns whether the idle actor may leave memory, after it stored what must last.

        A MeshError keeps it in memory until it was idle again; any other exception is a failure.
        """
        return True
