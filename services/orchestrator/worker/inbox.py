"""The way of a message to a run: to its actor if this process drives it, or else into the store.

An actor stores a message in the commit of the transition that the message leads to, and the sender
is answered after that commit. Every other message is stored first and read by the actor later.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from mesh.errors import DeadlineExceeded, Reason, ResourceExhausted, Unavailable
from mesh.rpc.interceptors import deadline
from services.orchestrator.actors.run_messages import Deliver, InboxChanged, MessageStored

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.actor import ActorRegistry
    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.actors.run_messages import RunMessage
    from services.orchestrator.store.messages import Message, Messages

DEADLINE_SHARE = 0.9  # of the time that the caller allows
SEND_TIMEOUT_S = 30.0  # for a sender without a deadline


class RunInbox:
    """Messages to runs, from senders in this process and from others."""

    def __init__(
        self,
        messages: Messages,
        runs: ActorRegistry[str, RunMessage],
        notify_claimable: Callable[[], None],
    ) -> None:
        self._messages = messages
        self._runs = runs
        self._notify_claimable = notify_claimable

    async def send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes = b""
    ) -> bytes:
        """Sends the message once per ``key`` and returns the first reply, see ``Messages.send``.

        Raises Unavailable if the store does not answer: the message may have been stored.
        """
        if await self._deliver(run_id, Deliver(message, key, reply)):
            return reply
        sent = await self._messages.send(key, run_id, message, reply)
        if sent.claimable:
            self._notify_claimable()
        self._tell(run_id, InboxChanged())
        return sent.reply

    def receive(self, run_id: str, message: Message | None) -> None:
        """Notifies the run: another process stored ``message``, or one that is unknown, for it."""
        self._tell(run_id, InboxChanged() if message is None else MessageStored(message))

    async def poll(self) -> None:
        """Notifies runs of the messages that other processes stored for them."""
        for run_id, position in (await self._messages.recent_positions()).items():
            self._tell(run_id, InboxChanged(position))

    async def _deliver(self, run_id: str, message: Deliver) -> bool:
        """Returns whether the actor of the run has stored the message."""
        run = self._runs.find(run_id)
        if run is None:
            return False
        timeout_s = deadline.remaining(share=DEADLINE_SHARE)
        try:
            return await run.ask(
                message, timeout=SEND_TIMEOUT_S if timeout_s is None else timeout_s
            )
        except DeadlineExceeded:
            raise Unavailable(
                "the store does not answer; retry with the same request_id",
                reason=Reason.STORE_UNAVAILABLE,
            ) from None
        except (Unavailable, ResourceExhausted) as error:
            if error.reason in (Reason.ACTOR_STOPPED, Reason.MAILBOX_FULL):
                return False
            raise

    def _tell(self, run_id: str, message: InboxChanged | MessageStored) -> None:
        """Notifies the run. The store has the message: a poll repeats what the run misses."""
        run = self._runs.find(run_id)
        if run is not None:
            with suppress(Unavailable, ResourceExhausted):
                run.tell(message)
