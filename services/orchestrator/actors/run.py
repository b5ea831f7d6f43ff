"""The actor of a run: its state in memory, and the messages that wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from services.orchestrator.store.group_commit import fail

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.actors.inline_call import InlineCall
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.activations import Activation, Command
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.store.messages import Message
    from services.orchestrator.worker.run_spans import RunSpans


@dataclass(slots=True, eq=False)
class PendingMessage:
    """A message that the run's actor stores together with the transition it leads to."""

    message: Message
    key: IdempotencyKey
    reply: bytes
    stored: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def complete(self, *, stored: bool) -> None:
        """Tells the sender whether the message is stored; later calls change nothing."""
        if not self.stored.done():
            self.stored.set_result(stored)

    def fail(self, error: Exception) -> None:
        """Raises the error in the sender; changes nothing after ``complete``."""
        fail(self.stored, error)


@dataclass(slots=True)
class RunActor:
    """A run in memory. Its state is also in the store."""

    workflow: Workflow
    state: RunState
    epoch: int
    spans: RunSpans
    in_flight: dict[Command, asyncio.Task[Activation | None]] = field(default_factory=dict)
    idle: bool = False  # it only waits, and for long: it can be suspended
    inbox_dirty: bool = False  # the store may hold messages that it has not read
    prefetched: list[Message] = field(default_factory=list)  # stored by another process, unread
    pending: deque[PendingMessage] = field(default_factory=deque)  # sent here, not stored yet
    answered: set[str] = field(default_factory=set)  # request_ids of the pending ones it has stored
    clock_offset_us: int = 0  # added to the store's clock: the time of a run never goes back
    event_cursor: int = 0  # position up to which it has read the events of other runs
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    idle_since: tuple[int, float] | None = None  # sequence of its state, and monotonic time
    inline_call: InlineCall | None = None  # its single call, while that is in flight

    @property
    def has_messages(self) -> bool:
        return self.inbox_dirty or bool(self.prefetched) or bool(self.pending)

    def notify_inbox(self) -> None:
        """Marks the inbox for a read and wakes the actor."""
        self.inbox_dirty = True
        self._wake()

    def push_prefetched(self, message: Message) -> None:
        """Adds a stored message, so that the actor need not read it from the store."""
        self.prefetched.append(message)
        self._wake()

    def take_prefetched(self) -> list[Message]:
        """Returns the prefetched messages if they are the next in order.

        Otherwise returns nothing and marks the inbox for a read.
        """
        messages, self.prefetched = self.prefetched, []
        expected = [self.state.inbox_position + number for number in range(1, len(messages) + 1)]
        self.inbox_dirty |= [message.position for message in messages] != expected
        return [] if self.inbox_dirty else messages

    def push_pending(self, pending: PendingMessage) -> None:
        """Adds a message that the actor is to store, and wakes the actor."""
        self.pending.append(pending)
        self._wake()

    def take_pending(self) -> PendingMessage | None:
        """Returns the next message to store, with its position.

        Returns None while stored messages are unread, as they come first.
        """
        if not self.pending or self.inbox_dirty or self.prefetched or self.state.finished:
            return None
        pending = self.pending.popleft()
        pending.message = replace(pending.message, position=self.state.inbox_position + 1)
        return pending

    def return_pending(self) -> None:
        """Tells the senders of all pending messages to store these themselves."""
        while self.pending:
            self.pending.popleft().complete(stored=False)

    def abandon(self, unwanted: Iterable[Command]) -> None:
        """Cancels the tasks of commands whose results the run no longer needs."""
        for command in list(unwanted):
            self.in_flight.pop(command).cancel()

    def _wake(self) -> None:
        self.wakeup.set()
        if self.inline_call is not None:
            self.inline_call.notify_inbox()
