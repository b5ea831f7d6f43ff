"""Starts a run for every due time. All replicas poll; the first to claim a due time starts it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import (
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from services.orchestrator.definition.problems import DefinitionInvalidError
from services.orchestrator.engine import start
from services.orchestrator.schedules import schedule as schedules
from services.orchestrator.worker.background_tasks import BackgroundTasks
from services.orchestrator.worker.run_spans import parent_of_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from opentelemetry.trace import Tracer

    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.registry import WorkflowRegistry
    from services.orchestrator.schedules.schedule import Schedule
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.schedules import ScheduleFiring, ScheduleStore, StoredSchedule
    from services.orchestrator.worker.worker import Worker

METHOD = "schedule"  # in the idempotency keys of its starts, where calls have their method
POLL_INTERVAL_S = 1.0  # another replica may have created a schedule
DRAIN_TIMEOUT_S = 2.0  # for starts in flight when the service stops

log = logging.getLogger(__name__)


class Scheduler:
    """Starts the runs of schedules on one replica."""

    def __init__(
        self,
        schedules: ScheduleStore,
        registry: WorkflowRegistry,
        worker: Worker,
        tracer: Tracer,
        config: OrchestratorConfig,
    ) -> None:
        self._schedules = schedules
        self._registry = registry
        self._worker = worker
        self._tracer = tracer
        self._config = config
        self._tasks = BackgroundTasks()
        self._wakeup = asyncio.Event()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts due runs for the duration of the block."""
        self._tasks.supervise(self._poll_forever, self._stopping, name="start due runs")
        try:
            yield
        finally:
            self._stopping.set()
            self._wakeup.set()
            await self._tasks.drain(DRAIN_TIMEOUT_S)

    def notify_changed(self) -> None:
        """Polls at once: a schedule may be due earlier than at the last poll."""
        self._wakeup.set()

    async def create(
        self,
        key: IdempotencyKey,
        make: Callable[[int], Schedule],
        workflow_id: str,
        reply: Callable[[StoredSchedule], bytes],
        *,
        allowed_privileges: frozenset[str] | None = None,
    ) -> bytes:
        """Stores the schedule that ``make`` returns for the present time, once per ``key``.

        ``allowed_privileges`` are the caller's; its runs may use no others. The schedule is checked
        as a start now would be. Raises NotFound if the workflow is unknown, AlreadyExists if the id
        is used, InvalidArgument with the field that is wrong.
        """

        def checked(definition: StoredDefinition, now_ms: int) -> Schedule:
            schedule = make(now_ms)
            schedules.check(schedule)
            if schedule.next_due(now_ms) is None:
                raise InvalidArgument("nothing is due before end_time", field="end_time")
            self._check(definition, schedule, key.caller)
            return schedule

        created = await self._schedules.create(
            key, checked, workflow_id, reply, allowed_privileges=allowed_privileges
        )
        self.notify_changed()
        return created

    async def start_due(self) -> float:
        """Starts due runs; returns the seconds until the next action, 0 if it started any."""
        due_in = await self._schedules.seconds_until_action()
        if due_in > 0:
            return due_in
        firings = await self._schedules.claim()
        outcomes = await asyncio.gather(*map(self._fire, firings), return_exceptions=True)
        for firing, outcome in zip(firings, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.error(
                    "run %s was not started; a replica retries", firing.run_id, exc_info=outcome
                )
        return 0.0

    async def _poll_forever(self) -> None:
        while not self._stopping.is_set():
            self._wakeup.clear()
            try:
                due_in = await self.start_due()
            except (Unavailable, ResourceExhausted) as error:
                log.warning("cannot poll the schedules: %s", error)
                due_in = POLL_INTERVAL_S
            if not self._stopping.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(due_in, POLL_INTERVAL_S)):
                        await self._wakeup.wait()

    async def _fire(self, firing: ScheduleFiring) -> None:
        """Starts the run and records the outcome. After a crash, another replica repeats it."""
        failpoint.reach("schedule.before_start", firing.schedule.id)
        refusal = ""
        try:
            await self._start(firing)
        except (Unavailable, ResourceExhausted):
            raise
        except (MeshError, DefinitionInvalidError) as error:
            refusal = str(error)
            log.warning("run %s was refused: %s", firing.run_id, refusal)
        failpoint.reach("schedule.before_outcome", firing.schedule.id)
        await self._schedules.record_outcome(firing, refusal)

    async def _start(self, firing: ScheduleFiring) -> None:
        schedule, run_id = firing.schedule, firing.run_id
        body = json.dumps([schedule.workflow_id, schedule.input], sort_keys=True)
        digest = hashlib.sha256(body.encode()).digest()
        key = IdempotencyKey(firing.creator, METHOD, run_id, digest)
        with self._tracer.start_as_current_span(f"schedule {schedule.id}") as span:
            traceparent = parent_of_run(run_id, None, span.get_span_context())
            await self._worker.start(
                key,
                schedule.workflow_id,
                _start_run(schedule, run_id, firing.creator, firing.allowed_privileges),
                traceparent,
                lambda _: b"",
            )

    def _check(self, definition: StoredDefinition, schedule: Schedule, creator: str) -> None:
        """Raises if a start of the workflow with this input would be refused now."""
        try:
            workflow = self._registry.newest(definition)
        except DefinitionInvalidError as error:
            raise FailedPrecondition(
                f"workflow {schedule.workflow_id} no longer fits the contracts: {error}",
                reason=Reason.DEFINITION_INVALID,
                field="workflow_id",
            ) from None
        if workflow.pivots:
            raise InvalidArgument(
                f"workflow {workflow.id} pays: the id and the intent of a payment come from the"
                " client, so no schedule can start it",
                reason=Reason.WORKFLOW_MAKES_PAYMENTS,
                field="workflow_id",
            )
        run_id = schedules.run_id(schedule.id, schedule.start_ms)
        start.start(
            workflow,
            _start_run(schedule, run_id, creator, None),
            self._config.policy,
            network=self._config.mesh.network,
            at_us=self._worker.now_us(),
            jitter=0.0,
        )


def _start_run(
    schedule: Schedule, run_id: str, creator: str, allowed_privileges: frozenset[str] | None
) -> start.StartRun:
    return start.StartRun(
        run_id=run_id,
        input=schedule.input,
        intent=None,
        presentation="",
        started_by=creator,
        allowed_privileges=allowed_privileges,
    )
