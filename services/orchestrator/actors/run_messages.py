"""The messages that the actor of a run accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mesh.actor import Message

if TYPE_CHECKING:
    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.engine.activations import Activation, Command
    from services.orchestrator.store.messages import Message as InboxMessage


@dataclass(frozen=True, slots=True)
class Begin(Message[None]):
    """The first message: the run was started here, or claimed."""


@dataclass(frozen=True, slots=True)
class Continue(Message[None]):
    """The run may begin the next slice of a long turn."""


@dataclass(slots=True, eq=False)  # not frozen: that doubles the cost of what each step makes
class CommandEnded(Message[None]):
    """A command of the run was performed."""

    command: Command
    result: Activation


@dataclass(frozen=True, slots=True)
class CommandFailed(Message[None]):
    """A command of the run could not be performed because of a defect."""

    command: Command
    error: Exception


@dataclass(frozen=True, slots=True)
class Deliver(Message[bool]):
    """A message to be stored in one commit with the transition it leads to, and its reply.

    The answer follows the commit. It is False if the sender must store the message itself.
    """

    message: InboxMessage
    key: IdempotencyKey
    reply: bytes


@dataclass(frozen=True, slots=True)
class MessageStored(Message[None]):
    """Another process stored this message to the run."""

    message: InboxMessage


@dataclass(frozen=True, slots=True)
class InboxChanged(Message[None]):
    """The store may hold messages up to ``position`` that the run has not read.

    None: the position is unknown.
    """

    position: int | None = None


@dataclass(frozen=True, slots=True)
class EventsEmitted(Message[None]):
    """Events were emitted that the run may wait for."""


RunMessage: TypeAlias = (
    Begin
    | Continue
    | CommandEnded
    | CommandFailed
    | Deliver
    | MessageStored
    | InboxChanged
    | EventsEmitted
)
