"""The address of an actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, final

from mesh.actor.actor import M, R
from mesh.actor.envelope import Envelope, awaits, current_turn
from mesh.errors import DeadlineExceeded, FailedPrecondition, Reason

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from contextvars import Context

    from mesh.actor.actor import Message


class Receiver(Protocol):
    """An actor in memory."""

    turn: Envelope | None  # in progress

    def post(self, envelope: Envelope) -> None:
        """Adds the message to the mailbox, or raises why it is refused."""
        ...


class Addresses(Protocol):
    """The registry, as its refs see it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the actors."""
        ...

    @property
    def cells(self) -> Mapping[Any, Receiver]:
        """The active actors by key."""
        ...

    @property
    def capture(self) -> Callable[[], Context] | None:
        """Copies the current context; None: messages do not carry it."""
        ...

    def name(self, key: Any) -> str:
        """Returns the name of the actor, for logs and errors."""
        ...

    def receiver(self, key: Any) -> Receiver:
        """Returns the active actor, which is activated if need be."""
        ...


@final
class ActorRef(Generic[M]):
    """The address of an actor, and the only way to reach it.

    It stays valid across restart and passivation. Two refs are equal if they name the same actor.
    """

    __slots__ = ("_addresses", "_key")

    def __init__(self, addresses: Addresses, key: Any) -> None:
        self._addresses = addresses
        self._key = key

    @property
    def name(self) -> str:
        return self._addresses.name(self._key)

    def tell(self, message: M) -> None:
        """Sends without waiting for a reply.

        Raises ResourceExhausted if the mailbox is full (MAILBOX_FULL) or the actor cannot be
        activated beside so many others, ActorPassivatedError if the actor is not in memory and the
        registry cannot build it, and Unavailable if it waits for a dependency. A message that the
        actor refuses or never receives is logged.
        """
        addresses = self._addresses
        capture = addresses.capture
        envelope = Envelope(message, None, None if capture is None else capture(), None)
        (addresses.cells.get(self._key) or addresses.receiver(self._key)).post(envelope)

    async def ask(self, message: Message[R], *, timeout: float = 5.0) -> R:
        """Sends, and returns the reply or raises the error of the actor.

        Raises DeadlineExceeded after ``timeout`` seconds; a message still in the mailbox by then is
        skipped. Raises the errors of ``tell``, ActorPassivatedError if the actor stopped before it
        received the message, and another Unavailable if it stopped or failed in that turn. Raises
        FailedPrecondition (ASK_CYCLE) if the actor itself waits for the caller's reply: both would
        wait for ever.
        """
        if timeout <= 0:
            raise self._late(timeout)
        addresses, turn = self._addresses, current_turn.get()
        receiver = addresses.cells.get(self._key) or addresses.receiver(self._key)
        if turn is not None and awaits(receiver.turn, turn):
            raise FailedPrecondition(
                f"{self.name} waits for the caller of this ask; ask it from outside of that call",
                reason=Reason.ASK_CYCLE,
            )
        loop, capture = addresses.loop, addresses.capture
        reply: asyncio.Future[R] = loop.create_future()
        context = None if capture is None else capture()
        receiver.post(Envelope(message, reply, context, turn))
        deadline = loop.call_later(timeout, self._expire, reply, timeout)
        try:
            return await reply
        finally:
            deadline.cancel()

    def _expire(self, reply: asyncio.Future[Any], timeout: float) -> None:
        if not reply.done():
            reply.set_exception(self._late(timeout))

    def _late(self, timeout: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self.name} did not answer in {timeout:g} s")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ActorRef)
            and self._addresses is other._addresses
            and self._key == other._key
        )

    def __hash__(self) -> int:
        return hash((id(self._addresses), self._key))

    def __repr__(self) -> str:
        return f"<ActorRef {self.name}>"
