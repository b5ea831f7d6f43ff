"""A scheduler on a real store, with a clock that the test moves."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import NoOpTracer

from mesh.clock import ManualClock
from mesh.data.idempotency import IdempotencyKey
from mesh.runtime import open_runtime
from services.orchestrator.notifications import RunNotifier
from services.orchestrator.peers import open_peers
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.schedules.schedule import Interval, Schedule
from services.orchestrator.schedules.scheduler import Scheduler
from services.orchestrator.store.open import open_store
from services.orchestrator.store.run_query import RunFilter
from services.orchestrator.store.schedules import ScheduleStore
from services.orchestrator.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.data.database import Transaction
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.store.open import OrchestratorStore
    from services.orchestrator.store.schedules import ScheduleProgress, StoredSchedule

HOUR_S = 3600
NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00:00Z
OPERATOR = "spiffe://anya.internal/client/operator"

REPORT = """
id: report
name: Says what it was given
steps:
  - id: text
    set: {greeting: "to {{input.to}}"}
"""
# The same workflow, whose input the schedules of REPORT do not have.
CHANGED = REPORT.replace("to {{input.to}}", "{{input.name}}")
# The same workflow, with a run that takes longer than an interval.
LONG = """
id: report
name: Takes long
steps:
  - id: text
    set: {greeting: "to {{input.to}}"}
  - id: long
    wait: {duration: 50m}
"""
PAYS = """
id: report
name: Pays
steps:
  - id: pay
    protocol: bitcoin
    operation: send_transaction
    input_mapping:
      from_address: bcrt1sender
      to_address: "{{input.to}}"
      amount: 50000
    output_mapping: {txid: "{{output.txid}}"}
"""


@dataclass(slots=True)
class Replica:
    """An orchestrator without its gRPC services."""

    clock: ManualClock
    store: OrchestratorStore
    registry: WorkflowRegistry
    schedules: ScheduleStore
    scheduler: Scheduler
    worker: Worker

    async def create(
        self,
        id: str = "hourly",
        *,
        creator: str = OPERATOR,
        allowed_privileges: frozenset[str] | None = None,
        **changes: Any,
    ) -> None:
        """Creates an hourly schedule of ``report`` from now on, with ``changes``."""

        def make(now_ms: int) -> Schedule:
            fields: dict[str, Any] = {
                "timing": Interval(HOUR_S * 1000),
                "input": {"to": "Ada"},
                "start_ms": now_ms,
            }
            return Schedule(id=id, workflow_id="report", **fields | changes)

        key = IdempotencyKey(creator, "CreateSchedule", id, b"body")
        await self.scheduler.create(
            key, make, "report", lambda _: b"", allowed_privileges=allowed_privileges
        )

    async def start_all_due(self) -> None:
        """Starts all due runs."""
        while await self.scheduler.start_due() <= 0:
            pass

    async def pass_hours(self, hours: float) -> None:
        self.clock.advance(hours * HOUR_S)
        await self.start_all_due()

    async def stored(self, id: str = "hourly") -> StoredSchedule:
        return await self.schedules.find(id)

    async def progress(self, id: str = "hourly") -> ScheduleProgress:
        return (await self.stored(id)).progress

    async def runs(self) -> list[str]:
        """Returns the ids of all runs, oldest first."""
        found = await self.store.runs.query.page(RunFilter(workflow_id="report"), limit=200)
        return sorted(row.id for row in found.rows)

    async def delete_as(self, id: str, request_id: str) -> None:
        await self.schedules.delete(IdempotencyKey(OPERATOR, "DeleteSchedule", request_id, b""), id)

    async def pause(self, id: str = "hourly", *, paused: bool, request_id: str) -> None:
        key = IdempotencyKey(OPERATOR, "PauseSchedule", request_id, b"")
        await self.schedules.pause(key, id, paused=paused, reply=lambda _: b"")


@asynccontextmanager
async def replica(
    config: OrchestratorConfig, location: str, clock: ManualClock | None = None
) -> AsyncIterator[Replica]:
    """Runs a replica with the workflow ``report``; the test calls its scheduler."""
    by = clock or ManualClock(NOON_MS / 1000)

    async def now_ms(_: Transaction) -> int:
        return round(by.wall() * 1000)

    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(config.mesh))
        store = await stack.enter_async_context(open_store(location))
        peers = await stack.enter_async_context(open_peers(runtime, timeout=2.0))
        registry, notifier = WorkflowRegistry(store.definitions), RunNotifier()
        await registry.register_built_in()
        await registry.register(REPORT)
        worker = Worker(store.runs, store.database, registry, peers, notifier, None, config)
        schedules = ScheduleStore(store.database, now_ms)
        scheduler = Scheduler(schedules, registry, worker, NoOpTracer(), config)
        await stack.enter_async_context(store.own(worker, notifier))
        await stack.enter_async_context(worker.running())
        yield Replica(by, store, registry, schedules, scheduler, worker)
