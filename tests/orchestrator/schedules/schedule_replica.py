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

HOUR = 3600  # seconds
NOON = 1_767_268_800_000  # ms: 2026-01-01T12:00:00Z
OPERATOR = "spiffe://anya.internal/client/operator"

REPORT = """
id: report
name: Says what it was given
steps:
  - id: text
    set: {greeting: "to {{input.to}}"}
"""
# The same workflow with an input that no schedule of REPORT gives.
CHANGED = REPORT.replace("to {{input.to}}", "{{input.name}}")
# And one that goes on for longer than an interval.
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
    """One orchestrator without its doors."""

    clock: ManualClock
    store: OrchestratorStore
    catalogue: WorkflowRegistry
    schedules: ScheduleStore
    scheduler: Scheduler
    runner: Worker

    async def create(
        self,
        id: str = "hourly",
        *,
        creator: str = OPERATOR,
        allowed_privileges: frozenset[str] | None = None,
        **changes: Any,
    ) -> None:
        """An hourly schedule of ``report`` from now on, but for ``changes``."""

        def make(now_ms: int) -> Schedule:
            asked: dict[str, Any] = {
                "timing": Interval(HOUR * 1000),
                "input": {"to": "Ada"},
                "start_ms": now_ms,
            }
            return Schedule(id=id, workflow_id="report", **asked | changes)

        key = IdempotencyKey(creator, "CreateSchedule", id, b"body")
        await self.scheduler.create(
            key, make, "report", lambda _: b"", allowed_privileges=allowed_privileges
        )

    async def settle(self) -> None:
        """Start everything that is due."""
        while await self.scheduler.start_due() <= 0:
            pass

    async def pass_hours(self, hours: float) -> None:
        self.clock.advance(hours * HOUR)
        await self.settle()

    async def stored(self, id: str = "hourly") -> StoredSchedule:
        return await self.schedules.find(id)

    async def progress(self, id: str = "hourly") -> ScheduleProgress:
        return (await self.stored(id)).progress

    async def runs(self) -> list[str]:
        """Ids, oldest first."""
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
    """A replica that knows ``report`` and starts what is due when it is told to look."""
    by = clock or ManualClock(NOON / 1000)

    async def now_ms(_: Transaction) -> int:
        return round(by.wall() * 1000)

    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(config.mesh))
        store = await stack.enter_async_context(open_store(location))
        peers = await stack.enter_async_context(open_peers(runtime, timeout=2.0))
        catalogue, changes = WorkflowRegistry(store.definitions), RunNotifier()
        await catalogue.register_built_in()
        await catalogue.register(REPORT)
        runner = Worker(store.runs, store.database, catalogue, peers, changes, None, config)
        schedules = ScheduleStore(store.database, now_ms)
        scheduler = Scheduler(schedules, catalogue, runner, NoOpTracer(), config)
        await stack.enter_async_context(store.own(runner, changes))
        await stack.enter_async_context(runner.running())
        yield Replica(by, store, catalogue, schedules, scheduler, runner)
