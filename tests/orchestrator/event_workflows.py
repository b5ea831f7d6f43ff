"""Workflows that emit an event and wait for it, and requests that start them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anya.orchestrator.v1 import workflow_pb2 as pb
from services.orchestrator.definition import values
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.payment_requests import finished, uuid7
from tests.orchestrator.signals import await_status

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

LISTENER = steps(
    'received\n    wait_for: {event: order.paid, correlation: "{{input.order}}", timeout: 1m}'
).replace("example", "listen")


EMITTER = steps(
    'tell\n    emit: {type: order.paid, subject: "{{input.order}}", data: {by: "{{input.by}}"}}'
).replace("example", "tell")


async def register_workflows(workflows: WorkflowServiceAsyncStub) -> None:
    for text in (LISTENER, EMITTER):
        await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=text), timeout=5)


async def start_workflow(
    workflows: WorkflowServiceAsyncStub, workflow_id: str, **given: str
) -> str:
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id=workflow_id)
    request.input.update(given)
    await workflows.StartRun(request, timeout=5)
    return request.request_id


async def start_listener(workflows: WorkflowServiceAsyncStub, order: str = "7") -> str:
    run_id = await start_workflow(workflows, "listen", order=order)
    await await_status(workflows, run_id, "WAITING")
    return run_id


async def emit_event(workflows: WorkflowServiceAsyncStub, order: str = "7", by: str = "Ada") -> str:
    run_id = await start_workflow(workflows, "tell", order=order, by=by)
    await finished(workflows, run_id)
    return run_id


def received_payload(run: pb.Run) -> object:
    return values.from_struct(run.steps[0].output)["payload"]
