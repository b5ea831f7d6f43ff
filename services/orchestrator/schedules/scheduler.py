"""Starts a run for every due time. All replicas look; who comes first does it."""

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
    from services.orchestrator.store.schedules import Firing, ScheduleStore, StoredSchedule
    from services.orchestrator.worker.worker import Worker

METHOD = "schedule"  # under which its runs are started, where calls have their method
LOOK_AGAIN = 1.0  # seconds: another replica may have been given a schedule
GRACE = 2.0  # seconds for starts under way when we are told to stop

log = logging.getLogger(__name__)


class Scheduler:
    def __init__(
        self,
        schedules: ScheduleStore,
        catalogue: WorkflowRegistry,
        runner: Worker,
        tracer: Tracer,
        config: OrchestratorConfig,
    ) -> None:
        self._schedules = schedules
        self._catalogue = catalogue
        self._runner = runner
        self._tracer = tracer
        self._config = config
        self._tasks = BackgroundTasks()
        self._soon = asyncio.Event()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start what is due for the duration of the block."""
        self._tasks.supervise(self._look_forever, self._stopping, name="start what is due")
        try:
            yield
        finally:
            self._stopping.set()
            self._soon.set()
            await self._tasks.drain(GRACE)

    def look_soon(self) -> None:
        """Something may be due earlier than we knew."""
        self._soon.set()

    async def create(
        self,
        key: IdempotencyKey,
        make: Callable[[int], Schedule],
        workflow_id: str,
        reply: Callable[[StoredSchedule], bytes],
        *,
        ceiling: frozenset[str] | None = None,
    ) -> bytes:
        """Keep what ``make`` makes of the present time, if its runs could start now.

        They use no privilege above the ``ceiling``, which is the caller's.

        NotFound, AlreadyExists, or InvalidArgument naming the field that is wrong.
        """

        def judge(definition: StoredDefinition, now_ms: int) -> Schedule:
            schedule = make(now_ms)
            schedules.check(schedule)
            if schedule.following(now_ms) is None:
                raise InvalidArgument("nothing is due before end_time", field="end_time")
            self._judge(definition, schedule, key.caller)
            return schedule

        created = await self._schedules.create(key, judge, workflow_id, reply, ceiling=ceiling)
        self.look_soon()
        return created

    async def look(self) -> float:
        """Start what is due; in how many seconds something is due next."""
        due_in = await self._schedules.due_in()
        if due_in > 0:
            return due_in
        firings = await self._schedules.claim()
        ends = await asyncio.gather(*map(self._fire, firings), return_exceptions=True)
        for firing, end in zip(firings, ends, strict=True):
            if isinstance(end, BaseException):  # by whoever looks first once PATIENCE is over
                log.error("run %s has to be looked at again", firing.run_id, exc_info=end)
        return 0.0

    async def _look_forever(self) -> None:
        while not self._stopping.is_set():
            self._soon.clear()
            try:
                due_in = await self.look()
            except (Unavailable, ResourceExhausted) as error:
                log.warning("cannot look at the schedules: %s", error)
                due_in = LOOK_AGAIN
            if not self._stopping.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(due_in, LOOK_AGAIN)):
                        await self._soon.wait()

    async def _fire(self, firing: Firing) -> None:
        """Start the run and say so. Killed anywhere, the next who looks does it again."""
        failpoint.reach("schedule.before_start", firing.schedule.id)
        refusal = ""
        try:
            await self._start(firing)
        except (Unavailable, ResourceExhausted):
            raise
        except (MeshError, DefinitionInvalidError) as error:
            refusal = str(error)
            log.warning("run %s was refused: %s", firing.run_id, refusal)
        failpoint.reach("schedule.before_settle", firing.schedule.id)
        await self._schedules.settle(firing, refusal)

    async def _start(self, firing: Firing) -> None:
        schedule, run_id = firing.schedule, firing.run_id
        body = json.dumps([schedule.workflow_id, schedule.input], sort_keys=True)
        digest = hashlib.sha256(body.encode()).digest()
        key = IdempotencyKey(firing.creator, METHOD, run_id, digest)
        with self._tracer.start_as_current_span(f"schedule {schedule.id}") as span:
            traceparent = parent_of_run(run_id, None, span.get_span_context())
            await self._runner.start(
                key,
                schedule.workflow_id,
                _start_run(schedule, run_id, firing.creator, firing.ceiling),
                traceparent,
                lambda _: b"",
            )

    def _judge(self, definition: StoredDefinition, schedule: Schedule, creator: str) -> None:
        """Hold it against the workflow as a start now would be."""
        try:
            workflow = self._catalogue.newest(definition)
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
            at_us=self._runner.now_us(),
            jitter=0.0,
        )


def _start_run(
    schedule: Schedule, run_id: str, creator: str, ceiling: frozenset[str] | None
) -> start.StartRun:
    return start.StartRun(
        run_id=run_id,
        input=schedule.input,
        intent=None,
        presentation="",
        started_by=creator,
        allowed_privileges=ceiling,
    )
