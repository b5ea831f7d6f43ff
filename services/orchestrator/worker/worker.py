"""The runner: does what the state machine wants, and journals what came of it."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from services.orchestrator.definition.problems import DefinitionInvalidError
from services.orchestrator.engine import start as rules
from services.orchestrator.engine.activations import Recovered, Started
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.engine.transition import Transition
from services.orchestrator.store.commits import NewRun, emitted_keys_of
from services.orchestrator.store.group_commit import fail
from services.orchestrator.store.run_store import FencedError
from services.orchestrator.worker import failpoints, pollers, subscriptions
from services.orchestrator.worker.background_tasks import BackgroundTasks
from services.orchestrator.worker.executor import RunActor, RunExecutor
from services.orchestrator.worker.inbox import RunInbox
from services.orchestrator.worker.run_spans import RunSpans
from services.orchestrator.worker.store_retry import (
    STORE_RETRY_DELAY_S,
    retry_while_unavailable,
    sleep_unless_stopping,
    within_deadline,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from mesh.data.idempotency import IdempotencyKey
    from mesh.observability.spans import SpanSink
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.activations import Activation
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.peers import Peers
    from services.orchestrator.registry import WorkflowRegistry
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.messages import Message
    from services.orchestrator.store.run_store import RunStore, StoredRun
    from services.orchestrator.worker.pending import PendingMessage

DRAIN_TIMEOUT_S = 5.0  # seconds for calls under way when we are told to stop
CLAIM_BATCH_SIZE = 64  # runs: each is read in the transaction that claims it
IDLE, IDLE_WHEN_FULL = 5.0, 0.05  # seconds that a run waits in memory before it sleeps in the store

log = logging.getLogger(__name__)


class Worker:
    def __init__(
        self,
        runs: RunStore,
        catalogue: WorkflowRegistry,
        peers: Peers,
        changes: RunNotifier,
        draw: SpanSink | None,
        config: OrchestratorConfig,
    ) -> None:
        self._runs = runs
        self._catalogue = catalogue
        self._changes = changes
        self._draw = draw
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks()
        self._held: dict[str, asyncio.Task[Any] | None] = {}  # what is in memory: id and driver
        self._may_have_lost = False
        self._was_full = False  # when we last looked: more may wait than we took
        self._due = False  # runs that sleep: there may be some
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._driven: dict[str, RunActor] = {}
        self._hearing = subscriptions.EventSubscriptions(runs.events)
        self._post = RunInbox(runs, self._driven, self._stopping, self.notify_claimable)
        self._performer = RunExecutor(
            peers,
            runs.lease,
            config.policy,
            most_calls=config.max_concurrent_steps,
            stopping=self._stopping,
            patience=lambda: IDLE_WHEN_FULL if self._was_full else IDLE,
            take_mail=self._take_mail,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Drive runs for the duration of the block."""
        messages, driven, stopping = self._runs.messages, self._driven, self._stopping
        self._tasks.supervise(self._claim_forever, stopping, name="claim runs")
        mail = partial(pollers.poll_inbox, messages, driven, stopping)
        self._tasks.supervise(mail, stopping, name="look for mail")
        due = partial(pollers.poll_timers, self._runs.suspensions, self._wake_soon, stopping)
        self._tasks.supervise(due, stopping, name="look for due runs")
        news = partial(self._hearing.look_forever, driven, stopping)
        self._tasks.supervise(news, stopping, name="look for events")
        try:
            yield
        finally:
            self._stopping.set()
            self._post.close()
            self._room.set()
            # Calls under way may be journalled; what does not end in time is recovered.
            await self._tasks.drain(DRAIN_TIMEOUT_S)

    async def start(
        self,
        key: IdempotencyKey,
        workflow_id: str,
        request: rules.StartRun,
        traceparent: str,
        reply: Callable[[NewRun], bytes],
    ) -> bytes:
        """Start a run once per ``key``, and drive it as soon as there is room.

        A caller that goes away cannot undo it: what was stored is driven. Unavailable just before
        the caller's deadline if the store does not answer: nobody knows yet whether it starts.
        """
        begun: asyncio.Future[bytes] = self._loop.create_future()
        run_id, owned = request.run_id, self._has_room() and request.run_id not in self._held
        work = self._begin(key, workflow_id, request, traceparent, reply, begun, owned)
        if owned:
            self._spawn_driver(work, run_id)
            self._held[run_id] = None  # who takes our lease does not take what is not stored yet
        else:
            self._tasks.spawn(work, name=f"start {run_id}")
        return await within_deadline(begun)

    def now_us(self) -> int:
        """Unix microseconds by the store's clock."""
        return self._runs.lease.now_us()

    def drives(self, run_id: str) -> bool:
        """Whether the run is in memory here: then its end is told, and nobody has to look."""
        return run_id in self._held

    async def send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes = b""
    ) -> bytes:
        """Send it once per ``key`` and give the first reply; whoever drives the run takes it."""
        return await self._post.send(key, run_id, message, reply)

    async def _begin(
        self,
        key: IdempotencyKey,
        workflow_id: str,
        request: rules.StartRun,
        traceparent: str,
        reply: Callable[[NewRun], bytes],
        begun: asyncio.Future[bytes],
        owned: bool,
    ) -> None:
        """Start a run, and if it is to be ours, drive it in the same task."""
        turn: Transition | None = None

        def prepare(definition: StoredDefinition) -> NewRun:
            nonlocal turn
            turn = rules.start(
                self._catalogue.newest(definition),
                request,
                self._config.policy,
                network=self._config.mesh.network,
                at_us=self.now_us(),
                jitter=random.random(),  # noqa: S311  (spreads retries, guards nothing)
            )
            if owned and not turn.workflow.awaits_events:
                turn.apply(Started())
            records = tuple(turn.records)
            failpoints.before_commit(request.run_id, records)
            return NewRun(turn.state, records, request.started_by, traceparent, owned)

        try:
            started = await self._runs.start(key, workflow_id, prepare, reply)
        except asyncio.CancelledError:
            begun.cancel()
            raise
        except Exception as error:  # whatever it is, it is told to who asked
            self._may_have_lost |= owned and isinstance(error, Unavailable)
            fail(begun, error)
            return
        if owned and not started.created:
            self._let_go(request.run_id)  # before who waits is answered: its end is not told again
        if not begun.done():
            begun.set_result(started.reply)
        if not owned:
            self._room.set()  # it may have to be claimed
        elif started.created and turn is not None:
            self._held[request.run_id] = asyncio.current_task(self._loop)
            run = RunActor(turn.workflow, turn.state, 0, self._trace(turn.state, traceparent))
            self._committed(run, turn.records)
            await self._drive_to_end(run, Started() if run.workflow.awaits_events else None)

    async def _claim_forever(self) -> None:
        self._may_have_lost = True  # what a defect of ours left behind
        while not self._stopping.is_set():
            self._room.clear()
            try:
                claimed = await self._claim()
            except (Unavailable, ResourceExhausted) as error:
                log.warning("cannot look for runs that wait: %s", error)
                self._may_have_lost = True
                await sleep_unless_stopping(self._stopping, STORE_RETRY_DELAY_S)
                continue
            for stored in claimed:
                self._spawn_driver(self._take_up(stored), stored.row.id)
            if not claimed:
                await self._room.wait()

    async def _claim(self) -> list[StoredRun]:
        if self._may_have_lost:
            await self._runs.release_lost(self._held)
            self._may_have_lost = False
        free = min(self._config.max_runs - len(self._held), CLAIM_BATCH_SIZE)
        self._was_full = free <= 0
        if self._was_full:
            return []
        claimed = await self._runs.claim(free)
        if self._due and len(claimed) < free:
            woken = await self._runs.suspensions.resume_due(free - len(claimed))
            self._due = woken > 0
            claimed += await self._runs.claim(woken) if woken else []
        return claimed

    async def _take_up(self, stored: StoredRun) -> None:
        state = stored.state
        run_trace = self._trace(state, stored.row.traceparent)
        # Nothing of it was sent since then: this is no recovery.
        begun = bool(state.steps) and stored.records[-1].kind is not RecordKind.REDRIVEN
        run_trace.observe(stored.records, again=True)
        try:
            find = partial(self._catalogue.pinned, state)
            workflow = await retry_while_unavailable(find, state.run_id)
        except (DefinitionInvalidError, NotFound) as error:
            reason = f"this version cannot drive its definition: {error}"
            await self._store_end(state, stored.row.epoch, reason)
            return
        run = RunActor(workflow, state, stored.row.epoch, run_trace)
        run.ahead_us = max(0, state.updated_us - self.now_us())
        run.tell_of_mail()  # it may have been sent something while nobody drove it
        begins = Recovered() if begun else Started()
        await self._drive_to_end(run, None if stored.was_suspended else begins)

    def notify_events(self) -> None:
        """A run emitted something: let those look who wait for anything."""
        subscriptions.notify(self._driven.values())

    def notify_claimable(self) -> None:
        """A run may wait for somebody."""
        self._room.set()

    def _wake_soon(self) -> None:
        self._due = True
        self._room.set()

    def notify_message(self, run_id: str, message: Message | None = None) -> None:
        """The run was sent something through another process, this if it is known."""
        if run := self._driven.get(run_id):
            run.tell_of_mail() if message is None else run.hand(message)

    def drop_all_runs(self) -> None:
        """Leave every run to whoever took our lease. What is under way ends unheard."""
        for driver in filter(None, self._held.values()):
            driver.cancel()

    def re_export_spans(self, ended: Sequence[StoredRun]) -> None:
        """Their last spans may have been on their way when their process was killed."""
        for stored in ended:
            self._trace(stored.state, stored.row.traceparent).observe(stored.records, again=True)

    async def _drive_to_end(self, run: RunActor, first: Activation | None = None) -> None:
        """The boundary of the engine: one run's defect is that run's alone."""
        try:
            if first is not None:
                await self._advance(run, first)
            await self._drive(run)
        except FencedError:
            log.info("run %s is another process's now", run.state.run_id)
        except Exception:
            error_id = uuid.uuid4().hex
            log.exception("error %s in run %s", error_id, run.state.run_id)
            await self._give_up(run, f"internal error {error_id}")

    async def _drive(self, run: RunActor) -> None:
        self._driven[run.state.run_id] = run
        try:
            while not run.state.finished and not (self._stopping.is_set() and not run.under_way):
                if run.drowsy and await pollers.suspend_if_idle(self._runs.suspensions, run):
                    if run.has_mail:  # it was woken at once
                        self._room.set()
                    return
                await self._take_mail(run)
                for event in await self._performer.next_events(run):
                    await self._take_mail(run)  # a cancel that came first comes first
                    await self._advance(run, event)
        finally:
            if self._driven.get(run.state.run_id) is run:
                del self._driven[run.state.run_id]
            run.return_pending()
            run.leave(run.under_way)

    async def _take_mail(self, run: RunActor) -> None:
        """Journal what was sent to the run, and what it hears."""
        if not run.has_mail or self._stopping.is_set():
            return
        await self._post.take(run, partial(self._advance, run))
        for heard in await self._hearing.waiting(run):
            if not run.state.finished:
                await self._advance(run, heard)

    async def _advance(
        self, run: RunActor, event: Activation, pending: PendingMessage | None = None
    ) -> bool:
        """One turn: judge the event, commit what it means, and let everybody know.

        False if nothing came of it. What is ``pending`` is stored with the turn it leads to.
        """
        jitter = random.random()  # noqa: S311  (spreads retries, guards nothing)
        turn = Transition(
            run.workflow, run.state, self._config.policy, self._performer.now_us(run), jitter
        )
        turn.event_position = await self._hearing.position(run)
        turn.apply(event)
        if not turn.records:
            return False  # what it is about has ended meanwhile
        failpoints.before_commit(run.state.run_id, turn.records)
        if pending is None:
            await self._store(turn.state, run.epoch, turn.records)
        elif not await self._post.store(run, turn.records, pending):
            return False
        run.mail |= run.workflow.awaits_events  # since it was looked, something may have come
        self._committed(run, turn.records)
        return True

    def _committed(self, run: RunActor, records: Sequence[Record]) -> None:
        run.trace.observe(records)
        self._changes.moved(run.state, records)
        if told := emitted_keys_of(records):
            subscriptions.notify(self._driven.values(), told)
        failpoints.after_commit(run.state.run_id, records)

    async def _store(self, state: RunState, epoch: int, records: Sequence[Record]) -> None:
        append = partial(self._runs.append, state, epoch, records)
        await retry_while_unavailable(append, state.run_id)

    async def _give_up(self, run: RunActor, reason: str) -> None:
        """What is in memory may be of a turn that was not stored: the journal knows where it is."""
        try:
            load = partial(self._runs.load, run.state.run_id)
            state = (await retry_while_unavailable(load, run.state.run_id)).state
        except FailedPrecondition:
            self._may_have_lost = True  # whoever claims it next sets it aside
            return
        if not state.finished:
            await self._store_end(state, run.epoch, reason)

    async def _store_end(self, state: RunState, epoch: int, reason: str) -> None:
        """End a run that cannot go on by itself: somebody has to look."""
        payload = {"status": RunStatus.NEEDS_ATTENTION, "reason": reason}
        end = Record.write(state.sequence + 1, RecordKind.FINISH, "", 0, self.now_us(), payload)
        evolve(state, end)
        try:
            await self._store(state, epoch, [end])
        except FencedError:
            log.info("run %s is another process's now", state.run_id)
            self._changes.notify(state.run_id)
        else:
            self._changes.moved(state, [end])

    def _trace(self, state: RunState, traceparent: str) -> RunSpans:
        return RunSpans(self._draw, state.run_id, state.workflow_id, traceparent)

    def _has_room(self) -> bool:
        return len(self._held) < self._config.max_runs and not self._stopping.is_set()

    def _let_go(self, run_id: str, *, lost: bool = False) -> None:
        """Make room. ``lost``: nobody knows whether the store has the run as ours."""
        self._held.pop(run_id, None)
        self._may_have_lost |= lost
        if self._may_have_lost or self._was_full:
            self._room.set()

    def _spawn_driver(self, work: Coroutine[Any, Any, Any], run_id: str) -> None:
        def end(driver: asyncio.Task[Any]) -> None:
            defect = None if driver.cancelled() else driver.exception()
            if defect is not None:
                log.error("run %s is left to whoever claims it", run_id, exc_info=defect)
            if self._held.get(run_id) in (driver, None):
                self._let_go(run_id, lost=defect is not None)

        self._held[run_id] = self._tasks.spawn(work, name=f"run {run_id}", then=end)
