"""Valid requests of payments, and runs watched to their end."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from anya.orchestrator.v1 import workflow_pb2 as pb
from formats.uuid7 import RANDOM_BYTES, from_parts
from services.orchestrator.definition import values

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

INPUT: dict[str, Any] = {
    "sender_did": "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
    "sender_address": "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
    "recipient_address": "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk",
    "amount": 50_000,
}


def uuid7() -> str:
    """A new run or payment id."""
    return from_parts(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))


def payment(run_id: str | None = None, workflow_id: str = "verified_payment") -> pb.StartRunRequest:
    run_id = run_id or uuid7()
    request = pb.StartRunRequest(
        request_id=run_id,
        workflow_id=workflow_id,
        presentation="vp.jwt",
        intent=PaymentIntent(
            network="regtest",
            payment_id=run_id,
            sender_did=INPUT["sender_did"],
            sender_address=INPUT["sender_address"],
            recipient_address=INPUT["recipient_address"],
            amount_sat=INPUT["amount"],
        ),
    )
    values.fill_struct(request.input, INPUT)
    return request


async def finished(workflows: WorkflowServiceAsyncStub, run_id: str) -> pb.Run:
    """Returns the run at its end."""
    run = pb.Run()
    async for update in workflows.WatchRun(pb.WatchRunRequest(run_id=run_id), timeout=20):
        run = update.run
    return run


async def pay(workflows: WorkflowServiceAsyncStub, request: pb.StartRunRequest) -> pb.Run:
    await workflows.StartRun(request, timeout=5)
    return await finished(workflows, request.request_id)


def statuses(run: pb.Run) -> dict[str, str]:
    """Returns the status of every step by its path."""
    return {
        step.path: pb.StepStatus.Name(step.status).removeprefix("STEP_STATUS_")
        for step in run.steps
    }


def status(run: pb.Run) -> str:
    return pb.RunStatus.Name(run.status).removeprefix("RUN_STATUS_")
