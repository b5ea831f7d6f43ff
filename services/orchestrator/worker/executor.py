"""Doing what the state machine wants of one run: calls, cancels and waits, side by side."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    CancelFailed,
    CancelReplied,
    Due,
    Failed,
    Replied,
    WaitCommand,
)
from services.orchestrator.engine.model import StepError
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.engine.transition import commands
from services.orchestrator.worker.inline_call import InlineCall
from services.orchestrator.worker.run_spans import CANCEL
from services.orchestrator.worker.store_retry import sleep_unless_stopping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from mesh.data.lease import Lease
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.activations import Activation, Command
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.retry_policy import RetryPolicy
    from services.orchestrator.peers import Peers
    from services.orchestrator.store.messages import Message
    from services.orchestrator.worker.pending import PendingMessage
    from services.orchestrator.worker.run_spans import RunSpans

AHEAD = 5.0  # seconds: who is due sooner stays in memory


@dataclass(slots=True)
class RunActor:
    """A run in memory. What is here is in the journal, too."""

    workflow: Workflow
    state: RunState
    epoch: int
    trace: RunSpans
    under_way: dict[Command, asyncio.Task[Activation | None]] = field(default_factory=dict)
    drowsy: bool = False  # it only waits, and for long: it need not be in memory
    mail: bool = False  # something may have been sent to it
    handed: list[Message] = field(default_factory=list)  # stored by others, who told us what it is
    pending: deque[PendingMessage] = field(
        default_factory=deque
    )  # sent through us, to be stored by it
    answered: set[str] = field(default_factory=set)  # request_ids of what it has stored so
    ahead_us: int = 0  # of the store's clock: a run's own never goes back
    heard: int = 0  # position up to which it has looked for events
    stirred: asyncio.Event = field(default_factory=asyncio.Event)  # by mail, or by what is done
    rests: tuple[int, float] | None = None  # only waits: its sequence, and since when
    alone: InlineCall | None = None  # its only call, while that is under way

    @property
    def has_mail(self) -> bool:
        return self.mail or bool(self.handed) or bool(self.pending)

    def tell_of_mail(self) -> None:
        self.mail = True
        self._stir()

    def hand(self, message: Message) -> None:
        """It was stored: who has it here need not read it."""
        self.handed.append(message)
        self._stir()

    def _stir(self) -> None:
        self.stirred.set()
        if self.alone is not None:
            self.alone.tell_of_mail()

    def take_handed(self) -> list[Message]:
        """What it was handed, if nothing else was sent to it; or else there is mail to be read."""
        handed, self.handed = self.handed, []
        next_in_line = [self.state.inbox_position + number for number in range(1, len(handed) + 1)]
        self.mail |= [message.position for message in handed] != next_in_line
        return [] if self.mail else handed

    def pend(self, pending: PendingMessage) -> None:
        self.pending.append(pending)
        self._stir()

    def take_pending(self) -> PendingMessage | None:
        """The next of what it is to store, with its position; none before what is stored."""
        if not self.pending or self.mail or self.handed or self.state.finished:
            return None
        pending = self.pending.popleft()
        pending.message = replace(pending.message, position=self.state.inbox_position + 1)
        return pending

    def return_pending(self) -> None:
        while self.pending:
            self.pending.popleft().settle(stored=False)

    def leave(self, unwanted: Iterable[Command]) -> None:
        """Nothing depends on these any more."""
        for command in list(unwanted):
            self.under_way.pop(command).cancel()


class RunExecutor:
    def __init__(
        self,
        peers: Peers,
        lease: Lease,
        policy: RetryPolicy,
        *,
        most_calls: int,
        stopping: asyncio.Event,
        patience: Callable[[], float],
        take_mail: Callable[[RunActor], Awaitable[None]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._peers = peers
        self._lease = lease
        self._policy = policy
        self._calls = asyncio.Semaphore(most_calls)
        self._stopping = stopping
        self._retry_window_us = patience
        self._take_mail = take_mail

    async def next_events(self, run: RunActor) -> list[Activation]:
        """What came of doing what is to be done next.

        Nothing once the run has ended, was sent something, only waits for long, or we are to stop:
        ``run.has_mail`` and ``run.drowsy`` tell.
        """
        stopping = self._stopping.is_set()
        wanted = [] if stopping else commands(run.state, self._policy)
        if run.under_way and not stopping:
            run.leave(run.under_way.keys() - wanted)
        if len(wanted) == 1 and isinstance(wanted[0], CallCommand) and not run.under_way:
            return await self._make_alone(run, wanted[0])
        for command in wanted:
            if command not in run.under_way:
                run.under_way[command] = self._spawn(run, command)
        return await self._first(run)

    async def _make_alone(self, run: RunActor, call: CallCommand) -> list[Activation]:
        if run.has_mail:
            return []
        run.alone = InlineCall(self._loop, partial(self._take_mail_beside, run, call))
        try:
            event = await run.alone.make(self._perform(run, call))
        finally:
            run.alone = None
        return [] if event is None else [event]

    async def _take_mail_beside(self, run: RunActor, call: CallCommand) -> bool:
        while run.has_mail and not self._stopping.is_set():
            await self._take_mail(run)
        return call in commands(run.state, self._policy)

    async def _first(self, run: RunActor) -> list[Activation]:
        """What is done first of what is under way; nothing as soon as there is mail to take."""
        while run.under_way:
            run.stirred.clear()
            if run.has_mail and not self._stopping.is_set():
                return []
            done = [command for command, task in run.under_way.items() if task.done()]
            came = [run.under_way.pop(command).result() for command in done]
            if events := [event for event in came if event is not None]:
                return events
            if not done:
                await self._rest(run)
            if run.drowsy:
                return []
        return []

    async def _rest(self, run: RunActor) -> None:
        """Until something stirs, or the run has waited in vain for a while."""
        if not wakes_at(run.under_way) > self.now_us(run) + AHEAD * SECOND_US:
            await run.stirred.wait()
            return
        # What stirs it need not concern it: only what it journals is no rest.
        if run.rests is None or run.rests[0] != run.state.sequence:
            run.rests = run.state.sequence, time.monotonic()
        rested = time.monotonic() - run.rests[1]
        try:
            async with asyncio.timeout(self._retry_window_us() - rested):
                await run.stirred.wait()
        except TimeoutError:
            run.drowsy = not self._stopping.is_set()

    def _spawn(self, run: RunActor, command: Command) -> asyncio.Task[Activation | None]:
        name = f"{run.state.run_id} {command.path}"
        task = self._loop.create_task(self._perform(run, command), name=name, context=Context())
        task.add_done_callback(lambda _: run.stirred.set())
        return task

    async def _perform(self, run: RunActor, command: Command) -> Activation | None:
        """Do it; None if we are told to stop first."""
        match command:
            case WaitCommand(path, until_us):
                return Due(path) if await self._sleep_until(run, until_us) else None
            case CancelCommand(path, attempt, service, method, request, at_us):
                if not await self._sleep_until(run, at_us):
                    return None
                with run.trace.calling(path, CANCEL, attempt):
                    timeout = self._policy.attempt_timeout_s
                    answer = await self._call(service, method, request, timeout)
                if isinstance(answer, StepError):
                    return CancelFailed(path, answer)
                return CancelReplied(path)
            case CallCommand(path, attempt, service, method, request, timeout):
                with run.trace.calling(path, attempt):
                    reply = await self._call(service, method, request, timeout)
                return Failed(path, reply) if isinstance(reply, StepError) else Replied(path, reply)

    async def _call(
        self, service: str, method: str, request: bytes, timeout: float
    ) -> bytes | StepError:
        async with self._calls:
            await self._lease.held()  # or another may be about to make this call
            return await self._peers.call(service, method, request, timeout=timeout)

    def now_us(self, run: RunActor) -> int:
        """What time it is for the run, Unix microseconds."""
        return self._lease.now_us() + run.ahead_us

    async def _sleep_until(self, run: RunActor, until_us: int) -> bool:
        """False if we are told to stop first."""
        # The store's clock, as we know it, may have been set back by a moment meanwhile.
        while (seconds := (until_us - self.now_us(run)) / SECOND_US) > 0:
            if await sleep_unless_stopping(self._stopping, seconds):
                return False
        return True


def wakes_at(commands: Iterable[Command]) -> int:
    """When the first of them is due, Unix microseconds; 0 if one does more than wait."""
    return min((c.until_us if isinstance(c, WaitCommand) else 0 for c in commands), default=0)
