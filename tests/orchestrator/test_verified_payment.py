"""The workflow ``verified_payment`` over gRPC: paid once with proof, or refused with a reason."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from anya.bitcoin.v1 import wallet_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    NotFound,
    Reason,
    Unavailable,
)
from mesh.testing import eventually
from services.orchestrator.definition import built_in_text, values
from tests.orchestrator.payment_requests import pay, payment, status, statuses

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.errors import MeshError
    from tests.orchestrator.fake_services import FakeServices

ALL = {
    "verify_sender": "SUCCEEDED",
    "fraud_assessment": "SUCCEEDED",
    "fraud_assessment/identity": "SUCCEEDED",
    "fraud_assessment/payment": "SUCCEEDED",
    "fraud_assessment/score": "SUCCEEDED",
    "execute_payment": "SUCCEEDED",
    "record_transaction": "SUCCEEDED",
}


async def test_proven_payment_is_made_and_recorded(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    run = await pay(workflows, payment())

    assert status(run) == "SUCCEEDED"
    assert statuses(run) == ALL
    assert fakes.effects["SendPayment"] == fakes.effects["StoreTransactionRecord"] == 1


async def test_payment_call_carries_its_id_its_intent_and_earlier_proofs(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    request = payment()

    await pay(workflows, request)

    (sent,) = fakes.requests("SendPayment")
    assert isinstance(sent, wallet_pb2.SendPaymentRequest)
    assert sent.request_id == request.request_id
    assert sent.amount_sat == 50_000
    assert sent.context.intent == request.intent
    assert sent.context.presentation == "vp.jwt"
    assert [proof.kind for proof in sent.context.attestations] == [
        "identity",
        "identity_features",
        "payment_features",
        "risk",
    ]
    assert values.from_struct(sent.metadata)["risk_score"] == 0.1


async def test_findings_of_one_service_reach_another_unchanged(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    await pay(workflows, payment())

    (scored,) = fakes.requests("AssessFraudRisk")
    assert scored.features.features[0].value == 0.1 + 0.2  # type: ignore[attr-defined]
    (extracted,) = fakes.requests("ExtractPaymentFeatures")
    assert extracted.links.sender[0].linked_height == 3  # type: ignore[attr-defined]
    (recorded,) = fakes.requests("StoreTransactionRecord")
    data = values.from_struct(recorded.transaction_data)  # type: ignore[attr-defined]
    assert data["amount"] == 50_000
    assert data["risk_assessment"]["risk_score"] == 0.1
    assert data["risk_assessment"]["risk_factors"][0]["kind"] == "model"
    assert recorded.request_id.endswith("/record_transaction/0")  # type: ignore[attr-defined]


async def test_run_shows_its_decision_with_the_operands(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run = await pay(workflows, payment())

    paid = next(step for step in run.steps if step.path == "execute_payment")
    assert paid.condition.verdict
    assert values.from_struct(paid.condition.operands) == {
        "steps.verify_sender.sender_verified": True,
        "steps.fraud_assessment.risk_score": 0.1,
    }
    output = values.from_struct(paid.output)
    assert output["status"] == "success"
    assert len(output["transaction_id"]) == 64
    assert output["_output"]["fee_sat"] == 150


async def test_risky_payment_is_refused_with_a_reason(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.risk_score = 0.93

    run = await pay(workflows, payment())

    assert status(run) == "REFUSED"
    assert run.reason == (
        "steps.fraud_assessment.risk_score is 0.93: condition of execute_payment is false"
    )
    assert statuses(run)["execute_payment"] == statuses(run)["record_transaction"] == "SKIPPED"
    assert not fakes.requests("SendPayment")


async def test_unproven_sender_is_refused_with_a_reason(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.verified = False

    run = await pay(workflows, payment())

    assert status(run) == "REFUSED"
    assert run.reason.startswith("steps.verify_sender.sender_verified is false")
    assert not fakes.requests("SendPayment")


async def test_payment_without_a_score_is_refused(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.risk_score = None

    run = await pay(workflows, payment())

    assert status(run) == "REFUSED"
    assert run.reason == (
        "steps.fraud_assessment.risk_score is null: condition of execute_payment cannot be judged"
    )
    assert not fakes.requests("SendPayment")


async def test_workflow_without_the_risk_condition_is_refused_by_bitcoin(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    copy = json.loads(built_in_text("verified_payment"))
    copy["id"] = "unguarded"
    del copy["steps"][1]
    copy["steps"][1].pop("condition")
    copy["steps"][1]["input_mapping"]["metadata"] = {}
    copy["steps"][2]["input_mapping"]["transaction_data"].pop("risk_assessment")
    await workflows.RegisterWorkflow(
        pb.RegisterWorkflowRequest(definition=json.dumps(copy)), timeout=5
    )

    run = await pay(workflows, payment(workflow_id="unguarded"))

    assert status(run) == "REFUSED"
    assert run.reason == "execute_payment: PROOF_MISSING: no risk attestation"
    assert fakes.effects["SendPayment"] == 0


LOST: list[MeshError] = [
    Unavailable("gone"),
    DeadlineExceeded("late"),
    Internal("defect"),
]


@pytest.mark.parametrize("lost", LOST, ids=lambda error: type(error).__name__)
async def test_call_whose_answer_is_lost_is_retried_under_the_same_key(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices, lost: MeshError
) -> None:
    fakes.errors_after["SendPayment"].append(lost)

    run = await pay(workflows, payment())

    first, second = fakes.requests("SendPayment")
    assert first == second
    assert status(run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == 1


async def test_payment_with_an_unknown_outcome_is_cancelled_and_never_made(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_before["SendPayment"].extend(Unavailable("no answer") for _ in range(100))

    async def release() -> None:
        await eventually(lambda: bool(fakes.requests("CancelPayment")))
        fakes.errors_before["SendPayment"].clear()

    releasing = asyncio.create_task(release())
    request = payment()
    run = await pay(workflows, request)
    await releasing

    assert fakes.cancelled == {request.request_id}
    assert status(run) == "CANCELLED"
    assert "PAYMENT_CANCELLED" in run.reason
    assert fakes.effects["SendPayment"] == 0


async def test_cancel_finds_a_payment_whose_answers_were_lost(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_after["SendPayment"].extend(Unavailable("no answer") for _ in range(100))

    async def release() -> None:
        await eventually(lambda: bool(fakes.requests("CancelPayment")))
        fakes.errors_after["SendPayment"].clear()

    releasing = asyncio.create_task(release())
    run = await pay(workflows, payment())
    await releasing

    assert status(run) == "SUCCEEDED"
    assert fakes.effects["SendPayment"] == fakes.effects["StoreTransactionRecord"] == 1


async def test_refusal_after_a_lost_answer_is_final_only_if_the_payment_is_cancelled(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    expired = FailedPrecondition("too old", reason=Reason.PROOF_EXPIRED)
    fakes.errors_before["SendPayment"].extend([Unavailable("no answer"), expired])

    run = await pay(workflows, payment())

    assert len(fakes.requests("CancelPayment")) == 1
    assert status(run) == "REFUSED"
    assert run.reason == "execute_payment: PROOF_EXPIRED: too old"


async def test_unknown_outcome_needs_attention(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_after["SendPayment"].extend(Unavailable("no answer") for _ in range(100))
    fakes.errors_before["CancelPayment"].extend(Unavailable("no answer") for _ in range(100))

    run = await pay(workflows, payment())

    assert status(run) == "NEEDS_ATTENTION"
    assert "outcome is unknown" in run.reason
    assert statuses(run)["execute_payment"] == "UNCERTAIN"


async def test_record_of_a_made_payment_is_retried_without_limit(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_before["StoreTransactionRecord"].extend(Internal("down") for _ in range(15))

    run = await pay(workflows, payment())

    assert status(run) == "SUCCEEDED"
    assert len(fakes.requests("StoreTransactionRecord")) == 16


async def test_made_payment_whose_record_is_refused_is_not_failed(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_before["StoreTransactionRecord"].append(NotFound("no tenant"))

    run = await pay(workflows, payment())

    assert status(run) == "NEEDS_ATTENTION"
    assert run.reason.startswith("execute_payment was done, but not what follows")


async def test_failed_read_is_retried_and_then_fails_its_step(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_before["ExtractIdentityFeatures"].extend(Unavailable("down") for _ in range(100))

    run = await pay(workflows, payment())

    assert status(run) == "FAILED"
    assert run.reason == "fraud_assessment/identity: UNAVAILABLE: down"
    assert len(fakes.requests("ExtractIdentityFeatures")) > 2
    assert statuses(run)["fraud_assessment"] == "FAILED"
    assert not fakes.requests("SendPayment")


async def test_open_circuit_breaker_costs_no_attempt(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    refused = Unavailable("open", reason=Reason.BREAKER_OPEN, retry_after=0.05)
    fakes.errors_before["VerifyIdentity"].append(refused)
    request = payment()
    await workflows.StartRun(request, timeout=5)

    seen = [
        update.run
        async for update in workflows.WatchRun(
            pb.WatchRunRequest(run_id=request.request_id), timeout=20
        )
    ]

    blocked = [run for run in seen if status(run) == "CIRCUIT_OPEN"]
    assert blocked[0].reason == "verify_sender: BREAKER_OPEN: open"
    assert status(seen[-1]) == "SUCCEEDED"
    assert seen[-1].steps[0].attempts == 1


async def test_many_payments_at_once_are_each_made_once(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    runs = await asyncio.gather(*(pay(workflows, payment()) for _ in range(20)))

    assert {status(run) for run in runs} == {"SUCCEEDED"}
    assert fakes.effects["SendPayment"] == 20


async def test_address_is_linked_only_if_its_signature_is_valid(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    def link(id: str, signature: str) -> pb.StartRunRequest:
        request = pb.StartRunRequest(request_id=id, workflow_id="link_address")
        given = {
            "challenge_id": "c",
            "did_proof": "p",
            "address": "a",
            "message": "m",
            "address_signature": signature,
        }
        values.fill_struct(request.input, given)
        return request

    bad, good = await pay(workflows, link("l1", "bad")), await pay(workflows, link("l2", "good"))

    assert statuses(bad) == {"ownership": "SUCCEEDED", "link": "SKIPPED"}
    assert statuses(good) == {"ownership": "SUCCEEDED", "link": "SUCCEEDED"}
    (completed,) = fakes.requests("CompleteAddressLink")
    assert [proof.kind for proof in completed.context.attestations] == ["ownership"]  # type: ignore[attr-defined]
