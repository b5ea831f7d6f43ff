"""A client has a bounded number of runs that have not ended."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.errors import Reason
from mesh.rpc.status import reason_of
from services.orchestrator.worker import run_quota
from tests.orchestrator.conftest import serve_at
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.payment_requests import finished, uuid7

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

ASKS = steps("answer\n    wait_for: {signal: approved}")


async def test_run_beyond_the_quota_is_refused_until_another_one_ends(
    location: str,
    config: OrchestratorConfig,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_quota, "RECOUNT_DELAY_S", 0.0)
    small = replace(config, max_runs_per_client=3)
    async with serve_at(location, small, authority) as channel:
        workflows = WorkflowServiceStub(channel)
        await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=ASKS), timeout=10)
        requests = [pb.StartRunRequest(request_id=uuid7(), workflow_id="example") for _ in range(4)]
        for request in requests[:3]:
            await workflows.StartRun(request, timeout=10)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await workflows.StartRun(requests[3], timeout=10)
        repeated = await workflows.StartRun(requests[0], timeout=10)
        await workflows.CancelRun(
            pb.CancelRunRequest(request_id=uuid7(), run_id=requests[0].request_id), timeout=10
        )
        await finished(workflows, requests[0].request_id)
        started = await workflows.StartRun(requests[3], timeout=10)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(refused.value) == Reason.RUN_QUOTA_EXCEEDED
    assert repeated.run_id == requests[0].request_id
    assert started.run_id == requests[3].request_id
