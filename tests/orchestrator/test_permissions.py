"""Two clients, one of which may only start runs that read."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from opentelemetry.trace import NoOpTracer

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import TRUST_FILE
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from services.orchestrator.__main__ import orchestrator
from tests.orchestrator.conftest import connect
from tests.orchestrator.engine.definitions import READ, STORE, call, steps
from tests.orchestrator.payment_requests import finished, pay, payment, status, uuid7
from tests.orchestrator.signals import await_status, signal_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

TELLER = "spiffe://anya.internal/client/teller"
LOOKS_THEN_KEEPS = steps(
    call("look", READ), "pause\n    wait_for: {signal: approved}", call("keep", STORE)
)


def policy(run_privileges: str) -> str:
    """Returns the trust policy of the mesh plus a client whose runs have these privileges."""
    shipped = TRUST_FILE.read_text()
    principals, boundaries = shipped.split("boundaries:\n")
    return (
        f'{principals.rstrip()}\n  teller: ["{TELLER}"]\n\nboundaries:\n'
        "  - from: teller\n    to: orchestrator\n    max_class: pii\n    methods:\n"
        "      anya.orchestrator.v1.WorkflowService/StartRun:\n"
        f"        {{run_privileges: {run_privileges}}}\n"
        "      anya.orchestrator.v1.PaymentService/SendVerifiedPayment:\n"
        f"        {{run_privileges: {run_privileges}}}\n"
        f"{boundaries}"
    )


@pytest.fixture
def bounded(config: OrchestratorConfig, tmp_path: Path) -> OrchestratorConfig:
    trust = tmp_path / "trust.yaml"
    trust.write_text(policy("[read_identity]"))
    return replace(config, mesh=replace(config.mesh, trust_file=trust))


@asynccontextmanager
async def as_teller(authority: Authority, port: int) -> AsyncIterator[WorkflowServiceAsyncStub]:
    rules = ClientRules(
        target="orchestrator", tracer=NoOpTracer(), breakers=Breakers(SystemClock()), timeout=30.0
    )
    async with open_channel(f"127.0.0.1:{port}", rules, authority.issue(TELLER)) as channel:
        yield WorkflowServiceStub(channel)


def start(run_id: str) -> pb.StartRunRequest:
    request = pb.StartRunRequest(request_id=run_id, workflow_id="example")
    request.input.update({"did": "d"})
    return request


async def test_run_has_only_the_privileges_of_its_creator(
    bounded: OrchestratorConfig, authority: Authority, fakes: FakeServices
) -> None:
    definition = pb.RegisterWorkflowRequest(definition=steps(call("look"), call("keep", STORE)))
    async with (
        orchestrator(bounded) as service,
        connect(authority, service.port) as operator,
        as_teller(authority, service.port) as teller,
    ):
        registered = await operator.RegisterWorkflow(definition, timeout=5)
        ids = [uuid7(), uuid7()]
        await teller.StartRun(start(ids[0]), timeout=5)
        await operator.StartRun(start(ids[1]), timeout=5)
        runs = [await finished(operator, run_id) for run_id in ids]

    assert list(registered.privileges) == ["read_identity", "store_record"]
    assert [status(run) for run in runs] == ["FAILED", "SUCCEEDED"]
    assert (runs[0].steps[-1].error.code, runs[0].steps[-1].error.reason) == (
        "PERMISSION_DENIED",
        "PERMISSION_NOT_GRANTED",
    )
    assert fakes.effects["StoreTransactionRecord"] == 1


async def test_payment_by_a_caller_without_the_spend_privilege_is_refused(
    bounded: OrchestratorConfig, authority: Authority, fakes: FakeServices
) -> None:
    request = payment()
    async with (
        orchestrator(bounded) as service,
        connect(authority, service.port) as operator,
        as_teller(authority, service.port) as teller,
    ):
        await teller.StartRun(request, timeout=5)
        run = await finished(operator, request.request_id)
        paid = await pay(operator, payment())

    assert status(run) == "REFUSED"
    assert status(paid) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 1


async def test_run_keeps_its_privileges_over_a_restart_under_another_policy(
    bounded: OrchestratorConfig, authority: Authority, fakes: FakeServices
) -> None:
    definition = pb.RegisterWorkflowRequest(definition=LOOKS_THEN_KEEPS)
    early, late = uuid7(), uuid7()
    async with (
        orchestrator(bounded) as service,
        connect(authority, service.port) as operator,
        as_teller(authority, service.port) as teller,
    ):
        await operator.RegisterWorkflow(definition, timeout=5)
        await teller.StartRun(start(early), timeout=5)
        await await_status(operator, early, "WAITING")

    bounded.mesh.trust_file.write_text(policy("[read_identity, store_record]"))
    async with (
        orchestrator(bounded) as service,
        connect(authority, service.port) as operator,
        as_teller(authority, service.port) as teller,
    ):
        await teller.StartRun(start(late), timeout=5)
        for run_id in (early, late):
            await operator.SignalRun(signal_request(run_id, run_id), timeout=5)
        ends = [status(await finished(operator, run_id)) for run_id in (early, late)]

    assert ends == ["FAILED", "SUCCEEDED"]
    assert fakes.effects["StoreTransactionRecord"] == 1
