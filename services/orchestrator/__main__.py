"""The orchestrator, put together: the only place that constructs."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from anya.mesh.v1.outbox_pb2_grpc import add_OutboxServiceServicer_to_server
from anya.orchestrator.v1.payment_pb2_grpc import add_PaymentServiceServicer_to_server
from anya.orchestrator.v1.schedule_pb2_grpc import add_ScheduleServiceServicer_to_server
from anya.orchestrator.v1.workflow_pb2_grpc import add_WorkflowServiceServicer_to_server
from mesh.process import run
from mesh.runtime import open_runtime
from mesh.servicers import OutboxServicer
from services.orchestrator.catalogue import Catalogue
from services.orchestrator.changes import Changes
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.driving.redriver import Redriver
from services.orchestrator.driving.runner import Runner
from services.orchestrator.journal.opening import open_journal
from services.orchestrator.journal.schedules import Schedules
from services.orchestrator.keeping import Keeping
from services.orchestrator.peers import open_peers
from services.orchestrator.peers.approving import Approvals
from services.orchestrator.peers.wallet import Wallet
from services.orchestrator.scheduler import Scheduler
from services.orchestrator.servicers.payment import PaymentServicer
from services.orchestrator.servicers.schedule import ScheduleServicer
from services.orchestrator.servicers.workflow import WorkflowServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """The running service."""

    port: int
    health_port: int


@asynccontextmanager
async def orchestrator(config: OrchestratorConfig) -> AsyncIterator[Orchestrator]:
    """Run the service for the duration of the block."""
    async with (
        open_runtime(config.mesh) as runtime,
        open_journal(config.location, lease_seconds=config.lease) as journal,
        open_peers(runtime, timeout=config.policy.attempt_timeout) as peers,
    ):
        definitions, runs, changes = journal.definitions, journal.runs, Changes()
        catalogue = Catalogue(definitions, asyncio.to_thread)
        await catalogue.register_built_in()
        runner = Runner(runs, catalogue, peers, changes, runtime.draw, config)
        keeping = Keeping(
            journal.database, retain_days=config.retain_days, erase_days=config.erase_pii_days
        )
        approvals = Approvals(runs, runner, peers)
        redriver = Redriver(journal.database, runner, changes)
        workflows = WorkflowServicer(
            definitions, catalogue, runs, runner, changes, keeping.erasure, approvals, redriver
        )
        payments = PaymentServicer(runs, runner, Wallet(peers), changes)
        schedules = Schedules(journal.database)
        scheduler = Scheduler(schedules, catalogue, runner, runtime.tracer, config)
        async with (
            journal.own(runner, changes),
            runner.running(),
            keeping.running(),
            scheduler.running(),
            runtime.serve(
                partial(add_WorkflowServiceServicer_to_server, workflows),
                partial(add_PaymentServiceServicer_to_server, payments),
                partial(
                    add_ScheduleServiceServicer_to_server, ScheduleServicer(schedules, scheduler)
                ),
                partial(
                    add_OutboxServiceServicer_to_server,
                    OutboxServicer(journal.database, "orchestrator"),
                ),
                max_in_flight=config.max_calls,
            ) as ports,
        ):
            yield Orchestrator(ports.port, ports.health_port)


if __name__ == "__main__":
    sys.exit(run("orchestrator", OrchestratorConfig.from_environment, orchestrator))
