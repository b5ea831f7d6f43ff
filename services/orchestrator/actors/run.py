"""The actor of a run: the only code that touches a run in memory.

Its state is what the store has of the run. Each message leads to transitions, each transition is
one commit, and the commands that follow are performed outside of turns: their results are messages
too. So a transition ends before the next one begins, in the order in which their causes arrived.
"""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, assert_never

from mesh.actor import Actor
from mesh.errors import MeshError, ResourceExhausted, Unavailable
from services.orchestrator.actors.failpoints import reach_failpoints
from services.orchestrator.actors.run_messages import (
    Begin,
    CommandEnded,
    CommandFailed,
    Continue,
    Deliver,
    EventsEmitted,
    InboxChanged,
    MessageStored,
)
from services.orchestrator.actors.run_transitions import RunTransitions
from services.orchestrator.engine.activations import (
    CancelRequested,
    Continued,
    Recovered,
    WaitCommand,
)
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.engine.transition import commands, wakes_at
from services.orchestrator.engine.waits import subscription
from services.orchestrator.store.commits import Envelope, emitted_keys_of
from services.orchestrator.store.run_store import FencedError
from services.orchestrator.worker.store_retry import retry_while_unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from mesh.actor import ActorContext, Piped
    from services.orchestrator.actors.run_messages import RunMessage
    from services.orchestrator.actors.run_resources import RunResources
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.activations import Activation, Command, EventReceived
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record
    from services.orchestrator.store.messages import Message
    from services.orchestrator.worker.run_spans import RunSpans

SUSPEND_THRESHOLD_S = 5.0  # a run that is due sooner stays in memory

log = logging.getLogger(__name__)


class StillOwnedError(Exception):
    """The actor has stopped, but the store may name its run as owned by this process."""


@dataclass(frozen=True, slots=True)
class _Unconfirmed:
    """A commit that the store did not answer: it may have been written or not."""

    repeat: Callable[[], Awaitable[bool]]
    records: Sequence[Record]
    request_id: str


class RunActor(Actor["RunMessage"]):
    """A run in memory."""

    def __init__(
        self,
        context: ActorContext[RunMessage],
        shared: RunResources,
        workflow: Workflow,
        state: RunState,
        *,
        epoch: int,
        spans: RunSpans,
        first: Activation | None,
        committed: Sequence[Record] = (),
        deaths: int = 0,
    ) -> None:
        """Takes the run as it is stored.

        ``first``: the activation to begin with; None if the run continues where its last record
        left it. ``committed``: the records of its start by this process, not announced yet.
        ``deaths``: how many processes before this one died inside the turn that comes next.
        """
        self._context = context
        self._shared = shared
        self._store = shared.store
        self._workflow = workflow
        self._state = state
        self._transitions = RunTransitions(workflow, state, shared.policy, shared.store.lease)
        self._epoch = epoch
        self._spans = spans
        self._first = first
        self._committed = committed
        self._deaths = deaths
        self._in_flight: dict[Command, Piped] = {}
        self._next_slice: Piped | None = None
        self._inbox_unread = False  # the store may hold messages that it has not read
        self._events_unread = False  # the same, of events of other runs
        self._event_cursor = 0  # position up to which it has read the events of other runs
        self._answered: set[str] = set()  # request_ids of the messages that it has stored
        self._unconfirmed: _Unconfirmed | None = None
        self._idle_since: tuple[int, float] | None = None  # sequence, and monotonic time

    async def receive(self, message: RunMessage) -> object:
        """Applies the message and begins what follows. Returns the answer to a ``Deliver``.

        The boundary of the engine: a defect ends this run alone, from its stored state. Raises
        Unavailable if the store does not answer a ``Deliver``.
        """
        stored = None
        try:
            if self._unconfirmed is not None:
                await self._confirm(self._unconfirmed)
                await self._read_unread()
            match message:
                case CommandEnded(command, result):
                    if self._in_flight.pop(command, None) is not None:  # its result is wanted
                        await self._apply(result)
                case Deliver():
                    stored = await self._deliver(message)
                case Begin():
                    await self._begin()
                case MessageStored(stored_message):
                    await self._receive_stored(stored_message)
                case InboxChanged(position):
                    self._inbox_unread |= position is None or position > self._state.inbox_position
                    self._events_unread |= position is None and self._workflow.awaits_events
                case EventsEmitted():
                    self._events_unread = True
                case Continue():
                    self._next_slice = None
                    if self._transitions.is_unfinished and not self._is_over:
                        await self._apply(Continued())
                case CommandFailed(command, error):
                    if self._in_flight.pop(command, None) is not None:
                        raise error
                case _:
                    assert_never(message)
            if self._inbox_unread or self._events_unread:
                await self._read_unread()
            if self._deaths and not self._transitions.is_unfinished and not self._is_over:
                self._deaths = 0
                await self._append(self._transitions.settle())
            self._continue()
            return stored
        except FencedError:
            log.info("run %s is owned by another process now", self._state.run_id)
        except Exception as error:
            if self._unconfirmed is not None and isinstance(error, Unavailable | ResourceExhausted):
                raise
            error_id = uuid.uuid4().hex
            log.exception("error %s in run %s", error_id, self._state.run_id)
            if not await self._end_from_store(f"internal error {error_id}"):
                raise StillOwnedError(self._state.run_id) from None
        self._context.stop()
        return False

    async def passivate(self) -> bool:
        """Suspends the run in the store until its timer, a message or an event.

        Returns False if a message has just arrived. The run stays in memory, too, if the store
        does not answer: raises Unavailable or ResourceExhausted.
        """
        self._idle_since = None
        if self._unconfirmed is not None:
            return False
        suspended = await self._store.suspend(
            self._state,
            self._epoch,
            wakes_at(self._in_flight),
            event_cursor=self._event_cursor,
        )
        if not suspended:
            self._context.ref.tell(InboxChanged())
        return suspended

    def idle_timeout_s(self) -> float | None:
        """Returns in how many seconds the run is to be suspended; None while it has work to do.

        A message need not concern the run: only a new record restarts the time.
        """
        wake_us = 0 if self._transitions.is_unfinished else wakes_at(self._in_flight)
        if not wake_us or wake_us <= self._transitions.now_us() + SUSPEND_THRESHOLD_S * SECOND_US:
            return None
        if self._idle_since is None or self._idle_since[0] != self._state.sequence:
            self._idle_since = self._state.sequence, time.monotonic()
        return max(0.0, self._shared.idle_timeout_s() - (time.monotonic() - self._idle_since[1]))

    async def _begin(self) -> None:
        """Begins what was claimed or started here.

        A recovery is stored first, then a cancellation: a run can be cancelled that would end
        this process as it has ended others.
        """
        first = self._first
        if self._committed:
            self._announce(self._committed)
            self._committed = ()
        else:
            if isinstance(first, Recovered):
                await self._apply(first)
                first = Continued()
            self._inbox_unread = True  # messages may have been stored while no process drove it
            self._events_unread = self._workflow.awaits_events
            if first is not None:
                await self._read_cancel()
        if first is not None and not self._is_over:
            await self._apply(first)

    async def _deliver(self, sent: Deliver) -> bool:
        """Stores the message, at the next position, in the commit of the transition it leads to.

        Raises Unavailable or ResourceExhausted if it is unknown whether that commit was written:
        the next turn finds it out.
        """
        if self._is_over or sent.key.request_id in self._answered:
            return False
        message = replace(sent.message, position=self._state.inbox_position + 1)
        position = await self._event_position() if self._workflow.awaits_events else None
        records = self._transitions.make(message, position)
        envelope = Envelope(message, sent.key, sent.reply)
        deliver = partial(self._store.deliver, self._state, self._epoch, records, envelope)
        try:
            stored = await deliver()
        except (Unavailable, ResourceExhausted):
            self._unconfirmed = _Unconfirmed(deliver, records, sent.key.request_id)
            with suppress(Unavailable, ResourceExhausted):  # a full mailbox has a next turn
                self._context.ref.tell(InboxChanged())
            raise
        return await self._end_delivery(records, sent.key.request_id, stored=stored)

    async def _confirm(self, unknown: _Unconfirmed) -> None:
        """Repeats the commit whose outcome is unknown until the store answers."""
        stored = await retry_while_unavailable(unknown.repeat, self._state.run_id)
        self._unconfirmed = None
        await self._end_delivery(unknown.records, unknown.request_id, stored=stored)

    async def _end_delivery(
        self, records: Sequence[Record], request_id: str, *, stored: bool
    ) -> bool:
        """Announces the transition; reads the state again if the message must not be stored.

        Another message precedes it, the run has too many messages, or its key was used.
        """
        if stored:
            self._answered.add(request_id)
            self._announce(records)
        else:
            load = partial(self._store.load, self._state.run_id)
            # The state in memory has the transition.
            self._state = (await retry_while_unavailable(load, self._state.run_id)).state
            self._transitions.resume_from(self._state)
            self._inbox_unread = True
        return stored

    async def _receive_stored(self, message: Message) -> None:
        """Applies the next stored message; marks the inbox if one before it is missing."""
        missing = message.position - 1 - self._state.inbox_position
        if missing == 0 and not self._is_over:
            await self._apply(message)
        self._inbox_unread |= missing > 0

    async def _read_cancel(self) -> None:
        """Applies the stored messages if one cancels the run, before the run begins anything."""
        found = await self._stored_messages()
        if any(isinstance(message, CancelRequested) for message in found):
            for message in found:
                is_cancel = isinstance(message, CancelRequested)
                if not self._is_over:
                    await self._apply(message, proceeds=is_cancel)

    async def _stored_messages(self) -> Sequence[Message]:
        position = self._state.inbox_position
        read = partial(self._store.messages.read_after, self._state.run_id, position=position)
        return await retry_while_unavailable(read, self._state.run_id)

    async def _read_unread(self) -> None:
        """Applies the messages and the events in the store that the run has not read."""
        while (self._inbox_unread or self._events_unread) and not self._is_over:
            if self._inbox_unread:
                self._inbox_unread = False
                for message in await self._stored_messages():
                    if not self._state.finished:
                        await self._apply(message)
            if self._events_unread:
                for event in await self._new_events():
                    if not self._state.finished:
                        await self._apply(event)

    async def _new_events(self) -> list[EventReceived]:
        """Returns the events that the run waits for and that it has not read.

        It is notified of later ones: the subscription precedes the read.
        """
        wanted = subscription(self._state, self._event_cursor)
        self._shared.subscriptions.replace(self._context.ref, wanted)
        if wanted is None:
            self._events_unread = False
            return []
        read = partial(self._store.events.read_after, wanted.after, wanted.subjects)
        found, self._event_cursor = await retry_while_unavailable(read, self._state.run_id)
        self._events_unread = bool(found)  # the store may hold more
        return found

    async def _apply(self, activation: Activation, *, proceeds: bool = True) -> None:
        """Commits the transition that the activation leads to, if any, and announces it."""
        position = await self._event_position() if self._workflow.awaits_events else None
        if records := self._transitions.make(activation, position, proceeds=proceeds):
            await self._append(records)

    async def _append(self, records: Sequence[Record]) -> None:
        append = partial(self._store.append, self._state, self._epoch, records)
        await retry_while_unavailable(append, self._state.run_id)
        self._announce(records)

    async def _event_position(self) -> int:
        """Returns where new subscriptions start: an event after it must not be missed."""
        return await retry_while_unavailable(self._store.events.latest_position, self._state.run_id)

    def _announce(self, records: Sequence[Record]) -> None:
        """Exports and announces what was committed."""
        # An event may have been emitted between the last read and a subscription of these records.
        self._events_unread = self._workflow.awaits_events
        self._spans.observe(records)
        self._shared.notifier.publish(self._state, records)
        if self._shared.subscriptions and (emitted := emitted_keys_of(records)):
            self._shared.subscriptions.notify(emitted)
        reach_failpoints("after", self._state.run_id, records)

    def _continue(self) -> None:
        """Begins the commands that are due, abandons those that the run no longer needs, or ends.

        Once the service stops nothing begins, and the results of calls in flight are awaited.
        """
        if self._state.finished:
            self._context.stop()
            return
        if self._shared.stopping.is_set():
            return
        if self._transitions.is_unfinished and self._next_slice is None:
            self._next_slice = self._context.pipe_to_self(
                self._shared.next_slice(), name="slice", daemon=True
            )
        wanted = commands(self._state, self._shared.policy)
        if not wanted and not self._transitions.is_unfinished:
            # Nothing would ever wake the run.
            raise RuntimeError(f"run {self._state.run_id} has not ended, but no step is in flight")
        if self._in_flight:
            self._abandon(self._in_flight.keys() - wanted)
        for command in wanted:
            if command not in self._in_flight:
                self._in_flight[command] = self._context.pipe_to_self(
                    self._shared.executor.perform(
                        command, self._spans, self._transitions.clock_offset_us
                    ),
                    name=command.path,
                    daemon=isinstance(command, WaitCommand),
                )

    def _abandon(self, unwanted: Iterable[Command]) -> None:
        """Cancels commands whose results the run no longer needs."""
        for command in list(unwanted):
            self._in_flight.pop(command).cancel()

    async def _end_from_store(self, reason: str) -> bool:
        """Ends the run from its stored state: the one in memory may include a lost transition.

        Returns False if it cannot be read: the next claim sets it aside.
        """
        self._abandon(self._in_flight)
        try:
            load = partial(self._store.load, self._state.run_id)
            stored = await retry_while_unavailable(load, self._state.run_id)
        except MeshError:
            return False
        if not stored.state.finished:
            await self._shared.fail_run(stored.state, self._epoch, reason)
        return True

    @property
    def _is_over(self) -> bool:
        """True if the run takes no more messages here: it has ended, or the service stops."""
        return self._state.finished or self._shared.stopping.is_set()
