"""What it takes to start a run: an input that its steps can read, and for a payment its intent."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh.errors import InvalidArgument, Reason
from services.orchestrator.definition import values
from services.orchestrator.engine import request_checks
from services.orchestrator.engine.model import RunState
from services.orchestrator.engine.records import MAX_PAYLOAD, PayloadTooLargeError
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.engine.transition import Transition

if TYPE_CHECKING:
    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.retry_policy import RetryPolicy

MAX_RUN_ID = 64  # characters: with a step's path it must fit a request_id

_RUN_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_RUN_ID - 1}}}")


@dataclass(frozen=True, slots=True)
class StartRun:
    run_id: str
    input: dict[str, Any]
    intent: PaymentIntent | None
    presentation: str
    started_by: str  # SPIFFE ID
    allowed_privileges: frozenset[str] | None = None  # privileges that the run may use; None: all
    payments: tuple[request_checks.ProvenRequest, ...] = ()  # that its input names


def start(
    workflow: Workflow,
    request: StartRun,
    policy: RetryPolicy,
    *,
    network: str,
    at_us: int,
    jitter: float,
    event_position: int | None = None,
) -> Transition:
    """The turn that starts a run. InvalidArgument naming the field that keeps it from starting."""
    _check_run_id(request.run_id)
    request_checks.check_presentation(request.presentation, field="presentation")
    try:
        workflow.inputs.check(request.input)
    except values.MismatchError as error:
        field = ".".join(("input", *map(str, error.pointer)))
        raise InvalidArgument(f"input of {workflow.id}: {error}", field=field) from None
    _check_payments(workflow, request, network)
    transition = Transition(
        workflow, RunState(request.run_id), policy, at_us, jitter, event_position=event_position
    )
    try:
        transition.start(_start_payload(workflow, request, policy, at_us))
    except PayloadTooLargeError:
        raise InvalidArgument(
            f"input, intents and presentations exceed {MAX_PAYLOAD} bytes", field="input"
        ) from None
    return transition


def _start_payload(
    workflow: Workflow, request: StartRun, policy: RetryPolicy, at_us: int
) -> dict[str, Any]:
    return {
        "workflow_id": workflow.id,
        "definition_hash": workflow.hash,
        "sub_workflow_hashes": workflow.sub_workflow_hashes,
        "input": request.input,
        "intent": _encode(request.intent),
        "presentation": request.presentation,
        "started_by": request.started_by,
        "allowed_privileges": None
        if request.allowed_privileges is None
        else sorted(request.allowed_privileges),
        **({"payments": _proven(request)} if request.payments else {}),
        "deadline_us": at_us + (workflow.deadline_us or int(policy.run_timeout_s * SECOND_US)),
    }


def _proven(request: StartRun) -> list[dict[str, str]]:
    return [
        {"intent": _encode(payment.intent), "presentation": payment.presentation}
        for payment in request.payments
    ]


def _encode(intent: PaymentIntent | None) -> str:
    return b64encode(intent.SerializeToString(deterministic=True) if intent else b"").decode()


def _check_payments(workflow: Workflow, request: StartRun, network: str) -> None:
    if workflow.names_payments:
        if request.intent is not None or request.presentation:
            field = "intent" if request.intent is not None else "presentation"
            message = f"{workflow.id} makes payments that its input names: send them in payments"
            raise InvalidArgument(message, reason=Reason.INTENT_INVALID, field=field)
        request_checks.check_several(workflow, request.input, request.payments, network)
        if any(one.intent and one.intent.payment_id == request.run_id for one in request.payments):
            message = "this is the id of a payment: a run of several has one of its own"
            raise InvalidArgument(message, reason=Reason.REQUEST_ID_INVALID, field="request_id")
    elif request.payments:
        message = f"{workflow.id} names no payments: leave them out"
        if workflow.pivots:
            message = f"{workflow.id} makes one payment: send its intent and presentation"
        raise InvalidArgument(message, reason=Reason.INTENT_INVALID, field="payments")
    elif workflow.pivots:
        request_checks.check_one(request.run_id, request.intent, request.input, network)


def _check_run_id(run_id: str) -> None:
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidArgument(
            f"request_id becomes the run id: 1 to {MAX_RUN_ID} of A-Z, a-z, 0-9, '.', '_' and '-',"
            " beginning with a letter or a digit",
            reason=Reason.REQUEST_ID_INVALID,
            field="request_id",
        )
