"""Executes runs: performs the commands of the engine and commits what these lead to."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Literal

from mesh import failpoint
from mesh.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.orchestrator.actors.inline_call import InlineCall
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
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import RunStatus, StepError
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.engine.transition import Transition, commands
from services.orchestrator.store.commits import emitted_keys_of
from services.orchestrator.store.run_store import FencedError
from services.orchestrator.worker.run_spans import CANCEL
from services.orchestrator.worker.store_retry import retry_while_unavailable, sleep_unless_stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from services.orchestrator.actors.run import PendingMessage, RunActor
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.activations import Activation, Command
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.peers import Peers
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.worker.inbox import RunInbox
    from services.orchestrator.worker.subscriptions import EventSubscriptions

SUSPEND_THRESHOLD_S = 5.0  # a run that is due sooner stays in memory

# Where a test may kill the process: before and after the commit of a record of this kind.
FAILPOINTS = {
    RecordKind.START: "start",
    RecordKind.STEP_INTENT: "intent",
    RecordKind.STEP_DONE: "step_done",
    RecordKind.SIGNAL: "message",
    RecordKind.FINISH: "finish",
}

log = logging.getLogger(__name__)


class RunExecutor:
    """Executes the commands of runs and applies their results, one transition at a time."""

    def __init__(
        self,
        store: RunStore,
        peers: Peers,
        notifier: RunNotifier,
        inbox: RunInbox,
        subscriptions: EventSubscriptions,
        active_runs: dict[str, RunActor],
        config: OrchestratorConfig,
        *,
        stopping: asyncio.Event,
        idle_timeout_s: Callable[[], float],
        notify_claimable: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._lease = store.lease
        self._peers = peers
        self._notifier = notifier
        self._inbox = inbox
        self._subscriptions = subscriptions
        self._active_runs = active_runs
        self._policy = config.policy
        self._calls = asyncio.Semaphore(config.max_concurrent_steps)
        self._stopping = stopping
        self._idle_timeout_s = idle_timeout_s
        self._notify_claimable = notify_claimable

    async def execute(self, run: RunActor, first: Activation | None = None) -> bool:
        """Executes the run, from ``first`` on, until it ends, is suspended or the service stops.

        The boundary of the engine: a defect ends this run alone. Returns False if the store may
        still hold the run as owned by this process.
        """
        try:
            if first is not None:
                await self._apply(run, first)
            await self._drive(run)
        except FencedError:
            log.info("run %s is owned by another process now", run.state.run_id)
        except Exception:
            error_id = uuid.uuid4().hex
            log.exception("error %s in run %s", error_id, run.state.run_id)
            return await self._abandon_run(run, f"internal error {error_id}")
        return True

    async def fail_run(self, state: RunState, epoch: int, reason: str) -> None:
        """Ends a run that cannot continue, with the status NEEDS_ATTENTION."""
        payload = {"status": RunStatus.NEEDS_ATTENTION, "reason": reason}
        now_us = self._lease.now_us()
        end = Record.write(state.sequence + 1, RecordKind.FINISH, "", 0, now_us, payload)
        evolve(state, end)
        try:
            await self._append(state, epoch, [end])
        except FencedError:
            log.info("run %s is owned by another process now", state.run_id)
            self._notifier.notify(state.run_id)
        else:
            self._notifier.publish(state, [end])

    def committed(self, run: RunActor, records: Sequence[Record]) -> None:
        """Exports and announces what was committed of the run."""
        run.spans.observe(records)
        self._notifier.publish(run.state, records)
        if emitted := emitted_keys_of(records):
            self._subscriptions.notify(emitted)
        reach_failpoints("after", run.state.run_id, records)

    async def _drive(self, run: RunActor) -> None:
        self._active_runs[run.state.run_id] = run
        try:
            while not run.state.finished and not (self._stopping.is_set() and not run.in_flight):
                if run.idle and await self._suspend_if_idle(run):
                    if run.has_messages:  # a message resumed it at once
                        self._notify_claimable()
                    return
                await self._drain_inbox(run)
                for activation in await self._next_activations(run):
                    await self._drain_inbox(run)  # a cancel that came first takes effect first
                    await self._apply(run, activation)
        finally:
            if self._active_runs.get(run.state.run_id) is run:
                del self._active_runs[run.state.run_id]
            run.return_pending()
            run.abandon(run.in_flight)

    async def _drain_inbox(self, run: RunActor) -> None:
        """Applies the messages to the run and the events that it waits for."""
        if not run.has_messages or self._stopping.is_set():
            return
        await self._inbox.drain(run, partial(self._apply, run))
        for event in await self._subscriptions.read_new(run):
            if not run.state.finished:
                await self._apply(run, event)

    async def _apply(
        self, run: RunActor, activation: Activation, pending: PendingMessage | None = None
    ) -> bool:
        """Commits the transition that the activation leads to, and announces it.

        ``pending`` is stored in the same commit. Returns False if there is no transition, or
        ``pending`` must not be stored.
        """
        jitter = random.random()  # noqa: S311  (spreads retries, guards nothing)
        position = await self._subscriptions.position(run)
        now_us = self._now_us(run)
        transition = Transition(
            run.workflow, run.state, self._policy, now_us, jitter, event_position=position
        )
        transition.apply(activation)
        if not transition.records:
            return False  # the step that it concerns has ended
        reach_failpoints("before", run.state.run_id, transition.records)
        if pending is None:
            await self._append(transition.state, run.epoch, transition.records)
        elif not await self._inbox.store(run, transition.records, pending):
            return False
        # An event may have been emitted between the last read and this subscription.
        run.inbox_dirty |= run.workflow.awaits_events
        self.committed(run, transition.records)
        return True

    async def _append(self, state: RunState, epoch: int, records: Sequence[Record]) -> None:
        append = partial(self._store.append, state, epoch, records)
        await retry_while_unavailable(append, state.run_id)

    async def _abandon_run(self, run: RunActor, reason: str) -> bool:
        """Ends the run from its stored state: the one in memory may include a lost transition."""
        try:
            load = partial(self._store.load, run.state.run_id)
            state = (await retry_while_unavailable(load, run.state.run_id)).state
        except FailedPrecondition:
            return False  # its records are damaged: the next claim sets it aside
        if not state.finished:
            await self.fail_run(state, run.epoch, reason)
        return True

    async def _next_activations(self, run: RunActor) -> list[Activation]:
        """Performs the run's commands until the first ones are done, and returns their results.

        Returns nothing if the run has messages (``run.has_messages``), only waits and for long
        (``run.idle``), or the service stops.
        """
        stopping = self._stopping.is_set()
        wanted = [] if stopping else commands(run.state, self._policy)
        if run.in_flight and not stopping:
            run.abandon(run.in_flight.keys() - wanted)
        if not (wanted or stopping or run.state.finished):
            # Nothing would ever wake the run, and its loop would block all others.
            raise RuntimeError(f"run {run.state.run_id} has not ended, but no step is in flight")
        if len(wanted) == 1 and isinstance(wanted[0], CallCommand) and not run.in_flight:
            return await self._call_inline(run, wanted[0])
        for command in wanted:
            if command not in run.in_flight:
                run.in_flight[command] = self._spawn(run, command)
        return await self._first_done(run)

    async def _call_inline(self, run: RunActor, call: CallCommand) -> list[Activation]:
        if run.has_messages:
            return []
        run.inline_call = InlineCall(self._loop, partial(self._drain_inbox_beside, run, call))
        try:
            activation = await run.inline_call.result(self._perform(run, call))
        finally:
            run.inline_call = None
        return [] if activation is None else [activation]

    async def _drain_inbox_beside(self, run: RunActor, call: CallCommand) -> bool:
        """Drains the inbox during the call. Returns False if the call is no longer wanted."""
        while run.has_messages and not self._stopping.is_set():
            await self._drain_inbox(run)
        return call in commands(run.state, self._policy)

    async def _first_done(self, run: RunActor) -> list[Activation]:
        """Returns the results of the commands that end first; nothing once there are messages."""
        while run.in_flight:
            run.wakeup.clear()
            if run.has_messages and not self._stopping.is_set():
                return []
            done = [command for command, task in run.in_flight.items() if task.done()]
            results = [run.in_flight.pop(command).result() for command in done]
            if activations := [result for result in results if result is not None]:
                return activations
            if not done:
                await self._wait(run)
            if run.idle:
                return []
        return []

    async def _wait(self, run: RunActor) -> None:
        """Waits until the run is woken, or marks it idle after the idle timeout."""
        if not wakes_at(run.in_flight) > self._now_us(run) + SUSPEND_THRESHOLD_S * SECOND_US:
            await run.wakeup.wait()
            return
        # A wakeup need not concern the run: only a new record restarts its idle time.
        if run.idle_since is None or run.idle_since[0] != run.state.sequence:
            run.idle_since = run.state.sequence, time.monotonic()
        idle_s = time.monotonic() - run.idle_since[1]
        try:
            async with asyncio.timeout(self._idle_timeout_s() - idle_s):
                await run.wakeup.wait()
        except TimeoutError:
            run.idle = not self._stopping.is_set()

    async def _suspend_if_idle(self, run: RunActor) -> bool:
        """Suspends the run until its timer or a message.

        Returns False if a message has just arrived, or the store does not answer.
        """
        run.idle, run.idle_since = False, None
        wake_us = wakes_at(run.in_flight)
        try:
            suspensions = self._store.suspensions
            if await suspensions.suspend(
                run.state, run.epoch, wake_us, event_cursor=run.event_cursor
            ):
                return True
        except (Unavailable, ResourceExhausted) as error:
            log.warning("run %s stays in memory: %s", run.state.run_id, error)
            return False
        run.notify_inbox()
        return False

    def _spawn(self, run: RunActor, command: Command) -> asyncio.Task[Activation | None]:
        name = f"{run.state.run_id} {command.path}"
        task = self._loop.create_task(self._perform(run, command), name=name, context=Context())
        task.add_done_callback(lambda _: run.wakeup.set())
        return task

    async def _perform(self, run: RunActor, command: Command) -> Activation | None:
        """Performs the command and returns its result, or None if the service stops first."""
        match command:
            case WaitCommand(path, until_us):
                return Due(path) if await self._sleep_until(run, until_us) else None
            case CancelCommand(path, attempt, service, method, request, at_us):
                if not await self._sleep_until(run, at_us):
                    return None
                with run.spans.calling(path, CANCEL, attempt):
                    timeout = self._policy.attempt_timeout_s
                    reply = await self._call(service, method, request, timeout)
                if isinstance(reply, StepError):
                    return CancelFailed(path, reply)
                return CancelReplied(path)
            case CallCommand(path, attempt, service, method, request, timeout):
                with run.spans.calling(path, attempt):
                    reply = await self._call(service, method, request, timeout)
                return Failed(path, reply) if isinstance(reply, StepError) else Replied(path, reply)

    async def _call(
        self, service: str, method: str, request: bytes, timeout: float
    ) -> bytes | StepError:
        async with self._calls:
            await self._lease.held()  # or another process may be about to make this call
            return await self._peers.call(service, method, request, timeout=timeout)

    def _now_us(self, run: RunActor) -> int:
        """Returns the time of the run, in Unix microseconds: it never goes back."""
        return self._lease.now_us() + run.clock_offset_us

    async def _sleep_until(self, run: RunActor, until_us: int) -> bool:
        """Sleeps until then. Returns False if the service stops first."""
        # The estimate of the store's clock may be corrected backwards during the sleep.
        while (seconds := (until_us - self._now_us(run)) / SECOND_US) > 0:
            if await sleep_unless_stopping(self._stopping, seconds):
                return False
        return True


def reach_failpoints(
    moment: Literal["before", "after"], run_id: str, records: Sequence[Record]
) -> None:
    """Reaches the failpoints of these records; no notification was sent yet.

    A failpoint is called ``engine.before_start`` and so on; its key is RUN or RUN/PATH.
    """
    for record in records if failpoint.is_armed() else ():
        if name := FAILPOINTS.get(record.kind):
            key = f"{run_id}/{record.path}" if record.path else run_id
            failpoint.reach(f"engine.{moment}_{name}", key)


def wakes_at(commands: Iterable[Command]) -> int:
    """Returns when the first wait is over, in Unix microseconds; 0 if any command does not wait."""
    return min((c.until_us if isinstance(c, WaitCommand) else 0 for c in commands), default=0)
