"""An orchestrator with fake peers on real channels, and an operator's channel to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from opentelemetry.trace import NoOpTracer

from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from cli.spans.receiver import receiving
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import MeshConfig
from mesh.observability.config import DEFAULT_SAMPLER, TraceConfig, collector_config
from mesh.observability.telemetry import open_traces
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.engine.retry_policy import RetryPolicy
from tests.orchestrator.fake_services import FakeServices, serve_peers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc

    from anya.orchestrator.v1 import workflow_pb2 as pb
    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority

# Short times, so that waits are soon over.
POLICY = RetryPolicy(
    attempt_timeout_s=2.0,
    step_timeout_s=0.3,
    initial_backoff_s=0.01,
    max_backoff_s=0.05,
    max_backoff_after_pivot_s=0.05,
)


@pytest.fixture
def fakes() -> FakeServices:
    return FakeServices()


@pytest.fixture
async def peers(
    authority: Authority, tmp_path: Path, fakes: FakeServices
) -> AsyncIterator[dict[str, str]]:
    async with serve_peers(authority, tmp_path, fakes) as addresses:
        yield addresses


@pytest.fixture
def config(authority: Authority, tmp_path: Path, peers: dict[str, str]) -> OrchestratorConfig:
    identity = authority.issue_service("orchestrator")
    mesh = MeshConfig(service="orchestrator", identity=identity, home=tmp_path, peers=peers)
    return OrchestratorConfig(mesh=mesh, policy=POLICY)


@asynccontextmanager
async def dial(authority: Authority, port: int) -> AsyncIterator[grpc.aio.Channel]:
    """Opens an operator's channel to the orchestrator."""
    rules = ClientRules(
        target="orchestrator", tracer=NoOpTracer(), breakers=Breakers(SystemClock()), timeout=30.0
    )
    operator = authority.issue("spiffe://anya.internal/client/operator")
    async with open_channel(f"127.0.0.1:{port}", rules, operator) as channel:
        yield channel


@asynccontextmanager
async def connect(authority: Authority, port: int) -> AsyncIterator[WorkflowServiceAsyncStub]:
    async with dial(authority, port) as channel:
        yield WorkflowServiceStub(channel)


@asynccontextmanager
async def serve_at(
    location: str, config: OrchestratorConfig, authority: Authority
) -> AsyncIterator[grpc.aio.Channel]:
    """Runs an orchestrator on the store at ``location``; yields an operator's channel to it."""
    async with (
        orchestrator(replace(config, database=location)) as service,
        dial(authority, service.port) as channel,
    ):
        yield channel


@asynccontextmanager
async def two_replicas(
    url: str, config: OrchestratorConfig, authority: Authority
) -> AsyncIterator[tuple[WorkflowServiceAsyncStub, WorkflowServiceAsyncStub]]:
    """Runs two orchestrators on one database."""
    elsewhere = replace(config, mesh=replace(config.mesh, home=config.mesh.home / "other"))
    async with (
        serve_at(url, config, authority) as one,
        serve_at(url, elsewhere, authority) as other,
    ):
        yield WorkflowServiceStub(one), WorkflowServiceStub(other)


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[str]:
    async with receiving(tmp_path / "traces.db") as endpoint:
        yield endpoint


def traces_to(collector: str) -> TraceConfig:
    """Returns settings that export soon, so that tests need not wait for it."""
    return collector_config(collector, schedule_delay_ms=100)


async def start_traced(
    authority: Authority,
    port: int,
    collector: str,
    request: pb.StartRunRequest,
    *,
    sampler: str = DEFAULT_SAMPLER,
) -> None:
    """Starts the run by a client whose call is the root of the trace."""
    traces = open_traces("client", replace(traces_to(collector), sampler=sampler))
    rules = ClientRules(
        target="orchestrator",
        tracer=traces.tracer,
        breakers=Breakers(SystemClock()),
    )
    operator = authority.issue("spiffe://anya.internal/client/operator")
    async with open_channel(f"127.0.0.1:{port}", rules, operator) as channel:
        try:
            await WorkflowServiceStub(channel).StartRun(request, timeout=5)
        finally:
            await asyncio.to_thread(traces.close)  # its collector is in this process


@pytest.fixture
async def channel(
    authority: Authority, config: OrchestratorConfig
) -> AsyncIterator[grpc.aio.Channel]:
    async with orchestrator(config) as service, dial(authority, service.port) as channel:
        yield channel


@pytest.fixture
def workflows(channel: grpc.aio.Channel) -> WorkflowServiceAsyncStub:
    return WorkflowServiceStub(channel)


@pytest.fixture
def payments(channel: grpc.aio.Channel) -> PaymentServiceAsyncStub:
    return PaymentServiceStub(channel)
