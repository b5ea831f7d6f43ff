"""PaymentService over gRPC: payments are sent once, shown as far as known, and cancelled or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from anya.bitcoin.v1 import wallet_pb2
from anya.ml.v1 import risk_pb2
from anya.orchestrator.v1 import payment_pb2 as pb
from anya.orchestrator.v1 import workflow_pb2
from anya.web5.v1 import identity_pb2
from formats.money import MAX_SAT
from mesh.errors import Unavailable
from mesh.testing import detail, eventually, reason
from services.orchestrator.definition import values
from services.orchestrator.servicers.views import format_payment
from tests.orchestrator.engine.engine_run import paying
from tests.orchestrator.fake_services import txid_of
from tests.orchestrator.payment_client import awaited, cancel, end_of, get, order, send, status
from tests.orchestrator.payment_requests import INPUT, finished, payment, uuid7

if TYPE_CHECKING:
    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from tests.orchestrator.fake_services import FakeServices


async def test_payment_sent_twice_is_made_once_with_the_same_reply(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()

    replies = await asyncio.gather(
        *(payments.SendVerifiedPayment(request, timeout=5) for _ in range(5))
    )
    await end_of(payments, request.request_id)
    replies.append(await payments.SendVerifiedPayment(request, timeout=5))

    assert all(reply == replies[0] for reply in replies)
    assert replies[0].payment_id == request.request_id
    assert fakes.effects["SendPayment"] == 1


async def test_send_with_wait_returns_the_payment_at_the_end_of_its_run(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()
    patient = awaited(request, 20)

    sent = await payments.SendVerifiedPayment(patient, timeout=30)

    asked = len(fakes.requests("GetPayment"))
    shown = await get(payments, request.request_id)
    assert sent.run_status == sent.payment.run_status == shown.run_status
    assert status(sent.payment) == "SUCCEEDED"
    assert asked == 0
    assert sent.payment.bitcoin_answer == pb.BITCOIN_ANSWER_UNSPECIFIED
    for name in ("bitcoin_answer", "state", "confirmations"):
        sent.payment.ClearField(name)
        shown.ClearField(name)
    assert sent.payment == shown


async def test_expired_wait_returns_the_payment_so_far_and_a_retry_waits_again(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = order()

    early = await payments.SendVerifiedPayment(awaited(request, 0.1), timeout=30)
    fakes.paused["VerifyIdentity"].set()
    late = await payments.SendVerifiedPayment(awaited(request, 20), timeout=30)

    assert (status(early.payment), status(late.payment)) == ("RUNNING", "SUCCEEDED")
    assert fakes.effects["SendPayment"] == 1


async def test_payment_id_names_one_payment_for_both_start_methods(
    payments: PaymentServiceAsyncStub, workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()
    await send(payments, request)
    request.intent.amount_sat += 1

    for again in (
        payments.SendVerifiedPayment(request, timeout=5),
        workflows.StartRun(payment(request.request_id), timeout=5),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await again
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert reason(caught.value) == "REQUEST_ID_REUSED"
    assert fakes.effects["SendPayment"] == 1


MAINNET = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"
WITHOUT_INTENT = pb.SendVerifiedPaymentRequest(request_id=uuid7())


@pytest.mark.parametrize(
    ("request_", "word", "field"),
    [
        pytest.param(WITHOUT_INTENT, "INTENT_INVALID", "intent", id="no intent"),
        *(
            pytest.param(
                order(amount_sat=sat), "AMOUNT_INVALID", "intent.amount_sat", id=f"{sat} sat"
            )
            for sat in (0, -1, 293, MAX_SAT + 1)
        ),
        pytest.param(
            order(network="main"), "INTENT_INVALID", "intent.network", id="another network"
        ),
        pytest.param(
            order(payment_id=uuid7()), "INTENT_INVALID", "intent.payment_id", id="another id"
        ),
        pytest.param(order(sender_did=""), "DID_INVALID", "intent.sender_did", id="no sender"),
        pytest.param(
            order(sender_did="did:key:zNonsense"),
            *("DID_INVALID", "intent.sender_did"),
            id="a malformed DID",
        ),
        pytest.param(
            order(sender_address="bcrt1qnonsense"),
            *("ADDRESS_INVALID", "intent.sender_address"),
            id="a malformed sender",
        ),
        pytest.param(
            order(recipient_address=INPUT["recipient_address"][:-1] + "q"),
            *("ADDRESS_INVALID", "intent.recipient_address"),
            id="a mistyped recipient",
        ),
        pytest.param(
            order(recipient_address=MAINNET),
            *("ADDRESS_OF_OTHER_NETWORK", "intent.recipient_address"),
            id="a recipient on main",
        ),
    ],
)
async def test_invalid_payment_is_refused_with_its_field_and_starts_no_run(
    payments: PaymentServiceAsyncStub,
    workflows: WorkflowServiceAsyncStub,
    request_: pb.SendVerifiedPaymentRequest,
    word: str,
    field: str,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await payments.SendVerifiedPayment(request_, timeout=5)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == word
    assert [one.field for one in detail(caught.value, BadRequest).field_violations] == [field]
    listed = await workflows.ListRuns(workflow_pb2.ListRunsRequest(), timeout=5)
    assert not listed.runs


async def test_made_payment_shows_all_that_is_known(
    payments: PaymentServiceAsyncStub,
) -> None:
    request = order()
    await send(payments, request)

    shown = await get(payments, request.request_id)

    assert status(shown) == "SUCCEEDED"
    assert (shown.reason, shown.HasField("error"), shown.HasField("condition")) == (
        "",
        False,
        False,
    )
    assert shown.intent == request.intent
    assert shown.sender_verified
    assert shown.risk_score == 0.1
    assert [(factor.name, factor.contribution) for factor in shown.risk_factors] == [("age", -0.5)]
    assert shown.bitcoin_answer == pb.BITCOIN_ANSWER_FOUND
    assert shown.state == wallet_pb2.PAYMENT_STATE_BROADCAST
    assert shown.txid == txid_of(request.request_id)
    assert (shown.fee_sat, shown.confirmations) == (150, 0)
    assert shown.record_id == "bafyrecord"
    assert shown.step == "record_transaction"


async def test_risky_payment_shows_the_false_condition_and_no_txid(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.risk_score = 0.93

    shown = await send(payments, order())

    assert status(shown) == "REFUSED"
    assert not shown.condition.verdict
    operands = values.from_struct(shown.condition.operands)
    assert operands["steps.fraud_assessment.risk_score"] == 0.93
    assert shown.bitcoin_answer == pb.BITCOIN_ANSWER_NOT_FOUND
    for unknown in ("state", "txid", "fee_sat", "confirmations", "error"):
        assert not shown.HasField(unknown), unknown
    assert shown.record_id == ""


async def test_unproven_sender_is_shown_with_the_reasons_of_web5(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.verified = False

    shown = await send(payments, order())

    assert status(shown) == "REFUSED"
    assert not shown.sender_verified
    assert list(shown.identity_failures) == [identity_pb2.VERIFICATION_FAILURE_WRONG_HOLDER]


async def test_payment_without_a_score_shows_a_reason(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.risk_score = None

    shown = await send(payments, order())

    assert not shown.HasField("risk_score")
    (reason,) = shown.risk_reasons
    assert (reason.code, reason.detail) == (risk_pb2.RISK_REASON_CODE_INDEX_BEHIND, "wait")


def test_words_that_only_a_newer_service_knows_are_shown_as_unspecified() -> None:
    run, new = paying(), 99
    run.do(run.at("verify_sender"), identity_pb2.VerifyIdentityResponse(failures=[new]))  # type: ignore[list-item]
    run.reply("fraud_assessment/identity", "fraud_assessment/payment")
    assessed = risk_pb2.AssessFraudRiskResponse(
        reasons=[risk_pb2.RiskReason(code=new, detail="why")],  # type: ignore[arg-type]
        risk_factors=[risk_pb2.RiskFactor(name="age", kind=new, status=new)],  # type: ignore[arg-type]
    )
    run.do(run.at("fraud_assessment/score"), assessed)

    shown = format_payment(run.state, run.state.run_id, "")

    assert list(shown.identity_failures) == [identity_pb2.VERIFICATION_FAILURE_UNSPECIFIED]
    assert list(shown.risk_reasons) == [risk_pb2.RiskReason(detail="why")]
    assert list(shown.risk_factors) == [risk_pb2.RiskFactor(name="age")]


async def test_findings_of_steps_that_have_not_run_are_absent(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)
    await eventually(lambda: bool(fakes.requests("VerifyIdentity")))

    shown = await get(payments, request.request_id)
    fakes.paused["VerifyIdentity"].set()

    assert (status(shown), shown.step) == ("RUNNING", "verify_sender")
    for unknown in ("sender_verified", "risk_score", "state", "txid", "confirmations"):
        assert not shown.HasField(unknown), unknown


async def test_payment_without_an_answer_of_bitcoin_shows_the_records_of_its_run(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()
    await send(payments, request)
    fakes.errors_before["GetPayment"].append(Unavailable("down"))

    shown = await get(payments, request.request_id)

    assert shown.bitcoin_answer == pb.BITCOIN_ANSWER_UNAVAILABLE
    assert shown.bitcoin_error == "UNAVAILABLE"
    assert shown.txid == txid_of(request.request_id)
    assert not shown.HasField("state")
    assert not shown.HasField("confirmations")


async def test_payment_is_returned_in_time_while_bitcoin_hangs(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()
    await send(payments, request)
    fakes.paused["GetPayment"] = asyncio.Event()

    shown = await payments.GetPayment(
        pb.GetPaymentRequest(payment_id=request.request_id), timeout=1
    )

    assert shown.payment.bitcoin_answer == pb.BITCOIN_ANSWER_UNAVAILABLE
    assert shown.payment.bitcoin_error == "DEADLINE_EXCEEDED"
    assert status(shown.payment) == "SUCCEEDED"


async def test_payment_started_as_a_run_is_shown_alike(
    payments: PaymentServiceAsyncStub, workflows: WorkflowServiceAsyncStub
) -> None:
    request = payment()
    await workflows.StartRun(request, timeout=5)
    await finished(workflows, request.request_id)

    shown = await get(payments, request.request_id)

    assert status(shown) == "SUCCEEDED"
    assert shown.txid == txid_of(request.request_id)


@pytest.mark.parametrize("method", ["GetPayment", "WatchPayment", "CancelPayment"])
@pytest.mark.parametrize("payment_id", ["", "unknown", "0192F0C1-7D5E-7CC3-98C4-DC0C0C07398F"])
async def test_invalid_payment_id_is_refused(
    payments: PaymentServiceAsyncStub, method: str, payment_id: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(payments, method, payment_id)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == "REQUEST_ID_INVALID"


@pytest.mark.parametrize("method", ["GetPayment", "WatchPayment"])
async def test_unknown_payment_is_not_found(payments: PaymentServiceAsyncStub, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(payments, method, uuid7())

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", ["GetPayment", "WatchPayment", "CancelPayment"])
async def test_run_without_a_payment_is_not_found(
    payments: PaymentServiceAsyncStub,
    workflows: WorkflowServiceAsyncStub,
    fakes: FakeServices,
    method: str,
) -> None:
    run = workflow_pb2.StartRunRequest(request_id=uuid7(), workflow_id="link_address")
    names = ("challenge_id", "did_proof", "address", "message", "address_signature")
    values.fill_struct(run.input, dict.fromkeys(names, "x"))
    await workflows.StartRun(run, timeout=5)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(payments, method, run.request_id)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert not fakes.cancelled


async def call(payments: PaymentServiceAsyncStub, method: str, payment_id: str) -> None:
    match method:
        case "GetPayment":
            await get(payments, payment_id)
        case "WatchPayment":
            await end_of(payments, payment_id)
        case _:
            await cancel(payments, payment_id)


async def test_unknown_payment_is_unavailable_while_bitcoin_is_down(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_before["GetPayment"].append(Unavailable("down"))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(payments, uuid7())

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(caught.value) == "PEER_UNAVAILABLE"
