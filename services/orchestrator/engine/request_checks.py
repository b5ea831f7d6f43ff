"""Checks of what callers send: run ids, payments, signals and cancellations."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh.errors import InvalidArgument, Reason
from mesh.security.payment_intent import parse_intent, parse_payment_id
from services.orchestrator.definition.grammar import is_id, not_an_id
from services.orchestrator.definition.templates import UnresolvedPathError
from services.orchestrator.engine import payments
from services.orchestrator.engine.activations import CancelRequested, SignalReceived

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from services.orchestrator.definition.workflow import Workflow

MAX_RUN_ID_CHARS = 64  # a step's key, RUN/STEP/ITERATION, must fit a request_id
MAX_PRESENTATION_CHARS = 64 * 1024
MAX_PAYMENTS = 100  # of a run
MAX_SIGNAL_BYTES = 64 * 1024  # of JSON
MAX_CORRELATION_CHARS = 200
MAX_REASON_CHARS = 200

AMOUNT = "amount"  # the name of amount_sat in an input
CHECKED_FIELDS = ("sender_did", "sender_address", "recipient_address", "amount_sat")

_RUN_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_RUN_ID_CHARS - 1}}}")


@dataclass(frozen=True, slots=True)
class ProvenRequest:
    """One of the payments of a run, with its payer's presentation."""

    intent: PaymentIntent | None
    presentation: str


def check_run_id(run_id: str) -> None:
    """Raises InvalidArgument if the id cannot be that of a run."""
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidArgument(
            f"request_id becomes the run id: 1 to {MAX_RUN_ID_CHARS} of A-Z, a-z, 0-9, '.', '_' and"
            " '-', beginning with a letter or a digit",
            reason=Reason.REQUEST_ID_INVALID,
            field="request_id",
        )


def check_one(
    payment_id: str, intent: PaymentIntent | None, given: Mapping[str, Any], network: str
) -> None:
    """Checks the intent of a workflow that makes one payment. Raises InvalidArgument."""
    if intent is None:
        raise InvalidArgument(
            "this workflow pays: send the intent that BeginVerification was called with",
            reason=Reason.INTENT_INVALID,
            field="intent",
        )
    parse_intent(intent, network)
    parse_payment_id(payment_id, field="request_id")
    if intent.payment_id != payment_id:
        raise _contradiction("intent", "payment_id", "request_id")
    _check_agreement(intent, given, "intent", "input")


def check_several(
    workflow: Workflow, given: dict[str, Any], proven: Sequence[ProvenRequest], network: str
) -> None:
    """Checks that the request proves each payment that its input names, and no other.

    Raises InvalidArgument that names the field.
    """
    if not 1 <= len(proven) <= MAX_PAYMENTS:
        raise InvalidArgument(
            f"{workflow.id} makes payments that its input names: send 1 to {MAX_PAYMENTS} of them"
            " in payments",
            reason=Reason.INTENT_INVALID,
            field="payments",
        )
    known: dict[str, int] = {}
    for at, payment in enumerate(proven):
        known[_check_proven(payment, known, at, network)] = at
    requested = _requested(workflow, given, known)
    for one in requested:
        at = known[one.payment_id]
        intent = proven[at].intent
        assert intent is not None  # noqa: S101  (it was checked)
        where = one.template.strip("{} ").rpartition(".")[0]
        _check_agreement(intent, one.siblings, f"payments[{at}].intent", where)
    made = {one.payment_id for one in requested if one.pays}
    for payment_id, at in known.items():
        if payment_id not in made:
            raise InvalidArgument(
                f"no step makes payment {payment_id}: the input does not name it",
                reason=Reason.INTENT_INVALID,
                field=f"payments[{at}]",
            )


def check_presentation(presentation: str, *, field: str) -> None:
    """Raises InvalidArgument if the presentation is too long."""
    if len(presentation) > MAX_PRESENTATION_CHARS:
        raise InvalidArgument(
            f"presentation must be at most {MAX_PRESENTATION_CHARS} characters", field=field
        )


def _check_proven(payment: ProvenRequest, known: Mapping[str, int], at: int, network: str) -> str:
    """Returns the id of the payment. Raises InvalidArgument."""
    field = f"payments[{at}]"
    check_presentation(payment.presentation, field=f"{field}.presentation")
    if payment.intent is None:
        raise InvalidArgument(
            "send the intent that BeginVerification was called with",
            reason=Reason.INTENT_INVALID,
            field=f"{field}.intent",
        )
    parse_intent(payment.intent, network, field=f"{field}.intent")
    payment_id = payment.intent.payment_id
    if payment_id in known:
        raise InvalidArgument(
            f"{payment_id} is payments[{known[payment_id]}] already",
            reason=Reason.INTENT_INVALID,
            field=f"{field}.intent.payment_id",
        )
    return payment_id


def _requested(
    workflow: Workflow, given: dict[str, Any], known: Mapping[str, int]
) -> list[payments.RequestedPayment]:
    """Returns the steps that belong to payments. Raises InvalidArgument for an unknown payment."""
    requested = []
    try:
        for one in payments.requested(workflow, given):
            if not isinstance(one.payment_id, str):
                raise InvalidArgument("a payment's id must be a text", field="input")
            if one.payment_id not in known:
                raise InvalidArgument(
                    f"{one.path} belongs to payment {one.payment_id}, which is not in payments",
                    reason=Reason.INTENT_INVALID,
                    field="payments",
                )
            requested.append(one)
        payments.check_distinct(workflow, given)  # quadratic in the number of payments
    except (UnresolvedPathError, payments.PaidTwiceError) as error:
        raise InvalidArgument(f"input of {workflow.id}: {error}", field="input") from None
    return requested


def _check_agreement(
    intent: PaymentIntent, given: Mapping[str, Any], field: str, where: str
) -> None:
    """Raises InvalidArgument if the input says something else than the payer proved."""
    for name in CHECKED_FIELDS:
        input_name = AMOUNT if name == "amount_sat" else name
        if given.get(input_name, getattr(intent, name)) != getattr(intent, name):
            raise _contradiction(field, name, f"{where}.{input_name}")


def _contradiction(field: str, name: str, origin: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}.{name} is not what is to be paid: it differs from {origin}",
        reason=Reason.INTENT_INVALID,
        field=f"{field}.{name}",
    )


def signal(name: str, payload: dict[str, Any], correlation: str) -> SignalReceived:
    """Returns the signal. Raises InvalidArgument that names the field out of bounds."""
    if not is_id(name):
        raise InvalidArgument(f"signal {not_an_id(name[:100])}", field="signal")
    if len(json.dumps(payload).encode()) > MAX_SIGNAL_BYTES:
        raise InvalidArgument(f"payload must be at most {MAX_SIGNAL_BYTES} bytes", field="payload")
    check_length("correlation_id", correlation, MAX_CORRELATION_CHARS)
    return SignalReceived(name, payload, correlation)


def cancel(reason: str, requester: str) -> CancelRequested:
    """Returns the request to cancel. Raises InvalidArgument if the reason is out of bounds."""
    check_length("reason", reason, MAX_REASON_CHARS)
    return CancelRequested(reason, requester)


def check_length(field: str, text: str, limit: int) -> None:
    """Raises InvalidArgument for more than ``limit`` characters, or unprintable ones."""
    if len(text) > limit or not (text.isprintable() or not text):
        raise InvalidArgument(f"{field} must be at most {limit} printable characters", field=field)
