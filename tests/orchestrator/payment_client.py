"""Calls of PaymentService: send, watch and cancel a payment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anya.orchestrator.v1 import payment_pb2 as pb
from anya.orchestrator.v1 import workflow_pb2
from tests.orchestrator.payment_requests import payment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub


def order(**changes: Any) -> pb.SendVerifiedPaymentRequest:
    """Returns a valid request, except for ``changes`` to its intent."""
    started = payment()
    for name, value in changes.items():
        setattr(started.intent, name, value)
    return pb.SendVerifiedPaymentRequest(
        request_id=started.request_id, intent=started.intent, presentation="vp.jwt"
    )


def awaited(
    request: pb.SendVerifiedPaymentRequest, seconds: float
) -> pb.SendVerifiedPaymentRequest:
    """Returns the request with a wait of ``seconds``."""
    waiting = pb.SendVerifiedPaymentRequest()
    waiting.CopyFrom(request)
    waiting.wait.FromMilliseconds(int(seconds * 1000))
    return waiting


async def get(payments: PaymentServiceAsyncStub, payment_id: str) -> pb.Payment:
    request = pb.GetPaymentRequest(payment_id=payment_id)
    return (await payments.GetPayment(request, timeout=5)).payment


async def cancel(payments: PaymentServiceAsyncStub, payment_id: str) -> pb.Payment:
    request = pb.CancelPaymentRequest(payment_id=payment_id)
    return (await payments.CancelPayment(request, timeout=5)).payment


def watch(
    payments: PaymentServiceAsyncStub,
    payment_id: str,
    *,
    after: int = 0,
    confirmations: int = 0,
    end_only: bool = False,
) -> AsyncIterator[pb.WatchPaymentResponse]:
    request = pb.WatchPaymentRequest(
        payment_id=payment_id, after_sequence=after, confirmations=confirmations, end_only=end_only
    )
    return payments.WatchPayment(request, timeout=20).__aiter__()


async def end_of(payments: PaymentServiceAsyncStub, payment_id: str) -> pb.Payment:
    """Returns the payment at the end of its run."""
    seen = [update.payment async for update in watch(payments, payment_id)]
    return seen[-1]


async def send(
    payments: PaymentServiceAsyncStub, request: pb.SendVerifiedPaymentRequest
) -> pb.Payment:
    await payments.SendVerifiedPayment(request, timeout=5)
    return await end_of(payments, request.request_id)


def status(shown: pb.Payment) -> str:
    return workflow_pb2.RunStatus.Name(shown.run_status).removeprefix("RUN_STATUS_")
