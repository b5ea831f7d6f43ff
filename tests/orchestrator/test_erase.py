"""Erasure of a payment through gRPC: which parts stay, and where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import payment_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.errors import FailedPrecondition, Reason
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.definition import values
from tests.orchestrator.conftest import dial
from tests.orchestrator.erasures import erase, get, stored
from tests.orchestrator.payment_requests import (
    INPUT,
    finished,
    pay,
    payment,
    status,
    statuses,
    uuid7,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

MARK = {"erased": True}


async def test_erased_payment_shows_steps_and_fee_but_no_names(
    workflows: WorkflowServiceAsyncStub, payments: PaymentServiceAsyncStub
) -> None:
    before = await pay(workflows, payment())

    erased = await erase(workflows, before.run_id)
    after = await get(workflows, before.run_id)

    assert after.erase_time == erased.run.erase_time
    assert status(after) == "SUCCEEDED"
    assert statuses(after) == statuses(before)
    assert after.end_time == before.end_time
    assert [(s.start_time, s.end_time, s.attempts) for s in after.steps] == [
        (s.start_time, s.end_time, s.attempts) for s in before.steps
    ]
    assert values.from_struct(after.input) == MARK
    assert not _personal_data_in(after)
    paid = next(step for step in after.steps if step.path == "execute_payment")
    sent = values.from_struct(paid.output)["_output"]
    assert (sent["fee_sat"], sent["status"]) == (150, "success")
    operands = values.from_struct(paid.condition.operands)
    assert operands
    assert all(value == MARK for value in operands.values())
    listed = await workflows.ListRuns(pb.ListRunsRequest(), timeout=5)
    assert [run.run_id for run in listed.runs] == [before.run_id]
    got = await payments.GetPayment(
        payment_pb2.GetPaymentRequest(payment_id=before.run_id), timeout=5
    )
    assert got.payment.fee_sat == 150
    assert got.payment.intent.payment_id == before.run_id
    assert not got.payment.intent.sender_did


async def test_watch_of_an_erased_run_shows_every_record(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    request = payment()
    before = await pay(workflows, request)
    watched = pb.WatchRunRequest(run_id=before.run_id)
    earlier = [update async for update in workflows.WatchRun(watched, timeout=5)]

    await erase(workflows, before.run_id)
    updates = [update async for update in workflows.WatchRun(watched, timeout=5)]

    assert [update.sequence for update in updates] == list(range(1, len(earlier) + 2))
    assert [update.run.status for update in updates[:-1]] == [u.run.status for u in earlier]
    assert not [update for update in updates if _personal_data_in(update)]
    assert (await finished(workflows, before.run_id)).HasField("erase_time")


async def test_erased_refusal_keeps_its_code_but_not_its_message(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    words = f"{INPUT['sender_address']} may not"
    fakes.errors_before["SendPayment"].append(
        FailedPrecondition(words, reason=Reason.PROOF_MISSING)
    )
    before = await pay(workflows, payment())

    await erase(workflows, before.run_id)
    after = await get(workflows, before.run_id)

    (listed,) = (await workflows.ListRuns(pb.ListRunsRequest(), timeout=5)).runs
    assert before.reason == f"execute_payment: PROOF_MISSING: {words}"
    assert after.reason == after.public_reason == listed.reason == "execute_payment: PROOF_MISSING"


async def test_repeated_erasure_gets_the_first_reply(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run = await pay(workflows, payment())

    first = await erase(workflows, run.run_id)
    again = await erase(workflows, run.run_id)
    later = await erase(workflows, run.run_id, "another")
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await erase(workflows, uuid7(), "unknown")

    assert first == again == later
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_file_holds_no_personal_data_of_an_erased_payment(
    authority: Authority, config: OrchestratorConfig, tmp_path: Path
) -> None:
    request = payment()
    request.presentation = "vp.of.ada"
    found = []
    for erases in (False, True):
        async with (
            orchestrator(config) as service,
            dial(authority, service.port) as channel,
        ):
            workflows = WorkflowServiceStub(channel)
            await pay(workflows, request)
            if erases:
                await erase(workflows, request.request_id)
            left = PaymentServiceStub(channel)
            await left.GetPayment(
                payment_pb2.GetPaymentRequest(payment_id=request.request_id), timeout=5
            )
        file = stored(tmp_path)
        about: tuple[str, ...] = (
            "vp.of.ada",
            INPUT["sender_did"],
            INPUT["recipient_address"],
            "jws of risk",
        )
        found.append([word for word in about if word.encode() in file])

    assert found == [
        ["vp.of.ada", INPUT["sender_did"], INPUT["recipient_address"], "jws of risk"],
        [],
    ]


def _personal_data_in(message: object) -> list[str]:
    """Returns the personal data of the payment that a message contains."""
    return [value for value in INPUT.values() if isinstance(value, str) and value in str(message)]


async def test_erasure_is_audited(
    workflows: WorkflowServiceAsyncStub, config: OrchestratorConfig
) -> None:
    run = await pay(workflows, payment())

    await erase(workflows, run.run_id)

    def is_recorded() -> bool:
        lines = config.mesh.audit_file.read_text(encoding="utf-8").splitlines()
        return sum("WorkflowService/EraseRun" in line for line in lines) == 1

    await eventually(is_recorded)


async def test_waiting_run_is_not_erased(workflows: WorkflowServiceAsyncStub) -> None:
    waits = {"id": "wait", "wait_for": {"signal": "word"}}
    text = json.dumps({"id": "example", "name": "example", "steps": [waits]})
    await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=text), timeout=5)
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id="example")
    await workflows.StartRun(request, timeout=5)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await erase(workflows, request.request_id)

    assert reason(refused.value) == "RUN_NOT_ENDED"
