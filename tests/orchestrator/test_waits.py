"""StartRun with a wait: one call that returns the run at its end, or as it is so far."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import eventually
from services.orchestrator.servicers import waits
from tests.orchestrator.conftest import two_replicas
from tests.orchestrator.payment_requests import payment, status

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices


def awaited(request: pb.StartRunRequest, seconds: float) -> pb.StartRunRequest:
    """Returns the request with a wait."""
    patient = pb.StartRunRequest()
    patient.CopyFrom(request)
    patient.wait.FromMilliseconds(int(seconds * 1000))
    return patient


async def test_start_with_wait_returns_the_run_at_its_end(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    request = payment()

    reply = await workflows.StartRun(awaited(request, 20), timeout=30)

    shown = await workflows.GetRun(pb.GetRunRequest(run_id=request.request_id), timeout=5)
    assert status(reply.run) == "SUCCEEDED"
    assert reply.run == shown.run
    assert reply.status == reply.run.status
    assert reply.run_id == request.request_id


async def test_start_without_wait_returns_no_run(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    reply = await workflows.StartRun(payment(), timeout=5)

    assert not reply.HasField("run")
    assert reply.status == pb.RUN_STATUS_RUNNING


async def test_expired_wait_returns_the_run_so_far_and_a_retry_waits_again(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = payment()

    early = await workflows.StartRun(awaited(request, 0.1), timeout=30)
    fakes.paused["VerifyIdentity"].set()
    late = await workflows.StartRun(awaited(request, 20), timeout=30)

    assert status(early.run) == "RUNNING"
    assert [step.path for step in early.run.steps] == ["verify_sender"]
    assert status(late.run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 1


async def test_reply_comes_before_the_deadline_of_the_call(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()

    reply = await workflows.StartRun(awaited(payment(), 60), timeout=2)

    fakes.paused["VerifyIdentity"].set()
    assert status(reply.run) == "RUNNING"


async def test_wait_for_an_ended_run_returns_at_once(
    workflows: WorkflowServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = awaited(payment(), 20)
    first = await workflows.StartRun(request, timeout=30)
    monkeypatch.setattr(waits, "POLL_INTERVAL_S", 60)

    again = await workflows.StartRun(request, timeout=10)

    assert again == first


async def test_wait_is_notified_of_the_end_of_a_run_of_another_replica(
    config: OrchestratorConfig,
    authority: Authority,
    fakes: FakeServices,
    tmp_path: Path,
    new_postgres_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        waits, "POLL_INTERVAL_S", 60
    )  # so that only a notification can end the wait
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = payment()

    async with two_replicas(new_postgres_database, config, authority) as (workflows, others):
        await workflows.StartRun(request, timeout=5)
        await eventually(lambda: len(fakes.requests("VerifyIdentity")) == 1)
        waiting = asyncio.ensure_future(others.StartRun(awaited(request, 20), timeout=25))
        early = await others.StartRun(awaited(request, 0.1), timeout=5)
        fakes.paused["VerifyIdentity"].set()
        late = await waiting

    assert status(early.run) == "RUNNING"
    assert status(late.run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 1


async def test_run_continues_after_its_caller_stops_waiting(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = awaited(payment(), 20)
    call = workflows.StartRun(request, timeout=30)
    await eventually(lambda: len(fakes.requests("VerifyIdentity")) == 1)

    call.cancel()
    fakes.paused["VerifyIdentity"].set()

    reply = await workflows.StartRun(request, timeout=30)
    assert status(reply.run) == "SUCCEEDED"
    assert len(fakes.requests("VerifyIdentity")) == 1


async def test_negative_wait_is_refused(workflows: WorkflowServiceAsyncStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="wait must not be negative"):
        await workflows.StartRun(awaited(payment(), -1), timeout=5)
