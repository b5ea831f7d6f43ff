"""What somebody who starts a run must know of its payments: an intent, complete and just this."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from formats import uuid7
from mesh.errors import InvalidArgument, Reason
from mesh.security.attestation import payment_digest
from services.orchestrator.definition.grammar import is_id, not_an_id
from services.orchestrator.definition.templates import UnresolvedPathError
from services.orchestrator.engine import payments
from services.orchestrator.engine.activations import CancelRequested, SignalReceived

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from services.orchestrator.definition.workflow import Workflow

MAX_PRESENTATION = 64 * 1024  # characters
MAX_PAYMENTS = 100  # of a run

AMOUNT = "amount"  # what an input calls it
CHECKED = ("sender_did", "sender_address", "recipient_address", "amount_sat")


@dataclass(frozen=True, slots=True)
class ProvenRequest:
    """One of several payments, and its payer's presentation for it."""

    intent: PaymentIntent | None
    presentation: str


def check_one(
    payment_id: str, intent: PaymentIntent | None, given: Mapping[str, Any], network: str
) -> None:
    """A workflow that pays needs the intent of exactly this payment. InvalidArgument."""
    if intent is None:
        raise InvalidArgument(
            "this workflow pays: send the intent that BeginVerification was called with",
            reason=Reason.INTENT_INVALID,
            field="intent",
        )
    payment_digest(intent)  # refuses what is incomplete or out of bounds
    check_payment_id(payment_id, field="request_id")
    if intent.payment_id != payment_id:
        raise _contradiction("intent", "payment_id", "request_id")
    _agree(intent, given, network, "intent", "input")


def check_several(
    workflow: Workflow, given: dict[str, Any], proven: Sequence[ProvenRequest], network: str
) -> None:
    """As many payments as its input names, each once. InvalidArgument naming what is wrong."""
    if not 1 <= len(proven) <= MAX_PAYMENTS:
        raise InvalidArgument(
            f"{workflow.id} makes payments that its input names: send 1 to {MAX_PAYMENTS} of them"
            " in payments",
            reason=Reason.INTENT_INVALID,
            field="payments",
        )
    known: dict[str, int] = {}
    for at, payment in enumerate(proven):
        known[_check_proven(payment, known, at)] = at
    asked = _asked(workflow, given, known)
    for one in asked:
        at = known[one.payment_id]
        intent = proven[at].intent
        assert intent is not None  # noqa: S101  (it was checked)
        where = one.template.strip("{} ").rpartition(".")[0]
        _agree(intent, one.beside, network, f"payments[{at}].intent", where)
    made = {one.payment_id for one in asked if one.pays}
    for payment_id, at in known.items():
        if payment_id not in made:
            raise InvalidArgument(
                f"no step makes payment {payment_id}: the input does not name it",
                reason=Reason.INTENT_INVALID,
                field=f"payments[{at}]",
            )


def check_payment_id(payment_id: str, *, field: str) -> None:
    if not uuid7.is_canonical(payment_id):
        raise InvalidArgument(
            f"{field} is the payment id: a UUID of version 7, in lower case",
            reason=Reason.REQUEST_ID_INVALID,
            field=field,
        )


def check_presentation(presentation: str, *, field: str) -> None:
    if len(presentation) > MAX_PRESENTATION:
        raise InvalidArgument(
            f"presentation must be at most {MAX_PRESENTATION} characters", field=field
        )


def _check_proven(payment: ProvenRequest, known: Mapping[str, int], at: int) -> str:
    """Its id."""
    field = f"payments[{at}]"
    check_presentation(payment.presentation, field=f"{field}.presentation")
    if payment.intent is None:
        raise InvalidArgument(
            "send the intent that BeginVerification was called with",
            reason=Reason.INTENT_INVALID,
            field=f"{field}.intent",
        )
    try:
        payment_digest(payment.intent)
    except InvalidArgument as error:
        raise InvalidArgument(
            str(error), reason=Reason.INTENT_INVALID, field=f"{field}.{error.field}"
        ) from None
    payment_id = payment.intent.payment_id
    check_payment_id(payment_id, field=f"{field}.intent.payment_id")
    if payment_id in known:
        raise InvalidArgument(
            f"{payment_id} is payments[{known[payment_id]}] already",
            reason=Reason.INTENT_INVALID,
            field=f"{field}.intent.payment_id",
        )
    return payment_id


def _asked(
    workflow: Workflow, given: dict[str, Any], known: Mapping[str, int]
) -> list[payments.RequestedPayment]:
    """The steps that belong to payments, all of which are known."""
    asked = []
    try:
        for one in payments.asked(workflow, given):
            if not isinstance(one.payment_id, str):
                raise InvalidArgument("a payment's id must be a text", field="input")
            if one.payment_id not in known:
                raise InvalidArgument(
                    f"{one.path} belongs to payment {one.payment_id}, which is not in payments",
                    reason=Reason.INTENT_INVALID,
                    field="payments",
                )
            asked.append(one)
        payments.must_differ(workflow, given)  # costs the square of how many there are
    except (UnresolvedPathError, payments.PaidTwiceError) as error:
        raise InvalidArgument(f"input of {workflow.id}: {error}", field="input") from None
    return asked


def _agree(
    intent: PaymentIntent, given: Mapping[str, Any], network: str, field: str, where: str
) -> None:
    """What the input says of a payment is what its payer proved."""
    if intent.network != network:
        raise _contradiction(field, "network", "the network of this mesh")
    for name in CHECKED:
        called = AMOUNT if name == "amount_sat" else name
        if given.get(called, getattr(intent, name)) != getattr(intent, name):
            raise _contradiction(field, name, f"{where}.{called}")


def _contradiction(field: str, name: str, origin: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}.{name} is not what is to be paid: it differs from {origin}",
        reason=Reason.INTENT_INVALID,
        field=f"{field}.{name}",
    )


MAX_SIGNAL = 64 * 1024  # bytes of JSON
MAX_CORRELATION = 200  # characters
MAX_REASON = 200


def signal(name: str, payload: dict[str, Any], correlation: str) -> SignalReceived:
    """InvalidArgument naming the field that is out of bounds."""
    if not is_id(name):
        raise InvalidArgument(f"signal {not_an_id(name[:100])}", field="signal")
    if len(json.dumps(payload).encode()) > MAX_SIGNAL:
        raise InvalidArgument(f"payload must be at most {MAX_SIGNAL} bytes", field="payload")
    must_be_short("correlation_id", correlation, MAX_CORRELATION)
    return SignalReceived(name, payload, correlation)


def cancel(reason: str, by: str) -> CancelRequested:
    must_be_short("reason", reason, MAX_REASON)
    return CancelRequested(reason, by)


def must_be_short(field: str, text: str, most: int) -> None:
    if len(text) > most or not (text.isprintable() or not text):
        raise InvalidArgument(f"{field} must be at most {most} printable characters", field=field)
