"""Constructs and serves the orchestrator."""

from __future__ import annotations

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
from mesh.rpc.servicers import OutboxServicer
from mesh.runtime import open_runtime
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.notifications import RunNotifier
from services.orchestrator.peers import open_peers
from services.orchestrator.peers.approvals import Approvals
from services.orchestrator.peers.wallet import WalletPeer
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.retention import RetentionWorker
from services.orchestrator.schedules.scheduler import Scheduler
from services.orchestrator.servicers.payment import PaymentServicer
from services.orchestrator.servicers.schedule import ScheduleServicer
from services.orchestrator.servicers.workflow import WorkflowServicer
from services.orchestrator.store.deletion import Deletion
from services.orchestrator.store.erasure import Erasure
from services.orchestrator.store.open import open_store
from services.orchestrator.store.schedules import ScheduleStore
from services.orchestrator.worker.fair_offload import FairOffload
from services.orchestrator.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """Ports of the running service."""

    port: int
    health_port: int


@asynccontextmanager
async def orchestrator(config: OrchestratorConfig) -> AsyncIterator[Orchestrator]:
    """Runs the service for the duration of the block."""
    async with (
        open_runtime(config.mesh) as runtime,
        open_store(config.location, lease_seconds=config.lease_seconds) as store,
        open_peers(runtime, timeout=config.policy.attempt_timeout_s) as peers,
    ):
        database, definitions, notifier = store.database, store.definitions, RunNotifier()
        registry = WorkflowRegistry(definitions, FairOffload())
        await registry.register_built_in()
        worker = Worker(store.runs, database, registry, peers, notifier, runtime.span_sink, config)
        erasure = Erasure(database)
        retention = RetentionWorker(
            Deletion(database),
            erasure,
            retain_days=config.retain_days,
            erase_days=config.erase_pii_days,
        )
        approvals = Approvals(store.runs, worker, peers)
        workflows = WorkflowServicer(
            definitions, registry, store.runs, worker, notifier, erasure, approvals
        )
        payments = PaymentServicer(store.runs, worker, WalletPeer(peers), notifier)
        schedule_store = ScheduleStore(database)
        scheduler = Scheduler(schedule_store, registry, worker, runtime.tracer, config)
        schedules = ScheduleServicer(schedule_store, scheduler)
        async with (
            store.own(worker, notifier),
            worker.running(),
            retention.running(),
            scheduler.running(),
            runtime.serve(
                partial(add_WorkflowServiceServicer_to_server, workflows),
                partial(add_PaymentServiceServicer_to_server, payments),
                partial(add_ScheduleServiceServicer_to_server, schedules),
                partial(
                    add_OutboxServiceServicer_to_server, OutboxServicer(database, "orchestrator")
                ),
                max_in_flight=config.max_in_flight,
            ) as ports,
        ):
            yield Orchestrator(ports.port, ports.health_port)


if __name__ == "__main__":
    sys.exit(run("orchestrator", OrchestratorConfig.from_environment, orchestrator))
