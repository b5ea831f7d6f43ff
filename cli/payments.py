"""Payments as the mesh knows them: sent, followed, cancelled, and put into words."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from anya.bitcoin.v1 import wallet_pb2
from anya.ml.v1 import risk_pb2
from anya.orchestrator.v1 import payment_pb2 as pb
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.web5.v1 import identity_pb2
from cli import resumption, runs
from cli.errors import REFUSED
from services.orchestrator.definition.values import to_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from cli.connection import Channels
    from cli.payment import Proposal


WAIT = 60  # seconds, unless the call's own deadline comes first


async def send(channels: Channels, proposal: Proposal) -> None:
    """Have the payment made; the same proposal again is the same payment."""
    await _stub(channels).SendVerifiedPayment(_request(proposal))


async def pay(channels: Channels, proposal: Proposal) -> pb.Payment:
    """The same, and the payment once its run has ended, for who does not care how it gets there."""
    request = _request(proposal)
    request.wait.FromSeconds(WAIT)
    sent = await _stub(channels).SendVerifiedPayment(request)
    if sent.run_status in runs.ENDED:
        return sent.payment
    return await end(channels, proposal.intent.payment_id)


async def get(channels: Channels, payment_id: str) -> pb.Payment:
    return (await _stub(channels).GetPayment(pb.GetPaymentRequest(payment_id=payment_id))).payment


async def cancel(channels: Channels, payment_id: str) -> pb.Payment:
    request = pb.CancelPaymentRequest(payment_id=payment_id)
    return (await _stub(channels).CancelPayment(request)).payment


async def watch(
    channels: Channels, payment_id: str, *, confirmations: int = 0, end_only: bool = False
) -> AsyncGenerator[pb.Payment, None]:
    """The payment after each change, also across a crash of the orchestrator.

    Until its run ends and, if it is made, has so many ``confirmations``; with ``end_only`` nothing
    but that.
    """
    stub = _stub(channels)

    def open_after(sequence: int) -> Any:
        request = pb.WatchPaymentRequest(
            payment_id=payment_id,
            after_sequence=sequence,
            confirmations=confirmations,
            end_only=end_only,
        )
        return stub.WatchPayment(request, timeout=resumption.TIMEOUT)

    async for reply in resumption.resumed(open_after):
        yield reply.payment


async def end(channels: Channels, payment_id: str) -> pb.Payment:
    """The payment once its run has ended, with what bitcoin says of it then."""
    *_, ended = [payment async for payment in watch(channels, payment_id, end_only=True)]
    return ended


async def finish(
    channels: Channels, payment_id: str, *, confirm_within: float, say: Callable[[str], None]
) -> pb.Payment:
    """The payment once its run has ended, with its first confirmation if that comes in time."""
    payment = pb.Payment()
    try:
        async with (
            asyncio.timeout(None) as limit,
            aclosing(watch(channels, payment_id, confirmations=1)) as changes,
        ):
            async for payment in changes:
                say(progress(payment))
                if payment.run_status in runs.ENDED and limit.when() is None:
                    limit.reschedule(asyncio.get_running_loop().time() + confirm_within)
    except TimeoutError:
        pass  # it confirms later
    return payment


def exit_code(payment: pb.Payment) -> int:
    """That of its run; a cancelled payment without a run is as good as refused."""
    return runs.exit_code(payment.run_status) if payment.HasField("run_status") else REFUSED


def document(payment: pb.Payment) -> dict[str, Any]:
    """As programs read it."""
    return to_json(payment)


def progress(payment: pb.Payment) -> str:
    """Where it is, in one line."""
    line = f"{_standing(payment)}: {payment.step or 'begins'}"
    if payment.confirmations:
        line += f", {payment.confirmations} confirmations"
    if payment.HasField("error"):
        line += f", {payment.error.reason or payment.error.code}"
    return line


def lines(payment: pb.Payment) -> list[str]:
    """The payment in a few lines; what is not known is not in them."""
    found = [f"{_standing(payment)}: payment {payment.payment_id}"]
    if payment.run_id not in ("", payment.payment_id):
        found.append(f"  with others in {payment.run_id}")
    if payment.reason:
        found.append(f"  because {payment.reason}")
    if payment.identity_failures:
        words = map(identity_pb2.VerificationFailure.Name, payment.identity_failures)
        shown = ", ".join(word.removeprefix("VERIFICATION_FAILURE_") for word in words)
        found.append(f"  identity       {shown}")
    if payment.HasField("intent"):
        intent = payment.intent
        found.append(f"  amount         {intent.amount_sat} sat to {intent.recipient_address}")
    if payment.HasField("risk_score"):
        found.append(f"  risk score     {payment.risk_score:.3f}")
    for reason in payment.risk_reasons:
        code = risk_pb2.RiskReasonCode.Name(reason.code).removeprefix("RISK_REASON_CODE_")
        found.append(f"  risk           {code}: {reason.detail}")
    if payment.HasField("txid"):
        found.append(f"  txid           {payment.txid[::-1].hex()}")
    if payment.HasField("confirmations"):
        found.append(f"  confirmations  {payment.confirmations}")
    if payment.bitcoin_error:
        found.append(f"  bitcoin does not say how it stands: {payment.bitcoin_error}")
    if payment.record_id:
        found.append(f"  record         {payment.record_id}")
    if payment.recoveries:
        found.append(f"  crashes        {payment.recoveries}, and taken up again")
    if payment.trace_id:
        found.append(
            f"  trace          {payment.trace_id}  (anya trace show {payment.trace_id[:8]})"
        )
    return found


def state_word(payment: pb.Payment) -> str:
    """ "confirmed"; empty where bitcoin has nothing, or did not say."""
    if not payment.HasField("state"):
        return ""
    return wallet_pb2.PaymentState.Name(payment.state).removeprefix("PAYMENT_STATE_").lower()


def _standing(payment: pb.Payment) -> str:
    """ "succeeded, broadcast": what its run says, and what bitcoin says."""
    words = [runs.status_word(payment.run_status).lower()] if payment.HasField("run_status") else []
    return ", ".join(filter(None, [*words, state_word(payment)]))


def _request(proposal: Proposal) -> pb.SendVerifiedPaymentRequest:
    return pb.SendVerifiedPaymentRequest(
        request_id=proposal.intent.payment_id,
        intent=proposal.intent,
        presentation=proposal.presentation,
    )


def _stub(channels: Channels) -> PaymentServiceAsyncStub:
    return PaymentServiceStub(channels["orchestrator"])
