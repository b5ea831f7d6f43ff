"""Workflows that wait for a signal, and requests that start and signal their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import eventually
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.payment_requests import status, uuid7

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

AWAITS_SIGNAL = steps("answer\n    wait_for: {signal: approved}")


async def start_run(workflows: WorkflowServiceAsyncStub, text: str, **given: str) -> str:
    await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=text), timeout=5)
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id="example")
    request.input.update(given)
    await workflows.StartRun(request, timeout=5)
    return request.request_id


def signal_request(
    run_id: str, request_id: str = "s1", name: str = "approved"
) -> pb.SignalRunRequest:
    return pb.SignalRunRequest(request_id=request_id, run_id=run_id, signal=name)


async def await_status(workflows: WorkflowServiceAsyncStub, run_id: str, wanted: str) -> None:
    async def reached() -> bool:
        found = await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)
        return status(found.run) == wanted

    await eventually(reached)
