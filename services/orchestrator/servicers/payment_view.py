"""A payment as PaymentService shows it: what its run has found, and what bitcoin says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from anya.orchestrator.v1 import payment_pb2 as pb
from services.orchestrator.definition import values
from services.orchestrator.definition.workflow import Effect
from services.orchestrator.engine.model import StepError, StepStatus
from services.orchestrator.servicers import views

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anya.bitcoin.v1 import wallet_pb2
    from services.orchestrator.engine.model import RunState, StepState

# Operations by what they tell of a payment, whatever a workflow calls the step.
IDENTITY = "verify_identity"
RISK = "score_fraud_risk"
RECORD = "store_transaction_record"


def format_payment(state: RunState, payment_id: str, trace_id: str) -> pb.Payment:
    """What the run knows of the payment, which bitcoin was not asked about."""
    payment = pb.Payment(
        payment_id=payment_id,
        run_id=state.run_id,
        status=views.run_status(state.status),
        reason=state.reason,
        step=_current(state, payment_id),
        intent=intent_of(state, payment_id),
        trace_id=trace_id,
        recoveries=state.recoveries,
        created=views.time(state.created_us),
        updated=views.time(state.updated_us),
    )
    for step in _steps_of(state, payment_id, state.steps.values()):
        _add_findings(payment, step)
    return payment


def add_answer(payment: pb.Payment, answer: wallet_pb2.Payment | StepError | None) -> pb.Payment:
    """The same, with what bitcoin says now; its word counts more than the journal's."""
    match answer:
        case None:
            payment.bitcoin_answer = pb.BITCOIN_ANSWER_NOT_FOUND
        case StepError():
            payment.bitcoin_answer = pb.BITCOIN_ANSWER_UNAVAILABLE
            payment.bitcoin_error = answer.reason or answer.code
        case _:
            payment.bitcoin_answer = pb.BITCOIN_ANSWER_FOUND
            payment.state = answer.state
            if answer.txid:
                payment.txid = answer.txid
                payment.fee_sat = answer.fee_sat
                payment.confirmations = answer.confirmations
    return payment


def intent_of(state: RunState, payment_id: str) -> PaymentIntent | None:
    """What the run pays under this id; None if it is no payment of the run."""
    proven = state.payments.get(payment_id)
    intent = PaymentIntent.FromString(proven.intent if proven else state.intent)
    return intent if intent.payment_id == payment_id else None


def _steps_of(state: RunState, payment_id: str, steps: Iterable[StepState]) -> list[StepState]:
    """Those that belong to the payment, where the run makes several; else all."""
    return [step for step in steps if not state.payments or step.payment == payment_id]


def _current(state: RunState, payment_id: str) -> str:
    at_work = _steps_of(state, payment_id, state.in_flight)
    begun = _steps_of(state, payment_id, state.steps.values())
    step = next(iter(at_work or begun[-1:]), None)
    return step.path if step else ""


def _add_findings(payment: pb.Payment, step: StepState) -> None:
    if step.error is not None:
        payment.error.CopyFrom(views.format_error(step.error))
    is_pivot = step.effect == Effect.PIVOT.name
    if is_pivot and step.status is StepStatus.SKIPPED and step.condition is not None:
        payment.condition.CopyFrom(views.format_condition(step.condition))
    reply = step.reply
    if reply is None:
        return
    if is_pivot:
        _add_sent(payment, reply)
    elif step.operation == IDENTITY:
        payment.sender_verified = reply["verified"]
        payment.identity_reasons.extend(reply["reasons"])
    elif step.operation == RISK:
        _add_risk(payment, reply)
    elif step.operation == RECORD:
        payment.record_id = reply["record_id"]
        if isinstance(reply["tenant"], str):  # else it was erased
            payment.record_tenant = reply["tenant"]


def _add_sent(payment: pb.Payment, reply: dict[str, Any]) -> None:
    if reply.get("txid"):
        payment.txid = bytes.fromhex(reply["txid"])[::-1]
        payment.fee_sat = reply["fee_sat"]


def _add_risk(payment: pb.Payment, reply: dict[str, Any]) -> None:
    if reply["risk_score"] is not None:
        payment.risk_score = reply["risk_score"]
    payment.risk_reasons.extend(reply["reasons"])
    for factor in reply["risk_factors"]:
        values.fill(payment.risk_factors.add(), factor)
