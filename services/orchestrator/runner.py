"""The runner: does what the state machine wants, and journals what came of it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mesh import failpoint
from mesh.errors import Reason, ResourceExhausted, Unavailable
from mesh.interceptors import deadline
from services.orchestrator.definition.faults import DefinitionInvalid
from services.orchestrator.engine import starting
from services.orchestrator.engine.events import (
    Began,
    Call,
    Cancel,
    CancelFailed,
    CancelReplied,
    Due,
    Failed,
    Recovered,
    Replied,
    Wait,
)
from services.orchestrator.engine.evolve import evolve
from services.orchestrator.engine.machine import Turn, commands
from services.orchestrator.engine.policy import SECOND
from services.orchestrator.engine.record import Kind, Record
from services.orchestrator.engine.state import Error, RunStatus
from services.orchestrator.journal.runs import Fenced, NewRun
from services.orchestrator.run_trace import CANCEL, RunTrace
from services.orchestrator.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from opentelemetry.trace import Tracer

    from mesh.inbox import RequestKey
    from services.orchestrator.catalogue import Catalogue
    from services.orchestrator.changes import Changes
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.events import Command, Event
    from services.orchestrator.engine.state import RunState
    from services.orchestrator.journal.definitions import StoredDefinition
    from services.orchestrator.journal.runs import Runs, StoredRun
    from services.orchestrator.peers import Peers

GRACE = 5.0  # seconds for calls under way when we are told to stop
CLAIM_AT_ONCE = 64  # runs: each is read in the transaction that claims it
PATIENCE = 0.9  # of the time that a caller gives us to start a run
STORE_RETRY = 0.5  # seconds between two tries to reach a store that does not answer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Active:
    """A run in memory. What is here is in the journal, too."""

    workflow: Workflow
    state: RunState
    epoch: int
    trace: RunTrace
    performing: dict[Command, asyncio.Task[Event | None]] = field(default_factory=dict)


class Runner:
    def __init__(
        self,
        runs: Runs,
        catalogue: Catalogue,
        peers: Peers,
        changes: Changes,
        tracer: Tracer,
        config: OrchestratorConfig,
    ) -> None:
        self._runs = runs
        self._catalogue = catalogue
        self._peers = peers
        self._changes = changes
        self._tracer = tracer
        self._config = config
        self._calls = asyncio.Semaphore(config.max_steps)
        self._tasks = Tasks()
        self._held: set[str] = set()  # ids of the runs in memory
        self._drivers: set[asyncio.Task[Any]] = set()  # of the tasks, one for each of those
        self._may_have_lost = False
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Drive runs for the duration of the block."""
        self._tasks.spawn(self._claim_forever(), name="claim runs")
        try:
            yield
        finally:
            self._stopping.set()
            self._room.set()
            # Calls under way may be journalled; what does not end in time is recovered.
            await self._tasks.drain(GRACE)

    async def start(
        self,
        key: RequestKey,
        workflow_id: str,
        request: starting.StartRun,
        traceparent: str,
        reply: Callable[[NewRun], bytes],
    ) -> bytes:
        """Start a run once per ``key``, and drive it as soon as there is room.

        A caller that goes away cannot undo it: what was stored is driven. Unavailable just before
        the caller's deadline if the store does not answer: nobody knows yet whether it starts.
        """
        work = self._start(key, workflow_id, request, traceparent, reply)
        started = self._tasks.spawn(work, name=f"start {request.run_id}")
        try:
            async with asyncio.timeout(deadline.remaining(share=PATIENCE)):
                return await asyncio.shield(started)
        except TimeoutError:
            raise Unavailable(
                "the journal does not answer; retry with the same request_id",
                reason=Reason.STORE_UNAVAILABLE,
            ) from None

    async def _start(
        self,
        key: RequestKey,
        workflow_id: str,
        request: starting.StartRun,
        traceparent: str,
        reply: Callable[[NewRun], bytes],
    ) -> bytes:
        begun: list[Turn] = []
        run_id = request.run_id
        owned = self._has_room() and run_id not in self._held
        if owned:
            self._held.add(run_id)

        def prepare(definition: StoredDefinition) -> NewRun:
            turn = starting.start(
                self._catalogue.newest(definition),
                request,
                self._config.policy,
                network=self._config.mesh.network,
                at_us=now_us(),
                jitter=random.random(),  # noqa: S311  (spreads retries, guards nothing)
            )
            if owned:
                turn.take(Began())
            begun[:] = [turn]
            records = tuple(turn.records)
            return NewRun(turn.state, records, request.starter, traceparent, owned)

        try:
            started = await self._runs.start(key, workflow_id, prepare, reply)
        except BaseException as error:
            if owned:
                self._let_go(run_id, lost=isinstance(error, Unavailable))
            raise
        if not owned:
            self._room.set()  # it may have to be claimed
        elif not started.is_new:
            self._let_go(run_id)  # it was started before
        else:
            turn = begun[0]
            run = Active(turn.workflow, turn.state, 0, self._trace(turn.state, traceparent))
            self._committed(run, turn.records)
            self._spawn_driver(self._drive_to_end(run), run_id)
        return started.reply

    # Taking up runs that wait.

    async def _claim_forever(self) -> None:
        while not self._stopping.is_set():
            self._room.clear()
            try:
                claimed = await self._claim()
            except (Unavailable, ResourceExhausted) as error:
                log.warning("cannot look for runs that wait: %s", error)
                self._may_have_lost = True
                await self._pause(STORE_RETRY)
                continue
            for stored in claimed:
                self._held.add(stored.row.id)
                self._spawn_driver(self._take_up(stored), stored.row.id)
            if not claimed:
                await self._room.wait()

    async def _claim(self) -> list[StoredRun]:
        if self._may_have_lost:
            await self._runs.release_lost(self._held)
            self._may_have_lost = False
        free = min(self._config.max_runs - len(self._held), CLAIM_AT_ONCE)
        return await self._runs.claim(free) if free > 0 else []

    async def _take_up(self, stored: StoredRun) -> None:
        state = stored.state
        run_trace = self._trace(state, stored.row.traceparent)
        begun = bool(state.steps)
        run_trace.observe(stored.records, again=True)
        try:
            workflow = await self._catalogue.pinned(state)
        except DefinitionInvalid as error:
            reason = f"its definition no longer fits the contracts: {error}"
            await self._store_end(state, stored.row.epoch, reason)
            return
        run = Active(workflow, state, stored.row.epoch, run_trace)
        await self._drive_to_end(run, Recovered() if begun else Began())

    def claim_soon(self) -> None:
        """A run may wait for somebody."""
        self._room.set()

    def abandon(self) -> None:
        """Leave every run to whoever took our lease. What is under way ends unheard."""
        for driver in self._drivers:
            driver.cancel()

    def redraw(self, ended: Sequence[StoredRun]) -> None:
        """Their last spans may have been on their way when their process was killed."""
        for stored in ended:
            run_trace = self._trace(stored.state, stored.row.traceparent)
            run_trace.observe(stored.records, again=True)

    # Driving one run.

    async def _drive_to_end(self, run: Active, first: Event | None = None) -> None:
        """The boundary of the engine: one run's defect is that run's alone."""
        try:
            if first is not None:
                await self._advance(run, first)
            await self._drive(run)
        except Fenced:
            log.info("run %s is another process's now", run.state.run_id)
        except Exception:
            error_id = uuid.uuid4().hex
            log.exception("error %s in run %s", error_id, run.state.run_id)
            await self._store_end(run.state, run.epoch, f"internal error {error_id}")

    async def _drive(self, run: Active) -> None:
        try:
            while events := await self._next_events(run):
                for event in events:
                    await self._advance(run, event)
        finally:
            for task in run.performing.values():
                task.cancel()

    async def _next_events(self, run: Active) -> list[Event]:
        """What came of doing what is to be done; nothing once the run has ended, or we are to."""
        stopping = self._stopping.is_set()
        wanted = [] if stopping else commands(run.state, self._config.policy)
        if len(wanted) == 1 and not run.performing:
            event = await self._perform(run, wanted[0])
            return [] if event is None else [event]
        self._perform_several(run, wanted)
        while run.performing:
            done, _ = await asyncio.wait(
                run.performing.values(), return_when=asyncio.FIRST_COMPLETED
            )
            run.performing = {c: task for c, task in run.performing.items() if task not in done}
            if events := [event for task in done if (event := task.result()) is not None]:
                return events
        return []

    def _perform_several(self, run: Active, wanted: Sequence[Command]) -> None:
        for command in [known for known in run.performing if known not in wanted]:
            if not self._stopping.is_set():
                run.performing.pop(command).cancel()  # nothing depends on it any more
        for command in wanted:
            if command not in run.performing:
                work = self._perform(run, command)
                name = f"{run.state.run_id} {command.path}"
                run.performing[command] = self._tasks.spawn(work, name=name)

    async def _perform(self, run: Active, command: Command) -> Event | None:
        """Do it; None if we are told to stop first."""
        match command:
            case Wait(path, until_us):
                return Due(path) if await self._sleep_until(until_us) else None
            case Cancel(path, attempt, service, method, request, at_us):
                if not await self._sleep_until(at_us):
                    return None
                with run.trace.calling(path, CANCEL, attempt):
                    timeout = self._config.policy.attempt_timeout
                    answer = await self._call(service, method, request, timeout)
                if isinstance(answer, Error):
                    return CancelFailed(path, answer)
                return CancelReplied(path)
            case Call(path, attempt, service, method, request, timeout):
                with run.trace.calling(path, attempt):
                    reply = await self._call(service, method, request, timeout)
                return Failed(path, reply) if isinstance(reply, Error) else Replied(path, reply)

    async def _call(
        self, service: str, method: str, request: bytes, timeout: float
    ) -> bytes | Error:
        async with self._calls:
            await self._runs.lease.held()  # or another may be about to make this call
            return await self._peers.call(service, method, request, timeout=timeout)

    async def _advance(self, run: Active, event: Event) -> None:
        """One turn: judge the event, commit what it means, and let everybody know."""
        jitter = random.random()  # noqa: S311  (spreads retries, guards nothing)
        turn = Turn(run.workflow, run.state, self._config.policy, now_us(), jitter)
        turn.take(event)
        if isinstance(event, Replied):
            failpoint.reach("engine.before_step_done", f"{run.state.run_id}/{event.path}")
        if turn.state.finished:
            failpoint.reach("engine.before_finish", run.state.run_id)
        await self._store(turn.state, run.epoch, turn.records)
        run.state = turn.state
        self._committed(run, turn.records)

    def _committed(self, run: Active, records: Sequence[Record]) -> None:
        run.trace.observe(records)
        self._changes.notify(run.state.run_id)
        for record in records:
            key = f"{run.state.run_id}/{record.path}"
            match record.kind:
                case Kind.START:
                    failpoint.reach("engine.after_start", run.state.run_id)
                case Kind.STEP_INTENT:
                    failpoint.reach("engine.after_intent", key)
                case Kind.STEP_DONE:
                    failpoint.reach("engine.after_step_done", key)
                case _:
                    pass

    async def _store(self, state: RunState, epoch: int, records: Sequence[Record]) -> None:
        """Append, however long the store is away: nothing goes on that is not journalled."""
        while True:
            try:
                await self._runs.append(state, epoch, records)
                return
            except (Unavailable, ResourceExhausted) as error:
                log.warning("run %s waits for the store: %s", state.run_id, error)
                await asyncio.sleep(STORE_RETRY)

    async def _store_end(self, state: RunState, epoch: int, reason: str) -> None:
        """End a run that cannot go on by itself: somebody has to look."""
        payload = {"status": RunStatus.NEEDS_ATTENTION, "reason": reason}
        end = Record(state.sequence + 1, Kind.FINISH, "", 0, now_us(), payload)
        try:
            await self._store(evolve(state, end), epoch, [end])
        except Fenced:
            log.info("run %s is another process's now", state.run_id)
        self._changes.notify(state.run_id)

    # Housekeeping.

    def _trace(self, state: RunState, traceparent: str) -> RunTrace:
        return RunTrace(self._tracer, state.run_id, state.workflow_id, traceparent)

    def _has_room(self) -> bool:
        return len(self._held) < self._config.max_runs and not self._stopping.is_set()

    def _let_go(self, run_id: str, *, lost: bool = False) -> None:
        """Make room. ``lost``: nobody knows whether the store has the run as ours."""
        self._held.discard(run_id)
        self._may_have_lost |= lost
        self._room.set()

    def _spawn_driver(self, work: Coroutine[Any, Any, Any], run_id: str) -> None:
        driver = self._tasks.spawn(work, name=f"run {run_id}")
        self._drivers.add(driver)

        def end(driver: asyncio.Task[Any]) -> None:
            self._drivers.discard(driver)
            self._let_go(run_id)

        driver.add_done_callback(end)

    async def _sleep_until(self, until_us: int) -> bool:
        """False if we are told to stop first."""
        seconds = (until_us - now_us()) / SECOND
        return seconds <= 0 or not await self._pause(seconds)

    async def _pause(self, seconds: float) -> bool:
        """True if we were told to stop meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True


def now_us() -> int:
    return time.time_ns() // 1000
