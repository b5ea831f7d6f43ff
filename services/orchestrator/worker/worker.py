"""The worker: starts runs, claims those that no process drives, and executes them."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh import failpoint
from mesh.errors import NotFound, ResourceExhausted, Unavailable
from services.orchestrator.actors.run import RunActor
from services.orchestrator.definition.problems import DefinitionInvalidError
from services.orchestrator.engine import redrive as redrive_rules
from services.orchestrator.engine import start as start_rules
from services.orchestrator.engine.activations import Recovered, Started
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.store import redrives
from services.orchestrator.store.commits import NewRun
from services.orchestrator.store.group_commit import fail
from services.orchestrator.worker.background_tasks import BackgroundTasks
from services.orchestrator.worker.executor import RunExecutor, reach_failpoints
from services.orchestrator.worker.inbox import RunInbox
from services.orchestrator.worker.pollers import poll, poll_inbox, poll_timers
from services.orchestrator.worker.run_spans import RunSpans
from services.orchestrator.worker.store_retry import (
    STORE_RETRY_DELAY_S,
    retry_while_unavailable,
    sleep_unless_stopping,
    within_deadline,
)
from services.orchestrator.worker.subscriptions import EventSubscriptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from mesh.data.database import Database
    from mesh.data.idempotency import IdempotencyKey
    from mesh.observability.telemetry import SpanSink
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.activations import Activation
    from services.orchestrator.engine.model import RunState, RunStatus
    from services.orchestrator.engine.records import Record
    from services.orchestrator.engine.transition import Transition
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.peers import Peers
    from services.orchestrator.registry import WorkflowRegistry
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.messages import Message
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.store.stored_run import StoredRun

DRAIN_TIMEOUT_S = 5.0  # for calls in flight when the service stops
CLAIM_BATCH_SIZE = 64  # runs: each is read in the transaction that claims it
IDLE_TIMEOUT_S = 5.0  # after which a run that only waits is suspended
IDLE_TIMEOUT_AT_CAPACITY_S = 0.05  # the same, while other runs wait for a slot

log = logging.getLogger(__name__)


class Worker:
    """Executes the runs that this process owns; at most ``config.max_runs`` have a slot at once."""

    def __init__(
        self,
        store: RunStore,
        database: Database,
        registry: WorkflowRegistry,
        peers: Peers,
        notifier: RunNotifier,
        span_sink: SpanSink | None,
        config: OrchestratorConfig,
    ) -> None:
        self._store = store
        self._database = database
        self._registry = registry
        self._notifier = notifier
        self._span_sink = span_sink
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks()
        self._slots: dict[str, asyncio.Task[Any] | None] = {}  # run -> task; None while it starts
        self._reconcile_needed = False  # the store may name runs as ours that have no slot
        self._at_capacity = False  # at the last claim: more runs may wait than it took
        self._timers_due = False  # suspended runs may be due
        self._capacity_event = asyncio.Event()
        self._stopping = asyncio.Event()
        self._active_runs: dict[str, RunActor] = {}
        self._subscriptions = EventSubscriptions(store.events, self._active_runs)
        self._inbox = RunInbox(store, self._active_runs, self._stopping, self.notify_claimable)
        self._executor = RunExecutor(
            store,
            peers,
            notifier,
            self._inbox,
            self._subscriptions,
            self._active_runs,
            config,
            stopping=self._stopping,
            idle_timeout_s=self._idle_timeout_s,
            notify_claimable=self.notify_claimable,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Executes runs for the duration of the block."""
        self._tasks.supervise(self._claim_forever, self._stopping, name="claim runs")
        messages, suspensions = self._store.messages, self._store.suspensions
        steps: dict[str, Callable[[], Awaitable[float | None]]] = {
            "messages": partial(poll_inbox, messages, self._active_runs),
            "due runs": partial(poll_timers, suspensions, self._notify_due),
            "events": self._subscriptions.poll,
        }
        for subject, step in steps.items():
            work = partial(poll, step, self._stopping, subject=subject)
            self._tasks.supervise(work, self._stopping, name=f"poll for {subject}")
        try:
            yield
        finally:
            self._stopping.set()
            self._inbox.close()
            self._capacity_event.set()
            # The results of calls in flight are stored if they come in time; others are recovered.
            await self._tasks.drain(DRAIN_TIMEOUT_S)

    async def start(
        self,
        key: IdempotencyKey,
        workflow_id: str,
        request: start_rules.StartRun,
        traceparent: str,
        reply: Callable[[NewRun], bytes],
    ) -> bytes:
        """Starts a run once per ``key``, and executes it as soon as it has a slot.

        The run starts even if its caller disconnects. Raises Unavailable just before the caller's
        deadline if the store does not answer: the run may start.
        """
        started: asyncio.Future[bytes] = self._loop.create_future()
        run_id, owned = request.run_id, self._has_slot() and request.run_id not in self._slots
        work = self._start_run(key, workflow_id, request, traceparent, reply, started, owned)
        if owned:
            self._spawn(work, run_id)
            self._slots[run_id] = None  # a lost lease cancels no run that is not stored yet
        else:
            self._tasks.spawn(work, name=f"start {run_id}")
        return await within_deadline(started)

    async def redrive(self, key: IdempotencyKey, run_id: str, reason: str) -> None:
        """Redrives an ended run once per ``key``: a process with a free slot claims it.

        Raises NotFound, or FailedPrecondition (RUN_NOT_REDRIVABLE) if it cannot continue.
        """

        def judge(state: RunState, ended: RunStatus) -> Record:
            return redrive_rules.redrive(
                state, ended, reason=reason, requester=key.caller, at_us=self.now_us()
            )

        failpoint.reach("engine.before_redriven", run_id)
        await redrives.redrive(self._database, key, run_id, judge)
        failpoint.reach("engine.after_redriven", run_id)
        self._notifier.notify(run_id)
        self.notify_claimable()

    async def send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes = b""
    ) -> bytes:
        """Sends the message to the run once per ``key`` and returns the first reply."""
        return await self._inbox.send(key, run_id, message, reply)

    def now_us(self) -> int:
        """Returns the time of the store's clock, in Unix microseconds."""
        return self._store.lease.now_us()

    def drives(self, run_id: str) -> bool:
        """Checks if the run has a slot here: then its end is announced without a poll."""
        return run_id in self._slots

    async def _start_run(
        self,
        key: IdempotencyKey,
        workflow_id: str,
        request: start_rules.StartRun,
        traceparent: str,
        reply: Callable[[NewRun], bytes],
        started: asyncio.Future[bytes],
        owned: bool,
    ) -> None:
        """Stores a new run and, if this process is to own it, executes it in the same task."""
        transition: Transition | None = None

        def prepare(definition: StoredDefinition) -> NewRun:
            nonlocal transition
            transition = start_rules.start(
                self._registry.newest(definition),
                request,
                self._config.policy,
                network=self._config.mesh.network,
                at_us=self.now_us(),
                jitter=random.random(),  # noqa: S311  (spreads retries, guards nothing)
            )
            if owned and not transition.workflow.awaits_events:
                transition.apply(Started())
            records = tuple(transition.records)
            reach_failpoints("before", request.run_id, records)
            return NewRun(transition.state, records, request.started_by, traceparent, owned)

        try:
            result = await self._store.start(key, workflow_id, prepare, reply)
        except asyncio.CancelledError:
            started.cancel()
            raise
        except Exception as error:  # the caller gets every error
            self._reconcile_needed |= owned and isinstance(error, Unavailable)
            fail(started, error)
            return
        if owned and not result.created:
            # Before the caller waits for the end of the run, which may not be announced again.
            self._release_slot(request.run_id)
        if not started.done():
            started.set_result(result.reply)
        if not owned:
            self._capacity_event.set()  # no process may own the run yet
        elif result.created and transition is not None:
            self._slots[request.run_id] = asyncio.current_task(self._loop)
            spans = self._spans(transition.state, traceparent)
            run = RunActor(transition.workflow, transition.state, 0, spans)
            self._executor.committed(run, transition.records)
            await self._execute(run, Started() if run.workflow.awaits_events else None)

    async def _claim_forever(self) -> None:
        self._reconcile_needed = True  # a failure of this task may have left runs behind
        while not self._stopping.is_set():
            self._capacity_event.clear()
            try:
                claimed = await self._claim()
            except (Unavailable, ResourceExhausted) as error:
                log.warning("cannot claim runs: %s", error)
                self._reconcile_needed = True
                await sleep_unless_stopping(self._stopping, STORE_RETRY_DELAY_S)
                continue
            for stored in claimed:
                self._spawn(self._resume_run(stored), stored.row.id)
            if not claimed:
                await self._capacity_event.wait()

    async def _claim(self) -> list[StoredRun]:
        if self._reconcile_needed:
            await self._store.release_lost(self._slots)
            self._reconcile_needed = False
        free = min(self._config.max_runs - len(self._slots), CLAIM_BATCH_SIZE)
        self._at_capacity = free <= 0
        if self._at_capacity:
            return []
        claimed = await self._store.claim(free)
        if self._timers_due and len(claimed) < free:
            resumed = await self._store.suspensions.resume_due(free - len(claimed))
            self._timers_due = resumed > 0
            claimed += await self._store.claim(resumed) if resumed else []
        return claimed

    async def _resume_run(self, stored: StoredRun) -> None:
        """Executes a claimed run from its stored state."""
        state, epoch = stored.state, stored.row.epoch
        spans = self._spans(state, stored.row.traceparent)
        # After a redrive no call was made yet, so that nothing is recovered.
        has_started = bool(state.steps) and stored.records[-1].kind is not RecordKind.REDRIVEN
        spans.observe(stored.records, again=True)
        try:
            find = partial(self._registry.pinned, state)
            workflow = await retry_while_unavailable(find, state.run_id)
        except (DefinitionInvalidError, NotFound) as error:
            reason = f"this version cannot drive its definition: {error}"
            await self._executor.fail_run(state, epoch, reason)
            return
        run = RunActor(workflow, state, epoch, spans)
        run.clock_offset_us = max(0, state.updated_us - self.now_us())
        run.notify_inbox()  # messages may have been stored while no process drove it
        first = Recovered() if has_started else Started()
        await self._execute(run, None if stored.was_suspended else first)

    def notify_events(self) -> None:
        """Wakes the runs that wait for events: some run emitted one."""
        self._subscriptions.notify()

    def notify_claimable(self) -> None:
        """Starts a claim, because a run may have no owner."""
        self._capacity_event.set()

    def notify_message(self, run_id: str, message: Message | None = None) -> None:
        """Wakes the run: another process stored ``message``, or one that is unknown, for it."""
        if run := self._active_runs.get(run_id):
            run.notify_inbox() if message is None else run.push_prefetched(message)

    def drop_all_runs(self) -> None:
        """Cancels all runs after the lease is lost; results of in-flight calls are discarded."""
        for task in filter(None, self._slots.values()):
            task.cancel()

    def re_export_spans(self, ended: Sequence[StoredRun]) -> None:
        """Exports the last spans of runs whose process may have died before it exported them."""
        for stored in ended:
            self._spans(stored.state, stored.row.traceparent).observe(stored.records, again=True)

    async def _execute(self, run: RunActor, first: Activation | None) -> None:
        if not await self._executor.execute(run, first):
            self._reconcile_needed = True

    def _notify_due(self) -> None:
        self._timers_due = True
        self._capacity_event.set()

    def _spans(self, state: RunState, traceparent: str) -> RunSpans:
        return RunSpans(self._span_sink, state.run_id, state.workflow_id, traceparent)

    def _idle_timeout_s(self) -> float:
        return IDLE_TIMEOUT_AT_CAPACITY_S if self._at_capacity else IDLE_TIMEOUT_S

    def _has_slot(self) -> bool:
        return len(self._slots) < self._config.max_runs and not self._stopping.is_set()

    def _release_slot(self, run_id: str, *, lost: bool = False) -> None:
        """Releases the run's slot. ``lost``: ownership in the store is unknown."""
        self._slots.pop(run_id, None)
        self._reconcile_needed |= lost
        if self._reconcile_needed or self._at_capacity:
            self._capacity_event.set()

    def _spawn(self, work: Coroutine[Any, Any, Any], run_id: str) -> None:
        def end(task: asyncio.Task[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.error("run %s failed here; it will be claimed again", run_id, exc_info=error)
            if self._slots.get(run_id) in (task, None):
                self._release_slot(run_id, lost=error is not None)

        self._slots[run_id] = self._tasks.spawn(work, name=f"run {run_id}", then=end)
