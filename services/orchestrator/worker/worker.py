"""The worker: starts runs, claims those that no process drives, and executes them."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.actor import ActorRegistry, Supervision
from mesh.errors import NotFound, ResourceExhausted, Unavailable
from services.orchestrator.actors.absent_run import AbsentRun
from services.orchestrator.actors.failpoints import reach_failpoints
from services.orchestrator.actors.run import RunActor
from services.orchestrator.actors.run_messages import Begin
from services.orchestrator.actors.run_resources import RunResources
from services.orchestrator.definition.problems import DefinitionInvalidError
from services.orchestrator.engine import redrive as redrive_rules
from services.orchestrator.engine.activations import Recovered, Started
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.recovery import MAX_DEATHS, deaths
from services.orchestrator.store import redrives
from services.orchestrator.store.commits import NewRun
from services.orchestrator.store.group_commit import fail
from services.orchestrator.worker.background_tasks import BackgroundTasks
from services.orchestrator.worker.executor import CommandExecutor
from services.orchestrator.worker.inbox import RunInbox
from services.orchestrator.worker.pollers import poll, poll_timers
from services.orchestrator.worker.run_quota import RunQuota
from services.orchestrator.worker.run_spans import RunSpans
from services.orchestrator.worker.start_call import StartCall, first_activation
from services.orchestrator.worker.store_retry import (
    STORE_RETRY_DELAY_S,
    retry_while_unavailable,
    sleep_unless_stopping,
    within_deadline,
)
from services.orchestrator.worker.subscriptions import EventSubscriptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from mesh.actor import ActorContext
    from mesh.data.database import Database
    from mesh.data.idempotency import IdempotencyKey
    from mesh.observability.telemetry import SpanSink
    from services.orchestrator.actors.run_messages import RunMessage
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.model import RunState, RunStatus
    from services.orchestrator.engine.records import Record
    from services.orchestrator.engine.start import StartRun
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

SUPERVISION = Supervision(max_restarts=0)  # a run that fails is claimed again

log = logging.getLogger(__name__)


class Worker:
    """Executes the runs that this process owns; at most ``config.max_runs`` have a slot at once.

    A run has a slot from the moment it is started or claimed until its actor has stopped.
    """

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
        self._starting: set[str] = set()  # not stored yet: a lost lease does not concern them
        self._resuming: dict[str, asyncio.Task[None]] = {}  # claimed runs without an actor
        self._reconcile_needed = False  # the store may name runs as ours that have no slot
        self._at_capacity = False  # at the last claim: more runs may wait than it took
        self._timers_due = False  # suspended runs may be due
        self._capacity_event = asyncio.Event()
        self._stopping = asyncio.Event()
        self._runs: ActorRegistry[str, RunMessage] = ActorRegistry(
            None,
            name="run",
            supervision=SUPERVISION,
            idle_timeout_s=RunActor.idle_timeout_s,
            in_sender_context=False,
            on_stopped=self._release,
        )
        self._subscriptions = EventSubscriptions(store.events)
        self.quota = RunQuota(store, config.max_runs_per_client)
        self.inbox = RunInbox(store.messages, self._runs, self.notify_claimable)
        self._resources = RunResources(
            store,
            CommandExecutor(peers, store.lease, config, self._stopping),
            notifier,
            self._subscriptions,
            config.policy,
            stopping=self._stopping,
            idle_timeout_s=self._idle_timeout_s,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Executes runs for the duration of the block."""
        self._tasks.supervise(self._claim_forever, self._stopping, name="claim runs")
        steps: dict[str, Callable[[], Awaitable[float | None]]] = {
            "messages": self.inbox.poll,
            "due runs": partial(poll_timers, self._store.suspensions, self._notify_due),
            "events": self._subscriptions.poll,
        }
        for subject, step in steps.items():
            work = partial(poll, step, self._stopping, subject=subject)
            self._tasks.supervise(work, self._stopping, name=f"poll for {subject}")
        try:
            async with self._runs.running(grace_s=DRAIN_TIMEOUT_S):
                try:
                    yield
                finally:
                    stopped_at = time.monotonic()
                    self._stopping.set()
                    self._capacity_event.set()
        finally:
            # The results of calls in flight are stored if they come in time; others are recovered.
            left_s = max(0.0, DRAIN_TIMEOUT_S - (time.monotonic() - stopped_at))
            await self._tasks.drain(left_s)

    async def start(
        self,
        key: IdempotencyKey,
        workflow_id: str,
        request: StartRun,
        traceparent: str,
        reply: Callable[[NewRun], bytes],
    ) -> bytes:
        """Starts a run once per ``key``, and executes it as soon as it has a slot.

        The run starts even if its caller disconnects. Raises Unavailable just before the caller's
        deadline if the store does not answer: the run may start.
        """
        started: asyncio.Future[bytes] = self._loop.create_future()
        run_id = request.run_id
        call = StartCall(key, workflow_id, request, traceparent, reply, started)
        work = partial(self._start_run, call)
        if self._has_slot() and not self.drives(run_id):
            self._starting.add(run_id)
            self._runs.activate(run_id, work).tell(Begin())
        else:
            self._tasks.spawn(work(None), name=f"start {run_id}")
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

    def now_us(self) -> int:
        """Returns the time of the store's clock, in Unix microseconds."""
        return self._store.lease.now_us()

    def drives(self, run_id: str) -> bool:
        """Checks if the run has a slot here: then its end is announced without a poll."""
        return self._runs.find(run_id) is not None or run_id in self._resuming

    async def _start_run(
        self, start: StartCall, context: ActorContext[RunMessage] | None
    ) -> RunActor | AbsentRun:
        """Stores a new run and returns its actor.

        ``context``: None if this process is not to own the run.
        """
        owned, started = context is not None, start.started
        transition: Transition | None = None

        def prepare(definition: StoredDefinition) -> NewRun:
            nonlocal transition
            workflow = self._registry.newest(definition)
            transition = start.first_transition(
                workflow, self._config, at_us=self.now_us(), owned=owned
            )
            records = tuple(transition.records)
            reach_failpoints("before", start.request.run_id, records)
            caller = start.request.started_by
            return NewRun(transition.state, records, caller, start.traceparent, owned)

        try:
            result = await self._store.start(start.key, start.workflow_id, prepare, start.reply)
        except asyncio.CancelledError:
            started.cancel()
            raise
        except Exception as error:  # the caller gets every error
            self._reconcile_needed |= owned and isinstance(error, Unavailable)
            fail(started, error)
            return AbsentRun(context)
        finally:
            if owned:  # another call may start the same run
                self._starting.discard(start.request.run_id)
        # The caller continues after the first turn of the actor: then the start is announced, or
        # an absent run has no slot.
        if not started.done():
            started.set_result(result.reply)
        if context is None:
            self._capacity_event.set()  # no process may own the run yet
        if context is None or not result.created or transition is None:
            return AbsentRun(context)
        return RunActor(
            context,
            self._resources,
            transition.workflow,
            transition.state,
            epoch=0,
            spans=self._spans(transition.state, start.traceparent),
            first=first_activation(transition),
            committed=transition.records,
        )

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
                self._resume(stored)
            if not claimed:
                await self._capacity_event.wait()

    async def _claim(self) -> list[StoredRun]:
        if self._reconcile_needed:
            self._reconcile_needed = False  # a run that is lost from now on may be kept by this one
            await self._store.release_lost(lambda: {*self._runs.keys(), *self._resuming})
        free = min(self._config.max_runs - self._slots, CLAIM_BATCH_SIZE)
        self._at_capacity = free <= 0
        if self._at_capacity:
            return []
        claimed = await self._store.claim(free)
        if self._timers_due and len(claimed) < free:
            resumed = await self._store.suspensions.resume_due(free - len(claimed))
            self._timers_due = resumed > 0
            claimed += await self._store.claim(resumed) if resumed else []
        return claimed

    def _resume(self, stored: StoredRun) -> None:
        """Executes a claimed run in the background."""
        run_id = stored.row.id

        def end(task: asyncio.Task[None]) -> None:
            if self._resuming.get(run_id) is task:
                del self._resuming[run_id]
            self._free_slot(run_id, None if task.cancelled() else task.exception())

        work = self._resume_run(stored)
        self._resuming[run_id] = self._tasks.spawn(work, name=f"resume {run_id}", then=end)

    async def _resume_run(self, stored: StoredRun) -> None:
        """Activates the actor of a claimed run with its stored state."""
        state, epoch = stored.state, stored.row.epoch
        spans = self._spans(state, stored.row.traceparent)
        # After a redrive no call was made yet, so that nothing is recovered.
        redriven = stored.records[-1].kind is RecordKind.REDRIVEN
        has_started = (bool(state.steps) or epoch > 0) and not redriven
        died = deaths(stored.records)
        spans.observe(stored.records, again=True)
        if died >= MAX_DEATHS:
            reason = f"{died} processes died inside the same turn of the run: redrive it, or not"
            await self._resources.fail_run(state, epoch, reason)
            return
        try:
            find = partial(self._registry.pinned, state)
            workflow = await retry_while_unavailable(find, state.run_id)
        except (DefinitionInvalidError, NotFound) as error:
            reason = f"this version cannot drive its definition: {error}"
            await self._resources.fail_run(state, epoch, reason)
            return
        # An actor of an earlier epoch was fenced. A start finds the run, and ends by itself.
        await self._runs.stop(state.run_id, drain=state.run_id in self._starting)
        if self._stopping.is_set():
            return
        first = None if stored.was_suspended else Recovered() if has_started else Started()

        async def build(context: ActorContext[RunMessage]) -> RunActor:
            return RunActor(
                context,
                self._resources,
                workflow,
                state,
                epoch=epoch,
                spans=spans,
                first=first,
                deaths=died,
            )

        self._runs.activate(state.run_id, build).tell(Begin())

    def notify_events(self) -> None:
        """Wakes the runs that wait for events: some run emitted one."""
        self._subscriptions.notify()

    def notify_claimable(self) -> None:
        """Starts a claim, because a run may have no owner."""
        self._capacity_event.set()

    def notify_message(self, run_id: str, message: Message | None = None) -> None:
        """Notifies the run: another process stored ``message`` for it; None: the store has it."""
        self.inbox.receive(run_id, message)

    def drop_all_runs(self) -> None:
        """Stops all runs at once after the lease is lost; results of their calls are discarded."""
        for task in self._resuming.values():
            task.cancel()
        for run_id in set(self._runs.keys()) - self._starting:
            self._tasks.spawn(self._runs.stop(run_id, drain=False), name=f"drop {run_id}")

    def re_export_spans(self, ended: Sequence[StoredRun]) -> None:
        """Exports the last spans of runs whose process may have died before it exported them."""
        for stored in ended:
            self._spans(stored.state, stored.row.traceparent).observe(stored.records, again=True)

    def _notify_due(self) -> None:
        self._timers_due = True
        self._capacity_event.set()

    def _spans(self, state: RunState, traceparent: str) -> RunSpans:
        return RunSpans(self._span_sink, state.run_id, state.workflow_id, traceparent)

    def _idle_timeout_s(self) -> float:
        return IDLE_TIMEOUT_AT_CAPACITY_S if self._at_capacity else IDLE_TIMEOUT_S

    @property
    def _slots(self) -> int:
        """The runs that this process executes, starts or resumes."""
        return len(self._runs) + len(self._resuming)

    def _has_slot(self) -> bool:
        return self._slots < self._config.max_runs and not self._stopping.is_set()

    def _release(self, run_id: str, error: Exception | None) -> None:
        """Releases the slot of an actor."""
        self._subscriptions.replace(self._runs.ref(run_id), None)
        self._free_slot(run_id, error)

    def _free_slot(self, run_id: str, error: BaseException | None) -> None:
        """Starts a claim if it waits for a slot. After an error the store may name us as owner."""
        if error is not None:
            log.error("run %s failed here; it will be claimed again", run_id, exc_info=error)
            self._loop.call_later(STORE_RETRY_DELAY_S, self._reconcile)  # it may fail each time
        if self._reconcile_needed or self._at_capacity:
            self._capacity_event.set()

    def _reconcile(self) -> None:
        self._reconcile_needed = True
        self._capacity_event.set()
