"""Several payments in one run, through the wire and on both stores."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1 import wallet_pb2
from anya.orchestrator.v1 import payment_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.errors import FailedPrecondition, Reason
from mesh.testing import eventually, reason
from tests.orchestrator.conftest import serve_at
from tests.orchestrator.fake_services import txid_of
from tests.orchestrator.multi_payment import BATCH, PAIR, batch_of, intent, pair_of, request
from tests.orchestrator.payment_client import cancel, end_of, get
from tests.orchestrator.payment_client import status as shown_status
from tests.orchestrator.payment_requests import finished, pay, payment, status, statuses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

AT_ONCE = 16
NO_FUNDS = FailedPrecondition("too little", reason=Reason.INSUFFICIENT_FUNDS)


@pytest.fixture
async def channel(
    location: str, config: OrchestratorConfig, authority: Authority
) -> AsyncIterator[grpc.aio.Channel]:
    async with serve_at(location, config, authority) as channel:
        workflows = WorkflowServiceStub(channel)
        for text in (PAIR, BATCH):
            registered = pb.RegisterWorkflowRequest(definition=text)
            await workflows.RegisterWorkflow(registered, timeout=10)
        yield channel


@pytest.fixture
def payments(channel: grpc.aio.Channel) -> PaymentServiceAsyncStub:
    return PaymentServiceStub(channel)


def pair(run_id: str = "") -> tuple[pb.StartRunRequest, PaymentIntent, PaymentIntent]:
    first, second = intent(1000), intent(2000)
    asked = request("pair", pair_of(first, second), first, second, run_id=run_id)
    return asked, first, second


async def test_two_payments_of_one_run_are_found_by_their_ids(
    workflows: WorkflowServiceAsyncStub, payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    asked, first, second = pair()

    run = await pay(workflows, asked)
    shown = [await get(payments, one.payment_id) for one in (first, second)]
    watched = await end_of(payments, second.payment_id)

    assert status(run) == "SUCCEEDED"
    assert fakes.sent == {first.payment_id, second.payment_id}
    assert fakes.effects["SendPayment"] == fakes.effects["StoreTransactionRecord"] == 2
    for one, of in zip(shown, (first, second), strict=True):
        assert one.payment_id == of.payment_id
        assert one.run_id == run.run_id
        assert one.intent == of
        assert one.state == wallet_pb2.PAYMENT_STATE_BROADCAST
        assert one.txid == txid_of(of.payment_id)
        assert one.record_id
    assert [shown[0].step, watched.step] == ["record1", "record2"]
    steps = {step.path: step.payment_id for step in run.steps}
    assert steps["pay1"] == steps["assess1/score"] == first.payment_id
    assert steps["pay2"] == steps["assess2/score"] == second.payment_id


async def test_payments_of_a_list_are_made_in_order(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    intents = [intent(1000 + at) for at in range(20)]

    run = await pay(workflows, request("batch", batch_of(*intents), *intents))

    made = [one.request_id for one in fakes.requests("SendPayment")]  # type: ignore[attr-defined]
    assert status(run) == "SUCCEEDED"
    assert made == [one.payment_id for one in intents]


async def test_payment_is_sent_with_its_own_proofs_only(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    asked, first, second = pair()

    await pay(workflows, asked)

    for sent, of in zip(fakes.requests("SendPayment"), (first, second), strict=True):
        assert isinstance(sent, wallet_pb2.SendPaymentRequest)
        kinds = sorted(proof.kind for proof in sent.context.attestations)
        assert sent.context.intent == of
        assert kinds == ["identity", "identity_features", "payment_features", "risk"]


async def pay_pair_and_refuse_the_second(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> tuple[pb.Run, PaymentIntent, PaymentIntent]:
    """Returns the run at its end, and both payments."""
    asked, first, second = pair()
    fakes.paused["StoreTransactionRecord"] = asyncio.Event()
    await workflows.StartRun(asked, timeout=10)
    await eventually(lambda: first.payment_id in fakes.sent)
    fakes.errors_before["SendPayment"].append(NO_FUNDS)
    fakes.paused["StoreTransactionRecord"].set()
    return await finished(workflows, asked.request_id), first, second


async def test_run_whose_second_payment_is_refused_shows_the_outcome_of_each(
    workflows: WorkflowServiceAsyncStub, payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    run, first, second = await pay_pair_and_refuse_the_second(workflows, fakes)

    made = await get(payments, first.payment_id)
    refused = await get(payments, second.payment_id)

    assert status(run) == "NEEDS_ATTENTION"
    assert run.reason.startswith("pay1 was done, but not what follows: pay2: INSUFFICIENT_FUNDS")
    assert run.public_reason == "pay2: INSUFFICIENT_FUNDS"
    assert made.state == wallet_pb2.PAYMENT_STATE_BROADCAST
    assert not made.HasField("error")
    assert refused.bitcoin_answer == payment_pb2.BITCOIN_ANSWER_NOT_FOUND
    assert refused.error.reason == "INSUFFICIENT_FUNDS"
    assert not refused.HasField("txid")


async def test_redriven_run_makes_the_refused_payment_under_the_same_id(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    stopped, first, second = await pay_pair_and_refuse_the_second(workflows, fakes)

    again = pb.RedriveRunRequest(request_id="r", run_id=stopped.run_id)
    await workflows.RedriveRun(again, timeout=10)
    run = await finished(workflows, stopped.run_id)

    assert status(run) == "SUCCEEDED"
    assert fakes.sent == {first.payment_id, second.payment_id}
    assert fakes.effects["SendPayment"] == 2


async def test_one_of_two_payments_can_be_cancelled(
    workflows: WorkflowServiceAsyncStub, payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    asked, first, second = pair()
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    await workflows.StartRun(asked, timeout=10)

    cancelled = await cancel(payments, second.payment_id)
    fakes.paused["VerifyIdentity"].set()
    run = await finished(workflows, asked.request_id)

    assert cancelled.state == wallet_pb2.PAYMENT_STATE_CANCELLED
    assert cancelled.run_id == asked.request_id
    assert status(run) == "NEEDS_ATTENTION"
    assert run.public_reason == "pay2: PAYMENT_CANCELLED"
    assert fakes.sent == {first.payment_id}


async def test_cancelled_run_keeps_made_payments_and_cancels_the_others(
    workflows: WorkflowServiceAsyncStub, payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    asked, first, second = pair()
    fakes.paused["StoreTransactionRecord"] = asyncio.Event()
    await workflows.StartRun(asked, timeout=10)
    await eventually(lambda: bool(fakes.requests("StoreTransactionRecord")))

    ask = pb.CancelRunRequest(request_id="c", run_id=asked.request_id)
    await workflows.CancelRun(ask, timeout=10)
    fakes.paused["StoreTransactionRecord"].set()
    run = await finished(workflows, asked.request_id)
    made, refused = [await get(payments, one.payment_id) for one in (first, second)]

    assert status(run) == "NEEDS_ATTENTION"
    assert statuses(run)["record1"] == statuses(run)["pay2/cancel"] == "SUCCEEDED"
    assert made.state == wallet_pb2.PAYMENT_STATE_BROADCAST
    assert refused.state == wallet_pb2.PAYMENT_STATE_CANCELLED
    assert fakes.sent == {first.payment_id}


async def test_run_id_of_several_payments_names_no_payment(
    workflows: WorkflowServiceAsyncStub, payments: PaymentServiceAsyncStub
) -> None:
    asked, *_ = pair()
    await pay(workflows, asked)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(payments, asked.request_id)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "makes several payments" in (caught.value.details() or "")


async def test_payment_belongs_to_one_run(
    workflows: WorkflowServiceAsyncStub, payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    alone = payment()
    await pay(workflows, alone)
    asked, first, second = pair()
    await pay(workflows, asked)
    again = request("pair", pair_of(second, first), second, first)
    of_another = request("pair", pair_of(alone.intent, third := intent()), alone.intent, third)
    late = payment(first.payment_id)

    for one in (again, of_another, late):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await workflows.StartRun(one, timeout=10)
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert reason(caught.value) == "REQUEST_ID_REUSED"
    repeated = await workflows.StartRun(asked, timeout=10)

    assert repeated.run_id == asked.request_id
    assert len(fakes.sent) == fakes.effects["SendPayment"] == 3
    assert shown_status(await get(payments, first.payment_id)) == "SUCCEEDED"


async def test_one_of_many_runs_with_the_same_payment_starts(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    shared = intent()
    others = [intent() for _ in range(AT_ONCE)]
    asked = [request("pair", pair_of(one, shared), one, shared) for one in others]
    bystanders = [payment() for _ in range(AT_ONCE)]

    ends = await asyncio.gather(
        *(workflows.StartRun(one, timeout=20) for one in (*asked, *bystanders)),
        return_exceptions=True,
    )
    started = [end for end in ends[:AT_ONCE] if not isinstance(end, BaseException)]
    refused = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    for one in (*started, *ends[AT_ONCE:]):
        assert isinstance(one, pb.StartRunResponse)
        assert status(await finished(workflows, one.run_id)) == "SUCCEEDED"

    assert len(started) == 1
    assert {reason(error) for error in refused} == {"REQUEST_ID_REUSED"}
    assert fakes.effects["SendPayment"] == AT_ONCE + 2


@pytest.mark.parametrize("workflow_id", ["pair", "verified_payment"])
async def test_payments_given_in_the_wrong_field_are_refused(
    workflows: WorkflowServiceAsyncStub, workflow_id: str
) -> None:
    asked, *_ = pair()
    alone = payment()
    wrong = asked if workflow_id == "verified_payment" else alone
    wrong.workflow_id = workflow_id
    wrong.input.CopyFrom(alone.input if workflow_id == "verified_payment" else asked.input)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await workflows.StartRun(wrong, timeout=10)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == "INTENT_INVALID"
