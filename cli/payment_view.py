"""Payments in words: one line of progress, a few lines for people, a document for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anya.bitcoin.v1 import wallet_pb2
from anya.ml.v1 import risk_pb2
from anya.web5.v1 import identity_pb2
from cli import runs
from cli.errors import REFUSED
from services.orchestrator.definition.values import to_json

if TYPE_CHECKING:
    from anya.orchestrator.v1 import payment_pb2 as pb


def exit_code(payment: pb.Payment) -> int:
    """Returns the exit code of its run; a cancellation without a run counts as refused."""
    return runs.exit_code(payment.run_status) if payment.HasField("run_status") else REFUSED


def document(payment: pb.Payment) -> dict[str, Any]:
    """Returns the payment as the JSON document that programs read."""
    return to_json(payment)


def progress(payment: pb.Payment) -> str:
    """Returns one line: run status, payment state and the current step."""
    line = f"{_standing(payment)}: {payment.step or 'starting'}"
    if payment.confirmations:
        line += f", {payment.confirmations} confirmations"
    if payment.HasField("error"):
        line += f", {payment.error.reason or payment.error.code}"
    return line


def lines(payment: pb.Payment) -> list[str]:
    """Returns a few lines for people; a fact that is not known has no line."""
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
        found.append(f"  bitcoin        did not answer: {payment.bitcoin_error}")
    if payment.record_id:
        found.append(f"  record         {payment.record_id}")
    if payment.recoveries:
        found.append(f"  recovered      {payment.recoveries} times after a crash")
    if payment.trace_id:
        found.append(
            f"  trace          {payment.trace_id}  (anya trace show {payment.trace_id[:8]})"
        )
    return found


def state_word(payment: pb.Payment) -> str:
    """Returns the state, as in "confirmed", or "" if bitcoin has no payment or did not answer."""
    if not payment.HasField("state"):
        return ""
    return wallet_pb2.PaymentState.Name(payment.state).removeprefix("PAYMENT_STATE_").lower()


def _standing(payment: pb.Payment) -> str:
    """Returns run status and payment state: "succeeded, broadcast"."""
    words = [runs.status_word(payment.run_status).lower()] if payment.HasField("run_status") else []
    return ", ".join(filter(None, [*words, state_word(payment)]))
